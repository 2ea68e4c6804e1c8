#include "generator/dsl/impl.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <new>
#include <string_view>

#include "llvm/BinaryFormat/Dwarf.h"
#include "llvm/IR/IntrinsicInst.h"
#include "llvm/IR/Operator.h"
#include "llvm/Support/ErrorHandling.h"
#include "llvm/TargetParser/Triple.h"
#include "sagegen/error.h"

namespace sagegen::dsl {
namespace {

// LLVM would end the process where its own buffers find no memory.
std::unique_ptr<llvm::LLVMContext> new_context() {
  static std::once_flag once;
  std::call_once(once, [] {
    llvm::install_bad_alloc_error_handler([](void*, const char*, bool) { throw std::bad_alloc(); });
  });
  return std::make_unique<llvm::LLVMContext>();
}

std::unique_ptr<llvm::Module> new_module(const std::string& name, llvm::LLVMContext& context) {
  auto module = std::make_unique<llvm::Module>(name, context);
  module->setTargetTriple(llvm::Triple(kTriple));
  module->setDataLayout(data_layout());
  return module;
}

llvm::Type* type_of_parameter(llvm::LLVMContext& context, Param parameter) {
  switch (parameter) {
    case Param::i32:
      return llvm::Type::getInt32Ty(context);
    case Param::f32:
      return llvm::Type::getFloatTy(context);
    case Param::i64:
    case Param::address:
      break;
  }
  return llvm::Type::getInt64Ty(context);
}

// PTX ISA, syntax: identifiers.
bool is_identifier(std::string_view name) {
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const auto follows = [&](char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || c == '_' || c == '$';
  };
  if (name.empty() || !std::ranges::all_of(name.substr(1), follows)) return false;
  return is_letter(name[0]) || ((name[0] == '_' || name[0] == '$') && name.size() > 1);
}

}  // namespace

BuilderCore::BuilderCore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BuilderCore::~BuilderCore() = default;
Target BuilderCore::target() const { return impl_->target; }
int BuilderCore::threads() const { return impl_->threads; }
void BuilderCore::fail(const std::string& message, SourceLoc loc) {
  impl_->at(loc);
  impl_->fail(message);
}

Caller::Caller(BuilderCore& k, SourceLoc loc) : k_(k), outermost_(k.impl().pin(loc)) {}
Caller::~Caller() {
  if (outermost_) k_.impl().release();
}

void fail_at(SourceLoc loc, const std::string& message) {
  throw CodegenError(fmt::format("{}:{}: {}", loc.file, loc.line, message));
}

std::pair<llvm::Value*, std::int64_t> split_constant(llvm::Value* index) {
  if (auto* constant = llvm::dyn_cast<llvm::ConstantInt>(index)) {
    return {nullptr, constant->getSExtValue()};
  }
  auto* add = llvm::dyn_cast<llvm::BinaryOperator>(index);
  if (add == nullptr || add->getOpcode() != llvm::Instruction::Add || !add->hasNoSignedWrap()) {
    return {index, 0};
  }
  auto* constant = llvm::dyn_cast<llvm::ConstantInt>(add->getOperand(1));
  if (constant == nullptr) return {index, 0};
  return {add->getOperand(0), constant->getSExtValue()};
}

std::string data_layout() { return llvm::Triple(kTriple).computeDataLayout("shortptr"); }

BuilderCore::Impl::Impl(KernelBuilder& owner_, const std::string& entry_name, Target target_,
                        int threads_, std::size_t param_bytes_, const std::vector<Param>& list,
                        LineInfo line_info, SourceLoc loc)
    : owner(owner_),
      target(target_),
      info(target_info(target_)),
      threads(threads_),
      param_bytes(param_bytes_),
      parameters(list),
      context(new_context()),
      module(new_module(entry_name, *context)),
      b(*context, llvm::InstSimplifyFolder(module->getDataLayout())),
      entry_builder(*context, llvm::InstSimplifyFolder(module->getDataLayout())),
      loc_(loc) {
  if (!is_identifier(entry_name)) {
    fail(
        fmt::format("\"{}\" cannot name a kernel; a PTX identifier is a letter followed by "
                    "letters, digits, _ and $, or "
                    "_ or $ followed by at least one of them",
                    entry_name));
  }
  constexpr int kMaxThreads = 1024;
  if (threads < 1 || threads > kMaxThreads || threads % 32 != 0) {
    fail(fmt::format(
        "kernel {} asks for {} threads per block; it takes whole warps of 32 and at most {}",
        entry_name, threads, kMaxThreads));
  }
  // PTX ISA, kernel function parameters: the larger size since PTX ISA 8.1.
  const std::size_t most_bytes = info.ptx_version >= 81 ? 32764 : 4352;
  if (param_bytes > most_bytes) {
    fail(fmt::format(
        "kernel {} takes {} bytes of parameters; at most {} are possible on {}; pass an address",
        entry_name, param_bytes, most_bytes, info.name));
  }
  context->setDiscardValueNames(true);
  llvm::SmallVector<llvm::Type*> parameter_types;
  for (const Param parameter : parameters)
    parameter_types.push_back(type_of_parameter(*context, parameter));
  const bool has_struct = parameters.empty() && param_bytes > 0;
  if (has_struct) parameter_types.push_back(llvm::PointerType::get(*context, 0));
  auto* type = llvm::FunctionType::get(llvm::Type::getVoidTy(*context), parameter_types, false);
  function = llvm::Function::Create(type, llvm::GlobalValue::ExternalLinkage, entry_name, *module);
  function->setCallingConv(llvm::CallingConv::PTX_Kernel);
  function->addFnAttr("nvvm.reqntid", std::to_string(threads));
  function->addFnAttr(llvm::Attribute::NoUnwind);
  if (has_struct) {
    auto* bytes = llvm::ArrayType::get(llvm::Type::getInt8Ty(*context), param_bytes);
    function->addParamAttr(0, llvm::Attribute::getWithByValType(*context, bytes));
    function->addParamAttr(0, llvm::Attribute::getWithAlignment(*context, llvm::Align(8)));
  }

  if (line_info == LineInfo::on) {
    module->addModuleFlag(llvm::Module::Warning, "Debug Info Version",
                          llvm::DEBUG_METADATA_VERSION);
    debug_ = std::make_unique<llvm::DIBuilder>(*module);
  }

  entry = new_block();
  llvm::BasicBlock* start = new_block();
  entry_builder.SetInsertPoint(entry);
  entry_builder.SetInsertPoint(entry_builder.CreateBr(start));
  b.SetInsertPoint(start);
}

bool BuilderCore::Impl::pin(SourceLoc loc) {
  if (pinned_) return false;
  at(loc);
  pinned_ = true;
  return true;
}

void BuilderCore::Impl::at(SourceLoc loc) {
  if (!pinned_) loc_ = loc;
  require_open();
  if (pinned_) return;
  if (debug_ == nullptr) return;
  llvm::DIScope* scope = scope_of(loc.file);
  llvm::DebugLoc location =
      llvm::DILocation::get(*context, static_cast<unsigned>(loc.line), 0, scope);
  b.SetCurrentDebugLocation(location);
  entry_builder.SetCurrentDebugLocation(location);
}

// The first file that a verb names is the kernel's; verbs of other files get a scope of their own.
llvm::DIScope* BuilderCore::Impl::scope_of(const char* file_name) {
  auto [position, is_new] = scopes_.try_emplace(file_name, nullptr);
  if (!is_new) return position->second;
  const std::filesystem::path path(file_name);
  llvm::DIFile* file = debug_->createFile(path.filename().string(), path.parent_path().string());
  if (subprogram_ != nullptr)
    return position->second = debug_->createLexicalBlockFile(subprogram_, file);

  debug_->createCompileUnit(llvm::DISourceLanguageName(llvm::dwarf::DW_LANG_C_plus_plus), file,
                            "sagegen", true, "", 0, "", llvm::DICompileUnit::DebugDirectivesOnly);
  auto* type = debug_->createSubroutineType(debug_->getOrCreateTypeArray({}));
  subprogram_ =
      debug_->createFunction(file, function->getName(), "", file, 1, type, 1,
                             llvm::DINode::FlagPrototyped, llvm::DISubprogram::SPFlagDefinition);
  function->setSubprogram(subprogram_);
  return position->second = subprogram_;
}

void BuilderCore::Impl::fail(const std::string& message) const { fail_at(loc_, message); }

void BuilderCore::Impl::require_open() const {
  if (finished) fail("the kernel has been optimized or printed; nothing can follow");
  if (broken)
    fail("an exception left a branch or loop of this kernel half built; make a new builder");
}

llvm::Value* BuilderCore::Impl::use(const ValueBase& operand) const {
  require_open();
  if (operand.v == nullptr) fail(kNoValue);
  if (operand.k != &owner) fail("an operand belongs to another kernel's builder");
  auto* instruction = llvm::dyn_cast<llvm::Instruction>(operand.v);
  if (instruction != nullptr && closed_.contains(instruction->getParent())) {
    fail(
        "an operand was made inside a branch or loop that has ended; keep it in a Var made "
        "outside");
  }
  return operand.v;
}

void BuilderCore::Impl::in_scope(const std::function<void()>& body) {
  auto first = std::prev(function->end());  // the block that the caller just opened
  const SourceLoc outer = loc_;
  try {
    body();
  } catch (...) {
    broken = true;
    throw;
  }
  at(outer);
  for (auto block = first; block != function->end(); ++block) closed_.insert(&*block);
}

void BuilderCore::Impl::require(bool supported, const char* instruction, const char* advice) const {
  if (!supported) fail(fmt::format("{} does not exist on {}; {}", instruction, info.name, advice));
}

llvm::Value* BuilderCore::Impl::offset(llvm::Value* p, llvm::Value* bytes) {
  auto [variable, constant] = split_constant(bytes);
  auto* inner = llvm::dyn_cast<llvm::GEPOperator>(p);
  if (inner != nullptr && inner->hasAllConstantIndices()) {
    constant += llvm::cast<llvm::ConstantInt>(inner->getOperand(1))->getSExtValue();
    p = inner->getPointerOperand();
  }
  if (variable != nullptr) p = b.CreatePtrAdd(p, variable);
  if (constant != 0)
    p = b.CreatePtrAdd(p, llvm::ConstantInt::getSigned(bytes->getType(), constant));
  return p;
}

llvm::Value* BuilderCore::Impl::intrinsic(llvm::Intrinsic::ID id,
                                          llvm::ArrayRef<llvm::Value*> arguments,
                                          llvm::Type* overload) {
  llvm::Function*& declaration = intrinsics_[{id, overload}];
  if (declaration == nullptr) {
    const auto overloads =
        overload == nullptr ? llvm::ArrayRef<llvm::Type*>() : llvm::ArrayRef(overload);
    declaration = llvm::Intrinsic::getOrInsertDeclaration(module.get(), id, overloads);
  }
  return b.CreateCall(declaration, arguments);
}

llvm::Value* BuilderCore::Impl::reinterpret(llvm::Value* value, llvm::Type* type) {
  auto* cast = llvm::dyn_cast<llvm::BitCastInst>(value);
  if (cast != nullptr && cast->getSrcTy() == type) return cast->getOperand(0);
  return b.CreateBitCast(value, type);
}

llvm::Value* BuilderCore::Impl::special_register(llvm::Intrinsic::ID id, unsigned limit) {
  llvm::Value*& value = special_registers_[id];
  if (value == nullptr) {
    auto* call = entry_builder.CreateIntrinsic(id, llvm::ArrayRef<llvm::Value*>());
    call->addRangeRetAttr(range(limit));
    value = call;
  }
  return value;
}

llvm::Value* BuilderCore::Impl::parameter(std::size_t byte, llvm::Type* type, llvm::Align align) {
  llvm::Value*& value = parameters_[{byte, type}];
  if (value == nullptr) {
    llvm::Value* address = entry_builder.CreateConstInBoundsGEP1_64(entry_builder.getInt8Ty(),
                                                                    function->getArg(0), byte);
    llvm::Type* stored = type->isPointerTy() ? entry_builder.getInt64Ty() : type;
    value = entry_builder.CreateAlignedLoad(stored, address, align);
    // Else a select of two parameters would turn into a load from a selected address.
    value = entry_builder.CreateFreeze(value);
    if (type->isPointerTy()) value = entry_builder.CreateIntToPtr(value, type);
  }
  return value;
}

llvm::Value* BuilderCore::Impl::list_parameter(unsigned index, llvm::Type* type) {
  llvm::Value* value = function->getArg(index);
  if (!type->isPointerTy()) return value;
  llvm::Value*& address = list_addresses_[index];
  if (address == nullptr) address = entry_builder.CreateIntToPtr(value, type);
  return address;
}

llvm::AllocaInst* BuilderCore::Impl::slot(llvm::Type* type) {
  return entry_builder.CreateAlloca(type);
}

llvm::BasicBlock* BuilderCore::Impl::new_block() {
  return llvm::BasicBlock::Create(*context, "", function);
}

void BuilderCore::Impl::finish() {
  if (finished) return;
  finished = true;
  b.CreateRetVoid();
  if (debug_ != nullptr) debug_->finalize();
}

}  // namespace sagegen::dsl
