// From a finished kernel to PTX text, in one call:
//
//   dsl::KernelBuilder k("scale", Target{.sm = 89}, 128, sizeof(Params));
//   ... verbs ...
//   const dsl::Emitted kernel = dsl::emit(k);
#pragma once

#include <cstddef>
#include <string>

#include "sagegen/dsl/kernel_builder.h"

namespace sagegen::dsl {

// What a launch needs to know.
struct Emitted {
  std::string entry;  // entry point of the PTX
  std::string ptx;
  Target target;
  int threads = 0;              // per block, .reqntid
  int shared_bytes = 0;         // dynamic shared memory per block
  std::size_t param_bytes = 0;  // of the struct that is the kernel's only parameter, or of its list
};

// Optimizes and prints the kernel. Ends it: no verb may follow. The same verbs give the same bytes. Safe
// to call from several threads, each with its own kernel. Throws CodegenError if the kernel was emitted
// before or is not well formed (a lambda of control flow threw), std::bad_alloc where memory ends.
Emitted emit(KernelBuilder& k, SourceLoc loc = SourceLoc::here());

// The kernel's LLVM IR as it stands, for people; ends the kernel as emit() does. Throws CodegenError.
std::string ir_text(KernelBuilder& k);

}  // namespace sagegen::dsl
