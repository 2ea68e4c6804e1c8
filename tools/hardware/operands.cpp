#include "tools/hardware/operands.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace sagegen::hardware {
namespace {

// A finite code whose exponent field is in [low, high].
std::uint32_t finite_code(const Format& format, int low, int high, Random& random) {
  low = std::clamp(low, 0, format.largest_field());
  high = std::clamp(high, low, format.largest_field());
  const auto field = static_cast<std::uint32_t>(low + random.below(high - low + 1));
  const std::uint32_t sign = random.word() & 1u;
  return (sign << (format.width() - 1)) | (field << format.fraction_bits) |
         (random.word() & ((1u << format.fraction_bits) - 1u));
}

// A zero, NaN or infinity; in e4m3 256 or 448 instead of infinity.
std::uint32_t special_code(const Format& format, Random& random) {
  const std::uint32_t ones = ((1u << format.exponent_bits) - 1u) << format.fraction_bits;
  const std::uint32_t codes[] = {0u, ones | ((1u << format.fraction_bits) - 1u), ones,
                                 ones | (((1u << format.fraction_bits) - 1u) & ~1u)};
  return codes[random.below(format.exponent_bits == 4 ? 4 : 3)] |
         ((random.word() & 1u) << (format.width() - 1));
}

// chosen: this element of k is the one that `huge_and_tiny` and `single` set apart.
std::uint32_t operand_code(const Format& format, Fill fill, bool chosen, Random& random) {
  const int one = format.bias();
  switch (fill) {
    case Fill::spread:
      return finite_code(format, 0, 1 << format.exponent_bits, random);
    case Fill::huge_and_tiny:
      return chosen ? finite_code(format, one + 4, one + 6, random)
                    : finite_code(format, one - 6, one - 3, random);
    case Fill::subnormal:
      return random.below(8) == 0 ? finite_code(format, one - 2, one + 2, random)
                                  : finite_code(format, 0, random.below(4) == 0 ? 1 : 0, random);
    case Fill::specials:
      if (random.below(64) == 0) {
        return special_code(format, random);
      }
      break;
    case Fill::single:
      return chosen ? finite_code(format, one - 2, one + 2, random) >> format.fraction_bits
                                                                           << format.fraction_bits
                    : 0u;
    case Fill::any_bits:
      return random.word() & format.mask();
    case Fill::moderate:
    case Fill::cancelling:
    case Fill::cancelling_far:
      break;
  }
  return finite_code(format, one - 3, one + 3, random);
}

std::vector<double> values(const std::vector<std::uint32_t>& codes, const Format& format) {
  std::vector<double> result;
  for (const std::uint32_t code : codes) {
    result.push_back(format.value(code));
  }
  return result;
}

// A code near a finite value: how it is rounded does not matter, only that it is the same
// everywhere.
std::uint32_t near_code(const Format& format, double value) {
  if (format.width() == 32) {
    return std::bit_cast<std::uint32_t>(static_cast<float>(value));
  }
  const std::uint32_t sign = std::signbit(value) ? 1u << (format.width() - 1) : 0u;
  const double magnitude = std::fabs(value);
  if (magnitude < std::ldexp(1.0, 1 - format.bias())) {
    return sign;
  }
  const int exponent = std::min(std::ilogb(magnitude), format.bias());
  const double fraction =
      std::min(std::ldexp(magnitude, -exponent) - 1.0, 1.0 - std::ldexp(1.0, -12));
  return sign | (static_cast<std::uint32_t>(exponent + format.bias()) << format.fraction_bits) |
         static_cast<std::uint32_t>(std::ldexp(fraction, format.fraction_bits));
}

std::uint32_t accumulator_code(const Format& format, FillC fill, double sum, Random& random) {
  const int scale = format.bias() + (std::isfinite(sum) && sum != 0 ? std::ilogb(sum) : 0);
  switch (fill) {
    case FillC::zero:
      return random.below(8) == 0 ? 1u << (format.width() - 1) : 0u;
    case FillC::similar:
      return finite_code(format, scale - 2, scale + 2, random);
    case FillC::larger:
      return finite_code(format, scale + 8, scale + 30, random);
    case FillC::smaller:
      return finite_code(format, scale - 40, scale - 8, random);
    case FillC::opposite:
      return std::isfinite(sum) ? near_code(format, -sum) : 0u;
    case FillC::tie: {
      const int field = scale + format.fraction_bits + 1;
      return finite_code(format, field, field, random);
    }
    case FillC::any_bits:
      break;
  }
  return random.word() & format.mask();
}

// Element k + distance of each pair repeats element k, with B negated; a few of A differ in the
// last bit.
void cancel(Tile& tile, int distance, Random& random) {
  for (int k = 0; k < tile.k; ++k) {
    if ((k / distance) % 2 == 1) {
      continue;
    }
    for (int row = 0; row < tile.rows; ++row) {
      const auto at = static_cast<std::size_t>(row * tile.k + k);
      tile.a_codes[at + static_cast<std::size_t>(distance)] =
          tile.a_codes[at] ^ (random.below(8) == 0 ? 1u : 0u);
    }
    for (int column = 0; column < tile.columns; ++column) {
      const auto at = static_cast<std::size_t>(column * tile.k + k);
      tile.b_codes[at + static_cast<std::size_t>(distance)] =
          tile.b_codes[at] ^ (1u << (tile.b.width() - 1));
    }
  }
}

}  // namespace

double Format::value(std::uint32_t code) const {
  const auto field = static_cast<int>((code >> fraction_bits) & ((1u << exponent_bits) - 1u));
  const double fraction = code & ((1u << fraction_bits) - 1u);
  const double hidden = field == 0 ? 0.0 : std::ldexp(1.0, fraction_bits);
  const double magnitude =
      std::ldexp(fraction + hidden, (field == 0 ? 1 : field) - bias() - fraction_bits);
  return ((code >> (width() - 1)) & 1u) != 0 ? -magnitude : magnitude;
}

void fill_tile(Fill fill, FillC fill_c, Random& random, Tile& tile) {
  const int chosen = random.below(tile.k);
  auto fill_codes = [&](std::vector<std::uint32_t>& codes, const Format& format, int count) {
    codes.resize(static_cast<std::size_t>(count * tile.k));
    for (std::size_t i = 0; i < codes.size(); ++i) {
      codes[i] = operand_code(format, fill, static_cast<int>(i) % tile.k == chosen, random);
    }
  };
  fill_codes(tile.a_codes, tile.a, tile.rows);
  fill_codes(tile.b_codes, tile.b, tile.columns);
  if (fill == Fill::cancelling) {
    cancel(tile, 1, random);
  } else if (fill == Fill::cancelling_far) {
    cancel(tile, tile.k_step / 2, random);
  }
  const std::vector<double> a = values(tile.a_codes, tile.a);
  const std::vector<double> b = values(tile.b_codes, tile.b);
  const auto k = static_cast<std::size_t>(tile.k);
  tile.c_codes.clear();
  for (std::size_t row = 0; row < a.size(); row += k) {
    for (std::size_t column = 0; column < b.size(); column += k) {
      double sum = 0;
      for (std::size_t i = 0; i < k; ++i) {
        sum += a[row + i] * b[column + i];
      }
      tile.c_codes.push_back(accumulator_code(tile.c, fill_c, sum, random));
    }
  }
}

std::uint32_t packed(const std::vector<std::uint32_t>& codes, int first, const Format& format) {
  std::uint32_t word = 0;
  for (int i = 0; i < 32 / format.width(); ++i) {
    word |= codes[static_cast<std::size_t>(first + i)] << (format.width() * i);
  }
  return word;
}

}  // namespace sagegen::hardware
