#include "tools/hardware/recorder.h"

#include <fmt/format.h>

#include <atomic>
#include <cstdio>
#include <filesystem>

#include "sagegen/runtime/error.h"
#include "tools/hardware/child.h"
#include "tools/hardware/replay.h"

namespace sagegen::hardware {
namespace {

namespace fs = std::filesystem;

// What a child shares with its parent: how far it got.
struct Progress {
  std::atomic<std::size_t> next = 0;  // probes before this one are done or being done
  bool done = false;
  bool opened = false;
  RecorderCounts counts;
};

bool is_current(const std::string& path, const Probe& probe, const runtime::Device& device,
                Recording& recording) {
  if (!fs::exists(path)) {
    return false;
  }
  try {
    recording = load(path);
    int driver_version = 0;
    runtime::check(device.api(), device.api().driver_version(&driver_version),
                   "cuDriverGetVersion");
    return why_stale(recording, probe).empty() && recording.device == device.name() &&
           recording.api == device.api().name() && recording.driver_version == driver_version &&
           recording.driver == driver_release(device);
  } catch (const RecordingError& e) {
    fmt::print(stderr, "{}; recording again\n", e.what());
    return false;
  }
}

// Leaves the recording at `path`, counts it, and says what is wrong with it.
void record_one(const runtime::Device& device, const Probe& probe, const RecorderOptions& options,
                RecorderCounts& counts) {
  const std::string path = fmt::format("{}/{}.rec", options.out, probe.name);
  Recording recording;
  if (is_current(path, probe, device, recording)) {
    ++counts.kept;
  } else {
    recording = record(device, probe, options.seed);
    save(recording, path);
    ++counts.recorded;
    fmt::print(stderr, "recorded {}\n", probe.name);
  }
  if (const Difference d = compare_with_expected(probe, recording); d.words != 0) {
    ++counts.unexpected;
    fmt::print(stderr, "UNEXPECTED {}: {} of {} words are not what the operands must give; {}\n",
               probe.name, d.words, d.compared, d.first);
  }
}

// The life of a child: until all is done, or the device has failed.
void record_from(const RecorderOptions& options, Progress& progress) {
  const runtime::Device device = options.open();
  progress.opened = true;
  const std::vector<Probe>& probes = all_probes();
  while (progress.next < probes.size()) {
    const Probe& probe = probes[progress.next++];
    if (!options.only.empty() && probe.name != options.only) {
      continue;
    }
    if (!runs_on(probe, device.compute_capability())) {
      ++progress.counts.other_device;
      continue;
    }
    try {
      record_one(device, probe, options, progress.counts);
    } catch (const Error& e) {
      if (device.api().name() == "emulator") {
        ++progress.counts.waiting;
        continue;
      }
      ++progress.counts.failed;
      fmt::print(stderr, "FAILED {}: {}\n", probe.name, e.what());
      return;
    }
  }
  progress.done = true;
}

}  // namespace

RecorderCounts record_all(const RecorderOptions& options) {
  fs::create_directories(options.out);
  const Shared<Progress> progress;
  const auto work = [&] {
    try {
      record_from(options, *progress);
      return 0;
    } catch (const std::exception& e) {
      fmt::print(stderr, "{}\n", e.what());
      return 1;
    }
  };
  while (!progress->done) {
    progress->opened = false;
    const ChildEnd end = run_in_child(work, progress->next, options.patience);
    if (end.how == ChildEnd::How::exited && end.code == 0) {
      continue;
    }
    if (end.how == ChildEnd::How::exited || !progress->opened) {
      throw std::runtime_error("nothing more can be recorded");
    }
    ++progress->counts.failed;
    const std::string why = end.how == ChildEnd::How::too_slow
                                ? fmt::format("took more than {} ms", options.patience.count())
                                : fmt::format("its process died of signal {}", end.code);
    fmt::print(stderr, "FAILED {}: {}\n", all_probes()[progress->next - 1].name, why);
  }
  return progress->counts;
}

}  // namespace sagegen::hardware
