// The inside of KernelBuilder, for dsl/*.cpp and codegen: the LLVM module that is being built and the
// checks on what templates hand in.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "llvm/ADT/DenseSet.h"
#include "llvm/Analysis/InstSimplifyFolder.h"
#include "llvm/IR/DIBuilder.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/IntrinsicsNVPTX.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"
#include "sagegen/dsl/kernel_builder.h"

namespace sagegen::dsl {

// Address spaces of NVPTX (LLVM's user guide for the NVPTX back end).
constexpr unsigned address_space(Space space) { return space == Space::global ? 1 : 3; }

struct BuilderCore::Impl {
  // Folds constants and identities while it builds, so that a condition known now is a ConstantInt.
  using Builder = llvm::IRBuilder<llvm::InstSimplifyFolder>;

  Impl(KernelBuilder& owner, const std::string& entry, Target target, int threads,
       std::size_t param_bytes, const std::vector<Param>& parameters, LineInfo line_info,
       SourceLoc loc);

  // Makes `loc` the place that instructions and errors name, until the next verb.
  void at(SourceLoc loc);
  // The same, and calls of at() change nothing until release(). False if somebody has pinned before.
  bool pin(SourceLoc loc);
  void release() { pinned_ = false; }
  // Throws CodegenError "file:line: message".
  [[noreturn]] void fail(const std::string& message) const;
  // Fails if the kernel has ended or is broken.
  void require_open() const;
  // The LLVM value of an operand; fails if it is empty, of another builder, or out of scope.
  llvm::Value* use(const ValueBase& operand) const;
  // Runs a template's lambda; afterwards the values made inside cannot be used any more.
  void in_scope(const std::function<void()>& body);
  // Fails with what to do instead if the target lacks an instruction.
  void require(bool supported, const char* instruction, const char* advice) const;

  // p + bytes, as (base + variable part) + constant part: loads at constant distances then share one
  // address register and become [reg+imm]. bytes: i32 (shared memory) or i64.
  llvm::Value* offset(llvm::Value* p, llvm::Value* bytes);
  // overload: the type that the name of an overloaded intrinsic ends with, else null.
  llvm::Value* intrinsic(llvm::Intrinsic::ID id, llvm::ArrayRef<llvm::Value*> arguments,
                         llvm::Type* overload = nullptr);
  // The same bits as another type; bits that were of that type before are that value.
  llvm::Value* reinterpret(llvm::Value* value, llvm::Type* type);
  template <std::size_t N>
  std::array<llvm::Value*, N> unpack(llvm::Value* aggregate) {
    std::array<llvm::Value*, N> parts;
    for (unsigned i = 0; i < N; ++i) parts[i] = b.CreateExtractValue(aggregate, i);
    return parts;
  }
  // The values 0 to limit - 1 of a special register.
  static llvm::ConstantRange range(unsigned limit) {
    return {llvm::APInt(32, 0), llvm::APInt(32, limit)};
  }
  // Special registers and parameters are read once, in the entry block, which dominates everything.
  llvm::Value* special_register(llvm::Intrinsic::ID id, unsigned limit);
  llvm::Value* parameter(std::size_t offset, llvm::Type* type, llvm::Align align);
  // An element of the list, as `type`.
  llvm::Value* list_parameter(unsigned index, llvm::Type* type);
  llvm::AllocaInst* slot(llvm::Type* type);
  llvm::BasicBlock* new_block();
  // Ends the kernel. Called once, before optimization.
  void finish();

  template <typename T>
  T wrap(llvm::Value* value) const {
    T handle;
    handle.k = &owner;
    handle.v = value;
    return handle;
  }

  KernelBuilder& owner;
  Target target;
  TargetInfo info;
  int threads;
  std::size_t param_bytes;        // of the struct, or of the list
  std::vector<Param> parameters;  // empty: one struct, or nothing
  ParamLayout layout;             // of the struct; empty if nobody said it
  std::unique_ptr<llvm::LLVMContext> context;
  std::unique_ptr<llvm::Module> module;
  llvm::Function* function = nullptr;
  llvm::BasicBlock* entry = nullptr;       // slots, parameters and special registers
  Builder b;                               // where verbs build
  Builder entry_builder;                   // before the end of `entry`
  llvm::GlobalVariable* shared = nullptr;  // the dynamic shared memory
  int shared_bytes = 0;
  bool finished = false;   // no verb may follow
  bool optimized = false;  // set by codegen::optimize
  bool printed = false;    // set by codegen::print_ptx, which uses the module up
  bool broken = false;     // an exception has left a body of control flow

 private:
  llvm::DIScope* scope_of(const char* file);

  SourceLoc loc_;
  bool pinned_ = false;
  std::unique_ptr<llvm::DIBuilder> debug_;  // null without line info
  llvm::DISubprogram* subprogram_ = nullptr;
  std::map<std::string, llvm::DIScope*> scopes_;
  std::map<std::pair<std::size_t, llvm::Type*>, llvm::Value*> parameters_;
  std::map<unsigned, llvm::Value*> list_addresses_;
  std::map<llvm::Intrinsic::ID, llvm::Value*> special_registers_;
  std::map<std::pair<llvm::Intrinsic::ID, llvm::Type*>, llvm::Function*> intrinsics_;
  llvm::DenseSet<const llvm::BasicBlock*> closed_;
};

// The LLVM type of a DSL value.
template <typename T>
llvm::Type* type_of(llvm::LLVMContext& context) {
  if constexpr (std::is_same_v<T, Pred>) return llvm::Type::getInt1Ty(context);
  if constexpr (std::is_same_v<T, I32>) return llvm::Type::getInt32Ty(context);
  if constexpr (std::is_same_v<T, I64>) return llvm::Type::getInt64Ty(context);
  if constexpr (std::is_same_v<T, F32>) return llvm::Type::getFloatTy(context);
  if constexpr (std::is_same_v<T, GlobalPtr>) {
    return llvm::PointerType::get(context, address_space(Space::global));
  }
  if constexpr (std::is_same_v<T, SharedPtr>) {
    return llvm::PointerType::get(context, address_space(Space::shared));
  }
}

inline constexpr const char* kNoValue = "an operand was never given a value";
// Throws CodegenError "file:line: message", where there is no builder to ask.
[[noreturn]] void fail_at(SourceLoc loc, const std::string& message);

// index as {x, constant} where it is x + constant (nsw); x is null if all of it is constant.
std::pair<llvm::Value*, std::int64_t> split_constant(llvm::Value* index);

// The data layout of the modules: NVPTX with 32-bit pointers to shared memory.
std::string data_layout();
inline constexpr const char* kTriple = "nvptx64-nvidia-cuda";

}  // namespace sagegen::dsl
