// The operators of DSL values. Index arithmetic does not overflow (nsw), which is what lets the
// optimizer keep constant distances out of address registers.
#include <fmt/format.h>

#include <limits>

#include "generator/dsl/impl.h"
#include "llvm/Analysis/ValueTracking.h"
#include "llvm/Support/KnownBits.h"
#include "sagegen/dsl/kernel_builder.h"
#include "sagegen/dsl/operators.h"

namespace sagegen::dsl {
namespace {

using Impl = KernelBuilder::Impl;

// Applies `make` to the checked operands.
template <typename Result, typename T, typename Make>
Result unary(const Here<T>& a, Make make) {
  if (a.value.k == nullptr) fail_at(a.loc, kNoValue);
  Impl& impl = a.value.k->impl();
  impl.at(a.loc);
  return impl.template wrap<Result>(make(impl, impl.use(a.value)));
}
template <typename Result, typename Make>
Result binary(const ValueBase& a, const ValueBase& b, SourceLoc loc, Make make) {
  KernelBuilder* k = a.k != nullptr ? a.k : b.k;
  if (k == nullptr) fail_at(loc, kNoValue);
  Impl& impl = k->impl();
  impl.at(loc);
  llvm::Value* left = impl.use(a);
  llvm::Value* right = impl.use(b);
  return impl.template wrap<Result>(make(impl, left, right));
}

// A number as a value of the builder that made the other operand.
I32 constant(const Here<I32>& like, std::int32_t value) {
  if (like.value.k == nullptr) fail_at(like.loc, kNoValue);
  return like.value.k->i32(value);
}
template <typename T>
I64 constant(const Here<T>& like, std::int64_t value) {
  if (like.value.k == nullptr) fail_at(like.loc, kNoValue);
  return like.value.k->i64(value);
}
F32 constant(const Here<F32>& like, float value) {
  if (like.value.k == nullptr) fail_at(like.loc, kNoValue);
  return like.value.k->f32(value);
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
  const unsigned bits = amount->getType()->getIntegerBitWidth();
  if (known != nullptr && known->getZExtValue() >= bits) {
    impl.fail(fmt::format("a shift of {} bits by {}", bits, known->getSExtValue()));
  }
}

}  // namespace

// The operator of two values, and of a value and a number on either side.
#define SAGEGEN_DSL_BINARY(Result, op, T, Number, expression)                                   \
  Result operator op(Here<T> a, T b) {                                                          \
    return binary<Result>(                                                                      \
        a.value, b, a.loc,                                                                      \
        [](Impl& impl, llvm::Value* x, llvm::Value* y) -> llvm::Value* { return expression; }); \
  }                                                                                             \
  Result operator op(Here<T> a, Number b) { return a op constant(a, b); }                       \
  Result operator op(Number a, Here<T> b) { return Here<T>(constant(b, a), b.loc) op b.value; }
#define SAGEGEN_DSL_INTEGER(op, expression)                  \
  SAGEGEN_DSL_BINARY(I32, op, I32, std::int32_t, expression) \
  SAGEGEN_DSL_BINARY(I64, op, I64, std::int64_t, expression)
#define SAGEGEN_DSL_COMPARE(op, integer, real)                                      \
  SAGEGEN_DSL_BINARY(Pred, op, I32, std::int32_t, impl.b.CreateICmp##integer(x, y)) \
  SAGEGEN_DSL_BINARY(Pred, op, I64, std::int64_t, impl.b.CreateICmp##integer(x, y)) \
  SAGEGEN_DSL_BINARY(Pred, op, F32, float, impl.b.CreateFCmp##real(x, y))
SAGEGEN_DSL_INTEGER(+, add(impl, x, y))
SAGEGEN_DSL_INTEGER(-, subtract(impl, x, y))
SAGEGEN_DSL_INTEGER(*, impl.b.CreateNSWMul(x, y))
SAGEGEN_DSL_INTEGER(/, divide(impl, x, y, Part::quotient))
SAGEGEN_DSL_INTEGER(%, divide(impl, x, y, Part::remainder))
SAGEGEN_DSL_INTEGER(&, impl.b.CreateAnd(x, y))
SAGEGEN_DSL_INTEGER(|, impl.b.CreateOr(x, y))
SAGEGEN_DSL_INTEGER(^, impl.b.CreateXor(x, y))
SAGEGEN_DSL_INTEGER(<<, (check_shift(impl, y), impl.b.CreateShl(x, y)))
SAGEGEN_DSL_INTEGER(>>, (check_shift(impl, y), impl.b.CreateLShr(x, y)))
SAGEGEN_DSL_BINARY(F32, +, F32, float, impl.b.CreateFAdd(x, y))
SAGEGEN_DSL_BINARY(F32, -, F32, float, impl.b.CreateFSub(x, y))
SAGEGEN_DSL_BINARY(F32, *, F32, float, impl.b.CreateFMul(x, y))
SAGEGEN_DSL_BINARY(F32, /, F32, float, impl.b.CreateFDiv(x, y))
SAGEGEN_DSL_COMPARE(<, SLT, OLT)
SAGEGEN_DSL_COMPARE(<=, SLE, OLE)
SAGEGEN_DSL_COMPARE(>, SGT, OGT)
SAGEGEN_DSL_COMPARE(>=, SGE, OGE)
SAGEGEN_DSL_COMPARE(==, EQ, OEQ)
SAGEGEN_DSL_COMPARE(!=, NE, UNE)
#undef SAGEGEN_DSL_COMPARE
#undef SAGEGEN_DSL_INTEGER
#undef SAGEGEN_DSL_BINARY

#define SAGEGEN_DSL_UNARY(T, op, expression)                                   \
  T operator op(Here<T> a) {                                                   \
    return unary<T>(a, [](Impl& impl, llvm::Value* x) { return expression; }); \
  }
SAGEGEN_DSL_UNARY(I32, -, impl.b.CreateNSWNeg(x))
SAGEGEN_DSL_UNARY(I64, -, impl.b.CreateNSWNeg(x))
SAGEGEN_DSL_UNARY(F32, -, impl.b.CreateFNeg(x))
SAGEGEN_DSL_UNARY(I32, ~, impl.b.CreateNot(x))
SAGEGEN_DSL_UNARY(I64, ~, impl.b.CreateNot(x))
SAGEGEN_DSL_UNARY(Pred, !, impl.b.CreateNot(x))
#undef SAGEGEN_DSL_UNARY

Pred operator&&(Here<Pred> a, Pred b) {
  return binary<Pred>(a.value, b, a.loc, [](Impl& impl, llvm::Value* x, llvm::Value* y) {
    return impl.b.CreateAnd(x, y);
  });
}
Pred operator||(Here<Pred> a, Pred b) {
  return binary<Pred>(a.value, b, a.loc, [](Impl& impl, llvm::Value* x, llvm::Value* y) {
    return impl.b.CreateOr(x, y);
  });
}

GlobalPtr operator+(Here<GlobalPtr> p, I32 bytes) {
  return binary<GlobalPtr>(
      p.value, bytes, p.loc, [](Impl& impl, llvm::Value* base, llvm::Value* index) {
        // sext(x + c) is sext(x) + c, since index arithmetic does not overflow.
        const auto [variable, distance] = split_constant(index);
        if (variable != nullptr)
          base = impl.offset(base, impl.b.CreateSExt(variable, impl.b.getInt64Ty()));
        return impl.offset(base, impl.b.getInt64(static_cast<std::uint64_t>(distance)));
      });
}
SharedPtr operator+(Here<SharedPtr> p, I32 bytes) {
  return binary<SharedPtr>(
      p.value, bytes, p.loc,
      [](Impl& impl, llvm::Value* base, llvm::Value* index) { return impl.offset(base, index); });
}

GlobalPtr operator+(Here<GlobalPtr> p, I64 bytes) {
  return binary<GlobalPtr>(
      p.value, bytes, p.loc,
      [](Impl& impl, llvm::Value* base, llvm::Value* index) { return impl.offset(base, index); });
}
SharedPtr operator+(Here<SharedPtr> p, I64 bytes) {
  return binary<SharedPtr>(
      p.value, bytes, p.loc, [](Impl& impl, llvm::Value* base, llvm::Value* index) {
        return impl.offset(base, impl.b.CreateTrunc(index, impl.b.getInt32Ty()));
      });
}

GlobalPtr operator+(Here<GlobalPtr> p, std::int64_t bytes) { return p + constant(p, bytes); }
SharedPtr operator+(Here<SharedPtr> p, std::int64_t bytes) { return p + constant(p, bytes); }

}  // namespace sagegen::dsl
