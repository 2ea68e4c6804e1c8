// What kv_append promises to store (templates/kv_append/spec.h), written down once more: of single rows, with operations of
// f32 that are each rounded to nearest even.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "templates/kv_append/spec.h"

namespace sagegen::test {

// Of a token: what its position has in the tables.
struct KvAngles {
  std::span<const float> cos, sin;  // of half of the rotated channels
};

// Values of 16-bit elements, and back; rounded.
std::vector<float> kv_values(DType io, std::span<const std::uint16_t> bits);
std::uint16_t kv_bits_of(DType io, double value);

// K of a token as it is stored or quantized. mean: of its head; empty: none.
std::vector<float> transformed_key(const kv_append::Spec& spec, std::vector<float> key,
                                   const KvAngles& angles, std::span<const float> mean);

// A row in few bits.
struct KvCodes {
  std::vector<int> codes;  // as bits, of all channels, with their padding
  float s = 0, z = 0;
  KvCoding coding = KvCoding::asymmetric;
  int bits = 8;

  double number(int channel) const;  // that s is multiplied by
};
KvCodes quantized(const std::vector<float>& row, int bits, KvCoding coding, int channels);
// s * number + z of the first channels.
std::vector<double> restored(const KvCodes& codes, int channels);

// Writes K and V of a token of a head to its place in a block, and no other byte. Of K by channel nothing.
void store_token(const kv_append::Spec& spec, std::span<std::byte> block, int token,
                 std::span<const std::uint16_t> k, std::span<const std::uint16_t> v,
                 const KvAngles& angles, std::span<const float> mean);
// What a block holds of them, of quantized rows.
KvCodes stored_key(const KvBlock& block, std::span<const std::byte> bytes, int token);
KvCodes stored_value(const KvBlock& block, std::span<const std::byte> bytes, int token);

}  // namespace sagegen::test
