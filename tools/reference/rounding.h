// Rounding of doubles to the storage formats, to nearest with ties to even, in one step.
//
// Written from the formats' definitions (significand bits, least exponent, largest value) and meant
// to disagree with nobody: the emulator has its own code, and tests compare both with tables.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "tools/reference/reference.h"

namespace sagegen::reference {

// A binary format: a finite value is integer * 2^e with |integer| < 2^(fraction_bits + 1) and
// e >= min_exponent - fraction_bits.
struct Format {
  int fraction_bits;  // explicit significand bits
  int min_exponent;   // of the smallest normal number
  double largest;     // largest finite value
};
inline constexpr Format kF16{.fraction_bits = 10, .min_exponent = -14, .largest = 65504.0};
inline constexpr Format kBf16{.fraction_bits = 7, .min_exponent = -126, .largest = 0x1.FEp127};
inline constexpr Format kF32{.fraction_bits = 23, .min_exponent = -126, .largest = 0x1.FFFFFEp127};
inline constexpr Format kE4m3{.fraction_bits = 3, .min_exponent = -6, .largest = 448.0};

constexpr Format format_of(IoType type) {
  switch (type) {
    case IoType::f16:
      return kF16;
    case IoType::bf16:
      return kBf16;
    case IoType::f32:
      return kF32;
  }
  return kF32;
}

inline double power_of_two(int exponent) {
  return std::bit_cast<double>(static_cast<std::uint64_t>(exponent + 1023) << 52);
}

// x rounded to the format's grid, with no upper limit. Branch-free, so that loops over it
// vectorize. Adding and subtracting 1.5 * 2^52 units rounds to a whole number of units in the mode
// of the processor, which is nearest-even. NaN, infinities and values from 2^900 pass through.
inline double round_to_grid(double x, Format format) {
  constexpr std::uint64_t kExponent = 0x7FF0000000000000u;
  const double power = std::bit_cast<double>(std::bit_cast<std::uint64_t>(x) & kExponent);
  const double least = power_of_two(format.min_exponent);
  const double unit = (power > least ? power : least) * power_of_two(-format.fraction_bits);
  const double magic = unit * 0x1.8p52;
  const double rounded = (x + magic) - magic;
  return std::fabs(x) < 0x1p900 ? std::copysign(rounded, x) : x;
}

// IEEE: a value that rounds beyond the largest becomes infinite.
inline double round_ieee(double x, Format format) {
  const double r = round_to_grid(x, format);
  const double infinity = std::numeric_limits<double>::infinity();
  return std::fabs(r) > format.largest ? std::copysign(infinity, x) : r;
}

// Saturating: anything beyond the largest, infinities included, becomes the largest. NaN stays NaN.
inline double round_satfinite(double x, Format format) {
  const double r = round_to_grid(x, format);
  return std::fabs(r) > format.largest ? std::copysign(format.largest, x) : r;
}

// The largest magnitude that O may have: beyond it codes saturate.
inline double largest_output(const QuantModel& m) {
  if (m.output_codes != QuantModel::OutputCodes::e4m3)
    return std::numeric_limits<double>::infinity();
  return kE4m3.largest / m.output_factor;
}

// Half of the distance between two values that O may have about a magnitude; amax: of the row.
inline double half_output_step(const QuantModel& m, double magnitude, double amax) {
  if (m.output_codes == QuantModel::OutputCodes::s8) return amax / 254 * (1 + 0x1p-14);
  const bool codes = m.output_codes == QuantModel::OutputCodes::e4m3;
  const Format format = codes ? kE4m3 : format_of(m.output);
  const double factor = codes ? m.output_factor : 1;
  const double scaled = magnitude * factor;
  const int exponent =
      scaled > 0 ? std::max(std::ilogb(scaled), format.min_exponent) : format.min_exponent;
  return std::ldexp(0.5, exponent - format.fraction_bits) / factor;
}

// Bits of a value of the format, for files and tests; x must lie on the grid (or be NaN or
// infinite).
std::uint16_t f16_bits(double x);
double f16_value(std::uint16_t bits);
std::uint16_t bf16_bits(double x);
double bf16_value(std::uint16_t bits);
std::uint8_t e4m3_bits(double x);
double e4m3_value(std::uint8_t bits);

}  // namespace sagegen::reference
