// Loads, stores, shared memory, asynchronous copies.
#include <fmt/format.h>

#include "generator/dsl/impl.h"
#include "sagegen/dsl/memory.h"

namespace sagegen::dsl {

namespace ir = llvm::Intrinsic;

namespace {

template <std::size_t N>
void store_vector(BuilderCore::Impl& impl, const ValueBase& p, const std::array<I32, N>& value) {
  auto& b = impl.b;
  llvm::Value* vector = llvm::PoisonValue::get(llvm::FixedVectorType::get(b.getInt32Ty(), N));
  for (unsigned i = 0; i < N; ++i) vector = b.CreateInsertElement(vector, impl.use(value[i]), i);
  b.CreateAlignedStore(vector, impl.use(p), llvm::Align(4 * N));
}

template <std::size_t N>
std::array<I32, N> load_vector(BuilderCore::Impl& impl, const ValueBase& p) {
  auto& b = impl.b;
  auto* type = llvm::FixedVectorType::get(b.getInt32Ty(), N);
  llvm::Value* vector = b.CreateAlignedLoad(type, impl.use(p), llvm::Align(4 * N));
  std::array<I32, N> result;
  for (unsigned i = 0; i < N; ++i) result[i] = impl.wrap<I32>(b.CreateExtractElement(vector, i));
  return result;
}

template <typename T>
constexpr std::uint64_t kBytesOf = std::is_same_v<T, I64> ? 8 : 4;

llvm::Value* load_narrow(BuilderCore::Impl& impl, const ValueBase& p, llvm::IntegerType* type) {
  return impl.b.CreateAlignedLoad(type, impl.use(p), llvm::Align(type->getBitWidth() / 8));
}

void store_narrow(BuilderCore::Impl& impl, const ValueBase& p, const ValueBase& value,
                  llvm::IntegerType* type) {
  impl.b.CreateAlignedStore(impl.b.CreateTrunc(impl.use(value), type), impl.use(p),
                            llvm::Align(type->getBitWidth() / 8));
}

// The threads that an atomic of this memory is atomic among, by LLVM's name.
llvm::SyncScope::ID scope_of(BuilderCore::Impl& impl, Space space) {
  return impl.context->getOrInsertSyncScopeID(space == Space::global ? "device" : "block");
}

template <typename T, Space S>
T atomic(BuilderCore::Impl& impl, llvm::AtomicRMWInst::BinOp operation, Ptr<S> p, T value) {
  return impl.wrap<T>(impl.b.CreateAtomicRMW(operation, impl.use(p), impl.use(value),
                                             llvm::Align(4), llvm::AtomicOrdering::Monotonic,
                                             scope_of(impl, S)));
}

}  // namespace

template <typename T, Space S>
T MemoryVerbs::load(Ptr<S> p, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<T>(impl_->b.CreateAlignedLoad(type_of<T>(*impl_->context), impl_->use(p),
                                                   llvm::Align(kBytesOf<T>)));
}

template <Space S>
I32 MemoryVerbs::load_u8(Ptr<S> p, SourceLoc loc) {
  impl_->at(loc);
  auto& b = impl_->b;
  return impl_->wrap<I32>(b.CreateZExt(load_narrow(*impl_, p, b.getInt8Ty()), b.getInt32Ty()));
}

template <Space S>
I32 MemoryVerbs::load_s8(Ptr<S> p, SourceLoc loc) {
  impl_->at(loc);
  auto& b = impl_->b;
  return impl_->wrap<I32>(b.CreateSExt(load_narrow(*impl_, p, b.getInt8Ty()), b.getInt32Ty()));
}

template <Space S>
I32 MemoryVerbs::load_u16(Ptr<S> p, SourceLoc loc) {
  impl_->at(loc);
  auto& b = impl_->b;
  return impl_->wrap<I32>(b.CreateZExt(load_narrow(*impl_, p, b.getInt16Ty()), b.getInt32Ty()));
}

template <Space S>
I32 MemoryVerbs::load_s16(Ptr<S> p, SourceLoc loc) {
  impl_->at(loc);
  auto& b = impl_->b;
  return impl_->wrap<I32>(b.CreateSExt(load_narrow(*impl_, p, b.getInt16Ty()), b.getInt32Ty()));
}

template <Space S>
std::array<I32, 2> MemoryVerbs::load_v2(Ptr<S> p, SourceLoc loc) {
  impl_->at(loc);
  return load_vector<2>(*impl_, p);
}

template <Space S>
std::array<I32, 4> MemoryVerbs::load_v4(Ptr<S> p, SourceLoc loc) {
  impl_->at(loc);
  return load_vector<4>(*impl_, p);
}

template <typename T, Space S>
void MemoryVerbs::store(Ptr<S> p, T value, SourceLoc loc) {
  impl_->at(loc);
  impl_->b.CreateAlignedStore(impl_->use(value), impl_->use(p), llvm::Align(kBytesOf<T>));
}

template <Space S>
void MemoryVerbs::store_8(Ptr<S> p, I32 value, SourceLoc loc) {
  impl_->at(loc);
  store_narrow(*impl_, p, value, impl_->b.getInt8Ty());
}

template <Space S>
void MemoryVerbs::store_16(Ptr<S> p, I32 value, SourceLoc loc) {
  impl_->at(loc);
  store_narrow(*impl_, p, value, impl_->b.getInt16Ty());
}

template <Space S>
void MemoryVerbs::store_v2(Ptr<S> p, std::array<I32, 2> value, SourceLoc loc) {
  impl_->at(loc);
  store_vector(*impl_, p, value);
}

template <Space S>
void MemoryVerbs::store_v4(Ptr<S> p, std::array<I32, 4> value, SourceLoc loc) {
  impl_->at(loc);
  store_vector(*impl_, p, value);
}

template <Space S>
I32 MemoryVerbs::atomic_add(Ptr<S> p, I32 value, SourceLoc loc) {
  impl_->at(loc);
  return atomic(*impl_, llvm::AtomicRMWInst::Add, p, value);
}

template <Space S>
F32 MemoryVerbs::atomic_add(Ptr<S> p, F32 value, SourceLoc loc) {
  impl_->at(loc);
  return atomic(*impl_, llvm::AtomicRMWInst::FAdd, p, value);
}

template <Space S>
I32 MemoryVerbs::atomic_min(Ptr<S> p, I32 value, SourceLoc loc) {
  impl_->at(loc);
  return atomic(*impl_, llvm::AtomicRMWInst::Min, p, value);
}

template <Space S>
I32 MemoryVerbs::atomic_max(Ptr<S> p, I32 value, SourceLoc loc) {
  impl_->at(loc);
  return atomic(*impl_, llvm::AtomicRMWInst::Max, p, value);
}

template <Space S>
I32 MemoryVerbs::atomic_exchange(Ptr<S> p, I32 value, SourceLoc loc) {
  impl_->at(loc);
  return atomic(*impl_, llvm::AtomicRMWInst::Xchg, p, value);
}

template <Space S>
I32 MemoryVerbs::atomic_compare_exchange(Ptr<S> p, I32 expected, I32 desired, SourceLoc loc) {
  impl_->at(loc);
  auto& b = impl_->b;
  llvm::Value* pair = b.CreateAtomicCmpXchg(
      impl_->use(p), impl_->use(expected), impl_->use(desired), llvm::Align(4),
      llvm::AtomicOrdering::Monotonic, llvm::AtomicOrdering::Monotonic, scope_of(*impl_, S));
  return impl_->wrap<I32>(b.CreateExtractValue(pair, 0));
}

#define SAGEGEN_DSL_INSTANTIATE(S)                                                   \
  template I32 MemoryVerbs::load<I32, S>(Ptr<S>, SourceLoc);                         \
  template F32 MemoryVerbs::load<F32, S>(Ptr<S>, SourceLoc);                         \
  template I64 MemoryVerbs::load<I64, S>(Ptr<S>, SourceLoc);                         \
  template void MemoryVerbs::store<I64, S>(Ptr<S>, I64, SourceLoc);                  \
  template I32 MemoryVerbs::load_u8<S>(Ptr<S>, SourceLoc);                           \
  template I32 MemoryVerbs::load_s8<S>(Ptr<S>, SourceLoc);                           \
  template I32 MemoryVerbs::load_u16<S>(Ptr<S>, SourceLoc);                          \
  template I32 MemoryVerbs::load_s16<S>(Ptr<S>, SourceLoc);                          \
  template void MemoryVerbs::store_8<S>(Ptr<S>, I32, SourceLoc);                     \
  template void MemoryVerbs::store_16<S>(Ptr<S>, I32, SourceLoc);                    \
  template I32 MemoryVerbs::atomic_add<S>(Ptr<S>, I32, SourceLoc);                   \
  template F32 MemoryVerbs::atomic_add<S>(Ptr<S>, F32, SourceLoc);                   \
  template I32 MemoryVerbs::atomic_min<S>(Ptr<S>, I32, SourceLoc);                   \
  template I32 MemoryVerbs::atomic_max<S>(Ptr<S>, I32, SourceLoc);                   \
  template I32 MemoryVerbs::atomic_exchange<S>(Ptr<S>, I32, SourceLoc);              \
  template I32 MemoryVerbs::atomic_compare_exchange<S>(Ptr<S>, I32, I32, SourceLoc); \
  template std::array<I32, 2> MemoryVerbs::load_v2<S>(Ptr<S>, SourceLoc);            \
  template std::array<I32, 4> MemoryVerbs::load_v4<S>(Ptr<S>, SourceLoc);            \
  template void MemoryVerbs::store<I32, S>(Ptr<S>, I32, SourceLoc);                  \
  template void MemoryVerbs::store<F32, S>(Ptr<S>, F32, SourceLoc);                  \
  template void MemoryVerbs::store_v2<S>(Ptr<S>, std::array<I32, 2>, SourceLoc);     \
  template void MemoryVerbs::store_v4<S>(Ptr<S>, std::array<I32, 4>, SourceLoc);
SAGEGEN_DSL_INSTANTIATE(Space::global)
SAGEGEN_DSL_INSTANTIATE(Space::shared)
#undef SAGEGEN_DSL_INSTANTIATE

void MemoryVerbs::fence(SourceLoc loc) {
  impl_->at(loc);
  impl_->b.CreateFence(llvm::AtomicOrdering::AcquireRelease, scope_of(*impl_, Space::global));
}

Pred MemoryVerbs::is_null(GlobalPtr p, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<Pred>(impl_->b.CreateIsNull(impl_->use(p)));
}

// ---- shared memory ----

SharedPtr MemoryVerbs::shared(int bytes, int align, SourceLoc loc) {
  impl_->at(loc);
  if (bytes < 1 || align < 1 || (align & (align - 1)) != 0) {
    impl_->fail(
        fmt::format("shared memory of {} bytes aligned to {}: sizes are positive, alignments "
                    "powers of two",
                    bytes, align));
  }
  const std::int64_t begin = (std::int64_t{impl_->shared_bytes} + align - 1) / align * align;
  if (begin + bytes > impl_->info.smem_per_block) {
    impl_->fail(
        fmt::format("{} bytes of shared memory behind the {} in use exceed the {} bytes that a "
                    "block may have on {}; use smaller tiles or fewer stages",
                    bytes, begin, impl_->info.smem_per_block, impl_->info.name));
  }
  impl_->shared_bytes = static_cast<int>(begin) + bytes;
  if (impl_->shared == nullptr) {
    auto* type = llvm::ArrayType::get(impl_->b.getInt8Ty(), 0);
    impl_->shared = new llvm::GlobalVariable(
        *impl_->module, type, false, llvm::GlobalValue::ExternalLinkage, nullptr, "shared_memory",
        nullptr, llvm::GlobalValue::NotThreadLocal, address_space(Space::shared));
  }
  const llvm::Align needed(static_cast<std::uint64_t>(align));
  if (impl_->shared->getAlign().valueOrOne() < needed) impl_->shared->setAlignment(needed);
  return impl_->wrap<SharedPtr>(
      impl_->offset(impl_->shared, impl_->b.getInt32(static_cast<std::uint32_t>(begin))));
}

int MemoryVerbs::shared_bytes() const { return impl_->shared_bytes; }
int MemoryVerbs::ptx_version() const { return impl_->info.ptx_version; }

// ---- asynchronous copies ----

void MemoryVerbs::cp_async_16(SharedPtr dst, GlobalPtr src, SourceLoc loc) {
  impl_->at(loc);
  impl_->intrinsic(ir::nvvm_cp_async_cg_shared_global_16, {impl_->use(dst), impl_->use(src)});
}

void MemoryVerbs::cp_async_16_zfill(SharedPtr dst, GlobalPtr src, I32 valid_bytes, SourceLoc loc) {
  impl_->at(loc);
  impl_->intrinsic(ir::nvvm_cp_async_cg_shared_global_16_s,
                   {impl_->use(dst), impl_->use(src), impl_->use(valid_bytes)});
}

void MemoryVerbs::cp_async_commit(SourceLoc loc) {
  impl_->at(loc);
  impl_->intrinsic(ir::nvvm_cp_async_commit_group, {});
}

void MemoryVerbs::cp_async_wait(int pending_groups, SourceLoc loc) {
  impl_->at(loc);
  if (pending_groups < 0) {
    impl_->fail(
        fmt::format("cp_async_wait leaves {} groups pending; 0 waits for all", pending_groups));
  }
  impl_->intrinsic(ir::nvvm_cp_async_wait_group,
                   {impl_->b.getInt32(static_cast<std::uint32_t>(pending_groups))});
}

}  // namespace sagegen::dsl
