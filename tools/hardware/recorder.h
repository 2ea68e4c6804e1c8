// Records all probes on one device, each to <out>/<probe>.rec, so that a run which was cut off
// continues.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "tools/hardware/recording.h"

namespace sagegen::hardware {

struct RecorderOptions {
  // Opens the device. It is called in child processes: a kernel that faults leaves its process
  // without a usable device, and the probes behind it are recorded by the next one.
  std::function<runtime::Device()> open;
  std::string out;     // directory; made if missing
  std::string only{};  // this probe instead of all
  std::uint64_t seed = 1;
  std::chrono::milliseconds patience{60000};  // a probe that takes longer has failed
};

struct RecorderCounts {
  int recorded = 0;
  int kept = 0;          // there already: this probe on this device with this driver
  int other_device = 0;  // not for this one
  int waiting = 0;       // the emulator does not execute them yet
  int unexpected = 0;    // recorded, but not what the operands must give
  int failed = 0;        // no recording; reasons are on standard error
};

// Throws std::runtime_error if the device cannot be opened or the directory not written.
RecorderCounts record_all(const RecorderOptions& options);

}  // namespace sagegen::hardware
