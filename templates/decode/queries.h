// The query rows of a KV head as operand A of Q K^T. A row is quantized to signed bytes with a scale of its own.
#pragma once

#include <array>
#include <vector>

#include "templates/decode/block.h"

namespace sagegen::decode {

// How codes of K meet those of Q. A row of A that no query has costs nothing: with 8 rows there are 8 of them.
enum class Product {
  // Q in 16 bits, q = base high + low: high and low in the two halves of the rows, or in two sums. Codes of 8 bits need it:
  // beside theirs the error of an 8-bit Q is the larger one.
  two_planes,
  // A byte b has the codes low + m high, of which b & mask leaves m high. One product of b by q_low, one of m high by
  // -q_low and, in the other half of the rows, by q_high: sum(low q_low), and m sum(high q_high). One instruction for
  // two words of codes in place of three.
  masked_bytes,
  codes,   // each code masked out as a byte
  floats,  // 16 bits, and e4m3: the two halves of the rows have different channels, so that fewer registers hold Q
};
constexpr Product product_of(const Spec& spec) {
  if (spec.k_bits == 16 || spec.k_codes == KvCoding::e4m3) return Product::floats;
  if (spec.k_bits == 8) return Product::two_planes;
  return spec.rows == 8 ? Product::masked_bytes : Product::codes;
}

// Of the numbers of Product::floats.
constexpr DType key_type(const Spec& spec) {
  return spec.k_codes == KvCoding::e4m3 ? DType::f16 : spec.io;
}

// Sums of products of codes stay below 2^22 (Queries::start()): the planes of Q in 16 bits have digits to base 256, and to
// base 128 where channels are 256.
constexpr int plane_base(const Spec& spec) { return kv_block(spec).channels <= 128 ? 256 : 128; }

// A word of a lane's share of a row of K, and which codes of its bytes: of each byte the `field`th.
struct KeyItem {
  int word, field;
};
// What one instruction of Q K^T takes two of, in the order of its operands: words of bytes or of floats, or words and fields.
std::vector<KeyItem> key_items(const Spec& spec);

class Queries {
 public:
  explicit Queries(const DecodeBlock& block);

  // Operands in the order in which Product makes products (scores.cpp).
  const std::vector<dsl::MmaA>& operands() const { return operands_; }
  // What sums of products of codes start from: the bits of the number kBias. Sums below 2^22 added to these are the bits
  // of kBias + sum. Symmetric codes exceed their numbers by an offset: times Q it is taken off here, of each sum.
  const dsl::MmaC& start(std::size_t sum = 0) const {
    return starts_[starts_.size() == 1 ? 0 : sum];
  }
  static constexpr float kBias = 0x1.8p23f;
  // sum(q) of the rows as A of m16n8k8, in two numbers of f16; B has zero points of the tokens 2 row and 2 row + 1, of
  // which this takes those of one parity.
  const dsl::MmaShortA& sums(int parity) const { return sums_[static_cast<std::size_t>(parity)]; }
  // What scores as Q K^T gives them are multiplied by, in octaves.
  dsl::F32 scale(int half) const { return scales_[static_cast<std::size_t>(half)]; }

 private:
  using Channels = std::vector<dsl::F32>;
  // The channels whose codes a lane has of a key, in the order of these; zeros of rows and channels that there are not.
  Channels load(int half) const;
  int piece_channels() const { return block_.cache.k_piece_bytes() * 8 / block_.spec.k_bits; }
  dsl::F32 largest_of_row(const Channels& channels) const;
  Channels quantized(int half, float largest_code);
  Channels normalized(int half);
  void add_scale(dsl::F32 scale);
  void add_sums(const std::vector<Channels>& rows, float unit);
  // Codes of Q that meet codes of K in a sum, by half of the rows of A, with what a code counts for there.
  void add_start(const std::array<Channels, 2>& halves, const std::array<float, 2>& unit = {1, 1});
  dsl::I32 codes(const Channels& q, const KeyItem& item, float factor = 1.0f) const;
  void add_two_planes(const std::vector<Channels>& rows);
  void add_masked_bytes(const Channels& q);
  void add_codes(const std::vector<Channels>& rows);
  void add_floats(const std::vector<Channels>& rows);

  const DecodeBlock& block_;
  std::vector<dsl::MmaC> starts_;
  std::vector<dsl::MmaA> operands_;
  std::vector<dsl::MmaShortA> sums_;  // by parity
  std::vector<dsl::F32> scales_;
};

}  // namespace sagegen::decode
