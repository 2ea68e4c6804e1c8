// Launch parameters of kv_statistics. grid (chunks, Hkv, B).
#pragma once

#include "sagegen/params.h"

namespace sagegen::kv_statistics {

struct Params {
  std::int32_t kv_len;
  std::int32_t chunk_len;  // keys per chunk; chunks = ceil(kv_len / chunk_len)

  static constexpr std::string_view kName = "kv_statistics";
  static std::vector<ParamField> fields() {
    return {param_field("kv_len", &Params::kv_len), param_field("chunk_len", &Params::chunk_len)};
  }
};

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
  Address sum_partial, least_partial, largest_partial;  // out f32 [B, Hkv, chunks, D] each

  static constexpr std::string_view kName = "v_range";
  static std::vector<ParamField> fields() {
    return {param_field("tokens", &VRangeParams::tokens),
            param_field("sum_partial", &VRangeParams::sum_partial),
            param_field("least_partial", &VRangeParams::least_partial),
            param_field("largest_partial", &VRangeParams::largest_partial)};
  }
};

}  // namespace sagegen::kv_statistics
