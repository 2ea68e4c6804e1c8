// Launch parameters of quantize_values. grid (LkP / 64, Hkv, B). Block x == 0 writes the scales.
//   e4m3: codes [B, Hkv, Dv, LkP], channel-major. Inside every 16 keys the order is
//         0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15, which turns the score accumulators of m16n8k32 into
//         its A operand without a shuffle. scale = amax / (448 / 2^octaves).
//   f16:  codes [B, Hkv, LkP, Dv], keys in order. scale = amax / (1024 / 2^octaves).
// A channel whose amax is 2^-100 or less has codes 0; where amax is 0, the scale is 0 too.
// smooth: amax and codes are of V less the mean; keys beyond kv_len have codes 0.
#pragma once

#include "sagegen/params.h"

namespace sagegen::quantize_values {

struct Params {
  TensorParam v;
  Address amax_partial;  // in  f32 [B, Hkv, chunks, D]; unused if smooth
  Address codes;         // out
  Address scale;         // out f32 [B, Hkv, D]
  std::int32_t kv_len;
  std::int32_t kv_len_padded;
  std::int32_t chunks;

  static constexpr std::string_view kName = "quantize_values";
  static std::vector<ParamField> fields() {
    return {param_field("v", &Params::v),
            param_field("amax_partial", &Params::amax_partial),
            param_field("codes", &Params::codes),
            param_field("scale", &Params::scale),
            param_field("kv_len", &Params::kv_len),
            param_field("kv_len_padded", &Params::kv_len_padded),
            param_field("chunks", &Params::chunks)};
  }
};

// With smooth.
struct SmoothParams {
  // in  f32 [B, Hkv, chunks, D] each, as kv_statistics leaves them
  Address sum_partial, least_partial, largest_partial;
  Address mean;  // out f32 [B, Hkv, D]

  static constexpr std::string_view kName = "v_mean";
  static std::vector<ParamField> fields() {
    return {param_field("sum_partial", &SmoothParams::sum_partial),
            param_field("least_partial", &SmoothParams::least_partial),
            param_field("largest_partial", &SmoothParams::largest_partial),
            param_field("mean", &SmoothParams::mean)};
  }
};

}  // namespace sagegen::quantize_values
