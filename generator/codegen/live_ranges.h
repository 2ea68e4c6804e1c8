// Shortens the lives of values that are cheap to have again: attention kernels fill the register file,
// and ptxas keeps what the PTX computes early.
#pragma once

#include "llvm/IR/Dominators.h"
#include "llvm/IR/Function.h"

namespace sagegen::codegen {

// Moves base + constant next to each use in another block (where loop-invariant code motion put it), so
// that instruction selection sees it there and prints [base+constant] instead of keeping a register.
void keep_constant_offsets_at_uses(llvm::Function& function);

// Computes again, behind each loop, what was computed before it and is not used inside, if parameters,
// special registers and values that live in the loop anyway are all it takes.
void recompute_behind_loops(llvm::Function& function, llvm::DominatorTree& dominators);

}  // namespace sagegen::codegen
