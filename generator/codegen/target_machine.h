// The NVPTX target machine for a target of the spec.
#pragma once

#include <memory>

#include "llvm/Target/TargetMachine.h"
#include "sagegen/target.h"
#include "sagegen/types.h"

namespace sagegen::codegen {

std::unique_ptr<llvm::TargetMachine> target_machine(const TargetInfo& info);

}  // namespace sagegen::codegen
