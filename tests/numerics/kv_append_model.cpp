#include "tests/numerics/kv_append_model.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "tools/reference/rounding.h"

namespace sagegen::test {

namespace ref = reference;
using kv_append::Rope;
using kv_append::Spec;

namespace {

constexpr float kLargestHalf = 65504;

// A double holds products and sums of f32 so well that rounding them once more is rounding once.
float add(double a, double b) { return static_cast<float>(a + b); }
float mul(double a, double b) { return static_cast<float>(a * b); }

float half(float x) {
  return static_cast<float>(ref::f16_value(ref::f16_bits(ref::round_ieee(x, ref::kF16))));
}

float without_nan(float x) { return std::isnan(x) ? 0.0f : x; }
float saturated(float x) { return std::clamp(x, -kLargestHalf, kLargestHalf); }

std::vector<float> embedded(Rope rope, const std::vector<float>& x, const KvAngles& angles) {
  std::vector<float> y = x;
  const std::size_t half = angles.cos.size();
  for (std::size_t i = 0; i < half; ++i) {
    const std::size_t a = rope == Rope::neox ? i : 2 * i, b = rope == Rope::neox ? i + half : a + 1;
    y[a] = std::fma(x[a], angles.cos[i], -mul(x[b], angles.sin[i]));
    y[b] = std::fma(x[b], angles.cos[i], mul(x[a], angles.sin[i]));
  }
  return y;
}

void rotate(std::vector<float>& x) {
  const std::size_t block = x.size() & -x.size();
  for (std::size_t step = 1; step < block; step *= 2) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      if ((i & step) != 0) continue;
      const float a = x[i], b = x[i + step];
      x[i] = add(a, b);
      x[i + step] = add(a, -b);
    }
  }
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(block)));
  for (float& value : x) value = mul(value, scale);
}

void put(std::span<std::byte> block, int at, unsigned byte) {
  block[static_cast<std::size_t>(at)] = static_cast<std::byte>(byte);
}
void put_half(std::span<std::byte> block, int at, float value) {
  const std::uint16_t bits = ref::f16_bits(value);
  put(block, at, bits & 0xFFu);
  put(block, at + 1, bits >> 8);
}
float half_at(std::span<const std::byte> block, int at) {
  const auto byte = [&](int i) {
    return std::to_integer<unsigned>(block[static_cast<std::size_t>(i)]);
  };
  return static_cast<float>(
      ref::f16_value(static_cast<std::uint16_t>(byte(at) | byte(at + 1) << 8)));
}

using ByteOf = std::function<int(int row_byte)>;

void put_codes(std::span<std::byte> block, const std::vector<int>& codes, int bits,
               const ByteOf& byte_of) {
  const int in_byte = 8 / bits;
  for (int r = 0; r < static_cast<int>(codes.size()) / in_byte; ++r) {
    unsigned byte = 0;
    for (int i = 0; i < in_byte; ++i)
      byte |= static_cast<unsigned>(codes[static_cast<std::size_t>(r * in_byte + i)]) << i * bits;
    put(block, byte_of(r), byte);
  }
}
std::vector<int> codes_at(std::span<const std::byte> block, int channels, int bits,
                          const ByteOf& byte_of) {
  std::vector<int> codes;
  for (int c = 0; c < channels; ++c) {
    const auto byte = std::to_integer<int>(block[static_cast<std::size_t>(byte_of(c * bits / 8))]);
    codes.push_back(byte >> c * bits % 8 & ((1 << bits) - 1));
  }
  return codes;
}

void put_16_bits(std::span<std::byte> block, std::vector<std::uint16_t> row, int channels,
                 const ByteOf& byte_of) {
  row.resize(static_cast<std::size_t>(channels));
  for (int c = 0; c < channels; ++c) {
    put(block, byte_of(2 * c), row[static_cast<std::size_t>(c)] & 0xFFu);
    put(block, byte_of(2 * c + 1), row[static_cast<std::size_t>(c)] >> 8);
  }
}

ByteOf key_bytes(const KvBlock& block, int token) {
  return [block, token](int row_byte) { return block.k_byte(token, row_byte); };
}
ByteOf value_bytes(const KvBlock& block, int token) {
  return [block, token](int row_byte) { return block.v_byte(token, row_byte); };
}

}  // namespace

std::vector<float> kv_values(DType io, std::span<const std::uint16_t> bits) {
  std::vector<float> values;
  for (const std::uint16_t each : bits) {
    values.push_back(
        static_cast<float>(io == DType::f16 ? ref::f16_value(each) : ref::bf16_value(each)));
  }
  return values;
}

std::uint16_t kv_bits_of(DType io, double value) {
  return io == DType::f16 ? ref::f16_bits(ref::round_ieee(value, ref::kF16))
                          : ref::bf16_bits(ref::round_ieee(value, ref::kBf16));
}

std::vector<float> transformed_key(const Spec& spec, std::vector<float> key, const KvAngles& angles,
                                   std::span<const float> mean) {
  if (kv_quantized(spec.k_bits)) {
    for (float& x : key) x = saturated(without_nan(x));
  }
  if (spec.rope != Rope::none) key = embedded(spec.rope, key, angles);
  if (spec.smooth_k) {
    for (std::size_t i = 0; i < key.size(); ++i) key[i] = add(key[i], -mean[i]);
  }
  if (spec.rotation == Rotation::hadamard) rotate(key);
  return key;
}

double KvCodes::number(int channel) const {
  const int code = codes[static_cast<std::size_t>(channel)];
  if (coding == KvCoding::e4m3) return ref::e4m3_value(static_cast<std::uint8_t>(code));
  return coding == KvCoding::symmetric ? code - (1 << (bits - 1)) : code;
}

static KvCodes without_zero_point(const std::vector<float>& row, int bits, KvCoding coding,
                                  int channels) {
  const bool floats = coding == KvCoding::e4m3;
  const auto largest = floats ? 448.0f : static_cast<float>((1 << (bits - 1)) - 1);
  float amax = 0;
  for (const float value : row) amax = std::max(amax, std::abs(saturated(without_nan(value))));
  const int none = floats ? 0 : 1 << (bits - 1);
  KvCodes result{.codes = std::vector<int>(static_cast<std::size_t>(channels), none),
                 .coding = coding,
                 .bits = bits};
  result.s = half(std::min(mul(amax, static_cast<float>((1 + 0x1p-11) / largest)), kLargestHalf));
  const float inverse = result.s == 0 ? 0.0f : static_cast<float>(1.0 / result.s);
  for (std::size_t i = 0; i < row.size(); ++i) {
    const float x = std::clamp(mul(without_nan(row[i]), inverse), -largest, largest);
    result.codes[i] = floats ? ref::e4m3_bits(ref::round_satfinite(x, ref::kE4m3))
                             : static_cast<int>(std::nearbyint(x)) + none;
  }
  return result;
}

KvCodes quantized(const std::vector<float>& row, int bits, KvCoding coding, int channels) {
  if (coding != KvCoding::asymmetric) return without_zero_point(row, bits, coding, channels);
  const auto largest_code = static_cast<float>((1 << bits) - 1);
  std::vector<float> x;
  for (const float value : row) x.push_back(saturated(without_nan(value)));
  // The sign of a zero that is the least: minus, if there is one of these.
  const auto least = *std::ranges::min_element(
      x, [](float a, float b) { return a < b || (a == b && std::signbit(a) && !std::signbit(b)); });
  KvCodes result{.codes = std::vector<int>(static_cast<std::size_t>(channels))};
  result.z = half(least);
  const float range = std::max(add(*std::ranges::max_element(x), -result.z), 0.0f);
  const auto factor = static_cast<float>((1 + 0x1p-11) / largest_code);
  result.s = half(mul(range, factor));
  if (result.s == 0) return result;
  const float inverse = static_cast<float>(1.0 / result.s);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float code = std::nearbyint(mul(add(x[i], -result.z), inverse));
    result.codes[i] = static_cast<int>(std::clamp(code, 0.0f, largest_code));
  }
  return result;
}

std::vector<double> restored(const KvCodes& codes, int channels) {
  std::vector<double> row;
  for (int c = 0; c < channels; ++c)
    row.push_back(static_cast<double>(codes.s) * codes.number(c) + codes.z);
  return row;
}

void store_token(const Spec& spec, std::span<std::byte> bytes, int token,
                 std::span<const std::uint16_t> k, std::span<const std::uint16_t> v,
                 const KvAngles& angles, std::span<const float> mean) {
  const KvBlock block = kv_append::block_of(spec);
  std::vector<float> key = kv_values(spec.io, k);
  const bool transforms =
      spec.rope != Rope::none || spec.smooth_k || spec.rotation != Rotation::none;
  if (transforms) key = transformed_key(spec, key, angles, mean);
  if (spec.k_codes == KvCoding::channel) {
    // Nothing of K is of a token alone.
  } else if (kv_quantized(spec.k_bits)) {
    const KvCodes codes = quantized(key, spec.k_bits, spec.k_codes, block.channels);
    put_codes(bytes, codes.codes, spec.k_bits, key_bytes(block, token));
    put_half(bytes, block.s_k(token), codes.s);
    if (spec.k_codes == KvCoding::asymmetric) put_half(bytes, block.z_k(token), codes.z);
  } else {
    std::vector<std::uint16_t> row(k.begin(), k.end());
    for (std::size_t i = 0; transforms && i < row.size(); ++i) {
      const bool beyond = spec.io == DType::f16 && std::abs(key[i]) > kLargestHalf;
      row[i] = kv_bits_of(spec.io, beyond ? std::copysign(kLargestHalf, key[i]) : key[i]);
    }
    put_16_bits(bytes, row, block.channels, key_bytes(block, token));
  }
  if (kv_quantized(spec.v_bits)) {
    const KvCodes codes =
        quantized(kv_values(spec.io, v), spec.v_bits, spec.v_codes, block.channels);
    put_codes(bytes, codes.codes, spec.v_bits, value_bytes(block, token));
    put_half(bytes, block.s_v(token), codes.s);
    if (spec.v_codes == KvCoding::asymmetric) put_half(bytes, block.z_v(token), codes.z);
  } else {
    put_16_bits(bytes, {v.begin(), v.end()}, block.channels, value_bytes(block, token));
  }
}

KvCodes stored_key(const KvBlock& block, std::span<const std::byte> bytes, int token) {
  return {.codes = codes_at(bytes, block.channels, block.k_bits, key_bytes(block, token)),
          .s = half_at(bytes, block.s_k(token)),
          .z = block.k_has_zero_point() ? half_at(bytes, block.z_k(token)) : 0.0f,
          .coding = block.k_codes,
          .bits = block.k_bits};
}

KvCodes stored_value(const KvBlock& block, std::span<const std::byte> bytes, int token) {
  return {.codes = codes_at(bytes, block.channels, block.v_bits, value_bytes(block, token)),
          .s = half_at(bytes, block.s_v(token)),
          .z = block.v_has_zero_point() ? half_at(bytes, block.z_v(token)) : 0.0f,
          .coding = block.v_codes,
          .bits = block.v_bits};
}

}  // namespace sagegen::test
