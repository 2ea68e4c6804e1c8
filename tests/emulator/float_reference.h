// References for floating-point tests: values in 113 bits, rounded to a format by definition.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "tests/emulator/exec_fixture.h"

namespace sagegen::emulator::test {

using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;
using Quad = __float128;  // 113 bits

// A binary format by its parameters; values are compared and rounded by definition, bit by bit.
struct Format {
  int fraction_bits;
  int min_exponent;  // of normal numbers
  int max_exponent;
  int width;
};
inline constexpr Format kF32 = {23, -126, 127, 32};
inline constexpr Format kF16 = {10, -14, 15, 16};
inline constexpr Format kBf16 = {7, -126, 127, 16};

inline Quad power_of_two(int e) {
  Quad r = 1;
  for (; e > 0; --e) r *= 2;
  for (; e < 0; ++e) r /= 2;
  return r;
}

enum class Mode { nearest, zero, down, up };
struct Rounding {
  const char* name;
  Mode mode;
};
inline constexpr Rounding kRoundings[] = {
    {".rn", Mode::nearest}, {".rz", Mode::zero}, {".rm", Mode::down}, {".rp", Mode::up}};

inline u64 nan_of(const Format& f) { return (u64{1} << (f.width - 1)) - 1; }
inline u64 infinity_of(const Format& f) {
  return (u64{1} << (f.width - 1)) - (u64{1} << f.fraction_bits);
}

// Rounds x (finite) to the format: the two neighbours are searched, then the mode chooses.
inline u64 round_to(const Format& f, Quad x, Mode mode, bool zero_is_negative) {
  u64 sign_bit = u64{1} << (f.width - 1);
  if (x == 0) return zero_is_negative ? sign_bit : 0;
  bool negative = x < 0;
  Quad magnitude = negative ? -x : x;
  int exponent = f.min_exponent;
  Quad top = power_of_two(exponent + 1);
  while (magnitude >= top && exponent <= f.max_exponent) {
    ++exponent;
    top *= 2;
  }
  Quad unit = power_of_two(exponent - f.fraction_bits);
  Quad steps = magnitude / unit;  // exact: a power of two
  // The integer part, without relying on a library for Quad.
  u64 whole = static_cast<u64>(steps > static_cast<Quad>(1ull << 62) ? static_cast<Quad>(1ull << 62)
                                                                     : steps);
  Quad rest = steps - static_cast<Quad>(whole);
  bool up = mode == Mode::nearest ? rest > 0.5 || (rest == 0.5 && (whole & 1) != 0)
            : mode == Mode::up    ? !negative && rest > 0
            : mode == Mode::down  ? negative && rest > 0
                                  : false;
  whole += up ? 1 : 0;
  u64 bits;
  if (whole >= u64{2} << f.fraction_bits) {  // carried into the next exponent
    whole >>= 1;
    ++exponent;
  }
  if (exponent > f.max_exponent) {
    bool to_infinity = mode == Mode::nearest || (mode == Mode::up && !negative) ||
                       (mode == Mode::down && negative);
    bits = to_infinity ? infinity_of(f) : infinity_of(f) - 1;
  } else if (whole < u64{1} << f.fraction_bits) {  // subnormal: the exponent is the lowest
    bits = whole;
  } else {
    bits = (whole - (u64{1} << f.fraction_bits)) | static_cast<u64>(exponent - f.min_exponent + 1)
                                                       << f.fraction_bits;
  }
  return bits | (negative ? sign_bit : 0);
}

// Any double or Quad, with the special cases of arithmetic results.
inline u64 store(const Format& f, Quad x, Mode mode = Mode::nearest, bool negative_zero = false) {
  double d = static_cast<double>(x);
  if (std::isnan(d)) return nan_of(f);
  if (x > static_cast<Quad>(std::numeric_limits<double>::max()) || std::isinf(d)) {
    if (x - x != 0)
      return infinity_of(f) | (x < 0 ? u64{1} << (f.width - 1) : 0);  // a true infinity
  }
  return round_to(f, x, mode, negative_zero);
}

// a + b in 113 bits, rounded to odd: the last bit says that something was lost, so that a tie or a
// directed rounding later is decided rightly.
inline Quad exact_sum(Quad a, Quad b) {
  Quad sum = a + b;
  Quad back = sum - a;  // Knuth's two-sum
  Quad lost = (a - (sum - back)) + (b - back);
  if (sum - sum != 0 || lost == 0 || sum == 0) return sum;
  unsigned __int128 bits;
  std::memcpy(&bits, &sum, sizeof bits);
  if ((bits & 1) == 0) bits = (lost > 0) == (sum > 0) ? bits + 1 : bits - 1;
  std::memcpy(&sum, &bits, sizeof bits);
  return sum;
}

inline float flush(float x) {
  return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x;
}
inline u32 flush_bits(u64 bits) { return bits_of(flush(as_float(bits))); }

// The sign of a zero result of a + b, a * b, by IEEE 754 (round to nearest).
inline bool sum_zero_negative(float a, float b, bool down) {
  if (std::signbit(a) == std::signbit(b)) return std::signbit(a);
  return down;
}

// The value of the low bits, by the format's definition.
inline double value_of(const Format& f, u64 bits) {
  const int exponent_bits = f.width - 1 - f.fraction_bits;
  const u64 fraction = bits & ((u64{1} << f.fraction_bits) - 1);
  const int exponent = static_cast<int>(bits >> f.fraction_bits & ((u64{1} << exponent_bits) - 1));
  double magnitude;
  if (exponent == (1 << exponent_bits) - 1) {
    magnitude = fraction != 0 ? std::numeric_limits<double>::quiet_NaN()
                              : std::numeric_limits<double>::infinity();
  } else {
    const u64 whole = exponent == 0 ? fraction : fraction | u64{1} << f.fraction_bits;
    magnitude = std::ldexp(static_cast<double>(whole),
                           std::max(exponent, 1) - 1 + f.min_exponent - f.fraction_bits);
  }
  return (bits >> (f.width - 1) & 1) != 0 ? -magnitude : magnitude;
}
inline double half_value(u64 bits) { return value_of(kF16, bits); }
inline double bhalf_value(u64 bits) { return value_of(kBf16, bits); }

}  // namespace sagegen::emulator::test
