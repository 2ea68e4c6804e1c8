// The rules of a launch, as the CUDA driver enforces them, and the result codes of findings.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/emulator/device/profiles.h"
#include "runtime/emulator/exec/launch.h"
#include "sagegen/runtime/driver_api.h"
#include "sagegen/runtime/emulator.h"

namespace sagegen::emulator {

struct Refusal {
  runtime::Result result = runtime::Result::success;
  std::string why;
};

struct LaunchShape {
  runtime::Dim3 grid;
  runtime::Dim3 block;
  unsigned dynamic_shared = 0;
  int max_dynamic_shared = 0;  // what the function was allowed
};

// Threads per block that a function may be launched with: its .maxntid. What the register file allows is
// known to the assembler alone, which orders instructions anew and spills.
int max_threads(const ProgramInfo& program);
// The executor's estimate, at most what one thread can have: more would be spilled.
int registers_per_thread(const ProgramInfo& program);

// Dynamic shared memory of a function that did not ask for more.
int default_dynamic_shared(const ProgramInfo& program);
// Empty if the function may be allowed `bytes`, otherwise why not.
std::string why_not_dynamic_shared(const ProgramInfo& program, const DeviceDescription& device,
                                   int bytes);

Refusal why_not_launchable(const ProgramInfo& program, const LaunchShape& shape);

// Copies the arguments, one pointer per parameter, to their places. False if a pointer is null.
bool pack_parameters(const ProgramInfo& program, void** arguments, std::vector<std::uint8_t>& out);

// illegal_address if the first finding is an access outside of memory, otherwise launch_failed.
runtime::Result result_of(const std::vector<runtime::Finding>& findings);
// One line per finding: kernel, PTX line, template line, check, message, place. `truncated`: there were
// more.
std::string describe(const std::vector<runtime::Finding>& findings, bool truncated);

}  // namespace sagegen::emulator
