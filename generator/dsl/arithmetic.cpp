// Constants, conversions and arithmetic: one instruction each unless the header says otherwise.
#include <fmt/format.h>

#include "generator/dsl/impl.h"
#include "sagegen/dsl/arithmetic.h"

namespace sagegen::dsl {

namespace ir = llvm::Intrinsic;

I32 ArithmeticVerbs::i32(std::int32_t value) { return impl_->wrap<I32>(impl_->b.getInt32(value)); }
I64 ArithmeticVerbs::i64(std::int64_t value) { return impl_->wrap<I64>(impl_->b.getInt64(value)); }
F32 ArithmeticVerbs::f32(float value) {
  return impl_->wrap<F32>(llvm::ConstantFP::get(*impl_->context, llvm::APFloat(value)));
}
Pred ArithmeticVerbs::pred(bool value) { return impl_->wrap<Pred>(impl_->b.getInt1(value)); }

I64 ArithmeticVerbs::to_i64(I32 value, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<I64>(impl_->b.CreateSExt(impl_->use(value), impl_->b.getInt64Ty()));
}

I64 ArithmeticVerbs::to_i64_unsigned(I32 value, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<I64>(impl_->b.CreateZExt(impl_->use(value), impl_->b.getInt64Ty()));
}

I32 ArithmeticVerbs::to_i32(I64 value, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<I32>(impl_->b.CreateTrunc(impl_->use(value), impl_->b.getInt32Ty()));
}

F32 ArithmeticVerbs::as_f32(I32 bits, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<F32>(impl_->reinterpret(impl_->use(bits), impl_->b.getFloatTy()));
}

I32 ArithmeticVerbs::as_bits(F32 value, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<I32>(impl_->reinterpret(impl_->use(value), impl_->b.getInt32Ty()));
}

F32 ArithmeticVerbs::to_f32(I32 value, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<F32>(impl_->b.CreateSIToFP(impl_->use(value), impl_->b.getFloatTy()));
}

F32 ArithmeticVerbs::to_f32(I64 value, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<F32>(impl_->b.CreateSIToFP(impl_->use(value), impl_->b.getFloatTy()));
}

I32 ArithmeticVerbs::round_to_s32(F32 value, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<I32>(impl_->intrinsic(ir::nvvm_f2i_rn, {impl_->use(value)}));
}

I32 ArithmeticVerbs::truncate_to_s32(F32 value, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<I32>(impl_->intrinsic(ir::nvvm_f2i_rz, {impl_->use(value)}));
}

I64 ArithmeticVerbs::round_to_s64(F32 value, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<I64>(impl_->intrinsic(ir::nvvm_f2ll_rn, {impl_->use(value)}));
}

I32 ArithmeticVerbs::min(I32 a, I32 b, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<I32>(
      impl_->intrinsic(ir::smin, {impl_->use(a), impl_->use(b)}, impl_->b.getInt32Ty()));
}

I32 ArithmeticVerbs::max(I32 a, I32 b, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<I32>(
      impl_->intrinsic(ir::smax, {impl_->use(a), impl_->use(b)}, impl_->b.getInt32Ty()));
}

I32 ArithmeticVerbs::abs(I32 a, SourceLoc loc) {
  impl_->at(loc);
  auto& b = impl_->b;
  return impl_->wrap<I32>(impl_->intrinsic(
      ir::abs, {impl_->use(a), b.getInt1(/*poison at minimum=*/false)}, b.getInt32Ty()));
}

I32 ArithmeticVerbs::popcount(I32 bits, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<I32>(impl_->intrinsic(ir::ctpop, {impl_->use(bits)}, impl_->b.getInt32Ty()));
}

I32 ArithmeticVerbs::shift_right_signed(I32 a, I32 bits, SourceLoc loc) {
  impl_->at(loc);
  llvm::Value* amount = impl_->use(bits);
  auto* known = llvm::dyn_cast<llvm::ConstantInt>(amount);
  if (known != nullptr && known->getZExtValue() >= 32) {
    impl_->fail(fmt::format("a shift of 32 bits by {}", known->getSExtValue()));
  }
  return impl_->wrap<I32>(impl_->b.CreateAShr(impl_->use(a), amount));
}

namespace {

void check_divisor(const BuilderCore::Impl& impl, llvm::Value* divisor) {
  auto* known = llvm::dyn_cast<llvm::ConstantInt>(divisor);
  if (known != nullptr && known->isZero()) impl.fail("division by the constant 0");
}

}  // namespace

I32 ArithmeticVerbs::divide_signed(I32 a, I32 b, SourceLoc loc) {
  impl_->at(loc);
  check_divisor(*impl_, impl_->use(b));
  return impl_->wrap<I32>(impl_->b.CreateSDiv(impl_->use(a), impl_->use(b)));
}

I32 ArithmeticVerbs::remainder_signed(I32 a, I32 b, SourceLoc loc) {
  impl_->at(loc);
  check_divisor(*impl_, impl_->use(b));
  return impl_->wrap<I32>(impl_->b.CreateSRem(impl_->use(a), impl_->use(b)));
}

F32 ArithmeticVerbs::min(F32 a, F32 b, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<F32>(
      impl_->intrinsic(ir::minnum, {impl_->use(a), impl_->use(b)}, impl_->b.getFloatTy()));
}

F32 ArithmeticVerbs::max(F32 a, F32 b, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<F32>(
      impl_->intrinsic(ir::maxnum, {impl_->use(a), impl_->use(b)}, impl_->b.getFloatTy()));
}

F32 ArithmeticVerbs::abs(F32 a, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<F32>(impl_->intrinsic(ir::fabs, {impl_->use(a)}, impl_->b.getFloatTy()));
}

F32 ArithmeticVerbs::fma(F32 a, F32 b, F32 c, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<F32>(impl_->intrinsic(ir::fma, {impl_->use(a), impl_->use(b), impl_->use(c)},
                                           impl_->b.getFloatTy()));
}

F32 ArithmeticVerbs::fma_ftz(F32 a, F32 b, F32 c, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<F32>(
      impl_->intrinsic(ir::nvvm_fma_rn_ftz_f, {impl_->use(a), impl_->use(b), impl_->use(c)}));
}

F32 ArithmeticVerbs::fma_up(F32 a, F32 b, F32 c, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<F32>(
      impl_->intrinsic(ir::nvvm_fma_rp_f, {impl_->use(a), impl_->use(b), impl_->use(c)}));
}

F32 ArithmeticVerbs::fma_down(F32 a, F32 b, F32 c, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<F32>(
      impl_->intrinsic(ir::nvvm_fma_rm_f, {impl_->use(a), impl_->use(b), impl_->use(c)}));
}

F32 ArithmeticVerbs::exp2(F32 a, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<F32>(
      impl_->intrinsic(ir::nvvm_ex2_approx_ftz, {impl_->use(a)}, impl_->b.getFloatTy()));
}

F32 ArithmeticVerbs::log2(F32 a, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<F32>(impl_->intrinsic(ir::nvvm_lg2_approx_ftz_f, {impl_->use(a)}));
}

F32 ArithmeticVerbs::sqrt(F32 a, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<F32>(impl_->intrinsic(ir::nvvm_sqrt_rn_f, {impl_->use(a)}));
}

F32 ArithmeticVerbs::rsqrt(F32 a, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<F32>(impl_->intrinsic(ir::nvvm_rsqrt_approx_ftz_f, {impl_->use(a)}));
}

F32 ArithmeticVerbs::tanh(F32 a, SourceLoc loc) {
  impl_->at(loc);
  llvm::Value* result = impl_->intrinsic(ir::tanh, {impl_->use(a)}, impl_->b.getFloatTy());
  // Only an approximation is an instruction.
  if (auto* call = llvm::dyn_cast<llvm::Instruction>(result)) call->setHasApproxFunc(true);
  return impl_->wrap<F32>(result);
}

F32 ArithmeticVerbs::reciprocal(F32 a, SourceLoc loc) {
  impl_->at(loc);
  return impl_->wrap<F32>(impl_->intrinsic(ir::nvvm_rcp_approx_ftz_f, {impl_->use(a)}));
}

// ---- packed values ----

I32 ArithmeticVerbs::pack2(DType type, F32 lo, F32 hi, SourceLoc loc) {
  impl_->at(loc);
  if (type != DType::f16 && type != DType::bf16) {
    impl_->fail(fmt::format("pack2 makes f16 or bf16, not {}", to_string(type)));
  }
  // One cvt for both: instruction selection finds it in two truncations in a fraction of the time that it
  // takes to find the intrinsic of it.
  auto& b = impl_->b;
  llvm::Type* half = type == DType::f16 ? b.getHalfTy() : b.getBFloatTy();
  llvm::Value* pair = llvm::PoisonValue::get(llvm::FixedVectorType::get(half, 2));
  pair = b.CreateInsertElement(pair, b.CreateFPTrunc(impl_->use(lo), half), std::uint64_t{0});
  pair = b.CreateInsertElement(pair, b.CreateFPTrunc(impl_->use(hi), half), std::uint64_t{1});
  return impl_->wrap<I32>(impl_->reinterpret(pair, impl_->b.getInt32Ty()));
}

std::array<F32, 2> ArithmeticVerbs::unpack2(DType type, I32 bits, SourceLoc loc) {
  impl_->at(loc);
  auto& b = impl_->b;
  llvm::Value* pair = impl_->use(bits);
  if (type == DType::bf16) {  // a bf16 is the upper half of an f32
    return {as_f32(impl_->wrap<I32>(b.CreateShl(pair, 16)), loc),
            as_f32(impl_->wrap<I32>(b.CreateAnd(pair, 0xffff0000u)), loc)};
  }
  if (type != DType::f16) {
    impl_->fail(fmt::format("unpack2 reads f16 or bf16, not {}", to_string(type)));
  }
  llvm::Value* halves = impl_->reinterpret(pair, llvm::FixedVectorType::get(b.getHalfTy(), 2));
  std::array<F32, 2> result;
  for (unsigned i = 0; i < 2; ++i) {
    result[i] = impl_->wrap<F32>(b.CreateFPExt(b.CreateExtractElement(halves, i), b.getFloatTy()));
  }
  return result;
}

I32 ArithmeticVerbs::multiply2(DType type, I32 a, I32 b, SourceLoc loc) {
  impl_->at(loc);
  if (type != DType::f16)
    impl_->fail(fmt::format("multiply2 multiplies pairs of f16, not of {}", to_string(type)));
  llvm::Type* pair = llvm::FixedVectorType::get(impl_->b.getHalfTy(), 2);
  llvm::Value* product = impl_->b.CreateFMul(impl_->reinterpret(impl_->use(a), pair),
                                             impl_->reinterpret(impl_->use(b), pair));
  return impl_->wrap<I32>(impl_->reinterpret(product, impl_->b.getInt32Ty()));
}

I32 ArithmeticVerbs::subtract2(DType type, I32 a, I32 b, SourceLoc loc) {
  impl_->at(loc);
  if (type != DType::f16)
    impl_->fail(fmt::format("subtract2 subtracts pairs of f16, not of {}", to_string(type)));
  llvm::Type* pair = llvm::FixedVectorType::get(impl_->b.getHalfTy(), 2);
  llvm::Value* difference = impl_->b.CreateFSub(impl_->reinterpret(impl_->use(a), pair),
                                                impl_->reinterpret(impl_->use(b), pair));
  return impl_->wrap<I32>(impl_->reinterpret(difference, impl_->b.getInt32Ty()));
}

I32 ArithmeticVerbs::pack4(DType type, F32 a, F32 b, F32 c, F32 d, SourceLoc loc) {
  impl_->at(loc);
  auto& builder = impl_->b;
  if (type == DType::e4m3) {
    impl_->require(target().sm >= 89, "the conversion to e4m3", "use f16 for P and V there");
    const auto pair = [&](F32 lo, F32 hi) {
      return impl_->intrinsic(ir::nvvm_ff_to_e4m3x2_rn, {impl_->use(hi), impl_->use(lo)});
    };
    llvm::Value* pairs =
        llvm::PoisonValue::get(llvm::FixedVectorType::get(builder.getInt16Ty(), 2));
    pairs = builder.CreateInsertElement(pairs, pair(a, b), std::uint64_t{0});
    pairs = builder.CreateInsertElement(pairs, pair(c, d), std::uint64_t{1});
    return impl_->wrap<I32>(impl_->reinterpret(pairs, builder.getInt32Ty()));
  }
  if (type != DType::s8) {
    impl_->fail(fmt::format("pack4 makes s8 or e4m3, not {}", to_string(type)));
  }
  // Adding 1.5 * 2^23 rounds to an integer, to nearest even, and leaves it in the low bits: an add
  // instead of a conversion, which runs at a quarter of the rate.
  constexpr float kRounder = 12582912.0f;
  const auto integer = [&](F32 value) {
    llvm::Value* sum = builder.CreateFAdd(impl_->use(value), impl_->use(f32(kRounder)));
    return as_bits(impl_->wrap<F32>(sum), loc);
  };
  const I32 low = permute_bytes(integer(a), integer(b), {0, 4, 0, 4}, loc);
  const I32 high = permute_bytes(integer(c), integer(d), {0, 4, 0, 4}, loc);
  return permute_bytes(low, high, {0, 1, 4, 5}, loc);
}

I32 ArithmeticVerbs::permute_bytes(I32 a, I32 b, std::array<int, 4> selector, SourceLoc loc) {
  impl_->at(loc);
  std::uint32_t packed = 0;
  for (unsigned i = 0; i < 4; ++i) {
    if (selector[i] < 0 || selector[i] > 7) {
      impl_->fail(fmt::format("permute_bytes selects bytes 0 to 7, not {}", selector[i]));
    }
    packed |= static_cast<std::uint32_t>(selector[i]) << (4 * i);
  }
  return impl_->wrap<I32>(
      impl_->intrinsic(ir::nvvm_prmt, {impl_->use(a), impl_->use(b), impl_->b.getInt32(packed)}));
}

}  // namespace sagegen::dsl
