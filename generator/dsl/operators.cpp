// The operators of DSL values. Index arithmetic does not overflow (nsw), which is what lets the
// optimizer keep constant distances out of address registers.
#include <fmt/format.h>

#include <limits>

#include "generator/dsl/impl.h"
#include "llvm/Analysis/ValueTracking.h"
#include "llvm/Support/KnownBits.h"
#include "sagegen/dsl/kernel_builder.h"
#include "sagegen/dsl/value.h"

namespace sagegen::dsl {
namespace {

using Impl = KernelBuilder::Impl;

// Applies `make` to the checked operands. Operators do not know their line in the template, so an empty
// operand is reported by the builder of the other one, or passes on to the next verb, which knows.
template <typename Result, typename Make>
Result unary(const ValueBase& a, Make make) {
  if (a.k == nullptr) return {};
  Impl& impl = a.k->impl();
  return impl.template wrap<Result>(make(impl, impl.use(a)));
}
template <typename Result, typename Make>
Result binary(const ValueBase& a, const ValueBase& b, Make make) {
  KernelBuilder* k = a.k != nullptr ? a.k : b.k;
  if (k == nullptr) return {};
  Impl& impl = k->impl();
  llvm::Value* left = impl.use(a);
  llvm::Value* right = impl.use(b);
  return impl.template wrap<Result>(make(impl, left, right));
}

// A constant for the builder of the other operand.
I32 constant(const ValueBase& like, std::int32_t value) {
  return like.k == nullptr ? I32{} : like.k->i32(value);
}
I64 constant(const ValueBase& like, std::int64_t value) {
  return like.k == nullptr ? I64{} : like.k->i64(value);
}
F32 constant(const ValueBase& like, float value) {
  return like.k == nullptr ? F32{} : like.k->f32(value);
}

// (x + c) + d is x + (c + d): the constant stays in one place, where address arithmetic finds it.
llvm::Value* add(Impl& impl, llvm::Value* a, llvm::Value* b) {
  if (llvm::isa<llvm::ConstantInt>(a)) std::swap(a, b);
  const auto [x, c] = split_constant(a);
  const auto [y, d] = split_constant(b);
  const std::int64_t sum = c + d;
  const bool fits = sum >= std::numeric_limits<std::int32_t>::min() &&
                    sum <= std::numeric_limits<std::int32_t>::max();
  if (x == nullptr || (c == 0 && d == 0) || !fits || !a->getType()->isIntegerTy(32)) {
    return impl.b.CreateNSWAdd(a, b);
  }
  llvm::Value* variable = y == nullptr ? x : impl.b.CreateNSWAdd(x, y);
  return impl.b.CreateNSWAdd(variable, impl.b.getInt32(static_cast<std::int32_t>(sum)));
}

llvm::Value* subtract(Impl& impl, llvm::Value* a, llvm::Value* b) {
  auto* known = llvm::dyn_cast<llvm::ConstantInt>(b);
  if (known == nullptr || known->isMinValue(true)) return impl.b.CreateNSWSub(a, b);
  return add(impl, a, llvm::ConstantInt::get(known->getType(), -known->getValue()));
}

// Unsigned division and remainder. Indices are often known to be smaller than the divisor (a lane's, a
// warp's), and then nothing is left of the operation.
enum class Part { quotient, remainder };
llvm::Value* divide(Impl& impl, llvm::Value* x, llvm::Value* divisor, Part part) {
  const auto* known = llvm::dyn_cast<llvm::ConstantInt>(divisor);
  if (known != nullptr && known->isZero()) impl.fail("division by the constant 0");
  if (known != nullptr) {
    const llvm::KnownBits bits = llvm::computeKnownBits(x, impl.module->getDataLayout());
    if (bits.getMaxValue().ult(known->getValue())) {
      return part == Part::quotient ? llvm::ConstantInt::get(x->getType(), 0) : x;
    }
  }
  if (known != nullptr && known->getValue().isPowerOf2()) {
    const std::uint64_t value = known->getZExtValue();
    return part == Part::quotient ? impl.b.CreateLShr(x, known->getValue().logBase2())
                                  : impl.b.CreateAnd(x, value - 1);
  }
  return part == Part::quotient ? impl.b.CreateUDiv(x, divisor) : impl.b.CreateURem(x, divisor);
}

void check_shift(const Impl& impl, llvm::Value* amount) {
  auto* known = llvm::dyn_cast<llvm::ConstantInt>(amount);
  if (known != nullptr && known->getZExtValue() >= 32) {
    impl.fail(fmt::format("a shift of 32 bits by {}", known->getSExtValue()));
  }
}

}  // namespace

#define SAGEGEN_DSL_BINARY(op, expression)                                                    \
  I32 operator op(I32 a, I32 b) {                                                             \
    return binary<I32>(a, b, [](Impl& impl, llvm::Value* x, llvm::Value* y) -> llvm::Value* { \
      return expression;                                                                      \
    });                                                                                       \
  }                                                                                           \
  I32 operator op(I32 a, std::int32_t b) { return a op constant(a, b); }                      \
  I32 operator op(std::int32_t a, I32 b) { return constant(b, a) op b; }
SAGEGEN_DSL_BINARY(+, add(impl, x, y))
SAGEGEN_DSL_BINARY(-, subtract(impl, x, y))
SAGEGEN_DSL_BINARY(*, impl.b.CreateNSWMul(x, y))
SAGEGEN_DSL_BINARY(/, divide(impl, x, y, Part::quotient))
SAGEGEN_DSL_BINARY(%, divide(impl, x, y, Part::remainder))
SAGEGEN_DSL_BINARY(&, impl.b.CreateAnd(x, y))
SAGEGEN_DSL_BINARY(|, impl.b.CreateOr(x, y))
SAGEGEN_DSL_BINARY(^, impl.b.CreateXor(x, y))
SAGEGEN_DSL_BINARY(<<, (check_shift(impl, y), impl.b.CreateShl(x, y)))
SAGEGEN_DSL_BINARY(>>, (check_shift(impl, y), impl.b.CreateLShr(x, y)))
#undef SAGEGEN_DSL_BINARY

#define SAGEGEN_DSL_COMPARE(op, integer, real)                                 \
  Pred operator op(I32 a, I32 b) {                                             \
    return binary<Pred>(a, b, [](Impl& impl, llvm::Value* x, llvm::Value* y) { \
      return impl.b.CreateICmp##integer(x, y);                                 \
    });                                                                        \
  }                                                                            \
  Pred operator op(I32 a, std::int32_t b) { return a op constant(a, b); }      \
  Pred operator op(F32 a, F32 b) {                                             \
    return binary<Pred>(a, b, [](Impl& impl, llvm::Value* x, llvm::Value* y) { \
      return impl.b.CreateFCmp##real(x, y);                                    \
    });                                                                        \
  }                                                                            \
  Pred operator op(F32 a, float b) { return a op constant(a, b); }
SAGEGEN_DSL_COMPARE(<, SLT, OLT)
SAGEGEN_DSL_COMPARE(<=, SLE, OLE)
SAGEGEN_DSL_COMPARE(>, SGT, OGT)
SAGEGEN_DSL_COMPARE(>=, SGE, OGE)
SAGEGEN_DSL_COMPARE(==, EQ, OEQ)
SAGEGEN_DSL_COMPARE(!=, NE, UNE)
#undef SAGEGEN_DSL_COMPARE

Pred operator&&(Pred a, Pred b) {
  return binary<Pred>(
      a, b, [](Impl& impl, llvm::Value* x, llvm::Value* y) { return impl.b.CreateAnd(x, y); });
}
Pred operator||(Pred a, Pred b) {
  return binary<Pred>(
      a, b, [](Impl& impl, llvm::Value* x, llvm::Value* y) { return impl.b.CreateOr(x, y); });
}
Pred operator!(Pred a) {
  return unary<Pred>(a, [](Impl& impl, llvm::Value* x) { return impl.b.CreateNot(x); });
}

I64 operator+(I64 a, I64 b) {
  return binary<I64>(
      a, b, [](Impl& impl, llvm::Value* x, llvm::Value* y) { return impl.b.CreateNSWAdd(x, y); });
}
I64 operator*(I64 a, I64 b) {
  return binary<I64>(
      a, b, [](Impl& impl, llvm::Value* x, llvm::Value* y) { return impl.b.CreateNSWMul(x, y); });
}
I64 operator*(I64 a, std::int64_t b) { return a * constant(a, b); }
Pred operator==(I64 a, std::int64_t b) {
  return binary<Pred>(a, constant(a, b), [](Impl& impl, llvm::Value* x, llvm::Value* y) {
    return impl.b.CreateICmpEQ(x, y);
  });
}
Pred operator!=(I64 a, std::int64_t b) { return !(a == b); }

#define SAGEGEN_DSL_REAL(op, function)                                        \
  F32 operator op(F32 a, F32 b) {                                             \
    return binary<F32>(a, b, [](Impl& impl, llvm::Value* x, llvm::Value* y) { \
      return impl.b.Create##function(x, y);                                   \
    });                                                                       \
  }                                                                           \
  F32 operator op(F32 a, float b) { return a op constant(a, b); }             \
  F32 operator op(float a, F32 b) { return constant(b, a) op b; }
SAGEGEN_DSL_REAL(+, FAdd)
SAGEGEN_DSL_REAL(-, FSub)
SAGEGEN_DSL_REAL(*, FMul)
SAGEGEN_DSL_REAL(/, FDiv)
#undef SAGEGEN_DSL_REAL

F32 operator-(F32 a) {
  return unary<F32>(a, [](Impl& impl, llvm::Value* x) { return impl.b.CreateFNeg(x); });
}

template <Space S>
Ptr<S> operator+(Ptr<S> p, I32 bytes) {
  return binary<Ptr<S>>(p, bytes, [](Impl& impl, llvm::Value* base, llvm::Value* index) {
    if constexpr (S == Space::global) {
      // sext(x + c) is sext(x) + c, since index arithmetic does not overflow.
      const auto [variable, constant] = split_constant(index);
      if (variable != nullptr)
        base = impl.offset(base, impl.b.CreateSExt(variable, impl.b.getInt64Ty()));
      return impl.offset(base, impl.b.getInt64(static_cast<std::uint64_t>(constant)));
    } else {
      return impl.offset(base, index);
    }
  });
}

template <Space S>
Ptr<S> operator+(Ptr<S> p, I64 bytes) {
  return binary<Ptr<S>>(p, bytes, [](Impl& impl, llvm::Value* base, llvm::Value* index) {
    if constexpr (S == Space::shared) index = impl.b.CreateTrunc(index, impl.b.getInt32Ty());
    return impl.offset(base, index);
  });
}

template <Space S>
Ptr<S> operator+(Ptr<S> p, std::int64_t bytes) {
  return p + constant(p, bytes);
}

template GlobalPtr operator+(GlobalPtr, I32);
template SharedPtr operator+(SharedPtr, I32);
template GlobalPtr operator+(GlobalPtr, I64);
template SharedPtr operator+(SharedPtr, I64);
template GlobalPtr operator+(GlobalPtr, std::int64_t);
template SharedPtr operator+(SharedPtr, std::int64_t);

}  // namespace sagegen::dsl
