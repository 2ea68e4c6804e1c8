// Attention sinks: a logit of each head that counts in the softmax of every query and has no value.
#pragma once

#include "templates/attention/mods/call.h"

namespace sagegen::attention::sinks {

struct Arguments {
  // f32 [q_heads], finite or -infinity; in natural logarithms, as scaled scores are.
  Address logits = 0;

  static std::vector<ParamField> fields() { return {param_field("logits", &Arguments::logits)}; }
  friend bool operator==(const Arguments&, const Arguments&) = default;
};

struct Params {
  Address logits;

  static constexpr std::string_view kName = "sinks";
  static std::vector<ParamField> fields() { return {param_field("logits", &Params::logits)}; }
};

inline constexpr const char* kWhat = "a logit per head counts in every sum and has no value";
inline constexpr bool kLoadsScores = false;
inline constexpr bool kSeesSmoothing = true;

inline std::string refusal(const Arguments&, const ModCall&) { return {}; }
inline std::vector<ModTensor> tensors(const Arguments& arguments, const ModCall& call) {
  return {{"sinks.logits", arguments.logits, static_cast<std::uint64_t>(call.q_heads) * 4, 4}};
}
inline Arguments part(const Arguments& arguments, const ModCall&, const ModPart& part) {
  return {.logits = arguments.logits + static_cast<Address>(4 * part.q_head)};
}
inline Params params(const Arguments& arguments, const ModCall&) {
  return {.logits = arguments.logits};
}

Mod mod(dsl::KernelBuilder& k);

}  // namespace sagegen::attention::sinks
