#include "tools/reference/rounding.h"

namespace sagegen::reference {

namespace {

// Sign, biased exponent, fraction of an IEEE-like format of `width` bits, for x on its grid and
// finite.
std::uint32_t encode_finite(double x, Format format, int width) {
  const std::uint32_t sign = std::signbit(x) ? 1u << (width - 1) : 0u;
  const double magnitude = std::fabs(x);
  if (magnitude == 0.0) return sign;
  const int exponent = std::max(std::ilogb(magnitude), format.min_exponent);
  const auto significand =
      static_cast<std::uint32_t>(std::ldexp(magnitude, format.fraction_bits - exponent));
  const std::uint32_t implicit_one = 1u << format.fraction_bits;
  const std::uint32_t biased = significand < implicit_one
                                   ? 0u
                                   : static_cast<std::uint32_t>(exponent - format.min_exponent + 1);
  return sign | biased << format.fraction_bits | (significand & (implicit_one - 1));
}

double decode_finite(std::uint32_t bits, Format format, int width) {
  const bool negative = (bits >> (width - 1)) & 1u;
  const std::uint32_t implicit_one = 1u << format.fraction_bits;
  const std::uint32_t fraction = bits & (implicit_one - 1);
  const std::uint32_t biased = (bits & ((1u << (width - 1)) - 1)) >> format.fraction_bits;
  const std::uint32_t significand = biased == 0 ? fraction : fraction | implicit_one;
  const int exponent = format.min_exponent + static_cast<int>(biased == 0 ? 0 : biased - 1);
  const double magnitude = std::ldexp(significand, exponent - format.fraction_bits);
  return negative ? -magnitude : magnitude;
}

std::uint16_t encode_ieee16(double x, Format format) {
  const std::uint32_t exponent_mask = 0x7FFFu & ~((1u << format.fraction_bits) - 1);
  const std::uint32_t sign = std::signbit(x) ? 0x8000u : 0u;
  if (std::isnan(x)) return 0x7FFFu;
  if (std::isinf(x)) return static_cast<std::uint16_t>(sign | exponent_mask);
  return static_cast<std::uint16_t>(encode_finite(x, format, 16));
}

double decode_ieee16(std::uint16_t bits, Format format) {
  const std::uint32_t fraction_mask = (1u << format.fraction_bits) - 1;
  const std::uint32_t exponent_mask = 0x7FFFu & ~fraction_mask;
  if ((bits & exponent_mask) == exponent_mask) {
    if (bits & fraction_mask) return std::numeric_limits<double>::quiet_NaN();
    const double infinity = std::numeric_limits<double>::infinity();
    return bits & 0x8000u ? -infinity : infinity;
  }
  return decode_finite(bits, format, 16);
}

}  // namespace

std::uint16_t f16_bits(double x) { return encode_ieee16(x, kF16); }
double f16_value(std::uint16_t bits) { return decode_ieee16(bits, kF16); }
std::uint16_t bf16_bits(double x) { return encode_ieee16(x, kBf16); }
double bf16_value(std::uint16_t bits) { return decode_ieee16(bits, kBf16); }

// e4m3 has no infinity; all ones is NaN, so its largest exponent holds finite values up to 448.
std::uint8_t e4m3_bits(double x) {
  if (std::isnan(x)) return 0x7Fu;
  return static_cast<std::uint8_t>(encode_finite(x, kE4m3, 8));
}
double e4m3_value(std::uint8_t bits) {
  if ((bits & 0x7Fu) == 0x7Fu) return std::numeric_limits<double>::quiet_NaN();
  return decode_finite(bits, kE4m3, 8);
}

void round_to(IoType type, Tensor& tensor) {
  const Format format = format_of(type);
  for (float& value : tensor.data) value = static_cast<float>(round_ieee(value, format));
}

}  // namespace sagegen::reference
