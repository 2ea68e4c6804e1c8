// Which device `run` uses, and the target whose PTX it loads there.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "sagegen/runtime/device.h"
#include "sagegen/runtime/emulator.h"
#include "sagegen/set.h"

namespace sagegen::cli {

inline constexpr Target kUsualTarget{.sm = 89};  // where neither device nor target says anything

struct RunDevice {
  std::string name;                                   // "cuda:0", "emulator:sm_89"
  std::shared_ptr<runtime::EmulatorDriver> emulator;  // null on a GPU
  runtime::Device device;
  Target target;
  std::string why_no_gpu;  // of device auto, when it fell back
  std::string note;        // why the target is lower than the device's, if it is
};

// device: auto, cuda, cuda:N, emulator or emulator:PROFILE. target: empty for the best one of the device.
// Throws UsageError, SpecError, DriverError.
RunDevice open_run_device(const std::string& device, const std::string& target,
                          const runtime::EmulatorOptions& options);

}  // namespace sagegen::cli
