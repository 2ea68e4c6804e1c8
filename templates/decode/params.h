// Launch parameters of decode. grid (splits, Hkv * T, B), 32 * warps threads: the rows of a KV head are T tiles of Spec::rows
// or less, R. Behind them PackParams (shared/params.h): rows of a KV head are those of all its query heads; then TreeParams
// and those of the mods, of kernels that have them.
#pragma once

#include "sagegen/params.h"

namespace sagegen::decode {

struct Params {
  TensorParam q;  // [B, Hq, Lq, head_dim]
  TensorParam o;  // out, likewise
  Address pool;   // of pages, 16-byte aligned; strides in bytes, multiples of 16
  Address
      page_table;    // i32 [B, max_pages]; entries behind the last page of a sequence are not read
  Address lengths;   // i32 [B]: tokens in the cache
  Address partials;  // f32 [B, Hkv, T, splits, R, channels]; unused with one split, as the next two
  Address partial_sums;  // f32 [B, Hkv, T, splits, R, 2]: maximum of the scores (log2), sum of P
  Address tickets;       // i32 [B, Hkv, T]: 0 before and after
  Address lse;           // out f32 [B, Hq, Lq], natural logarithm; 0 for none
  Address q_lens;        // i32 [B]: queries of each sequence; 0: all have Lq
  std::int64_t head_stride;
  std::int32_t page_stride;
  std::int32_t block_stride;
  std::int32_t blocks_per_page;
  std::int32_t page_reciprocal;  // reciprocal_of(blocks_per_page), without a sign
  std::int32_t max_pages;
  std::int32_t q_len;
  std::int32_t rows;                 // Hq / Hkv * Lq
  std::int32_t row_tiles;            // T
  std::int32_t row_tile_reciprocal;  // reciprocal_of(T), likewise
  float unit;                        // softmax_scale * log2(e)

  static constexpr std::string_view kName = "decode";
  static std::vector<ParamField> fields() {
    using P = Params;
    return {param_field("q", &P::q),
            param_field("o", &P::o),
            param_field("pool", &P::pool),
            param_field("page_table", &P::page_table),
            param_field("lengths", &P::lengths),
            param_field("partials", &P::partials),
            param_field("partial_sums", &P::partial_sums),
            param_field("tickets", &P::tickets),
            param_field("lse", &P::lse),
            param_field("q_lens", &P::q_lens),
            param_field("head_stride", &P::head_stride),
            param_field("page_stride", &P::page_stride),
            param_field("block_stride", &P::block_stride),
            param_field("blocks_per_page", &P::blocks_per_page),
            param_field("page_reciprocal", &P::page_reciprocal),
            param_field("max_pages", &P::max_pages),
            param_field("q_len", &P::q_len),
            param_field("rows", &P::rows),
            param_field("row_tiles", &P::row_tiles),
            param_field("row_tile_reciprocal", &P::row_tile_reciprocal),
            param_field("unit", &P::unit)};
  }
};

// With Spec::tree.
struct TreeParams {
  Address masks;  // u32 [B, Lq]: bit j is that of new token j

  static constexpr std::string_view kName = "tree";
  static std::vector<ParamField> fields() { return {param_field("masks", &TreeParams::masks)}; }
};

// With Spec::exact: the grid has a block more in x, which is the last and has the exact tokens. All numbers of blocks of 16.
struct ExactParams {
  Address pool;   // of blocks of 16 bits, KvBlock; strides in bytes, multiples of 16
  Address table;  // i32 [B, sinks + ring]: blocks of a sequence
  std::int64_t head_stride;
  std::int32_t block_stride;
  std::int32_t sinks;
  std::int32_t window;
  std::int32_t unit;
  std::int32_t unit_reciprocal;  // reciprocal_of(unit), without a sign
  std::int32_t ring;
  std::int32_t ring_reciprocal;  // likewise

  static constexpr std::string_view kName = "exact";
  static std::vector<ParamField> fields() {
    using P = ExactParams;
    return {param_field("pool", &P::pool),
            param_field("table", &P::table),
            param_field("head_stride", &P::head_stride),
            param_field("block_stride", &P::block_stride),
            param_field("sinks", &P::sinks),
            param_field("window", &P::window),
            param_field("unit", &P::unit),
            param_field("unit_reciprocal", &P::unit_reciprocal),
            param_field("ring", &P::ring),
            param_field("ring_reciprocal", &P::ring_reciprocal)};
  }
};

// A quotient is a product: with m = 2^31 / b, rounded up, n / b is 2 n * m / 2^32, rounded down, while n * b < 2^31. For
// m b = 2^31 + e with 0 <= e < b, so the product is n / b + n e / (b 2^31), whose second term is less than 1 / b.
constexpr std::int32_t reciprocal_of(std::int32_t divisor) {
  const std::uint32_t b = static_cast<std::uint32_t>(divisor);
  return static_cast<std::int32_t>(
      static_cast<std::uint32_t>(((std::uint64_t{1} << 31) + b - 1) / b));
}

}  // namespace sagegen::decode
