// From a built kernel to PTX text: optimize, print. The only place that knows LLVM's passes and
// the NVPTX target machine.
#pragma once

#include <string>

#include "sagegen/dsl/kernel_builder.h"

namespace sagegen::codegen {

// Ends the kernel. Throws CodegenError if it is not well formed.
void verify(dsl::KernelBuilder& k);

// The kernel's LLVM IR as it stands, for people. Throws CodegenError if it is not well formed.
std::string ir_text(dsl::KernelBuilder& k);

// Registers instead of slots, nothing that is not used, short lives for what is computed in front of a
// loop, and no more: common subexpressions and loop invariants are ptxas's work, and leaving them to it
// costs no instruction. Never unrolls, vectorizes, contracts or reassociates floating point: what the
// template's author wrote is what runs.
void optimize(dsl::KernelBuilder& k);

// Prints an optimized kernel as PTX. The same kernel gives the same bytes. Throws CodegenError for one that
// is not optimized.
std::string print_ptx(dsl::KernelBuilder& k);

// Version of the LLVM that is linked in: "22.1.8".
std::string llvm_version();

}  // namespace sagegen::codegen
