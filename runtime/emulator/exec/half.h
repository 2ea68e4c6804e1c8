// f16 and bf16 arithmetic, exact to one rounding.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "runtime/emulator/numerics/numerics.h"

namespace sagegen::emulator {

// Rounds to odd: the result, rounded again to a format at least two bits narrower, is what rounding
// once would have given. `error` is the part of the exact value that `value` has lost.
inline double round_to_odd(double value, double error) {
  if (error == 0.0 || !std::isfinite(value)) return value;
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bool toward_zero = std::signbit(error) != std::signbit(value);
  if (value == 0.0) return error;
  if ((bits & 1) == 0) bits = toward_zero ? bits - 1 : bits + 1;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

inline float to_float_odd(double value) {
  float narrow = static_cast<float>(value);
  if (std::isnan(value) || std::isinf(value)) return narrow;
  if (std::isinf(narrow)) return narrow;  // beyond every half format as well
  double error = value - static_cast<double>(narrow);
  if (error == 0.0) return narrow;
  std::uint32_t bits;
  std::memcpy(&bits, &narrow, sizeof bits);
  if ((bits & 1) == 0) {
    bool toward_zero = std::signbit(error) != std::signbit(value);
    if (narrow == 0.0f) {
      bits |= 1;  // a value below the smallest subnormal
    } else {
      bits = toward_zero ? bits - 1 : bits + 1;
    }
    std::memcpy(&narrow, &bits, sizeof bits);
  }
  return narrow;
}

// a * b + c with both roundings undone by rounding to odd. The product of two halves is exact.
inline double fma_to_odd(double a, double b, double c) {
  double product = a * b;
  double sum = product + c;
  double back = sum - product;  // Knuth's two-sum
  double error = (product - (sum - back)) + (c - back);
  return std::isfinite(sum) ? round_to_odd(sum, error) : sum;
}

struct HalfF16 {
  static double load(std::uint32_t bits) { return f16_to_f32(static_cast<std::uint16_t>(bits)); }
  static std::uint16_t store(double value) { return f32_to_f16(to_float_odd(value)); }
};
struct HalfBf16 {
  static double load(std::uint32_t bits) { return bf16_to_f32(static_cast<std::uint16_t>(bits)); }
  static std::uint16_t store(double value) { return f32_to_bf16(to_float_odd(value)); }
};

// f applied to both halves. The sum of two halves may not fit a double exactly (bf16), but then the
// smaller is below half a unit of the larger, and round-to-odd in store() has nothing to repair.
template <class Half, class F>
std::uint32_t half_pair(std::uint32_t a, std::uint32_t b, F&& f) {
  std::uint32_t low = Half::store(f(Half::load(a), Half::load(b)));
  std::uint32_t high = Half::store(f(Half::load(a >> 16), Half::load(b >> 16)));
  return low | high << 16;
}

}  // namespace sagegen::emulator
