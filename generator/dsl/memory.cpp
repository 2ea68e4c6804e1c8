// Loads, stores, asynchronous copies, and what threads of a warp or block do together.
#include <fmt/format.h>

#include "generator/dsl/impl.h"
#include "sagegen/dsl/kernel_builder.h"

namespace sagegen::dsl {

namespace ir = llvm::Intrinsic;

namespace {

template <std::size_t N>
void store_vector(KernelBuilder::Impl& impl, const ValueBase& p, const std::array<I32, N>& value) {
  auto& b = impl.b;
  llvm::Value* vector = llvm::PoisonValue::get(llvm::FixedVectorType::get(b.getInt32Ty(), N));
  for (unsigned i = 0; i < N; ++i) vector = b.CreateInsertElement(vector, impl.use(value[i]), i);
  b.CreateAlignedStore(vector, impl.use(p), llvm::Align(4 * N));
}

}  // namespace

template <typename T, Space S>
T KernelBuilder::load(Ptr<S> p, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<T>(
      impl_->b.CreateAlignedLoad(type_of<T>(*impl_->context), impl_->use(p), llvm::Align(4)));
}

template <Space S>
std::array<I32, 4> KernelBuilder::load_v4(Ptr<S> p, SourceLoc loc) {
  impl_->at(loc);
  auto& b = impl_->b;
  auto* type = llvm::FixedVectorType::get(b.getInt32Ty(), 4);
  llvm::Value* vector = b.CreateAlignedLoad(type, impl_->use(p), llvm::Align(16));
  std::array<I32, 4> result;
  for (unsigned i = 0; i < 4; ++i) result[i] = impl_->wrap<I32>(b.CreateExtractElement(vector, i));
  return result;
}

template <typename T, Space S>
void KernelBuilder::store(Ptr<S> p, T value, SourceLoc loc) {
  impl_->at(loc);
  impl_->b.CreateAlignedStore(impl_->use(value), impl_->use(p), llvm::Align(4));
}

template <Space S>
void KernelBuilder::store_v2(Ptr<S> p, std::array<I32, 2> value, SourceLoc loc) {
  impl_->at(loc);
  store_vector(*impl_, p, value);
}

template <Space S>
void KernelBuilder::store_v4(Ptr<S> p, std::array<I32, 4> value, SourceLoc loc) {
  impl_->at(loc);
  store_vector(*impl_, p, value);
}

#define SAGEGEN_DSL_INSTANTIATE(S)                                                 \
  template I32 KernelBuilder::load<I32, S>(Ptr<S>, SourceLoc);                     \
  template F32 KernelBuilder::load<F32, S>(Ptr<S>, SourceLoc);                     \
  template std::array<I32, 4> KernelBuilder::load_v4<S>(Ptr<S>, SourceLoc);        \
  template void KernelBuilder::store<I32, S>(Ptr<S>, I32, SourceLoc);              \
  template void KernelBuilder::store<F32, S>(Ptr<S>, F32, SourceLoc);              \
  template void KernelBuilder::store_v2<S>(Ptr<S>, std::array<I32, 2>, SourceLoc); \
  template void KernelBuilder::store_v4<S>(Ptr<S>, std::array<I32, 4>, SourceLoc);
SAGEGEN_DSL_INSTANTIATE(Space::global)
SAGEGEN_DSL_INSTANTIATE(Space::shared)
#undef SAGEGEN_DSL_INSTANTIATE

Pred KernelBuilder::is_null(GlobalPtr p, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<Pred>(impl_->b.CreateIsNull(impl_->use(p)));
}

// ---- asynchronous copies ----

void KernelBuilder::cp_async_16(SharedPtr dst, GlobalPtr src, SourceLoc loc) {
  impl_->at(loc);
  impl_->intrinsic(ir::nvvm_cp_async_cg_shared_global_16, {impl_->use(dst), impl_->use(src)});
}

void KernelBuilder::cp_async_16_zfill(SharedPtr dst, GlobalPtr src, I32 valid_bytes,
                                      SourceLoc loc) {
  impl_->at(loc);
  impl_->intrinsic(ir::nvvm_cp_async_cg_shared_global_16_s,
                   {impl_->use(dst), impl_->use(src), impl_->use(valid_bytes)});
}

void KernelBuilder::cp_async_commit(SourceLoc loc) {
  impl_->at(loc);
  impl_->intrinsic(ir::nvvm_cp_async_commit_group, {});
}

void KernelBuilder::cp_async_wait(int pending_groups, SourceLoc loc) {
  impl_->at(loc);
  if (pending_groups < 0) {
    impl_->fail(
        fmt::format("cp_async_wait leaves {} groups pending; 0 waits for all", pending_groups));
  }
  impl_->intrinsic(ir::nvvm_cp_async_wait_group,
                   {impl_->b.getInt32(static_cast<std::uint32_t>(pending_groups))});
}

// ---- warp and block ----

void KernelBuilder::barrier(SourceLoc loc) {
  impl_->at(loc);
  impl_->intrinsic(ir::nvvm_barrier_cta_sync_aligned_all, {impl_->b.getInt32(0)});
}

I32 KernelBuilder::shuffle_xor(I32 value, int mask, SourceLoc loc) {
  impl_->at(loc);
  if (mask < 1 || mask > 31) {
    impl_->fail(
        fmt::format("shuffle_xor exchanges lanes that differ by a mask of 1 to 31, not {}", mask));
  }
  auto& b = impl_->b;
  constexpr std::uint32_t kAllLanes = 0xffffffff;
  constexpr std::uint32_t kClamp = 31;  // PTX ISA, shfl.sync: operand c, the whole warp
  return impl_->wrap<I32>(
      impl_->intrinsic(ir::nvvm_shfl_sync_bfly_i32,
                       {b.getInt32(kAllLanes), impl_->use(value),
                        b.getInt32(static_cast<std::uint32_t>(mask)), b.getInt32(kClamp)}));
}

F32 KernelBuilder::shuffle_xor(F32 value, int mask, SourceLoc loc) {
  return as_f32(shuffle_xor(as_bits(value, loc), mask, loc), loc);
}

std::array<I32, 4> KernelBuilder::ldmatrix_x4(SharedPtr row, Transpose transpose, SourceLoc loc) {
  impl_->at(loc);
  const auto id = transpose == Transpose::yes ? ir::nvvm_ldmatrix_sync_aligned_m8n8_x4_trans_b16
                                              : ir::nvvm_ldmatrix_sync_aligned_m8n8_x4_b16;
  const auto parts = impl_->unpack<4>(
      impl_->intrinsic(id, {impl_->use(row)}, type_of<SharedPtr>(*impl_->context)));
  return {impl_->wrap<I32>(parts[0]), impl_->wrap<I32>(parts[1]), impl_->wrap<I32>(parts[2]),
          impl_->wrap<I32>(parts[3])};
}

std::array<I32, 2> KernelBuilder::ldmatrix_x2(SharedPtr row, Transpose transpose, SourceLoc loc) {
  impl_->at(loc);
  const auto id = transpose == Transpose::yes ? ir::nvvm_ldmatrix_sync_aligned_m8n8_x2_trans_b16
                                              : ir::nvvm_ldmatrix_sync_aligned_m8n8_x2_b16;
  const auto parts = impl_->unpack<2>(
      impl_->intrinsic(id, {impl_->use(row)}, type_of<SharedPtr>(*impl_->context)));
  return {impl_->wrap<I32>(parts[0]), impl_->wrap<I32>(parts[1])};
}

namespace {

// How LLVM types the operands of an mma: registers of A and B, and of the accumulator.
struct MmaForm {
  ir::ID id;
  llvm::Type* operand;
  llvm::Type* accumulator;
};

MmaForm form_of(KernelBuilder::Impl& impl, Mma kind) {
  auto& b = impl.b;
  switch (kind) {
    case Mma::s8:
      return {ir::nvvm_mma_m16n8k32_row_col_s8, b.getInt32Ty(), b.getInt32Ty()};
    case Mma::s4:
      impl.require(impl.info.has_s4_mma, "mma of s4 on tensor cores", "use s8 codes there");
      return {ir::nvvm_mma_m16n8k64_row_col_s4, b.getInt32Ty(), b.getInt32Ty()};
    case Mma::f16:
      return {ir::nvvm_mma_m16n8k16_row_col_f32_f32, llvm::FixedVectorType::get(b.getHalfTy(), 2),
              b.getFloatTy()};
    case Mma::bf16:
      return {ir::nvvm_mma_m16n8k16_row_col_bf16, b.getInt32Ty(), b.getFloatTy()};
    case Mma::e4m3:
      impl.require(impl.info.has_fp8_mma, "mma of e4m3 on tensor cores",
                   "use f16 for P and V there");
      return {ir::nvvm_mma_m16n8k32_row_col_f32_e4m3_e4m3_f32, b.getInt32Ty(), b.getFloatTy()};
  }
  impl.fail("unknown kind of mma");
}

}  // namespace

MmaC KernelBuilder::mma(Mma kind, const MmaA& a, const MmaB& b, const MmaC& c, SourceLoc loc) {
  impl_->at(loc);
  const MmaForm form = form_of(*impl_, kind);
  llvm::SmallVector<llvm::Value*, 10> operands;
  for (const I32& x : a) operands.push_back(impl_->reinterpret(impl_->use(x), form.operand));
  for (const I32& x : b) operands.push_back(impl_->reinterpret(impl_->use(x), form.operand));
  for (const I32& x : c) operands.push_back(impl_->reinterpret(impl_->use(x), form.accumulator));
  const auto parts = impl_->unpack<4>(impl_->intrinsic(form.id, operands));
  MmaC d;
  for (unsigned i = 0; i < 4; ++i) {
    d[i] = impl_->wrap<I32>(impl_->reinterpret(parts[i], impl_->b.getInt32Ty()));
  }
  return d;
}

}  // namespace sagegen::dsl
