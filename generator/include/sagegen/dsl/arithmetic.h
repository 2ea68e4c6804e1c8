// Verbs that compute: constants, conversions, arithmetic, packed values. One instruction each (or none)
// unless the comment says otherwise. Operators are in operators.h.
#pragma once

#include <array>
#include <cstdint>

#include "sagegen/dsl/core.h"
#include "sagegen/types.h"

namespace sagegen::dsl {

class ArithmeticVerbs : public BuilderCore {
 public:
  I32 i32(std::int32_t value);
  I64 i64(std::int64_t value);
  F32 f32(float value);
  Pred pred(bool value);

  I64 to_i64(I32 value, SourceLoc loc = SourceLoc::here());           // sign-extends
  I64 to_i64_unsigned(I32 value, SourceLoc loc = SourceLoc::here());  // zero-extends
  I32 to_i32(I64 value, SourceLoc loc = SourceLoc::here());           // the low 32 bits
  F32 as_f32(I32 bits, SourceLoc loc = SourceLoc::here());            // bit cast
  I32 as_bits(F32 value, SourceLoc loc = SourceLoc::here());
  F32 to_f32(I32 value, SourceLoc loc = SourceLoc::here());           // cvt.rn.f32.s32
  F32 to_f32(I64 value, SourceLoc loc = SourceLoc::here());           // cvt.rn.f32.s64
  I32 round_to_s32(F32 value, SourceLoc loc = SourceLoc::here());     // cvt.rni.s32.f32
  I32 truncate_to_s32(F32 value, SourceLoc loc = SourceLoc::here());  // cvt.rzi.s32.f32
  I64 round_to_s64(F32 value, SourceLoc loc = SourceLoc::here());     // cvt.rni.s64.f32
  I32 min(I32 a, I32 b, SourceLoc loc = SourceLoc::here());           // signed
  I32 max(I32 a, I32 b, SourceLoc loc = SourceLoc::here());
  I32 abs(I32 a, SourceLoc loc = SourceLoc::here());
  I32 popcount(I32 bits, SourceLoc loc = SourceLoc::here());
  // Copies of the sign come in from above, where >> lets zeros in. bits: 0 to 31.
  I32 shift_right_signed(I32 a, I32 bits, SourceLoc loc = SourceLoc::here());
  I32 divide_signed(I32 a, I32 b, SourceLoc loc = SourceLoc::here());     // towards zero
  I32 remainder_signed(I32 a, I32 b, SourceLoc loc = SourceLoc::here());  // has the sign of a
  F32 min(F32 a, F32 b, SourceLoc loc = SourceLoc::here());
  F32 max(F32 a, F32 b, SourceLoc loc = SourceLoc::here());  // the non-NaN operand wins
  F32 abs(F32 a, SourceLoc loc = SourceLoc::here());
  F32 fma(F32 a, F32 b, F32 c, SourceLoc loc = SourceLoc::here());       // fma.rn.f32
  F32 fma_ftz(F32 a, F32 b, F32 c, SourceLoc loc = SourceLoc::here());   // fma.rn.ftz.f32
  F32 fma_up(F32 a, F32 b, F32 c, SourceLoc loc = SourceLoc::here());    // fma.rp.f32
  F32 fma_down(F32 a, F32 b, F32 c, SourceLoc loc = SourceLoc::here());  // fma.rm.f32
  F32 exp2(F32 a, SourceLoc loc = SourceLoc::here());                    // ex2.approx.ftz.f32
  F32 log2(F32 a, SourceLoc loc = SourceLoc::here());                    // lg2.approx.ftz.f32
  F32 sqrt(F32 a, SourceLoc loc = SourceLoc::here());                    // sqrt.rn.f32
  F32 rsqrt(F32 a, SourceLoc loc = SourceLoc::here());                   // rsqrt.approx.ftz.f32
  F32 tanh(F32 a, SourceLoc loc = SourceLoc::here());                    // tanh.approx.f32
  F32 reciprocal(F32 a, SourceLoc loc = SourceLoc::here());              // rcp.approx.ftz.f32

  // Two 16-bit floats in one register, `lo` in bits 0-15. type: f16 or bf16.
  I32 pack2(DType type, F32 lo, F32 hi,
            SourceLoc loc = SourceLoc::here());  // cvt.rn.{f16x2,bf16x2}.f32
  std::array<F32, 2> unpack2(DType type, I32 bits, SourceLoc loc = SourceLoc::here());
  // Product of two such pairs. type: f16.
  I32 multiply2(DType type, I32 a, I32 b, SourceLoc loc = SourceLoc::here());  // mul.rn.f16x2
  // Their difference. type: f16.
  I32 subtract2(DType type, I32 a, I32 b, SourceLoc loc = SourceLoc::here());  // sub.rn.f16x2
  // Four values as bytes, `a` lowest. e4m3: cvt.rn.satfinite (two instructions and a merge). s8: the
  // values are rounded to nearest even and must lie within [-128, 127].
  I32 pack4(DType type, F32 a, F32 b, F32 c, F32 d, SourceLoc loc = SourceLoc::here());
  // prmt.b32: byte i of the result is byte selector[i] (0-7) of {b, a}, a holding bytes 0-3.
  I32 permute_bytes(I32 a, I32 b, std::array<int, 4> selector, SourceLoc loc = SourceLoc::here());

 protected:
  using BuilderCore::BuilderCore;
  ~ArithmeticVerbs() = default;
};

}  // namespace sagegen::dsl
