// The generator as the commands see it. A build without it (SAGEGEN_GENERATOR=OFF) has the same functions;
// those that need it throw CodegenError that says so.
#pragma once

#include <string>
#include <vector>

#include "sagegen/emit.h"
#include "tools/pictures/layouts.h"

namespace sagegen::cli {

enum class GeneratorState { built_in, absent };
GeneratorState generator_state();

Artifact emit_kernel(const Kernel& kernel, const EmitOptions& options);
std::vector<Stage> trace_kernel(const Kernel& kernel, const EmitOptions& options);
pictures::Layouts kernel_layouts(const Kernel& kernel);  // of attention

// "0.1.0, LLVM 22.1.8" or "0.1.0, no generator".
std::string version_line();
// "22.1.8" or empty.
std::string generator_llvm_version();
std::string tool_version();

}  // namespace sagegen::cli
