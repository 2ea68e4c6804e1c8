#include "generator/codegen/codegen.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "generator/codegen/live_ranges.h"
#include "generator/codegen/target_machine.h"
#include "generator/dsl/impl.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/IR/Dominators.h"
#include "llvm/IR/InstIterator.h"
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

void verify(const Impl& impl) {
  std::string report;
  llvm::raw_string_ostream stream(report);
  if (llvm::verifyModule(*impl.module, &stream)) {
    throw CodegenError("kernel " + impl.function->getName().str() +
                       " is not valid LLVM IR: " + report);
  }
}

std::vector<llvm::AllocaInst*> slots_of(llvm::Function& function) {
  std::vector<llvm::AllocaInst*> slots;
  for (llvm::Instruction& instruction : function.getEntryBlock()) {
    if (auto* slot = llvm::dyn_cast<llvm::AllocaInst>(&instruction)) slots.push_back(slot);
  }
  return slots;
}

// The passes that LLVM's code generator asks for, without those that would optimize once more: they cost
// half the time of an emission, and some would undo what the template's author wrote or lengthen the
// lives of values (see live_ranges.h).
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
    static constexpr std::array<std::string_view, 19> kUnwanted{
        "block-placement",
        "canon-freeze",
        "codegenprepare",
        "consthoist",
        "early-cse",
        "early-machinelicm",
        "expand-memcmp",
        "load-store-vectorizer",
        "loop-reduce",
        "loop-simplify",
        "machine-cse",
        "mergeicmps",
        "nary-reassociate",
        "partially-inline-libcalls",
        "replace-with-veclib",
        "separate-const-offset-from-gep",
        "slsr",
        "speculative-execution",
        "verify",
    };
    const llvm::PassInfo* info =
        llvm::PassRegistry::getPassRegistry()->getPassInfo(pass.getPassID());
    return info == nullptr ||
           std::ranges::find(kUnwanted, std::string_view(info->getPassArgument())) ==
               kUnwanted.end();
  }

  llvm::legacy::PassManager passes_;
};

// What nobody uses would cost as much time in instruction selection as what somebody does.
void remove_unused(llvm::Function& function) {
  llvm::SmallVector<llvm::WeakTrackingVH> unused;
  for (llvm::Instruction& instruction : llvm::instructions(function)) {
    if (llvm::isInstructionTriviallyDead(&instruction)) unused.push_back(&instruction);
  }
  llvm::RecursivelyDeleteTriviallyDeadInstructions(unused);
}

}  // namespace

std::string ir_text(dsl::KernelBuilder& k) {
  k.impl().finish();
  verify(k.impl());
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
  llvm::PromoteMemToReg(slots_of(*impl.function), dominators);
  remove_unused(*impl.function);
  recompute_behind_loops(*impl.function, dominators);
  keep_constant_offsets_at_uses(*impl.function);
}

std::string print_ptx(dsl::KernelBuilder& k) {
  Impl& impl = k.impl();
  const auto machine = target_machine(impl.info);
  llvm::SmallString<0> text;
  llvm::raw_svector_ostream stream(text);
  CodegenPasses passes;
  if (machine->addPassesToEmitFile(passes, stream, nullptr, llvm::CodeGenFileType::AssemblyFile,
                                   /*DisableVerify=*/true)) {
    throw InternalError("LLVM's NVPTX target cannot print assembly");
  }
  passes.run(*impl.module);
  return std::string(text);
}

std::string llvm_version() { return LLVM_VERSION_STRING; }

}  // namespace sagegen::codegen
