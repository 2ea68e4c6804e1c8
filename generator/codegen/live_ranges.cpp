#include "generator/codegen/live_ranges.h"

#include "llvm/ADT/SmallPtrSet.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Analysis/LoopInfo.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/IntrinsicInst.h"
#include "llvm/IR/Operator.h"

namespace sagegen::codegen {
namespace {

// A phi uses its operand at the end of the block that the operand comes from.
llvm::BasicBlock* block_of(const llvm::Use& use) {
  auto* user = llvm::cast<llvm::Instruction>(use.getUser());
  auto* phi = llvm::dyn_cast<llvm::PHINode>(user);
  return phi != nullptr ? phi->getIncomingBlock(use) : user->getParent();
}

llvm::Instruction* end_of_use(const llvm::Use& use) {
  auto* user = llvm::cast<llvm::Instruction>(use.getUser());
  return llvm::isa<llvm::PHINode>(user) ? block_of(use)->getTerminator() : user;
}

class BehindLoop {
 public:
  BehindLoop(llvm::Loop& loop, llvm::DominatorTree& dominators)
      : loop_(loop), dominators_(dominators) {
    llvm::SmallVector<llvm::BasicBlock*> pending;
    loop.getExitBlocks(pending);
    while (!pending.empty()) {
      llvm::BasicBlock* block = pending.pop_back_val();
      if (behind_.insert(block).second) pending.append(succ_begin(block), succ_end(block));
    }
  }

  void recompute(llvm::Instruction& value) {
    llvm::SmallVector<llvm::Use*> uses;
    llvm::BasicBlock* place = nullptr;
    for (llvm::Use& use : value.uses()) {
      llvm::BasicBlock* block = block_of(use);
      if (!behind_.contains(block)) continue;
      uses.push_back(&use);
      place = place == nullptr ? block : dominators_.findNearestCommonDominator(place, block);
    }
    if (uses.empty() || !behind_.contains(place) || is_parameter(value) || !is_recomputable(value))
      return;
    // Before the first of the uses if they are all in one block, else at the end of what dominates them.
    llvm::Instruction* before = place->getTerminator();
    for (llvm::Use* use : uses) {
      llvm::Instruction* user = end_of_use(*use);
      if (user->getParent() == place && user->comesBefore(before)) before = user;
    }
    llvm::Value* copy = copy_of(value, before);
    for (llvm::Use* use : uses) use->set(copy);
  }

 private:
  bool is_used_inside(const llvm::Instruction& value) const {
    return llvm::any_of(value.uses(),
                        [&](const llvm::Use& use) { return loop_.contains(block_of(use)); });
  }

  bool is_recomputable(const llvm::Instruction& value, int depth = 0) const {
    constexpr int kLongestChain = 6;
    if (depth > kLongestChain || loop_.contains(&value) || is_used_inside(value)) return false;
    if (is_parameter(value)) return true;
    if (const auto* call = llvm::dyn_cast<llvm::IntrinsicInst>(&value)) {
      if (call->arg_size() != 0 || call->mayHaveSideEffects()) return false;  // special registers
    } else if (!llvm::isa<llvm::CastInst, llvm::GetElementPtrInst, llvm::FreezeInst, llvm::ICmpInst,
                          llvm::SelectInst>(value) &&
               !is_cheap_arithmetic(value)) {
      return false;
    }
    return llvm::all_of(value.operands(), [&](const llvm::Use& operand) {
      const auto* instruction = llvm::dyn_cast<llvm::Instruction>(operand);
      return instruction == nullptr || is_used_inside(*instruction) ||
             is_recomputable(*instruction, depth + 1);
    });
  }

  // Parameters cost no register: ptxas reads them from constant memory wherever they are used.
  static bool is_parameter(const llvm::Value& value) {
    if (llvm::isa<llvm::Argument>(value)) return true;
    if (llvm::isa<llvm::FreezeInst, llvm::IntToPtrInst>(value)) {
      return is_parameter(*llvm::cast<llvm::Instruction>(value).getOperand(0));
    }
    const auto* load = llvm::dyn_cast<llvm::LoadInst>(&value);
    return load != nullptr &&
           llvm::isa<llvm::Argument>(load->getPointerOperand()->stripInBoundsConstantOffsets());
  }

  static bool is_cheap_arithmetic(const llvm::Instruction& value) {
    switch (value.getOpcode()) {
      case llvm::Instruction::Add:
      case llvm::Instruction::Sub:
      case llvm::Instruction::Mul:
      case llvm::Instruction::Shl:
      case llvm::Instruction::LShr:
      case llvm::Instruction::And:
      case llvm::Instruction::Or:
      case llvm::Instruction::Xor:
        return true;
      case llvm::Instruction::UDiv:
      case llvm::Instruction::URem: {  // a shift or a mask
        auto* divisor = llvm::dyn_cast<llvm::ConstantInt>(value.getOperand(1));
        return divisor != nullptr && divisor->getValue().isPowerOf2();
      }
      default:
        return false;
    }
  }

  // A copy of the value and of what it takes, in front of `before`.
  llvm::Value* copy_of(llvm::Value& value, llvm::Instruction* before) {
    auto* instruction = llvm::dyn_cast<llvm::Instruction>(&value);
    if (instruction == nullptr || behind_.contains(instruction->getParent()) ||
        is_parameter(value) || is_used_inside(*instruction)) {
      return &value;
    }
    llvm::Instruction* copy = instruction->clone();
    for (llvm::Use& operand : copy->operands()) operand.set(copy_of(*operand, before));
    copy->insertBefore(before->getIterator());
    return copy;
  }

  llvm::Loop& loop_;
  llvm::DominatorTree& dominators_;
  llvm::SmallPtrSet<llvm::BasicBlock*, 16> behind_;
};

}  // namespace

void keep_constant_offsets_at_uses(llvm::Function& function) {
  llvm::SmallVector<llvm::GetElementPtrInst*> offsets;
  for (llvm::Instruction& instruction : llvm::instructions(function)) {
    auto* gep = llvm::dyn_cast<llvm::GetElementPtrInst>(&instruction);
    if (gep != nullptr && gep->hasAllConstantIndices()) offsets.push_back(gep);
  }
  for (llvm::GetElementPtrInst* gep : offsets) {
    for (llvm::Use& use : llvm::make_early_inc_range(gep->uses())) {
      if (block_of(use) == gep->getParent()) continue;
      llvm::Instruction* copy = gep->clone();
      copy->insertBefore(end_of_use(use)->getIterator());
      use.set(copy);
    }
    if (gep->use_empty()) gep->eraseFromParent();
  }
}

void recompute_behind_loops(llvm::Function& function, llvm::DominatorTree& dominators) {
  llvm::LoopInfo loops(dominators);
  for (llvm::Loop* loop : loops) {
    BehindLoop behind(*loop, dominators);
    llvm::SmallVector<llvm::Instruction*> before;
    for (llvm::BasicBlock& block : function) {
      if (loop->contains(&block) || !dominators.dominates(&block, loop->getHeader())) continue;
      for (llvm::Instruction& instruction : block) before.push_back(&instruction);
    }
    for (llvm::Instruction* instruction : before) behind.recompute(*instruction);
  }
}

}  // namespace sagegen::codegen
