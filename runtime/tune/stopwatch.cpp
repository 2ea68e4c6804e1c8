#include "sagegen/runtime/stopwatch.h"

#include <algorithm>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "runtime/driver/in_context.h"
#include "sagegen/runtime/emulator.h"
#include "sagegen/runtime/error.h"
#include "sagegen/runtime/graph.h"

namespace sagegen::runtime {
namespace {

using Enqueue = std::function<void(StreamHandle)>;

class InstructionCount final : public Stopwatch {
 public:
  InstructionCount(const Device& device, EmulatorDriver& emulator)
      : emulator_(emulator), stream_(device) {}
  std::string_view unit() const override { return "instructions"; }
  bool is_exact() const override { return true; }
  double time(const Enqueue& enqueue) override {
    const std::uint64_t before = emulator_.warp_instructions();
    enqueue(stream_.handle());
    stream_.synchronize();
    return static_cast<double>(emulator_.warp_instructions() - before);
  }

 private:
  EmulatorDriver& emulator_;
  Stream stream_;
};

class Events final : public Stopwatch {
 public:
  Events(const Device& device, Deployment deployment)
      : device_(device),
        deployment_(deployment),
        stream_(device),
        flush_(device, flush_bytes(device)) {
    for (int i = 0; i < kMostRuns; ++i) {
      begin_.emplace_back(device);
      end_.emplace_back(device);
    }
  }
  std::string_view unit() const override { return "ns"; }
  bool is_exact() const override { return false; }
  double time(const Enqueue& enqueue) override {
    std::optional<Graph> graph;
    if (deployment_ == Deployment::graph) graph.emplace(device_, enqueue);
    const auto run = [&](int i) {
      flush();
      begin_[static_cast<std::size_t>(i)].record(stream_.handle());
      if (graph)
        graph->launch(stream_.handle());
      else
        enqueue(stream_.handle());
      end_[static_cast<std::size_t>(i)].record(stream_.handle());
    };
    // The first tells how many make a sample of some milliseconds.
    run(0);
    end_[0].synchronize();
    const double first = nanoseconds(0);
    const int runs = std::clamp(static_cast<int>(kSampleNanoseconds / std::max(first, 1.0)),
                                kFewestRuns, kMostRuns);
    for (int i = 0; i < runs; ++i) run(i);
    stream_.synchronize();
    std::vector<double> times;
    for (int i = 0; i < runs; ++i) times.push_back(nanoseconds(i));
    std::ranges::sort(times);
    return std::max(times[times.size() / 2], 1.0);
  }

 private:
  static constexpr int kFewestRuns = 3, kMostRuns = 20;
  static constexpr double kSampleNanoseconds = 4e6;

  // Twice what the L2 cache holds.
  static std::size_t flush_bytes(const Device& device) {
    constexpr std::size_t kUnknown = std::size_t{128} << 20;
    int l2 = 0;
    const Result result =
        device.api().device_attribute(&l2, DeviceAttribute::l2_cache_size, device.ordinal());
    return result == Result::success && l2 > 0 ? 2 * static_cast<std::size_t>(l2) : kUnknown;
  }
  void flush() {
    in_context(device_, [&](DriverApi& driver) {
      check(driver, driver.fill_bytes(flush_.data(), 0, flush_.bytes(), stream_.handle()),
            "cuMemsetD8Async");
    });
  }
  double nanoseconds(int i) const {
    constexpr double kPerMillisecond = 1e6;
    return kPerMillisecond *
           static_cast<double>(end_[static_cast<std::size_t>(i)].milliseconds_since(
               begin_[static_cast<std::size_t>(i)]));
  }

  Device device_;
  Deployment deployment_;
  Stream stream_;
  Buffer flush_;
  std::vector<Event> begin_, end_;
};

}  // namespace

std::string_view to_string(Deployment deployment) {
  return deployment == Deployment::eager ? "eager" : "graph";
}

std::unique_ptr<Stopwatch> make_stopwatch(const Device& device, Deployment deployment) {
  if (auto* emulator = dynamic_cast<EmulatorDriver*>(&device.api())) {
    if (deployment == Deployment::graph) {
      throw ArgumentError(
          "timing in graphs is refused on an emulated device, where they save no time; take eager, "
          "or a GPU");
    }
    return std::make_unique<InstructionCount>(device, *emulator);
  }
  return std::make_unique<Events>(device, deployment);
}

}  // namespace sagegen::runtime
