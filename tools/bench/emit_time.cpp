// How long a kernel takes from key to PTX. Without arguments: every kernel of the default choices on
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
#include "sagegen/set.h"

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

std::vector<Kernel> chosen_kernels(int count, char** keys) {
  std::vector<Kernel> kernels;
  for (int i = 0; i < count; ++i) kernels.push_back(parse_key(keys[i]));
  if (!kernels.empty()) return kernels;
  KernelProduct product{.fields = {{"head_dim", {"64", "128"}},
                                   {"io", {"f16", "bf16"}},
                                   {"causal", {"false", "true"}}}};
  for (const TargetInfo& info : supported_targets()) product.targets.push_back(info.target);
  return enumerate(product);
}

// Median over repetitions of one kernel's emission.
double emission_time(const Kernel& kernel) {
  constexpr int kRepetitions = 9;
  std::vector<double> times;
  for (int i = 0; i < kRepetitions; ++i) {
    const double begin = cpu_milliseconds();
    emit(kernel);
    times.push_back(cpu_milliseconds() - begin);
  }
  return median(times);
}

void report(const std::vector<Kernel>& kernels) {
  const double begin = cpu_milliseconds();
  emit(kernels.front());
  fmt::print("first kernel, with the start-up of LLVM: {:.1f} ms\n", cpu_milliseconds() - begin);
  std::vector<double> all, attention;
  double total = 0;
  for (const Kernel& kernel : kernels) {
    const double time = emission_time(kernel);
    all.push_back(time);
    if (kernel.family().title == "attention") attention.push_back(time);
    total += time;
    fmt::print("{:8.2f} ms  {}\n", time, kernel.key());
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
        "how long kernels take from key to PTX; without KEY, the default ones of every target\n");
    return 0;
  }
  try {
    report(chosen_kernels(argc - 1, argv + 1));
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
