// How long a kernel takes from spec to PTX. Without arguments: every kernel of the default choices on
// every target; else the kernels whose keys are given. Times are CPU times of the emitting thread, so
// that other load on the machine does not count.
//   emit_time [KEY...]
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <exception>
#include <string_view>
#include <vector>

#include "sagegen/emit.h"

namespace {

using namespace sagegen;

double cpu_milliseconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::vector<KernelSpec> chosen_kernels(int count, char** keys) {
  std::vector<KernelSpec> specs;
  for (int i = 0; i < count; ++i) specs.push_back(parse_key(keys[i]));
  if (!specs.empty()) return specs;
  SpecSpace space;
  for (const TargetInfo& info : supported_targets()) space.targets.push_back(info.target);
  return enumerate(space);
}

// Median over repetitions of one kernel's emission.
double emission_time(const KernelSpec& spec) {
  constexpr int kRepetitions = 9;
  std::vector<double> times;
  for (int i = 0; i < kRepetitions; ++i) {
    const double begin = cpu_milliseconds();
    emit(spec);
    times.push_back(cpu_milliseconds() - begin);
  }
  return median(times);
}

void report(const std::vector<KernelSpec>& specs) {
  const double begin = cpu_milliseconds();
  emit(specs.front());
  fmt::print("first kernel, with the start-up of LLVM: {:.1f} ms\n", cpu_milliseconds() - begin);
  std::vector<double> all, attention;
  double total = 0;
  for (const KernelSpec& spec : specs) {
    const double time = emission_time(spec);
    all.push_back(time);
    if (spec.kind == KernelKind::attention) attention.push_back(time);
    total += time;
    fmt::print("{:8.2f} ms  {}\n", time, key(spec));
  }
  fmt::print("{} kernels: median {:.2f} ms, total {:.0f} ms\n", all.size(), median(all), total);
  if (!attention.empty()) {
    fmt::print("{} of attention: median {:.2f} ms, slowest {:.2f} ms\n", attention.size(),
               median(attention), *std::max_element(attention.begin(), attention.end()));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view first = argc > 1 ? argv[1] : "";
  if (first == "--help" || first == "-h") {
    fmt::print(
        "usage: emit_time [KEY...]\n"
        "how long kernels take from spec to PTX; without KEY, the default ones of every target\n");
    return 0;
  }
  try {
    report(chosen_kernels(argc - 1, argv + 1));
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
