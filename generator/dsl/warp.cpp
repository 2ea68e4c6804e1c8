// What threads of a warp or block do together.
#include "sagegen/dsl/warp.h"

#include <fmt/format.h>

#include <algorithm>

#include "generator/dsl/impl.h"

namespace sagegen::dsl {

namespace ir = llvm::Intrinsic;

namespace {

constexpr std::uint32_t kAllLanes = 0xffffffff;
constexpr std::uint32_t kWholeWarp = 31;  // PTX ISA, shfl.sync: operand c

void check_barrier(const BuilderCore::Impl& impl, int id, int threads) {
  constexpr int kBarriers = 16;
  if (id < 0 || id >= kBarriers) {
    impl.fail(fmt::format("a block has barriers 0 to {}, not {}", kBarriers - 1, id));
  }
  if (threads < 32 || threads > impl.threads || threads % 32 != 0) {
    impl.fail(
        fmt::format("{} threads cannot meet at a barrier: they are whole warps of 32, and the "
                    "block has {} threads",
                    threads, impl.threads));
  }
}

}  // namespace

void WarpVerbs::barrier(SourceLoc loc) {
  impl_->at(loc);
  impl_->intrinsic(ir::nvvm_barrier_cta_sync_aligned_all, {impl_->b.getInt32(0)});
}

void WarpVerbs::barrier(int id, int threads, SourceLoc loc) {
  impl_->at(loc);
  check_barrier(*impl_, id, threads);
  impl_->intrinsic(ir::nvvm_barrier_cta_sync_aligned_count,
                   {impl_->b.getInt32(static_cast<std::uint32_t>(id)),
                    impl_->b.getInt32(static_cast<std::uint32_t>(threads))});
}

void WarpVerbs::barrier_arrive(int id, int threads, SourceLoc loc) {
  impl_->at(loc);
  check_barrier(*impl_, id, threads);
  impl_->intrinsic(ir::nvvm_barrier_cta_arrive_aligned_count,
                   {impl_->b.getInt32(static_cast<std::uint32_t>(id)),
                    impl_->b.getInt32(static_cast<std::uint32_t>(threads))});
}

void WarpVerbs::warp_barrier(SourceLoc loc) {
  impl_->at(loc);
  impl_->intrinsic(ir::nvvm_bar_warp_sync, {impl_->b.getInt32(kAllLanes)});
}

Pred WarpVerbs::any(Pred condition, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<Pred>(impl_->intrinsic(ir::nvvm_vote_any_sync,
                                            {impl_->b.getInt32(kAllLanes), impl_->use(condition)}));
}

Pred WarpVerbs::all(Pred condition, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<Pred>(impl_->intrinsic(ir::nvvm_vote_all_sync,
                                            {impl_->b.getInt32(kAllLanes), impl_->use(condition)}));
}

I32 WarpVerbs::ballot(Pred condition, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<I32>(impl_->intrinsic(ir::nvvm_vote_ballot_sync,
                                           {impl_->b.getInt32(kAllLanes), impl_->use(condition)}));
}

I32 WarpVerbs::shuffle(I32 value, I32 lane, SourceLoc loc) {
  impl_->at(loc);
  auto& b = impl_->b;
  return impl_->wrap<I32>(impl_->intrinsic(
      ir::nvvm_shfl_sync_idx_i32,
      {b.getInt32(kAllLanes), impl_->use(value), impl_->use(lane), b.getInt32(kWholeWarp)}));
}

F32 WarpVerbs::shuffle(F32 value, I32 lane, SourceLoc loc) {
  return as_f32(shuffle(as_bits(value, loc), lane, loc), loc);
}

I32 WarpVerbs::warp_sum(I32 value, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<I32>(
      impl_->intrinsic(ir::nvvm_redux_sync_add, {impl_->use(value), impl_->b.getInt32(kAllLanes)}));
}

I32 WarpVerbs::warp_max(I32 value, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<I32>(
      impl_->intrinsic(ir::nvvm_redux_sync_max, {impl_->use(value), impl_->b.getInt32(kAllLanes)}));
}

I32 WarpVerbs::shuffle_xor(I32 value, int mask, SourceLoc loc) {
  impl_->at(loc);
  if (mask < 1 || mask > 31) {
    impl_->fail(
        fmt::format("shuffle_xor exchanges lanes that differ by a mask of 1 to 31, not {}", mask));
  }
  auto& b = impl_->b;
  return impl_->wrap<I32>(
      impl_->intrinsic(ir::nvvm_shfl_sync_bfly_i32,
                       {b.getInt32(kAllLanes), impl_->use(value),
                        b.getInt32(static_cast<std::uint32_t>(mask)), b.getInt32(kWholeWarp)}));
}

F32 WarpVerbs::shuffle_xor(F32 value, int mask, SourceLoc loc) {
  return as_f32(shuffle_xor(as_bits(value, loc), mask, loc), loc);
}

std::array<I32, 4> WarpVerbs::ldmatrix_x4(SharedPtr row, Transpose transpose, SourceLoc loc) {
  impl_->at(loc);
  const auto id = transpose == Transpose::yes ? ir::nvvm_ldmatrix_sync_aligned_m8n8_x4_trans_b16
                                              : ir::nvvm_ldmatrix_sync_aligned_m8n8_x4_b16;
  const auto parts = impl_->unpack<4>(
      impl_->intrinsic(id, {impl_->use(row)}, type_of<SharedPtr>(*impl_->context)));
  return {impl_->wrap<I32>(parts[0]), impl_->wrap<I32>(parts[1]), impl_->wrap<I32>(parts[2]),
          impl_->wrap<I32>(parts[3])};
}

std::array<I32, 2> WarpVerbs::ldmatrix_x2(SharedPtr row, Transpose transpose, SourceLoc loc) {
  impl_->at(loc);
  const auto id = transpose == Transpose::yes ? ir::nvvm_ldmatrix_sync_aligned_m8n8_x2_trans_b16
                                              : ir::nvvm_ldmatrix_sync_aligned_m8n8_x2_b16;
  const auto parts = impl_->unpack<2>(
      impl_->intrinsic(id, {impl_->use(row)}, type_of<SharedPtr>(*impl_->context)));
  return {impl_->wrap<I32>(parts[0]), impl_->wrap<I32>(parts[1])};
}

namespace {

// An mma as PTX names it, and as LLVM types its operands: registers of A and B, and of the accumulator.
struct MmaForm {
  ir::ID id;
  DType operand, accumulator;
  llvm::Type *operand_register, *accumulator_register;
};

MmaForm form_of(BuilderCore::Impl& impl, Mma kind) {
  llvm::Type* const s32 = impl.b.getInt32Ty();
  llvm::Type* const f32 = impl.b.getFloatTy();
  llvm::Type* const two_f16 = llvm::FixedVectorType::get(impl.b.getHalfTy(), 2);
  switch (kind) {
    case Mma::s8:
      return {ir::nvvm_mma_m16n8k32_row_col_s8, DType::s8, DType::s32, s32, s32};
    case Mma::s4:
      return {ir::nvvm_mma_m16n8k64_row_col_s4, DType::s4, DType::s32, s32, s32};
    case Mma::f16:
      return {ir::nvvm_mma_m16n8k16_row_col_f32_f32, DType::f16, DType::f32, two_f16, f32};
    case Mma::bf16:
      return {ir::nvvm_mma_m16n8k16_row_col_bf16, DType::bf16, DType::f32, s32, f32};
    case Mma::e4m3:
      return {ir::nvvm_mma_m16n8k32_row_col_f32_e4m3_e4m3_f32, DType::e4m3, DType::f32, s32, f32};
  }
  impl.fail("unknown kind of mma");
}

MmaForm half_form_of(BuilderCore::Impl& impl, Mma kind) {
  constexpr int kPtxOfE4m3 = 87;  // PTX ISA, mma: PTX ISA notes
  llvm::Type* const s32 = impl.b.getInt32Ty();
  llvm::Type* const two_f16 = llvm::FixedVectorType::get(impl.b.getHalfTy(), 2);
  if (kind == Mma::f16)
    return {ir::nvvm_mma_m16n8k16_row_col_f16_f16, DType::f16, DType::f16, two_f16, two_f16};
  if (kind != Mma::e4m3)
    impl.fail("mma with f16 accumulators multiplies f16 or e4m3; use accumulators of 32 bits");
  impl.info.ptx_version = std::max(impl.info.ptx_version, kPtxOfE4m3);
  return {ir::nvvm_mma_m16n8k32_row_col_f16_e4m3_e4m3_f16, DType::e4m3, DType::f16, s32, two_f16};
}

void check_target(const BuilderCore::Impl& impl, Mma kind) {
  if (kind == Mma::s4) {
    impl.require(impl.info.has(Feature::s4_mma), "mma of s4 on tensor cores", "use s8 codes there");
  }
  if (kind == Mma::e4m3) {
    impl.require(impl.info.has(Feature::fp8_mma), "mma of e4m3 on tensor cores",
                 "use f16 for P and V there");
  }
}

void check_type(const BuilderCore::Impl& impl, const char* operand, std::optional<DType> type,
                const MmaForm& expected, DType needed) {
  if (type == needed) return;
  impl.fail(fmt::format(
      "mma of {} takes {} of {}, but this one holds {}; use the mma of its type or convert it",
      to_string(expected.operand), operand, to_string(needed),
      type ? to_string(*type) : "nothing: it was never given a value"));
}

// Where the types of A and B are known to be right.
template <typename A, typename B, typename C>
C multiply_add(BuilderCore::Impl& impl, const MmaForm& form, const A& a, const B& b, const C& c) {
  if (c.type()) check_type(impl, "an accumulator", c.type(), form, form.accumulator);
  llvm::SmallVector<llvm::Value*, 10> operands;
  for (const I32& x : a) operands.push_back(impl.reinterpret(impl.use(x), form.operand_register));
  for (const I32& x : b) operands.push_back(impl.reinterpret(impl.use(x), form.operand_register));
  for (const I32& x : c)
    operands.push_back(impl.reinterpret(impl.use(x), form.accumulator_register));
  const auto parts = impl.unpack<C::size()>(impl.intrinsic(form.id, operands));
  C d(form.accumulator, {});
  for (std::size_t i = 0; i < C::size(); ++i)
    d[i] = impl.wrap<I32>(impl.reinterpret(parts[i], impl.b.getInt32Ty()));
  return d;
}

template <typename C>
C multiply_add(BuilderCore::Impl& impl, Mma kind, const MmaForm& form, const MmaA& a, const MmaB& b,
               const C& c) {
  check_type(impl, "A", a.type(), form, form.operand);
  check_type(impl, "B", b.type(), form, form.operand);
  check_target(impl, kind);
  return multiply_add(impl, form, a, b, c);
}

}  // namespace

MmaC WarpVerbs::mma(const MmaA& a, const MmaB& b, const MmaC& c, SourceLoc loc) {
  impl_->at(loc);
  for (const Mma kind : {Mma::s8, Mma::s4, Mma::f16, Mma::bf16, Mma::e4m3}) {
    if (a.type() == form_of(*impl_, kind).operand) return mma(kind, a, b, c, loc);
  }
  impl_->fail(a.type() ? fmt::format("no mma takes operands of {}", to_string(*a.type()))
                       : kNoValue);
}

MmaC WarpVerbs::mma(Mma kind, const MmaA& a, const MmaB& b, const MmaC& c, SourceLoc loc) {
  impl_->at(loc);
  return multiply_add(*impl_, kind, form_of(*impl_, kind), a, b, c);
}

MmaC WarpVerbs::mma(const MmaA& a, const MmaUnsignedB& b, const MmaC& c, SourceLoc loc) {
  impl_->at(loc);
  MmaForm form = form_of(*impl_, Mma::s8);
  form.id = ir::nvvm_mma_m16n8k32_row_col_s8_u8;
  check_type(*impl_, "A", a.type(), form, form.operand);
  return multiply_add(*impl_, form, a, b, c);
}

MmaC WarpVerbs::mma_k8(const MmaShortA& a, const MmaShortB& b, const MmaC& c, SourceLoc loc) {
  impl_->at(loc);
  MmaForm form = form_of(*impl_, Mma::f16);
  form.id = ir::nvvm_mma_m16n8k8_row_col_f32_f32;
  check_type(*impl_, "A", a.type(), form, form.operand);
  check_type(*impl_, "B", b.type(), form, form.operand);
  return multiply_add(*impl_, form, a, b, c);
}

MmaHalfC WarpVerbs::mma(Mma kind, const MmaA& a, const MmaB& b, const MmaHalfC& c, SourceLoc loc) {
  impl_->at(loc);
  return multiply_add(*impl_, kind, half_form_of(*impl_, kind), a, b, c);
}

}  // namespace sagegen::dsl
