// The recorder on a device that a probe breaks: what follows is recorded all the same.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <filesystem>
#include <stdexcept>

#include "tests/driver/fake_driver.h"
#include "tools/hardware/recorder.h"
#include "tools/hardware/replay.h"

namespace sagegen::test {
namespace {

using namespace hardware;
namespace fs = std::filesystem;

// A kernel of `breaking` faults, and nothing works from then on, as with CUDA's sticky errors; or
// the process dies, or the kernel never ends. Other kernels write nothing.
enum class Breaks { device, process, time };
class BreakingDriver : public FakeDriver {
 public:
  BreakingDriver(std::string breaking, Breaks breaks)
      : breaking_("// " + breaking + ":"), breaks_(breaks) {
    set_compute_capability(90);
  }
  Result module_load(ModuleHandle* module, const char* ptx, std::string* log) override {
    armed_ = std::string(ptx).starts_with(breaking_);
    return FakeDriver::module_load(module, ptx, log);
  }
  // SIGUSR1 ends a process, and Catch does not catch it.
  Result launch(FunctionHandle function, Dim3 grid, Dim3 block, unsigned shared,
                StreamHandle stream, void** params) override {
    if (armed_ && breaks_ == Breaks::process) kill(getpid(), SIGUSR1);
    if (armed_ && breaks_ == Breaks::time) pause();
    broken_ = broken_ || armed_;
    if (broken_) return Result::illegal_address;
    return FakeDriver::launch(function, grid, block, shared, stream, params);
  }

 private:
  std::string breaking_;
  Breaks breaks_;
  bool armed_ = false, broken_ = false;
};

class Directory {
 public:
  Directory() {
    std::string name = (fs::temp_directory_path() / "sagegen-recorder-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary directory");
    path_ = name;
  }
  ~Directory() { fs::remove_all(path_); }
  std::string path() const { return path_; }

 private:
  fs::path path_;
};

RecorderOptions breaking(const std::string& out, const std::string& probe, Breaks breaks) {
  return {.open = [=] { return Device(std::make_shared<BreakingDriver>(probe, breaks), 0); },
          .out = out,
          .patience = std::chrono::milliseconds(breaks == Breaks::time ? 3000 : 60000)};
}

TEST_CASE("a probe that breaks the device costs its own recording only") {
  for (const Breaks breaks : {Breaks::device, Breaks::process, Breaks::time}) {
    const Directory directory;
    const RecorderCounts counts = record_all(breaking(directory.path(), "shfl_up", breaks));
    CHECK(counts.failed == 1);
    CHECK(counts.waiting == 0);
    CHECK(counts.other_device == 2);
    CHECK(counts.recorded == static_cast<int>(all_probes().size()) - 3);
    CHECK(counts.unexpected >= 30);  // the fake writes nothing, and some probes know better
    CHECK(!fs::exists(directory.path() + "/shfl_up.rec"));
    CHECK(fs::exists(directory.path() + "/shfl_down.rec"));
    CHECK(load(directory.path() + "/shfl_down.rec").results[0] == 0xcdcdcdcdu);

    if (breaks != Breaks::device) {
      continue;
    }
    // Later, on a device that works: only what is missing.
    const RecorderCounts later = record_all(breaking(directory.path(), "nothing", breaks));
    CHECK(later.recorded == 1);
    CHECK(later.kept == counts.recorded);
    CHECK(later.failed == 0);
    CHECK(later.unexpected == counts.unexpected);

    // And what another release of the driver gave.
    Recording other = load(directory.path() + "/shfl_down.rec");
    other.driver = "580.159.04";
    save(other, directory.path() + "/shfl_down.rec");
    CHECK(load(directory.path() + "/shfl_down.rec").driver == "580.159.04");
    const RecorderCounts again = record_all(breaking(directory.path(), "nothing", Breaks::device));
    CHECK(again.recorded == 1);
    CHECK(again.kept == counts.recorded);
  }
}

TEST_CASE("a device that cannot be opened, or a directory that cannot be written, ends the run") {
  const Directory directory;
  CHECK_THROWS(record_all({.open = []() -> Device { throw std::runtime_error("no device"); },
                           .out = directory.path()}));
  CHECK_THROWS(record_all(breaking("/proc/none", "nothing", Breaks::device)));
}

}  // namespace
}  // namespace sagegen::test
