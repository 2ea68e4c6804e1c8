// From a built kernel to PTX text: verify, optimize, print. The only place that knows LLVM's passes and
// the NVPTX target machine.
#pragma once

#include <string>

#include "generator/dsl/kernel_builder.h"

namespace sagegen::codegen {

// The kernel's LLVM IR as it stands, for people.
std::string ir_text(dsl::KernelBuilder& k);

// Verifies the kernel and rewrites it: registers instead of slots, common subexpressions once, loop
// invariants outside. Never unrolls, vectorizes, contracts or reassociates floating point: what the
// template's author wrote is what runs. Throws CodegenError if the IR is not well formed.
void optimize(dsl::KernelBuilder& k);

// Prints an optimized kernel as PTX. The same kernel gives the same bytes.
std::string print_ptx(dsl::KernelBuilder& k);

// Version of the LLVM that is linked in: "22.1.8".
std::string llvm_version();

}  // namespace sagegen::codegen
