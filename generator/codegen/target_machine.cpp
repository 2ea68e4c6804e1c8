#include "generator/codegen/target_machine.h"

#include <fmt/format.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "generator/dsl/impl.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/TargetParser/Triple.h"
#include "sagegen/error.h"

extern "C" {
void LLVMInitializeNVPTXTargetInfo();
void LLVMInitializeNVPTXTarget();
void LLVMInitializeNVPTXTargetMC();
void LLVMInitializeNVPTXAsmPrinter();
}

namespace sagegen::codegen {
namespace {

// LLVM keeps its targets and options in globals of its own; they are set up once per process.
void initialize_llvm() {
  static std::once_flag once;
  std::call_once(once, [] {
    LLVMInitializeNVPTXTargetInfo();
    LLVMInitializeNVPTXTarget();
    LLVMInitializeNVPTXTargetMC();
    LLVMInitializeNVPTXAsmPrinter();
    // 32-bit shared-memory pointers are an option of the target, not of a target machine.
    auto& options = llvm::cl::getRegisteredOptions();
    const auto found = options.find("nvptx-short-ptr");
    if (found == options.end()) throw InternalError("LLVM has no option nvptx-short-ptr");
    found->second->addOccurrence(1, "nvptx-short-ptr", "true");
  });
}

std::unique_ptr<llvm::TargetMachine> new_target_machine(const std::string& cpu,
                                                        const std::string& features) {
  initialize_llvm();
  const llvm::Triple triple(dsl::kTriple);
  std::string message;
  const llvm::Target* target = llvm::TargetRegistry::lookupTarget(triple, message);
  if (target == nullptr) throw InternalError("LLVM has no NVPTX target: " + message);
  llvm::TargetOptions options;
  options.AllowFPOpFusion = llvm::FPOpFusion::Strict;  // add.rn and mul.rn, never a fused pair
  std::unique_ptr<llvm::TargetMachine> machine(target->createTargetMachine(
      triple, cpu, features, options, std::nullopt, std::nullopt, llvm::CodeGenOptLevel::Default));
  if (machine->createDataLayout().getStringRepresentation() != dsl::data_layout()) {
    throw InternalError("LLVM's NVPTX data layout is not the one that kernels are built with");
  }
  return machine;
}

}  // namespace

llvm::TargetMachine& target_machine(const TargetInfo& info) {
  using Key = std::pair<std::string, std::string>;
  thread_local std::map<Key, std::unique_ptr<llvm::TargetMachine>> machines;
  const Key key(info.name, fmt::format("+ptx{}", info.ptx_version));
  std::unique_ptr<llvm::TargetMachine>& machine = machines[key];
  if (machine == nullptr) machine = new_target_machine(key.first, key.second);
  return *machine;
}

}  // namespace sagegen::codegen
