// Launch parameters of quantize_rows. grid (padded length / block_rows(), rounded up, heads, B). With pack_gqa heads are
// those of K and V, and lengths count rows.
#pragma once

#include "sagegen/params.h"

namespace sagegen::quantize_rows {

struct Params {
  TensorParam rows;
  Address codes;  // out s8 or s4 [B, H, LP, Dc]; not with amax
  Address scale;  // out f32 [B, H, LP / group, scales], with 0 scales [B, H]; not with amax
  std::int32_t len;
  std::int32_t len_padded;

  static constexpr std::string_view kName = "quantize_rows";
  static std::vector<ParamField> fields() {
    return {param_field("rows", &Params::rows), param_field("codes", &Params::codes),
            param_field("scale", &Params::scale), param_field("len", &Params::len),
            param_field("len_padded", &Params::len_padded)};
  }
};

// With smooth. Block x == 0 writes the mean.
struct SmoothParams {
  Address sum_partial;  // in  f32 [B, H, chunks, D]
  Address mean;         // out f32 [B, H, D]
  std::int32_t chunks;

  static constexpr std::string_view kName = "smooth";
  static std::vector<ParamField> fields() {
    return {param_field("sum_partial", &SmoothParams::sum_partial),
            param_field("mean", &SmoothParams::mean), param_field("chunks", &SmoothParams::chunks)};
  }
};

// With smooth_block.
struct BlockMeanParams {
  Address mean;  // out f32 [B, H, LP / kMeanRows, rounded up, D]

  static constexpr std::string_view kName = "block_mean";
  static std::vector<ParamField> fields() { return {param_field("mean", &BlockMeanParams::mean)}; }
};

// With 0 scales: out with amax, else in.
struct MaximaParams {
  Address maxima;  // f32 [B, H, LP / block_rows()]

  static constexpr std::string_view kName = "maxima";
  static std::vector<ParamField> fields() { return {param_field("maxima", &MaximaParams::maxima)}; }
};

// With fold.
struct FoldParams {
  Address k_mean;  // in  f32 [B, Hkv, D]; only read if lse_correction is set
  // out f32 [B, H, LP]: (q . k_mean) * softmax_scale, or 0 for none; not with amax
  Address lse_correction;
  float softmax_scale;             // > 0
  std::int32_t heads_per_kv_head;  // H / Hkv; 1 with pack_gqa

  static constexpr std::string_view kName = "fold";
  static std::vector<ParamField> fields() {
    return {param_field("k_mean", &FoldParams::k_mean),
            param_field("lse_correction", &FoldParams::lse_correction),
            param_field("softmax_scale", &FoldParams::softmax_scale),
            param_field("heads_per_kv_head", &FoldParams::heads_per_kv_head)};
  }
};

}  // namespace sagegen::quantize_rows
