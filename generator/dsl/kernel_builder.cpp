// Construction, parameters, mutable registers and control flow.
#include "sagegen/dsl/kernel_builder.h"

#include <fmt/format.h>

#include "generator/dsl/impl.h"
#include "llvm/IR/InlineAsm.h"

namespace sagegen::dsl {

namespace {

constexpr std::size_t bytes_of(Param parameter) {
  return parameter == Param::i32 || parameter == Param::f32 ? 4 : 8;
}

// PTX ISA, kernel function parameters: each is aligned to its size.
std::size_t bytes_of(const std::vector<Param>& parameters) {
  std::size_t bytes = 0;
  for (const Param parameter : parameters) {
    const std::size_t size = bytes_of(parameter);
    bytes = (bytes + size - 1) / size * size + size;
  }
  return bytes;
}

const char* name_of(Param parameter) {
  switch (parameter) {
    case Param::i32:
      return "i32";
    case Param::i64:
      return "i64";
    case Param::f32:
      return "f32";
    case Param::address:
      return "address";
  }
  return "?";
}

template <typename T>
constexpr Param kParamOf = std::is_same_v<T, I32>   ? Param::i32
                           : std::is_same_v<T, I64> ? Param::i64
                           : std::is_same_v<T, F32> ? Param::f32
                                                    : Param::address;

}  // namespace

KernelBuilder::KernelBuilder(const std::string& entry, Target target, int threads,
                             std::size_t param_bytes, LineInfo line_info, SourceLoc loc)
    : WarpVerbs(std::make_unique<Impl>(*this, entry, target, threads, param_bytes,
                                       std::vector<Param>{}, line_info, loc)) {}

KernelBuilder::KernelBuilder(const std::string& entry, Target target, int threads,
                             const std::vector<Param>& parameters, LineInfo line_info,
                             SourceLoc loc)
    : WarpVerbs(std::make_unique<Impl>(*this, entry, target, threads, bytes_of(parameters),
                                       parameters, line_info, loc)) {}

KernelBuilder::KernelBuilder(const std::string& entry, Target target, int threads,
                             const ParamLayout& params, LineInfo line_info, SourceLoc loc)
    : KernelBuilder(entry, target, threads, params.bytes(), line_info, loc) {
  impl_->layout = params;
}

KernelBuilder::~KernelBuilder() = default;

// ---- parameters, special registers ----

void KernelBuilder::check_param_struct(std::size_t bytes, SourceLoc loc) {
  impl_->at(loc);
  if (!impl_->parameters.empty()) {
    impl_->fail("the kernel was opened with a list of parameters, not with a struct; use param()");
  }
  if (bytes != impl_->param_bytes) {
    impl_->fail(fmt::format("the kernel was opened with {} bytes of parameters, this struct has {}",
                            impl_->param_bytes, bytes));
  }
}

std::size_t KernelBuilder::block_offset(std::string_view name, SourceLoc loc) {
  impl_->at(loc);
  if (!impl_->layout.has(name)) {
    impl_->fail(fmt::format("the kernel has no parameter block {}; its layout is {}", name,
                            impl_->layout.text().empty() ? "empty" : impl_->layout.text()));
  }
  return impl_->layout.offset(name);
}

void KernelBuilder::check_param_block(std::size_t offset, std::size_t bytes, SourceLoc loc) {
  impl_->at(loc);
  if (!impl_->parameters.empty()) {
    impl_->fail("the kernel was opened with a list of parameters, not with a struct; use param()");
  }
  if (offset > impl_->param_bytes || bytes > impl_->param_bytes - offset) {
    impl_->fail(fmt::format(
        "the kernel was opened with {} bytes of parameters; a struct of {} at byte {} does not fit",
        impl_->param_bytes, bytes, offset));
  }
}

template <typename T>
T KernelBuilder::param(int index, SourceLoc loc) {
  impl_->at(loc);
  const std::vector<Param>& list = impl_->parameters;
  if (index < 0 || static_cast<std::size_t>(index) >= list.size()) {
    impl_->fail(
        fmt::format("the kernel was opened with a list of {} parameters; there is no parameter {}",
                    list.size(), index));
  }
  const Param is = list[static_cast<std::size_t>(index)];
  if (is != kParamOf<T>) {
    impl_->fail(fmt::format("parameter {} is of type {}, not {}", index, name_of(is),
                            name_of(kParamOf<T>)));
  }
  return impl_->wrap<T>(
      impl_->list_parameter(static_cast<unsigned>(index), type_of<T>(*impl_->context)));
}
template I32 KernelBuilder::param<I32>(int, SourceLoc);
template I64 KernelBuilder::param<I64>(int, SourceLoc);
template F32 KernelBuilder::param<F32>(int, SourceLoc);
template GlobalPtr KernelBuilder::param<GlobalPtr>(int, SourceLoc);

template <typename T>
T read_param(KernelBuilder& k, std::size_t offset, SourceLoc loc) {
  auto& impl = k.impl();
  impl.at(loc);
  constexpr bool kIsWide = std::is_same_v<T, I64> || std::is_same_v<T, GlobalPtr>;
  constexpr std::size_t kBytes = kIsWide ? 8 : 4;
  if (offset % kBytes != 0) {
    impl.fail(fmt::format(
        "a parameter of {} bytes at byte {} is not aligned to its size; do not pack the struct",
        kBytes, offset));
  }
  llvm::Type* type = type_of<T>(*impl.context);
  return impl.template wrap<T>(impl.parameter(offset, type, llvm::Align(kBytes)));
}
template I32 read_param<I32>(KernelBuilder&, std::size_t, SourceLoc);
template I64 read_param<I64>(KernelBuilder&, std::size_t, SourceLoc);
template F32 read_param<F32>(KernelBuilder&, std::size_t, SourceLoc);
template GlobalPtr read_param<GlobalPtr>(KernelBuilder&, std::size_t, SourceLoc);

I32 KernelBuilder::thread_idx(SourceLoc loc) {
  impl_->at(loc);
  const auto limit = static_cast<unsigned>(impl_->threads);
  return impl_->wrap<I32>(
      impl_->special_register(llvm::Intrinsic::nvvm_read_ptx_sreg_tid_x, limit));
}

I32 KernelBuilder::reread_thread_idx(SourceLoc loc) {
  impl_->at(loc);
  auto* type = llvm::FunctionType::get(impl_->b.getInt32Ty(), /*isVarArg=*/false);
  // Side effects keep it from being merged with the first read.
  auto* read = llvm::InlineAsm::get(type, "mov.u32 $0, %tid.x;", "=r", /*hasSideEffects=*/true);
  llvm::CallInst* call = impl_->b.CreateCall(type, read);
  call->addRangeRetAttr(impl_->range(static_cast<unsigned>(impl_->threads)));
  return impl_->wrap<I32>(call);
}

I32 KernelBuilder::block_idx(int axis, SourceLoc loc) {
  impl_->at(loc);
  // Largest grid: CUDA C++ Programming Guide, technical specifications per compute capability.
  switch (axis) {
    case 0:
      return impl_->wrap<I32>(
          impl_->special_register(llvm::Intrinsic::nvvm_read_ptx_sreg_ctaid_x, 0x7fffffff));
    case 1:
      return impl_->wrap<I32>(
          impl_->special_register(llvm::Intrinsic::nvvm_read_ptx_sreg_ctaid_y, 0xffff));
    case 2:
      return impl_->wrap<I32>(
          impl_->special_register(llvm::Intrinsic::nvvm_read_ptx_sreg_ctaid_z, 0xffff));
    default:
      impl_->fail(fmt::format("block_idx takes axis 0, 1 or 2, not {}", axis));
  }
}

I32 KernelBuilder::grid_dim(int axis, SourceLoc loc) {
  impl_->at(loc);
  switch (axis) {
    case 0:
      return impl_->wrap<I32>(
          impl_->special_register(llvm::Intrinsic::nvvm_read_ptx_sreg_nctaid_x, 0x80000000));
    case 1:
      return impl_->wrap<I32>(
          impl_->special_register(llvm::Intrinsic::nvvm_read_ptx_sreg_nctaid_y, 0x10000));
    case 2:
      return impl_->wrap<I32>(
          impl_->special_register(llvm::Intrinsic::nvvm_read_ptx_sreg_nctaid_z, 0x10000));
    default:
      impl_->fail(fmt::format("grid_dim takes axis 0, 1 or 2, not {}", axis));
  }
}

I32 KernelBuilder::lane_idx(SourceLoc loc) { return Here<I32>(thread_idx(loc), loc) % 32; }
I32 KernelBuilder::warp_idx(SourceLoc loc) { return Here<I32>(thread_idx(loc), loc) / 32; }

// ---- mutable registers ----

namespace {
constexpr const char* kNoVar = "a Var was never made with var()";
}  // namespace

template <typename T>
T Var<T>::read() const {
  if (k_ == nullptr) return {};  // the verb that uses it reports it, with its line
  auto& impl = k_->impl();
  impl.require_open();
  return impl.template wrap<T>(impl.b.CreateLoad(type_of<T>(*impl.context), slot_));
}

template <typename T>
T Var<T>::get(SourceLoc loc) const {
  if (k_ == nullptr) fail_at(loc, kNoVar);
  k_->impl().at(loc);
  return read();
}

template <typename T>
void Var<T>::set(T value, SourceLoc loc) const {
  if (k_ == nullptr) fail_at(loc, kNoVar);
  auto& impl = k_->impl();
  impl.at(loc);
  impl.b.CreateStore(impl.use(value), slot_);
}

template <typename T>
Var<T> KernelBuilder::var(T initial, SourceLoc loc) {
  impl_->at(loc);
  Var<T> var;
  var.k_ = this;
  var.slot_ = impl_->slot(type_of<T>(*impl_->context));
  var.set(initial, loc);
  return var;
}

template <typename T>
T KernelBuilder::select(Pred condition, T if_true, T if_false, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<T>(
      impl_->b.CreateSelect(impl_->use(condition), impl_->use(if_true), impl_->use(if_false)));
}

#define SAGEGEN_DSL_INSTANTIATE(T)                     \
  template class Var<T>;                               \
  template Var<T> KernelBuilder::var<T>(T, SourceLoc); \
  template T KernelBuilder::select<T>(Pred, T, T, SourceLoc);
SAGEGEN_DSL_INSTANTIATE(Pred)
SAGEGEN_DSL_INSTANTIATE(I32)
SAGEGEN_DSL_INSTANTIATE(I64)
SAGEGEN_DSL_INSTANTIATE(F32)
SAGEGEN_DSL_INSTANTIATE(GlobalPtr)
SAGEGEN_DSL_INSTANTIATE(SharedPtr)
#undef SAGEGEN_DSL_INSTANTIATE

// ---- control flow ----

void KernelBuilder::if_(Pred condition, const std::function<void()>& then, SourceLoc loc) {
  if_else(condition, then, nullptr, loc);
}

void KernelBuilder::if_else(Pred condition, const std::function<void()>& then,
                            const std::function<void()>& otherwise, SourceLoc loc) {
  impl_->at(loc);
  if (!then) impl_->fail("if_ has no body: its function is empty");
  auto& b = impl_->b;
  llvm::Value* test = impl_->use(condition);
  if (auto* known = llvm::dyn_cast<llvm::ConstantInt>(test)) {
    const auto& taken = known->isOne() ? then : otherwise;
    if (taken) taken();
    impl_->at(loc);
    return;
  }
  llvm::BasicBlock* before = b.GetInsertBlock();
  const auto branch = [&](const std::function<void()>& body) {
    llvm::BasicBlock* first = impl_->new_block();
    b.SetInsertPoint(first);
    impl_->in_scope(body);
    return std::pair(first, b.GetInsertBlock());
  };
  const auto [then_first, then_last] = branch(then);
  llvm::BasicBlock* else_first = nullptr;
  llvm::BasicBlock* else_last = nullptr;
  if (otherwise) std::tie(else_first, else_last) = branch(otherwise);
  llvm::BasicBlock* after = impl_->new_block();
  b.SetInsertPoint(then_last);
  b.CreateBr(after);
  if (else_last != nullptr) {
    b.SetInsertPoint(else_last);
    b.CreateBr(after);
  }
  b.SetInsertPoint(before);
  b.CreateCondBr(test, then_first, else_first != nullptr ? else_first : after);
  b.SetInsertPoint(after);
}

// A loop whose test is at its end, behind a guard, with a block of its own to hoist invariants into.
void KernelBuilder::for_range(I32 begin, I32 end, int step, const std::function<void(I32)>& body,
                              SourceLoc loc) {
  std::function<Pred(I32)> never_stops;
  if (body) {
    never_stops = [&](I32 index) {
      body(index);
      return pred(false);
    };
  }
  for_range_until(begin, end, step, never_stops, loc);
}

I32 KernelBuilder::for_range_until(I32 begin, I32 end, int step,
                                   const std::function<Pred(I32)>& body, SourceLoc loc) {
  impl_->at(loc);
  if (step < 1)
    impl_->fail(fmt::format("for_range counts upwards; a step of {} would not end", step));
  if (!body) impl_->fail("for_range has no body: its function is empty");
  auto& b = impl_->b;
  llvm::Value* first = impl_->use(begin);
  llvm::Value* limit = impl_->use(end);
  llvm::Value* enters = b.CreateICmpSLT(first, limit);
  auto* known = llvm::dyn_cast<llvm::ConstantInt>(enters);
  if (known != nullptr && known->isZero()) return begin;

  llvm::BasicBlock* guard = b.GetInsertBlock();
  llvm::BasicBlock* preheader = impl_->new_block();
  llvm::BasicBlock* loop = impl_->new_block();
  // A slot, not a phi: the folder would take a phi whose back edge is still missing for its first value.
  llvm::AllocaInst* counter = impl_->slot(b.getInt32Ty());
  b.CreateStore(first, counter);
  b.SetInsertPoint(preheader);
  b.CreateBr(loop);
  b.SetInsertPoint(loop);
  llvm::Value* index = b.CreateLoad(b.getInt32Ty(), counter);
  llvm::Value* again = nullptr;
  impl_->in_scope([&] {
    const Pred stop = body(impl_->wrap<I32>(index));
    impl_->at(loc);
    llvm::Value* next = b.CreateNSWAdd(index, b.getInt32(step));
    b.CreateStore(next, counter);
    again = b.CreateICmpSLT(next, limit);
    again = b.CreateAnd(again, b.CreateNot(impl_->use(stop)));
  });
  llvm::BasicBlock* after = impl_->new_block();
  b.CreateCondBr(again, loop, after);
  b.SetInsertPoint(guard);
  if (known != nullptr) {
    b.CreateBr(preheader);
  } else {
    b.CreateCondBr(enters, preheader, after);
  }
  b.SetInsertPoint(after);
  return impl_->wrap<I32>(b.CreateLoad(b.getInt32Ty(), counter));
}

void KernelBuilder::while_(const std::function<Pred()>& condition,
                           const std::function<void()>& body, SourceLoc loc) {
  impl_->at(loc);
  if (!condition || !body) {
    impl_->fail("while_ needs a condition and a body: one of its functions is empty");
  }
  auto& b = impl_->b;
  llvm::BasicBlock* header = impl_->new_block();
  b.CreateBr(header);
  b.SetInsertPoint(header);
  llvm::Value* again = nullptr;
  impl_->in_scope([&] {
    const Pred test = condition();
    impl_->at(loc);
    again = impl_->use(test);
    auto* known = llvm::dyn_cast<llvm::ConstantInt>(again);
    if (known != nullptr && known->isOne()) {
      impl_->fail("the condition of while_ is true at generation time: the loop would not end");
    }
  });
  llvm::BasicBlock* tested = b.GetInsertBlock();
  llvm::BasicBlock* first = impl_->new_block();
  b.SetInsertPoint(first);
  impl_->in_scope(body);
  b.CreateBr(header);
  llvm::BasicBlock* after = impl_->new_block();
  b.SetInsertPoint(tested);
  b.CreateCondBr(again, first, after);
  b.SetInsertPoint(after);
}

}  // namespace sagegen::dsl
