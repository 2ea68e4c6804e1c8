#include "runtime/emulator/numerics/fused_sum.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <span>

namespace sagegen::emulator {
namespace {

constexpr std::uint32_t kNan32 = 0x7fffffffu;
constexpr std::uint32_t kNan16 = 0x7fffu;

// value = (-1)^negative * significand * 2^(exponent - fraction bits of its format), unnormalised.
struct Number {
  std::uint32_t significand = 0;
  int exponent = 0;
  bool negative = false;
  enum class Kind { finite, infinite, nan } kind = Kind::finite;
};

Number unpack(std::uint32_t bits, int exponent_bits, int fraction_bits, bool has_infinity) {
  const std::uint32_t fraction = bits & ((1u << fraction_bits) - 1u);
  const std::uint32_t field_max = (1u << exponent_bits) - 1u;
  const std::uint32_t field = (bits >> fraction_bits) & field_max;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  Number n;
  n.negative = ((bits >> (fraction_bits + exponent_bits)) & 1u) != 0;
  n.significand = fraction | (field != 0 ? 1u << fraction_bits : 0u);
  n.exponent = static_cast<int>(std::max(field, 1u)) - bias;
  if (field == field_max) {
    if (has_infinity) {
      n.kind = fraction == 0 ? Number::Kind::infinite : Number::Kind::nan;
    } else if (fraction == (1u << fraction_bits) - 1u) {
      n.kind = Number::Kind::nan;
    }
  }
  return n;
}

Number unpack(MmaType type, std::uint32_t bits) {
  switch (type) {
    case MmaType::f16:
      return unpack(bits, 5, 10, true);
    case MmaType::bf16:
      return unpack(bits, 8, 7, true);
    case MmaType::tf32:
      return unpack(bits >> 13, 8, 10, true);
    case MmaType::e4m3:
      return unpack(bits, 4, 3, false);
    default:
      return unpack(bits, 5, 2, true);
  }
}

// Sum of terms before rounding: NaN, an infinity, or integer * 2^exponent.
struct Sum {
  Number::Kind kind = Number::Kind::finite;
  bool negative = false;  // of an infinity
  std::int64_t integer = 0;
  int exponent = 0;
};

std::uint64_t shift(std::uint64_t value, int left) {
  if (left >= 0) {
    return value << left;
  }
  return left > -64 ? value >> -left : 0;
}

// Products of a and b and the accumulator c (c_fraction_bits after its point), by the fused rule.
Sum fused_sum(std::span<const Number> a, std::span<const Number> b, int product_fraction_bits,
              const Number& c, int c_fraction_bits, int kept) {
  bool nan = c.kind == Number::Kind::nan;
  bool positive_infinity = c.kind == Number::Kind::infinite && !c.negative;
  bool negative_infinity = c.kind == Number::Kind::infinite && c.negative;
  int top = c.significand != 0 ? c.exponent : -126;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].kind == Number::Kind::finite && b[i].kind == Number::Kind::finite) {
      if (a[i].significand != 0 && b[i].significand != 0) {
        top = std::max(top, a[i].exponent + b[i].exponent);
      }
      continue;
    }
    const bool zero = (a[i].kind == Number::Kind::finite && a[i].significand == 0) ||
                      (b[i].kind == Number::Kind::finite && b[i].significand == 0);
    if (a[i].kind == Number::Kind::nan || b[i].kind == Number::Kind::nan || zero) {
      nan = true;
    } else {
      (a[i].negative != b[i].negative ? negative_infinity : positive_infinity) = true;
    }
  }
  if (nan || (positive_infinity && negative_infinity)) {
    return {.kind = Number::Kind::nan};
  }
  if (positive_infinity || negative_infinity) {
    return {.kind = Number::Kind::infinite, .negative = negative_infinity};
  }
  auto aligned = [&](std::uint64_t magnitude, int fraction_bits, int exponent, bool negative) {
    const int left = kept - fraction_bits - (top - exponent);
    const auto term = static_cast<std::int64_t>(magnitude != 0 ? shift(magnitude, left) : 0);
    return negative ? -term : term;
  };
  Sum sum;
  sum.exponent = top - kept;
  sum.integer = aligned(c.significand, c_fraction_bits, c.exponent, c.negative);
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum.integer +=
        aligned(std::uint64_t{a[i].significand} * b[i].significand, product_fraction_bits,
                a[i].exponent + b[i].exponent, a[i].negative != b[i].negative);
  }
  return sum;
}

// Truncation to an f32 with `kept` fraction bits. A sum of exactly zero is +0.
std::uint32_t truncate_f32(const Sum& sum, int kept) {
  if (sum.kind == Number::Kind::nan) {
    return kNan32;
  }
  if (sum.kind == Number::Kind::infinite) {
    return 0x7f800000u | (sum.negative ? 0x80000000u : 0u);
  }
  if (sum.integer == 0) {
    return 0;
  }
  const std::uint32_t sign = sum.integer < 0 ? 0x80000000u : 0u;
  const auto magnitude = static_cast<std::uint64_t>(std::llabs(sum.integer));
  const int leading = 63 - std::countl_zero(magnitude) + sum.exponent;
  if (leading > 127) {
    return sign | 0x7f800000u;
  }
  const int exponent = std::max(leading, -126);
  const auto significand =
      static_cast<std::uint32_t>(shift(magnitude, sum.exponent - (exponent - kept)) << (23 - kept));
  const std::uint32_t field =
      (significand >> 23) != 0 ? static_cast<std::uint32_t>(exponent + 127) : 0u;
  return sign | (field << 23) | (significand & 0x7fffffu);
}

// One rounding to the nearest f16 of a value that the double holds exactly, or holds rounded to
// odd.
std::uint32_t round_f16(double value) {
  if (std::isnan(value)) {
    return kNan16;
  }
  const std::uint32_t sign = std::signbit(value) ? 0x8000u : 0u;
  const double magnitude = std::fabs(value);
  if (magnitude >= 65520.0) {  // halfway between the largest f16 and the next power of two
    return sign | 0x7c00u;
  }
  const int exponent = std::max(magnitude > 0 ? std::ilogb(magnitude) : -14, -14);
  const double quantum = std::ldexp(1.0, exponent - 10);
  const auto units = static_cast<std::uint32_t>(std::nearbyint(magnitude / quantum));
  return sign | (units + (static_cast<std::uint32_t>(exponent + 14) << 10));
}

std::uint32_t round_f16(const Sum& sum) {
  if (sum.kind == Number::Kind::nan) {
    return kNan16;
  }
  if (sum.kind == Number::Kind::infinite) {
    return 0x7c00u | (sum.negative ? 0x8000u : 0u);
  }
  return round_f16(std::ldexp(static_cast<double>(sum.integer), sum.exponent));
}

// Exact fixed-point sum wide enough for every product of bf16 and every f32: 2^-320 .. 2^320.
class WideSum {
 public:
  // Adds (-1)^negative * magnitude * 2^exponent.
  void add(std::uint64_t magnitude, int exponent, bool negative) {
    const int position = exponent + kBias;
    const int word = position / 64;
    const int bit = position % 64;
    const std::uint64_t low = magnitude << bit;
    const std::uint64_t high = bit == 0 ? 0 : magnitude >> (64 - bit);
    std::uint64_t carry = 0;
    for (int i = word; i < kWords; ++i) {
      const std::uint64_t part = i == word ? low : i == word + 1 ? high : 0;
      const std::uint64_t before = words_[i];
      if (negative) {
        const std::uint64_t difference = before - part;
        words_[i] = difference - carry;
        carry = (before < part ? 1u : 0u) | (difference < carry ? 1u : 0u);
      } else {
        const std::uint64_t total = before + part;
        words_[i] = total + carry;
        carry = (total < before ? 1u : 0u) | (words_[i] < total ? 1u : 0u);
      }
    }
  }

  // The value rounded to odd at 53 bits: one further rounding to f32 or f16 is a single correct
  // rounding.
  double to_odd() const {
    std::array<std::uint64_t, kWords> magnitude = words_;
    const bool negative = (words_[kWords - 1] >> 63) != 0;
    if (negative) {
      std::uint64_t carry = 1;
      for (auto& word : magnitude) {
        word = ~word + carry;
        carry = carry != 0 && word == 0 ? 1 : 0;
      }
    }
    int top = kWords - 1;
    while (top >= 0 && magnitude[top] == 0) {
      --top;
    }
    if (top < 0) {
      return 0.0;
    }
    const int skip = std::countl_zero(magnitude[top]);
    std::uint64_t leading = magnitude[top] << skip;
    bool rest = false;
    if (top > 0) {
      leading |= skip == 0 ? 0 : magnitude[top - 1] >> (64 - skip);
      rest = skip == 0 ? magnitude[top - 1] != 0 : (magnitude[top - 1] << skip) != 0;
      for (int i = 0; i < top - 1; ++i) {
        rest = rest || magnitude[i] != 0;
      }
    }
    rest = rest || (leading & 0x7ffu) != 0;
    const std::uint64_t significand = (leading >> 11) | (rest ? 1u : 0u);
    const double value = std::ldexp(static_cast<double>(significand), top * 64 + 11 - skip - kBias);
    return negative ? -value : value;
  }

 private:
  static constexpr int kWords = 10;
  static constexpr int kBias = 320;
  std::array<std::uint64_t, kWords> words_{};  // two's complement, least significant first
};

// The exact sum, or the infinity or NaN, as a double rounded to odd.
double exact_sum(std::span<const Number> a, std::span<const Number> b, int product_fraction_bits,
                 const Number& c, int c_fraction_bits) {
  const Sum special = fused_sum(a, b, product_fraction_bits, c, c_fraction_bits, 24);
  if (special.kind == Number::Kind::nan) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  if (special.kind == Number::Kind::infinite) {
    const double infinity = std::numeric_limits<double>::infinity();
    return special.negative ? -infinity : infinity;
  }
  WideSum sum;
  sum.add(c.significand, c.exponent - c_fraction_bits, c.negative);
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum.add(std::uint64_t{a[i].significand} * b[i].significand,
            a[i].exponent + b[i].exponent - product_fraction_bits, a[i].negative != b[i].negative);
  }
  return sum.to_odd();
}

struct Accumulator {
  bool f16 = false;
  int fraction_bits() const { return f16 ? 10 : 23; }
  Number unpack(std::uint32_t bits) const {
    return f16 ? emulator::unpack(bits, 5, 10, true) : emulator::unpack(bits, 8, 23, true);
  }
  // The ordinary rounded addition of the ALU (FADD, HADD2).
  std::uint32_t add(std::uint32_t x, std::uint32_t y) const {
    if (f16) {
      return round_f16(static_cast<double>(f16_to_f32(static_cast<std::uint16_t>(x))) +
                       static_cast<double>(f16_to_f32(static_cast<std::uint16_t>(y))));
    }
    return std::bit_cast<std::uint32_t>(
        canonical_nan(std::bit_cast<float>(x) + std::bit_cast<float>(y)));
  }
};

std::uint32_t one_output(const FusedRule& rule, std::span<const Number> a,
                         std::span<const Number> b, int product_fraction_bits, std::uint32_t c,
                         const Accumulator& accumulator) {
  const int c_fraction_bits = accumulator.fraction_bits();
  if (rule.exact) {
    const double sum =
        exact_sum(a, b, product_fraction_bits, accumulator.unpack(c), c_fraction_bits);
    return accumulator.f16 ? round_f16(sum)
                           : std::bit_cast<std::uint32_t>(canonical_nan(static_cast<float>(sum)));
  }
  auto block = [&](std::size_t from, std::size_t count, std::uint32_t carried) {
    const Sum sum = fused_sum(a.subspan(from, count), b.subspan(from, count), product_fraction_bits,
                              accumulator.unpack(carried), c_fraction_bits, rule.fraction_bits);
    return accumulator.f16 ? round_f16(sum) : truncate_f32(sum, rule.result_fraction_bits);
  };
  const std::size_t half = a.size() / 2;
  switch (rule.chain) {
    case Chain::one_block:
      return block(0, a.size(), c);
    case Chain::halves:
      return block(half, half, block(0, half, c));
    case Chain::emulated:
      return accumulator.add(c, block(half, half, block(0, half, 0)));
  }
  return 0;
}

// Bits of element k of the row of 16 or 32 bytes that lanes 4*line .. 4*line+3 hold in one or two
// registers.
std::uint32_t element(const std::uint32_t* low, const std::uint32_t* high, int line, int bits,
                      int k) {
  const int per_register = 4 * 32 / bits;  // elements of a row in one register of its four lanes
  const std::uint32_t* source = k < per_register ? low : high;
  const int position = k % per_register;
  const std::uint32_t word = source[4 * line + position * bits / 32];
  return (word >> (position * bits % 32)) & (0xffffffffu >> (32 - bits));
}

}  // namespace

void fused_mma_complete(const MmaShape& shape, const FusedRule& rule, MmaRegisters& registers) {
  const auto depth = static_cast<std::size_t>(shape.k);
  std::array<std::array<Number, 32>, 16> a;
  std::array<std::array<Number, 32>, 8> b;
  for (int k = 0; k < shape.k; ++k) {
    const int at = block_order(rule.chain, shape.k, k);
    for (int row = 0; row < 16; ++row) {
      const int upper = row >> 3;
      a[row][at] = unpack(shape.a, element(registers.a[upper], registers.a[2 + upper], row & 7,
                                           bits_of(shape.a), k));
    }
    for (int column = 0; column < 8; ++column) {
      b[column][at] =
          unpack(shape.b, element(registers.b[0], registers.b[1], column, bits_of(shape.b), k));
    }
  }
  const Accumulator accumulator{shape.f16_accumulator};
  for (auto& reg : registers.d) {
    std::fill(std::begin(reg), std::end(reg), 0u);  // results are put in by halves with f16
  }
  const int product_fraction_bits = fraction_bits_of(shape.a) + fraction_bits_of(shape.b);
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      const int lane = 4 * (row & 7) + (column >> 1);
      const int upper = row >> 3;
      const int at = shape.f16_accumulator ? upper : 2 * upper + (column & 1);
      const int low_bit = shape.f16_accumulator ? 16 * (column & 1) : 0;
      const std::uint32_t mask = shape.f16_accumulator ? 0xffffu << low_bit : 0xffffffffu;
      const std::uint32_t c = (registers.c[at][lane] & mask) >> low_bit;
      const std::uint32_t d =
          one_output(rule, std::span(a[row]).first(depth), std::span(b[column]).first(depth),
                     product_fraction_bits, c, accumulator);
      registers.d[at][lane] |= d << low_bit;
    }
  }
}

}  // namespace sagegen::emulator
