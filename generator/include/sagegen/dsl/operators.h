// Operators of DSL values. They emit instructions through the builder that made the operand; an operand
// without a value, or of another builder, is an error that names the operator's line.
//
// Index arithmetic is unsigned where it matters: / % and >> are unsigned, because the generator's indices
// are non-negative. Comparisons of integers are signed. + - * of I32 and I64 must not overflow as signed
// numbers: that is what lets constant distances move into the [register+constant] of a load. f32
// operators are add.rn, sub.rn, mul.rn, div.rn: never contracted; their comparisons are false for NaN,
// except != .
#pragma once

#include <cstdint>

#include "sagegen/dsl/value.h"
#include "sagegen/dsl/var.h"

namespace sagegen::dsl {

// Both operands are values, or one of them is a number that is known at generation time.
#define SAGEGEN_DSL_BINARY(Result, op, T, Number) \
  Result operator op(Here<T> a, T b);             \
  Result operator op(Here<T> a, Number b);        \
  Result operator op(Number a, Here<T> b);
#define SAGEGEN_DSL_INTEGER(op)                  \
  SAGEGEN_DSL_BINARY(I32, op, I32, std::int32_t) \
  SAGEGEN_DSL_BINARY(I64, op, I64, std::int64_t)
#define SAGEGEN_DSL_COMPARE(op)                   \
  SAGEGEN_DSL_BINARY(Pred, op, I32, std::int32_t) \
  SAGEGEN_DSL_BINARY(Pred, op, I64, std::int64_t) \
  SAGEGEN_DSL_BINARY(Pred, op, F32, float)
SAGEGEN_DSL_INTEGER(+)
SAGEGEN_DSL_INTEGER(-)
SAGEGEN_DSL_INTEGER(*)
SAGEGEN_DSL_INTEGER(/)
SAGEGEN_DSL_INTEGER(%)
SAGEGEN_DSL_INTEGER(&)
SAGEGEN_DSL_INTEGER(|)
SAGEGEN_DSL_INTEGER(^)
SAGEGEN_DSL_INTEGER(<<)
SAGEGEN_DSL_INTEGER(>>)
SAGEGEN_DSL_BINARY(F32, +, F32, float)
SAGEGEN_DSL_BINARY(F32, -, F32, float)
SAGEGEN_DSL_BINARY(F32, *, F32, float)
SAGEGEN_DSL_BINARY(F32, /, F32, float)
SAGEGEN_DSL_COMPARE(<)
SAGEGEN_DSL_COMPARE(<=)
SAGEGEN_DSL_COMPARE(>)
SAGEGEN_DSL_COMPARE(>=)
SAGEGEN_DSL_COMPARE(==)
SAGEGEN_DSL_COMPARE(!=)
#undef SAGEGEN_DSL_COMPARE
#undef SAGEGEN_DSL_INTEGER
#undef SAGEGEN_DSL_BINARY

I32 operator-(Here<I32> a);
I32 operator~(Here<I32> a);
I64 operator-(Here<I64> a);
I64 operator~(Here<I64> a);
F32 operator-(Here<F32> a);

// Both sides are computed.
Pred operator&&(Here<Pred> a, Pred b);
Pred operator||(Here<Pred> a, Pred b);
Pred operator!(Here<Pred> a);

GlobalPtr operator+(Here<GlobalPtr> p, I32 bytes);
GlobalPtr operator+(Here<GlobalPtr> p, I64 bytes);
GlobalPtr operator+(Here<GlobalPtr> p, std::int64_t bytes);
SharedPtr operator+(Here<SharedPtr> p, I32 bytes);
SharedPtr operator+(Here<SharedPtr> p, I64 bytes);
SharedPtr operator+(Here<SharedPtr> p, std::int64_t bytes);

}  // namespace sagegen::dsl
