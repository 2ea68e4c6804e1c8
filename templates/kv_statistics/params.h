// Launch parameters of kv_statistics. grid (chunks, Hkv, B).
#pragma once

#include "sagegen/params.h"
#include "sagegen/types.h"

namespace sagegen::kv_statistics {

struct Params {
  std::int32_t kv_len;
  std::int32_t
      chunk_len;  // keys per chunk; chunks = ceil(kv_len / chunk_len). varlen: unused, each sequence has its own

  static constexpr std::string_view kName = "kv_statistics";
  static std::vector<ParamField> fields() {
    return {param_field("kv_len", &Params::kv_len), param_field("chunk_len", &Params::chunk_len)};
  }
};

// So that the sum of as many of V as there may be is within f32, and none of it is lost.
constexpr float sum_factor(DType io) { return io == DType::bf16 ? 0x1p-31f : 1.0f; }

// One for K and one for V, if they are reduced.
template <bool OfV>
struct ReductionParams {
  TensorParam tokens;
  Address partial;  // out f32 [B, Hkv, chunks, D]

  static constexpr std::string_view kName = OfV ? "v_amax" : "k_sum";
  static std::vector<ParamField> fields() {
    return {param_field("tokens", &ReductionParams::tokens),
            param_field("partial", &ReductionParams::partial)};
  }
};
using KSumParams = ReductionParams<false>;
using VAmaxParams = ReductionParams<true>;

struct VRangeParams {
  TensorParam tokens;
  // out f32 [B, Hkv, chunks, D] each; sums are those of V * sum_factor(io)
  Address sum_partial, least_partial, largest_partial;

  static constexpr std::string_view kName = "v_range";
  static std::vector<ParamField> fields() {
    return {param_field("tokens", &VRangeParams::tokens),
            param_field("sum_partial", &VRangeParams::sum_partial),
            param_field("least_partial", &VRangeParams::least_partial),
            param_field("largest_partial", &VRangeParams::largest_partial)};
  }
};

}  // namespace sagegen::kv_statistics
