// Storage formats of tensor-core operands: bits to value and back (PTX ISA, cvt).
#include <bit>
#include <cmath>
#include <cstdint>

#include "runtime/emulator/numerics/numerics.h"

namespace sagegen::emulator {
namespace {

// A small binary float: `exponent_bits`, `fraction_bits`, the bias 2^(exponent_bits-1) - 1.
struct Layout {
  int exponent_bits;
  int fraction_bits;
  constexpr int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  constexpr int min_exponent() const { return 1 - bias(); }
};
constexpr Layout kF16{5, 10};
constexpr Layout kE4M3{4, 3};
constexpr Layout kE5M2{5, 2};

// Magnitude of a finite float as code of a small format without an upper bound: exponent and
// fraction concatenated, rounded to nearest even; a carry out of the fraction raises the exponent
// by itself.
template <Layout kLayout>
std::uint32_t round_magnitude(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value) & 0x7fffffffu;
  const int exponent = static_cast<int>(bits >> 23) - 127;
  // f32 subnormals are below half of the smallest subnormal of every format here.
  if (exponent < kLayout.min_exponent() - kLayout.fraction_bits - 1) {
    return 0;
  }
  const bool normal = exponent >= kLayout.min_exponent();
  const std::uint32_t significand = (bits & 0x7fffffu) | 0x800000u;
  const int shift = 23 - kLayout.fraction_bits + (normal ? 0 : kLayout.min_exponent() - exponent);
  std::uint32_t code = significand >> shift;
  const std::uint32_t rest = significand & ((1u << shift) - 1u);
  const std::uint32_t half = 1u << (shift - 1);
  if (rest > half || (rest == half && (code & 1u) != 0)) {
    ++code;
  }
  if (normal) {  // replace the hidden bit by the exponent field
    const auto field = static_cast<std::uint32_t>(exponent + kLayout.bias() - 1);
    code += field << kLayout.fraction_bits;
  }
  return code;
}

// Exact value of a finite code.
template <Layout kLayout>
float expand(std::uint32_t code) {
  const std::uint32_t sign = code >> (kLayout.exponent_bits + kLayout.fraction_bits);
  const std::uint32_t fraction = code & ((1u << kLayout.fraction_bits) - 1u);
  const std::uint32_t field =
      (code >> kLayout.fraction_bits) & ((1u << kLayout.exponent_bits) - 1u);
  const std::uint32_t significand = fraction | (field != 0 ? 1u << kLayout.fraction_bits : 0u);
  const int exponent =
      static_cast<int>(field != 0 ? field : 1u) - kLayout.bias() - kLayout.fraction_bits;
  const float unit = std::bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23);
  const float magnitude = static_cast<float>(significand) * unit;
  return sign != 0 ? -magnitude : magnitude;
}

constexpr std::uint32_t kCanonicalNan = 0x7fffffffu;

std::uint32_t sign_bit(float value) { return std::bit_cast<std::uint32_t>(value) >> 31; }

float infinity(std::uint32_t sign) { return std::bit_cast<float>(0x7f800000u | (sign << 31)); }

}  // namespace

float f16_to_f32(std::uint16_t bits) {
  if ((bits & 0x7c00u) != 0x7c00u) {
    return expand<kF16>(bits);
  }
  if ((bits & 0x3ffu) != 0) {
    return std::bit_cast<float>(kCanonicalNan);
  }
  return infinity(bits >> 15);
}

std::uint16_t f32_to_f16(float value) {
  if (std::isnan(value)) {
    return 0x7fff;
  }
  std::uint32_t code = 0x7c00;
  if (std::fabs(value) < 65536.0f) {  // rounding may still carry into 0x7c00, which is infinity
    code = round_magnitude<kF16>(value);
  }
  return static_cast<std::uint16_t>(code | (sign_bit(value) << 15));
}

float bf16_to_f32(std::uint16_t bits) {
  return canonical_nan(std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16));
}

std::uint16_t f32_to_bf16(float value) {
  if (std::isnan(value)) {
    return 0x7fff;
  }
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float e4m3_to_f32(std::uint8_t bits) {
  if ((bits & 0x7fu) == 0x7fu) {
    return std::bit_cast<float>(kCanonicalNan);
  }
  return expand<kE4M3>(bits);
}

std::uint8_t f32_to_e4m3_satfinite(float value) {
  if (std::isnan(value)) {
    return 0x7f;
  }
  std::uint32_t code = 0x7e;  // 448
  if (std::fabs(value) < 448.0f) {
    code = round_magnitude<kE4M3>(value);
  }
  return static_cast<std::uint8_t>(code | (sign_bit(value) << 7));
}

float e5m2_to_f32(std::uint8_t bits) { return f16_to_f32(static_cast<std::uint16_t>(bits << 8)); }

std::uint8_t f32_to_e5m2_satfinite(float value) {
  if (std::isnan(value)) {
    return 0x7f;
  }
  std::uint32_t code = 0x7b;  // 57344
  if (std::fabs(value) < 57344.0f) {
    code = round_magnitude<kE5M2>(value);
  }
  return static_cast<std::uint8_t>(code | (sign_bit(value) << 7));
}

float canonical_nan(float value) {
  return std::isnan(value) ? std::bit_cast<float>(kCanonicalNan) : value;
}

float flush_denormal(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  return (bits & 0x7f800000u) == 0 ? std::bit_cast<float>(bits & 0x80000000u) : value;
}

}  // namespace sagegen::emulator
