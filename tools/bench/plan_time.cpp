// What the runtime itself costs, with a driver that does nothing: making a plan of attention from the embedded
// PTX (the first of the process, and again while another is alive), and one run() beyond the driver's calls.
// Times are CPU times of this thread, so that other load on the machine does not count.
//   plan_time
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sagegen/attention.h"
#include "tools/bench/idle_driver.h"

namespace {

using namespace sagegen;
using namespace sagegen::runtime;
using bench::IdleDriver;

double cpu_microseconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e6 * static_cast<double>(now.tv_sec) + 1e-3 * static_cast<double>(now.tv_nsec);
}

// Median of one call's time.
double microseconds(const std::function<void()>& work, int repetitions) {
  std::vector<double> times;
  for (int i = 0; i < 15; ++i) {
    const double begin = cpu_microseconds();
    for (int n = 0; n < repetitions; ++n) work();
    times.push_back((cpu_microseconds() - begin) / repetitions);
  }
  std::ranges::sort(times);
  return times[times.size() / 2];
}

void report() {
  const auto driver = std::make_shared<IdleDriver>();
  const Device device(driver, 0);
  const sagegen::Kernel kernel(attention::family(), {}, Target{.sm = 89});
  const ArtifactSource source = embedded_ptx();

  const double begin = cpu_microseconds();
  const attention::Plan plan(device, kernel, source);
  fmt::print("first plan of the process:          {:8.1f} us\n", cpu_microseconds() - begin);
  fmt::print("the same plan again:                {:8.1f} us\n",
             microseconds([&] { attention::Plan(device, kernel, source); }, 20));
  fmt::print(
      "the same plan on another device:    {:8.1f} us\n",
      microseconds(
          [&] { attention::Plan(Device(std::make_shared<IdleDriver>(), 0), kernel, source); }, 20));

  const attention::Shape shape{
      .batch = 2, .q_heads = 32, .kv_heads = 8, .q_len = 4096, .kv_len = 4096};
  const std::size_t bytes = plan.workspace_bytes(shape);
  const std::size_t without_lse = plan.workspace_bytes(shape, attention::Lse::unwanted);
  constexpr DevicePtr kFar = DevicePtr{1} << 40;
  const attention::Arguments arguments{.q = hnd(1 * kFar, 32, 4096, 128),
                                       .k = hnd(2 * kFar, 8, 4096, 128),
                                       .v = hnd(3 * kFar, 8, 4096, 128),
                                       .o = hnd(4 * kFar, 32, 4096, 128)};
  const double run =
      microseconds([&] { plan.run(shape, arguments, 5 * kFar, bytes, nullptr); }, 100'000);
  fmt::print("run(), five launches:               {:8.3f} us\n", run);
  attention::TunedPlan tuned(device, kernel, source, {.choice = {.mode = attention::TuningMode::off}});
  volatile const attention::Plan* found = nullptr;
  fmt::print("plan_for(), one of many shapes:     {:8.3f} us\n",
             microseconds([&] { found = &tuned.plan_for(shape); }, 1'000'000));
  fmt::print("workspace of B2 H32/8 L4096 D128:   {:8.2f} MB, {:.2f} MB without LSE\n",
             static_cast<double>(bytes) / 1e6, static_cast<double>(without_lse) / 1e6);
}

}  // namespace

int main() {
  try {
    report();
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
