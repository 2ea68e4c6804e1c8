// Operands of tensor-core probes: tiles of codes, filled so that the models of the arithmetic
// disagree.
//
// A case takes one Fill for A and B and one FillC for C; every pair of them occurs. What each is
// for:
//   moderate        results that are not representable: truncation or rounding of the result
//   spread          every exponent: how many bits survive the alignment to the largest term
//                   (13, 23, 24, 25)
//   cancelling      neighbours in k cancel: bits lost before, not after, the sum
//   cancelling_far  elements half an instruction apart cancel: one block, or two chained halves
//   huge_and_tiny   one product above many small ones: truncation of each term; exact sums keep all
//   subnormal       unnormalised factors: their exponent in the alignment
//   specials        NaN and infinity (256 and 448 where a format has none), and zeros
//   single          one product, a power of two: with FillC::tie, the rounding of ties
//   any_bits        whatever else there is
// and C, in relation to the sum of the products: zero (of either sign), similar, larger, smaller,
// opposite (the whole cancels: sign of zero, lost bits), tie (the sum is half a unit of C's last
// place), any_bits.
#pragma once

#include <cstdint>
#include <vector>

#include "tools/hardware/probe.h"

namespace sagegen::hardware {

// A format of operands or accumulators.
struct Format {
  const char* name;
  int exponent_bits, fraction_bits;

  int width() const { return 1 + exponent_bits + fraction_bits; }
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int largest_field() const { return (1 << exponent_bits) - 2; }  // of codes that are always finite
  std::uint32_t mask() const { return 0xffffffffu >> (32 - width()); }
  double value(std::uint32_t code) const;  // of a finite code
};
inline constexpr Format kF16{"f16", 5, 10};
inline constexpr Format kBf16{"bf16", 8, 7};
inline constexpr Format kE4M3{"e4m3", 4, 3};
inline constexpr Format kE5M2{"e5m2", 5, 2};
inline constexpr Format kTf32{"tf32", 8, 10};  // the upper bits of an f32
inline constexpr Format kF32{"f32", 8, 23};

enum class Fill {
  moderate,
  spread,
  cancelling,
  cancelling_far,
  huge_and_tiny,
  subnormal,
  specials,
  single,
  any_bits
};
inline constexpr int kFills = 9;
enum class FillC { zero, similar, larger, smaller, opposite, tie, any_bits };
inline constexpr int kFillsC = 7;

// D = A B + C: A is rows x k, B is columns x k, C is rows x columns; all row-major codes. One
// instruction takes k_step elements of k.
struct Tile {
  Format a, b, c;
  int rows = 0, columns = 0, k = 0, k_step = 0;
  std::vector<std::uint32_t> a_codes{}, b_codes{}, c_codes{};
};

void fill_tile(Fill fill, FillC fill_c, Random& random, Tile& tile);

// Codes [first, first + 32 / width) in one word, the first in the lowest bits.
std::uint32_t packed(const std::vector<std::uint32_t>& codes, int first, const Format& format);

}  // namespace sagegen::hardware
