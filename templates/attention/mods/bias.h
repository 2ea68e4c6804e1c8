// An additive bias: score + bias[batch, head, query, key], before the softmax. Where it is -inf, the key is
// hidden.
#pragma once

#include "templates/attention/mods/call.h"

namespace sagegen::attention::bias {

using Arguments = ScoreTensor;  // of the io dtype, finite or -infinity

struct Name {
  static constexpr std::string_view kName = "bias";
};
using Params = ScoreTensorParams<Name>;

inline constexpr const char* kWhat =
    "a value of a tensor [batch, q_heads, q_len, kv_len] in the dtype of Q, with any "
    "strides, is added to a score";
inline constexpr bool kLoadsScores = true;
inline constexpr bool kSeesSmoothing = false;

inline std::string refusal(const Arguments& bias, const ModCall& call) {
  return refusal_of(bias, call);
}
inline std::vector<ModTensor> tensors(const Arguments& bias, const ModCall& call) {
  return {{"bias.data", bias.data, 2 * static_cast<std::uint64_t>(elements_of(bias, call)), 2}};
}
inline Arguments part(const Arguments& bias, const ModCall&, const ModPart& part) {
  return part_of(bias, 2, part);
}
inline Params params(const Arguments& bias, const ModCall& call) {
  return score_tensor_params<Params>(bias, call);
}
Mod mod(dsl::KernelBuilder& k, const View& view);

}  // namespace sagegen::attention::bias
