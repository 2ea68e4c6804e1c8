// Control flow of one PTX function: basic blocks, and where the lanes of a divergent branch rejoin. Pure
// analysis of ptx::Function; knows the opcodes bra, ret, exit and trap only, and the jumps of expanded
// calls (calls.h).
//
// Lanes that leave the kernel never rejoin anything, so an early return must not push the reconvergence
// of the code around it to the end of the kernel: a bar.sync after `if (a) { if (b) return; ... }` is
// legal and common. Therefore lanes rejoin at the branch's immediate post-dominator over those ways out
// only that both of its sides can take, where every ret, exit and trap is a way out of its own, and so
// is every jump to a block that does nothing else. Without early returns this is the usual immediate
// post-dominator.
#pragma once

#include <vector>

#include "runtime/emulator/ptx/module.h"

namespace sagegen::emulator::ptx {

struct BasicBlock {
  int first = 0;                // index into Function::body
  int end = 0;                  // one past the last instruction
  std::vector<int> successors;  // blocks; ControlFlow::exit_block() for leaving the kernel
};

struct ControlFlow {
  std::vector<BasicBlock> blocks;  // in body order; blocks[0] is the entry
  std::vector<int> block_of;       // per instruction
  // Per instruction. For a conditional branch: the instruction at which its lanes rejoin, or
  // body.size() if they can only leave the kernel. -1 for everything else, also for an unguarded bra
  // and for a guarded ret, exit or trap (its lanes vanish, the others go on).
  std::vector<int> reconvergence;
  // Per instruction: the target of a bra, otherwise -1. A label at the end of the function gives
  // body.size(), which leaves the kernel like falling off the end does.
  std::vector<int> target;

  int exit_block() const { return static_cast<int>(blocks.size()); }
};

// Throws ParseError if a bra has no label of this function as its only operand, if a function uses brx,
// and if it has so many branches whose sides share no post-dominator (that is, with returns on both) that the
// analysis would take longer than a second or so.
ControlFlow analyze(const Function& function);

}  // namespace sagegen::emulator::ptx
