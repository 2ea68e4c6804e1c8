#include "generator/codegen/codegen.h"

#include "generator/codegen/target_machine.h"
#include "generator/dsl/impl.h"
#include "llvm/Analysis/AliasAnalysis.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Verifier.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/Transforms/InstCombine/InstCombine.h"
#include "llvm/Transforms/Scalar/EarlyCSE.h"
#include "llvm/Transforms/Scalar/LICM.h"
#include "llvm/Transforms/Scalar/LoopPassManager.h"
#include "llvm/Transforms/Scalar/SROA.h"
#include "llvm/Transforms/Scalar/SimplifyCFG.h"
#include "llvm/Transforms/Utils/Mem2Reg.h"
#include "sagegen/error.h"

namespace sagegen::codegen {
namespace {

using Impl = dsl::KernelBuilder::Impl;

void verify(const Impl& impl, const char* when) {
  std::string report;
  llvm::raw_string_ostream stream(report);
  if (llvm::verifyModule(*impl.module, &stream)) {
    throw CodegenError("kernel " + impl.function->getName().str() + " is not valid LLVM IR " + when + ": " +
                       report);
  }
}

llvm::FunctionPassManager pipeline() {
  llvm::FunctionPassManager passes;
  passes.addPass(llvm::PromotePass());
  passes.addPass(llvm::EarlyCSEPass());
  passes.addPass(llvm::InstCombinePass());
  passes.addPass(llvm::SimplifyCFGPass());
  passes.addPass(llvm::createFunctionToLoopPassAdaptor(
      llvm::LICMPass(llvm::LICMOptions()), /*UseMemorySSA=*/true));
  passes.addPass(llvm::EarlyCSEPass());
  return passes;
}

}  // namespace

std::string ir_text(dsl::KernelBuilder& k) {
  k.impl().finish();
  std::string text;
  llvm::raw_string_ostream stream(text);
  k.impl().module->print(stream, nullptr);
  return text;
}

void optimize(dsl::KernelBuilder& k) {
  Impl& impl = k.impl();
  impl.finish();
  verify(impl, "as built");
  const auto machine = target_machine(impl.info);
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager components;
  llvm::ModuleAnalysisManager modules;
  llvm::PassBuilder builder(machine.get());
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(components);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, components, modules);
  pipeline().run(*impl.function, functions);
  verify(impl, "after optimization");
}

std::string print_ptx(dsl::KernelBuilder& k) {
  Impl& impl = k.impl();
  const auto machine = target_machine(impl.info);
  llvm::SmallString<0> text;
  llvm::raw_svector_ostream stream(text);
  llvm::legacy::PassManager passes;
  if (machine->addPassesToEmitFile(passes, stream, nullptr, llvm::CodeGenFileType::AssemblyFile)) {
    throw InternalError("LLVM's NVPTX target cannot print assembly");
  }
  passes.run(*impl.module);
  return std::string(text);
}

std::string llvm_version() { return LLVM_VERSION_STRING; }

}  // namespace sagegen::codegen
