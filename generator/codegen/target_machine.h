// The NVPTX target machine for a target of the spec.
#pragma once

#include "llvm/Target/TargetMachine.h"
#include "sagegen/target.h"
#include "sagegen/types.h"

namespace sagegen::codegen {

// Made when a thread first asks for it and kept until the thread ends: LLVM's code generators share nothing
// but what they only read, a target machine is not among that.
llvm::TargetMachine& target_machine(const TargetInfo& info);

}  // namespace sagegen::codegen
