// Operators of DSL values. They emit instructions through the builder that made the operand.
//
// Index arithmetic is unsigned where it matters: / % and >> on I32 are unsigned, because the generator's
// indices are non-negative. Comparisons of I32 are signed. + - * of I32 and I64 must not overflow as
// signed numbers: that is what lets constant distances move into the [register+constant] of a load. f32
// operators are add.rn, sub.rn, mul.rn, div.rn: never contracted; their comparisons are false for NaN,
// except != .
#pragma once

#include <cstdint>

#include "sagegen/dsl/value.h"

namespace sagegen::dsl {

#define SAGEGEN_DSL_BINARY(op)            \
  I32 operator op(I32 a, I32 b);          \
  I32 operator op(I32 a, std::int32_t b); \
  I32 operator op(std::int32_t a, I32 b);
SAGEGEN_DSL_BINARY(+)
SAGEGEN_DSL_BINARY(-)
SAGEGEN_DSL_BINARY(*)
SAGEGEN_DSL_BINARY(/)
SAGEGEN_DSL_BINARY(%)
SAGEGEN_DSL_BINARY(&)
SAGEGEN_DSL_BINARY(|)
SAGEGEN_DSL_BINARY(^)
SAGEGEN_DSL_BINARY(<<)
SAGEGEN_DSL_BINARY(>>)
#undef SAGEGEN_DSL_BINARY

#define SAGEGEN_DSL_COMPARE(op)            \
  Pred operator op(I32 a, I32 b);          \
  Pred operator op(I32 a, std::int32_t b); \
  Pred operator op(F32 a, F32 b);          \
  Pred operator op(F32 a, float b);
SAGEGEN_DSL_COMPARE(<)
SAGEGEN_DSL_COMPARE(<=)
SAGEGEN_DSL_COMPARE(>)
SAGEGEN_DSL_COMPARE(>=)
SAGEGEN_DSL_COMPARE(==)
SAGEGEN_DSL_COMPARE(!=)
#undef SAGEGEN_DSL_COMPARE

Pred operator&&(Pred a, Pred b);
Pred operator||(Pred a, Pred b);
Pred operator!(Pred a);

I64 operator+(I64 a, I64 b);
I64 operator*(I64 a, I64 b);
I64 operator*(I64 a, std::int64_t b);
Pred operator==(I64 a, std::int64_t b);
Pred operator!=(I64 a, std::int64_t b);

F32 operator+(F32 a, F32 b);
F32 operator-(F32 a, F32 b);
F32 operator*(F32 a, F32 b);
F32 operator/(F32 a, F32 b);
F32 operator+(F32 a, float b);
F32 operator-(F32 a, float b);
F32 operator*(F32 a, float b);
F32 operator/(F32 a, float b);
F32 operator+(float a, F32 b);
F32 operator-(float a, F32 b);
F32 operator*(float a, F32 b);
F32 operator/(float a, F32 b);
F32 operator-(F32 a);

template <Space S>
Ptr<S> operator+(Ptr<S> p, I32 bytes);
template <Space S>
Ptr<S> operator+(Ptr<S> p, I64 bytes);
template <Space S>
Ptr<S> operator+(Ptr<S> p, std::int64_t bytes);

}  // namespace sagegen::dsl
