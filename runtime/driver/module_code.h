// How PTX becomes a module: from machine code where somebody has made it before, else by the driver's compiler.
#pragma once

#include <string>

#include "sagegen/artifact.h"
#include "sagegen/runtime/device.h"

namespace sagegen::runtime {

struct LoadedModule {
  Result result = Result::success;  // of the last call of module_load
  ModuleHandle module = nullptr;
  std::string log;   // of the driver's compiler
  std::string note;  // why `assembled` was not loaded, as a sentence; else empty
};

// In the device's context. Tries `assembled` (which may be null), the device's code cache, the driver's linker, whose
// result is cached, and the text itself: what fails before that changes nothing but the time it takes.
LoadedModule load_module(const Device& device, const std::string& ptx,
                         const MachineCode* assembled);

// Whether machine code for a target runs on a device (CUDA C++ Programming Guide, "Binary Compatibility"), with a
// driver of this CUDA version ("CUDA Compatibility": one of the same major version, or a later one, loads it). Why not,
// as the end of a sentence; empty if it does.
std::string why_it_does_not_run(const MachineCode& code, int compute_capability, int cuda_version);

}  // namespace sagegen::runtime
