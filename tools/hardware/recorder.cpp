#include "tools/hardware/recorder.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <new>
#include <system_error>
#include <thread>

#include "sagegen/runtime/error.h"
#include "tools/hardware/replay.h"

namespace sagegen::hardware {
namespace {

namespace fs = std::filesystem;

// Memory that a child shares with its parent: how far it got.
struct Progress {
  std::atomic<std::size_t> next = 0;  // probes before this one are done or being done
  bool done = false;
  bool opened = false;
  RecorderCounts counts;
};

class SharedProgress {
 public:
  SharedProgress()
      : memory_(mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                     -1, 0)) {
    if (memory_ == MAP_FAILED) {
      throw std::system_error(errno, std::generic_category(), "no memory to share");
    }
    progress_ = new (memory_) Progress;
  }
  ~SharedProgress() { munmap(memory_, sizeof(Progress)); }
  SharedProgress(const SharedProgress&) = delete;
  SharedProgress& operator=(const SharedProgress&) = delete;
  Progress& operator*() const { return *progress_; }

 private:
  void* memory_;
  Progress* progress_;
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
           recording.api == device.api().name() && recording.driver_version == driver_version;
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

// Waits for the child to end, and ends it if a probe takes too long. Returns its status.
int wait_for(pid_t child, const Progress& progress, std::chrono::milliseconds patience) {
  using Clock = std::chrono::steady_clock;
  std::size_t probe = progress.next;
  auto since = Clock::now();
  for (;;) {
    int status = 0;
    const pid_t ended = waitpid(child, &status, WNOHANG);
    if (ended == child) {
      return status;
    }
    if (ended < 0 && errno != EINTR) {
      throw std::system_error(errno, std::generic_category(), "lost the recording process");
    }
    if (progress.next != probe) {
      probe = progress.next;
      since = Clock::now();
    } else if (Clock::now() - since > patience) {
      kill(child, SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

}  // namespace

RecorderCounts record_all(const RecorderOptions& options) {
  fs::create_directories(options.out);
  const SharedProgress progress;
  while (!(*progress).done) {
    (*progress).opened = false;
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child < 0) {
      throw std::system_error(errno, std::generic_category(), "cannot start a process");
    }
    if (child == 0) {
      int code = 0;
      try {
        record_from(options, *progress);
      } catch (const std::exception& e) {
        fmt::print(stderr, "{}\n", e.what());
        code = 1;
      }
      std::fflush(nullptr);
      _exit(code);
    }
    const int status = wait_for(child, *progress, options.patience);
    if (WIFSIGNALED(status) && (*progress).opened) {
      ++(*progress).counts.failed;
      fmt::print(stderr, "FAILED {}: its process died of signal {}{}\n",
                 all_probes()[(*progress).next - 1].name, WTERMSIG(status),
                 WTERMSIG(status) == SIGKILL ? ", most likely because it took too long" : "");
    } else if (WIFSIGNALED(status) || WEXITSTATUS(status) != 0) {
      throw std::runtime_error("nothing more can be recorded");
    }
  }
  return (*progress).counts;
}

}  // namespace sagegen::hardware
