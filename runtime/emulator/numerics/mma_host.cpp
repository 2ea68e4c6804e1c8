// Which instruction set the mma kernels use on this machine.
#include "runtime/emulator/numerics/host_lanes.h"
#include "runtime/emulator/numerics/mma_kernels.h"

namespace sagegen::emulator::tile {

const Kernels* kernels_for(Host host) {
  switch (host) {
    case Host::portable:
      return portable_kernels();
#if defined(__x86_64__) && defined(__GNUC__)
    case Host::avx2:
      return __builtin_cpu_supports("avx2") ? avx2_kernels() : nullptr;
    case Host::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
                 ? avx512_kernels()
                 : nullptr;
#else
    default:
      return nullptr;
#endif
  }
  return nullptr;
}

const Kernels& host_kernels() {
  static const Kernels& chosen = []() -> const Kernels& {
    const HostLanes lanes = host_lanes();
    const Host host = lanes == HostLanes::avx512 ? Host::avx512
                      : lanes == HostLanes::avx2 ? Host::avx2
                                                 : Host::portable;
    const Kernels* kernels = kernels_for(host);
    return kernels != nullptr ? *kernels : *portable_kernels();
  }();
  return chosen;
}

}  // namespace sagegen::emulator::tile

namespace sagegen::emulator {

void ex2_approx_warp(const std::uint32_t* from, std::uint32_t* to, bool ftz) {
  tile::host_kernels().ex2(from, to, 32, ftz);
}

}  // namespace sagegen::emulator
