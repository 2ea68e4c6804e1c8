#include "runtime/emulator/numerics/host_lanes.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif

#include <fmt/format.h>

#include <cstdlib>
#include <stdexcept>
#include <string_view>

namespace sagegen::emulator {
namespace {

constexpr HostLanes kAllLanes[] = {HostLanes::baseline, HostLanes::avx2, HostLanes::avx512};

#if defined(__x86_64__) && defined(__GNUC__)
// clang 14 does not know "f16c" in __builtin_cpu_supports.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

}  // namespace

std::string to_string(HostLanes lanes) {
  switch (lanes) {
    case HostLanes::baseline:
      return "baseline";
    case HostLanes::avx2:
      return "avx2";
    case HostLanes::avx512:
      return "avx512";
  }
  return {};
}

HostLanes widest_lanes() {
#if defined(__x86_64__) && defined(__GNUC__)
  // What -march=x86-64-v3 and -v4 may use, as far as the compiler does in loops over lanes.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2") && has_f16c();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512cd");
  if (avx2 && avx512) return HostLanes::avx512;
  if (avx2) return HostLanes::avx2;
#endif
  return HostLanes::baseline;
}

HostLanes choose_lanes(const char* asked, HostLanes widest) {
  if (asked == nullptr || *asked == '\0') return widest;
  std::string usable;
  for (HostLanes lanes : kAllLanes) {
    if (lanes > widest) break;
    if (to_string(lanes) == asked) return lanes;
    usable += (usable.empty() ? "" : ", ") + to_string(lanes);
  }
  throw std::invalid_argument(
      fmt::format("SAGEGEN_EMULATOR_LANES is \"{}\"; this processor has {}, and without the "
                  "variable the widest is used",
                  std::string_view(asked).substr(0, 40), usable));
}

HostLanes host_lanes() {
  static const HostLanes chosen =
      choose_lanes(std::getenv("SAGEGEN_EMULATOR_LANES"), widest_lanes());
  return chosen;
}

}  // namespace sagegen::emulator
