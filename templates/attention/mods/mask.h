// A boolean mask: a query sees a key where mask[batch, head, query, key], one byte each, is not zero.
#pragma once

#include "templates/attention/mods/call.h"

namespace sagegen::attention::mask {

using Arguments = ScoreTensor;  // of bytes

struct Name {
  static constexpr std::string_view kName = "mask";
};
using Params = ScoreTensorParams<Name>;

inline constexpr const char* kWhat =
    "a byte of a tensor [batch, q_heads, q_len, kv_len], with any strides, says whether a "
    "query sees a key";
inline constexpr bool kLoadsScores = true;
inline constexpr bool kSeesSmoothing = false;

inline std::string refusal(const Arguments& mask, const ModCall& call) {
  return refusal_of(mask, call);
}
inline std::vector<ModTensor> tensors(const Arguments& mask, const ModCall& call) {
  return {{"mask.data", mask.data, static_cast<std::uint64_t>(elements_of(mask, call)), 1}};
}
inline Arguments part(const Arguments& mask, const ModCall&, const ModPart& part) {
  return part_of(mask, 1, part);
}
inline Params params(const Arguments& mask, const ModCall& call) {
  return score_tensor_params<Params>(mask, call);
}
Mod mod(dsl::KernelBuilder& k, const View& view);

}  // namespace sagegen::attention::mask
