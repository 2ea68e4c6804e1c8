// From a spec to PTX text: the generator's public entry. Needs no GPU, no CUDA toolkit, no files.
#pragma once

#include <string>
#include <vector>

#include "sagegen/error.h"
#include "sagegen/line_info.h"
#include "sagegen/spec.h"

namespace sagegen {

struct EmitOptions {
  LineInfo line_info = LineInfo::off;
};

struct EmittedKernel {
  KernelSpec spec;
  std::string name;  // key(spec): entry point of the PTX
  std::string ptx;
  KernelResources resources;
};

// Validates, builds, optimizes and prints. The same spec and options give the same bytes, always.
// Safe to call from several threads. Throws SpecError, CodegenError, and std::bad_alloc where memory ends, for
// which LLVM's handler is installed once in the process.
EmittedKernel emit(const KernelSpec& spec, const EmitOptions& options = {});

// The same path with every stage kept: spec, resources, IR as built, IR optimized, PTX.
struct Stage {
  std::string title;
  std::string text;
  double milliseconds;
};
std::vector<Stage> trace(const KernelSpec& spec, const EmitOptions& options = {});

// Versions that decide the bytes, for headers of generated files: "0.1.0", "22.1.8".
std::string generator_version();
std::string llvm_version();

}  // namespace sagegen
