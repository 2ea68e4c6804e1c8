// ALiBi, attention with linear biases (arXiv 2108.12409): score - slope[head] * |i + offset - j|.
#pragma once

#include "templates/attention/mods/call.h"

namespace sagegen::attention::alibi {

struct Arguments {
  Address slopes = 0;  // f32 [q_heads], finite; of natural logarithms, as scaled scores are

  static std::vector<ParamField> fields() { return {param_field("slopes", &Arguments::slopes)}; }
  friend bool operator==(const Arguments&, const Arguments&) = default;
};

struct Params {
  Address slopes;
  std::int32_t offset;

  static constexpr std::string_view kName = "alibi";
  static std::vector<ParamField> fields() {
    return {param_field("slopes", &Params::slopes), param_field("offset", &Params::offset)};
  }
};

inline constexpr const char* kWhat =
    "slope * |i + offset - j| is taken off a score, with a slope per head";
inline constexpr bool kLoadsScores = false;
inline constexpr bool kSeesSmoothing = false;

inline std::string refusal(const Arguments&, const ModCall&) { return {}; }
inline std::vector<ModTensor> tensors(const Arguments& arguments, const ModCall& call) {
  return {{"alibi.slopes", arguments.slopes, static_cast<std::uint64_t>(call.q_heads) * 4, 4}};
}
inline Arguments part(const Arguments& arguments, const ModCall&, const ModPart& part) {
  return {.slopes = arguments.slopes + static_cast<Address>(4 * part.q_head)};
}
inline Params params(const Arguments& arguments, const ModCall& call) {
  return {.slopes = arguments.slopes, .offset = call.offset};
}
Mod mod(dsl::KernelBuilder& k);

}  // namespace sagegen::attention::alibi
