#include "tools/pictures/measure/digits.h"

#include <fmt/format.h>

#include <bit>

#include "tools/pictures/measure/kernels.h"

namespace sagegen::pictures {

std::uint32_t code_of(DType type, int digit) {
  if (digit == 0) return 0;
  const int exponent = std::bit_width(static_cast<unsigned>(digit)) - 1;
  const int fraction_bits = type == DType::e4m3 ? 3 : type == DType::f16 ? 10 : 7;
  const int bias = type == DType::e4m3 ? 7 : type == DType::f16 ? 15 : 127;
  const int fraction = (digit << fraction_bits >> exponent) - (1 << fraction_bits);
  return static_cast<std::uint32_t>((exponent + bias) << fraction_bits | fraction);
}

int digit_of(DType type, std::uint32_t code) {
  for (int digit = 0; digit < kDigits; ++digit) {
    if (code_of(type, digit) == code) return digit;
  }
  require(false, fmt::format("{:#x} is no digit in {}", code, to_string(type)));
  return 0;
}

}  // namespace sagegen::pictures
