// Launch parameters of kv_gather. grid (ceil(blocks of a sequence / kWarps), KV heads, batch), 32 * kWarps threads.
#pragma once

#include "sagegen/params.h"

namespace sagegen::kv_gather {

// A quotient by the blocks of a page is a product: reciprocal and shift as PackParams has them (shared/params.h).
struct Params {
  Address k, v;  // [rows, heads, head_dim], strides in elements
  std::int64_t k_stride_token, k_stride_head;
  std::int64_t v_stride_token, v_stride_head;
  Address pool;  // strides in bytes (KvStrides)
  std::int64_t stride_page, stride_head, stride_block;
  Address page_table;  // i32 [batch, max_pages]
  Address indptr;      // i32 [batch + 1]: the first row of each sequence
  Address lengths;     // i32 [batch]: tokens of each that are wanted; null: as many as it has rows
  std::int32_t rows;
  std::int32_t longest;  // tokens of a sequence, at most
  std::int32_t max_pages;
  std::int32_t blocks_per_page;
  std::int32_t page_reciprocal, page_shift;

  static constexpr std::string_view kName = "kv_gather";
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
            param_field("page_table", &P::page_table),
            param_field("indptr", &P::indptr),
            param_field("lengths", &P::lengths),
            param_field("rows", &P::rows),
            param_field("longest", &P::longest),
            param_field("max_pages", &P::max_pages),
            param_field("blocks_per_page", &P::blocks_per_page),
            param_field("page_reciprocal", &P::page_reciprocal),
            param_field("page_shift", &P::page_shift)};
  }
};

// With smooth_k.
struct MeanParams {
  Address mean;  // f32 [heads, head_dim]

  static constexpr std::string_view kName = "mean";
  static std::vector<ParamField> fields() { return {param_field("mean", &MeanParams::mean)}; }
};

}  // namespace sagegen::kv_gather
