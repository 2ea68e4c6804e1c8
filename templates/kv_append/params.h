// Launch parameters of kv_append. grid (ceil(rows / rows_of_block()), 1, 1), kThreads threads.
#pragma once

#include "sagegen/params.h"

namespace sagegen::kv_append {

// Quotients of row numbers and places are products: reciprocal and shift as PackParams has them (shared/params.h).
struct Params {
  Address k, v;  // [tokens, heads, head_dim], strides in elements
  std::int64_t k_stride_token, k_stride_head;
  std::int64_t v_stride_token, v_stride_head;
  Address pool;  // strides in bytes (KvStrides)
  std::int64_t stride_page, stride_head, stride_block;
  std::int32_t rows;  // tokens * heads
  std::int32_t heads;
  std::int32_t heads_reciprocal, heads_shift;
  std::int32_t page_tokens;
  std::int32_t page_reciprocal, page_shift;
  std::int32_t pages;  // of the pool

  static constexpr std::string_view kName = "kv_append";
  static std::vector<ParamField> fields() {
    using P = Params;
    return {param_field("k", &P::k),
            param_field("v", &P::v),
            param_field("k_stride_token", &P::k_stride_token),
            param_field("k_stride_head", &P::k_stride_head),
            param_field("v_stride_token", &P::v_stride_token),
            param_field("v_stride_head", &P::v_stride_head),
            param_field("pool", &P::pool),
            param_field("stride_page", &P::stride_page),
            param_field("stride_head", &P::stride_head),
            param_field("stride_block", &P::stride_block),
            param_field("rows", &P::rows),
            param_field("heads", &P::heads),
            param_field("heads_reciprocal", &P::heads_reciprocal),
            param_field("heads_shift", &P::heads_shift),
            param_field("page_tokens", &P::page_tokens),
            param_field("page_reciprocal", &P::page_reciprocal),
            param_field("page_shift", &P::page_shift),
            param_field("pages", &P::pages)};
  }
};

// With Addressing::slots. A slot that the pool does not have is skipped.
struct SlotParams {
  Address slots;            // i64 [tokens]
  std::int64_t slot_count;  // pages * page_tokens

  static constexpr std::string_view kName = "slots";
  static std::vector<ParamField> fields() {
    return {param_field("slots", &SlotParams::slots),
            param_field("slot_count", &SlotParams::slot_count)};
  }
};

// With Addressing::pages. Tokens are those of sequences one after the other, the last ones of each.
struct PageParams {
  Address append_indptr;  // i32 [sequences + 1]: the first token of each
  Address page_indptr;    // i32 [sequences + 1]: its first page, among
  Address page_indices;   // i32 [page_entries]
  Address last_page_len;  // i32 [sequences]: its tokens in its last page, the new ones among them
  std::int64_t page_entries;  // at least 1
  std::int32_t sequences;     // at least 1

  static constexpr std::string_view kName = "pages";
  static std::vector<ParamField> fields() {
    using P = PageParams;
    return {param_field("append_indptr", &P::append_indptr),
            param_field("page_indptr", &P::page_indptr),
            param_field("page_indices", &P::page_indices),
            param_field("last_page_len", &P::last_page_len),
            param_field("page_entries", &P::page_entries),
            param_field("sequences", &P::sequences)};
  }
};

// With a Rope.
struct RopeParams {
  Address positions;        // i64 [tokens]
  Address cos, sin;         // f32 [table_rows, rotary / 2]
  std::int64_t stride;      // elements from a row of the tables to the next
  std::int32_t table_rows;  // a position behind them counts as the last, one before as the first
  std::int32_t rotary;      // channels, the first ones: a multiple of rotary_step()

  static constexpr std::string_view kName = "rope";
  static std::vector<ParamField> fields() {
    using P = RopeParams;
    return {param_field("positions", &P::positions),
            param_field("cos", &P::cos),
            param_field("sin", &P::sin),
            param_field("stride", &P::stride),
            param_field("table_rows", &P::table_rows),
            param_field("rotary", &P::rotary)};
  }
};

// With smooth_k.
struct MeanParams {
  Address mean;  // f32 [heads, head_dim]

  static constexpr std::string_view kName = "mean";
  static std::vector<ParamField> fields() { return {param_field("mean", &MeanParams::mean)}; }
};

// With exact.
struct ExactParams {
  Address pool;  // of blocks of 16 tokens in 16 bits; strides in bytes
  Address
      slots;  // i64 [tokens]: block * 16 + place in it; one that the pool does not have is skipped
  std::int64_t stride_block, stride_head;
  std::int64_t slot_count;  // blocks * 16

  static constexpr std::string_view kName = "exact";
  static std::vector<ParamField> fields() {
    using P = ExactParams;
    return {param_field("pool", &P::pool), param_field("slots", &P::slots),
            param_field("stride_block", &P::stride_block),
            param_field("stride_head", &P::stride_head), param_field("slot_count", &P::slot_count)};
  }
};

}  // namespace sagegen::kv_append
