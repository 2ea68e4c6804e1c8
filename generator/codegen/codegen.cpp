#include "generator/codegen/codegen.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "generator/codegen/live_ranges.h"
#include "generator/codegen/target_machine.h"
#include "generator/dsl/impl.h"
#include "llvm/ADT/DenseSet.h"
#include "llvm/ADT/Hashing.h"
#include "llvm/ADT/SmallPtrSet.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/IR/Dominators.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Verifier.h"
#include "llvm/PassInfo.h"
#include "llvm/PassRegistry.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/Transforms/Utils/Local.h"
#include "llvm/Transforms/Utils/PromoteMemToReg.h"
#include "sagegen/error.h"

namespace sagegen::codegen {
namespace {

using Impl = dsl::KernelBuilder::Impl;

std::vector<llvm::AllocaInst*> slots_of(llvm::Function& function) {
  std::vector<llvm::AllocaInst*> slots;
  for (llvm::Instruction& instruction : function.getEntryBlock()) {
    if (auto* slot = llvm::dyn_cast<llvm::AllocaInst>(&instruction)) slots.push_back(slot);
  }
  return slots;
}

// The passes that LLVM's code generator asks for, without those that would optimize once more (they cost
// half the time of an emission, and some would undo what the template's author wrote or lengthen the
// lives of values, see live_ranges.h), those that look for what the DSL never makes, and an analysis that
// the rest does without (livevars).
class CodegenPasses final : public llvm::legacy::PassManagerBase {
 public:
  void add(llvm::Pass* pass) override {
    if (is_wanted(*pass)) {
      passes_.add(pass);
    } else {
      delete pass;
    }
  }
  void run(llvm::Module& module) { passes_.run(module); }

 private:
  static bool is_wanted(const llvm::Pass& pass) {
    static constexpr std::array<std::string_view, 31> kUnwanted{
        "atomic-expand",
        "basic-aa",
        "block-placement",
        "canon-freeze",
        "codegenprepare",
        "consthoist",
        "early-cse",
        "early-machinelicm",
        "early-tailduplication",
        "expand-ir-insts",
        "expand-memcmp",
        "infer-address-spaces",
        "livevars",
        "load-store-vectorizer",
        "loop-reduce",
        "loop-simplify",
        "machine-cse",
        "machine-scheduler",
        "mergeicmps",
        "nary-reassociate",
        "opt-phis",
        "partially-inline-libcalls",
        "peephole-opt",
        "replace-with-veclib",
        "separate-const-offset-from-gep",
        "slsr",
        "speculative-execution",
        "sroa",
        "twoaddressinstruction",
        "unreachableblockelim",
        "verify",
    };
    const llvm::PassInfo* info =
        llvm::PassRegistry::getPassRegistry()->getPassInfo(pass.getPassID());
    static_assert(std::ranges::is_sorted(kUnwanted));
    return info == nullptr ||
           !std::ranges::binary_search(kUnwanted, std::string_view(info->getPassArgument()));
  }

  llvm::legacy::PassManager passes_;
};

// Moves loads of slots that nothing in their block has stored to before to the start of the block: the
// promotion of a slot walks through each block up to its first use.
void load_slots_first(llvm::Function& function) {
  llvm::SmallPtrSet<const llvm::Value*, 32> stored;
  for (llvm::BasicBlock& block : llvm::drop_begin(function)) {  // the entry makes the slots
    stored.clear();
    const auto first = block.getFirstNonPHIIt();
    for (llvm::Instruction& instruction : llvm::make_early_inc_range(block)) {
      if (const auto* store = llvm::dyn_cast<llvm::StoreInst>(&instruction)) {
        stored.insert(store->getPointerOperand());
      }
      auto* load = llvm::dyn_cast<llvm::LoadInst>(&instruction);
      if (load == nullptr || !llvm::isa<llvm::AllocaInst>(load->getPointerOperand()) ||
          stored.contains(load->getPointerOperand()) || load->getIterator() == first) {
        continue;
      }
      load->moveBefore(block, first);
    }
  }
}

// Compares pure instructions by what they compute.
struct SameComputation : llvm::DenseMapInfo<llvm::Instruction*> {
  static unsigned getHashValue(const llvm::Instruction* instruction) {
    return static_cast<unsigned>(llvm::hash_combine(
        instruction->getOpcode(), instruction->getType(),
        llvm::hash_combine_range(instruction->value_op_begin(), instruction->value_op_end())));
  }
  static bool isEqual(const llvm::Instruction* a, const llvm::Instruction* b) {
    const auto is_marker = [](const llvm::Instruction* x) {
      return x == getEmptyKey() || x == getTombstoneKey();
    };
    return a == b || (!is_marker(a) && !is_marker(b) && a->isIdenticalTo(b));
  }
};

// Computes once per block what templates ask for again and again: parts of addresses, above all. Instruction
// selection would merge it too, at a multiple of the cost.
void merge_repeated(llvm::Function& function) {
  llvm::DenseSet<llvm::Instruction*, SameComputation> computed;
  for (llvm::BasicBlock& block : function) {
    computed.clear();
    for (llvm::Instruction& instruction : llvm::make_early_inc_range(block)) {
      // Two truncations become one instruction only where each is used once.
      if (llvm::isa<llvm::FPTruncInst>(instruction) ||
          !llvm::isa<llvm::CastInst, llvm::BinaryOperator, llvm::GetElementPtrInst>(instruction)) {
        continue;
      }
      const auto [first, is_new] = computed.insert(&instruction);
      if (is_new) continue;
      instruction.replaceAllUsesWith(*first);
      instruction.eraseFromParent();
    }
  }
}

// What nobody uses would cost as much time in instruction selection as what somebody does.
void remove_unused(llvm::Function& function) {
  for (llvm::BasicBlock& block : llvm::reverse(function)) {
    for (llvm::Instruction& instruction : llvm::make_early_inc_range(llvm::reverse(block))) {
      if (llvm::isInstructionTriviallyDead(&instruction)) instruction.eraseFromParent();
    }
  }
}

}  // namespace

void verify(dsl::KernelBuilder& k) {
  const Impl& impl = k.impl();
  k.impl().finish();
  std::string report;
  llvm::raw_string_ostream stream(report);
  if (llvm::verifyModule(*impl.module, &stream)) {
    throw CodegenError("kernel " + impl.function->getName().str() +
                       " is not valid LLVM IR: " + report);
  }
}

std::string ir_text(dsl::KernelBuilder& k) {
  verify(k);
  std::string text;
  llvm::raw_string_ostream stream(text);
  k.impl().module->print(stream, nullptr);
  return text;
}

void optimize(dsl::KernelBuilder& k) {
  Impl& impl = k.impl();
  impl.finish();
  llvm::removeUnreachableBlocks(*impl.function);
  llvm::DominatorTree dominators(*impl.function);
  load_slots_first(*impl.function);
  llvm::PromoteMemToReg(slots_of(*impl.function), dominators);
  remove_unused(*impl.function);
  merge_repeated(*impl.function);
  recompute_behind_loops(*impl.function, dominators);
  keep_constant_offsets_at_uses(*impl.function);
  impl.optimized = true;
}

std::string print_ptx(dsl::KernelBuilder& k) {
  Impl& impl = k.impl();
  if (!impl.optimized) {  // the code generator would stop the process at the first slot
    throw CodegenError("kernel " + impl.function->getName().str() +
                       " cannot be printed as PTX before optimize() has seen it");
  }
  if (impl.printed) {
    throw CodegenError("kernel " + impl.function->getName().str() +
                       " has been printed before, which uses it up; keep the text");
  }
  impl.printed = true;
  constexpr std::size_t kBufferBytes = 4096;
  llvm::SmallString<0> text;
  llvm::raw_svector_ostream stream(text);
  stream.SetBufferSize(kBufferBytes);  // LLVM prints a register and a comma at a time
  {
    CodegenPasses passes;
    if (target_machine(impl.info).addPassesToEmitFile(passes, stream, nullptr,
                                                      llvm::CodeGenFileType::AssemblyFile,
                                                      /*DisableVerify=*/true)) {
      throw InternalError("LLVM's NVPTX target cannot print assembly");
    }
    passes.run(*impl.module);
  }  // the printer writes the rest of the text when it ends
  return std::string(text);
}

std::string llvm_version() { return LLVM_VERSION_STRING; }

}  // namespace sagegen::codegen
