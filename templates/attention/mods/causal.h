// The causal mask: a query sees the keys up to its own position.
#pragma once

#include "templates/attention/mods/call.h"

namespace sagegen::attention::causal {

struct Arguments {
  static std::vector<ParamField> fields() { return {}; }
  friend bool operator==(const Arguments&, const Arguments&) = default;
};

struct Params {
  std::int32_t offset;  // query i stands at key i + offset

  static constexpr std::string_view kName = "causal";
  static std::vector<ParamField> fields() { return {param_field("offset", &Params::offset)}; }
};

inline constexpr const char* kWhat =
    "key j is visible to query i if j <= i + offset; the offset is a launch argument";
inline constexpr bool kLoadsScores = false;
inline constexpr bool kSeesSmoothing = false;

inline std::string refusal(const Arguments&, const ModCall&) { return {}; }
inline std::vector<ModTensor> tensors(const Arguments&, const ModCall&) { return {}; }
inline Arguments part(const Arguments& arguments, const ModCall&, const ModPart&) {
  return arguments;
}
inline Params params(const Arguments&, const ModCall& call) { return {.offset = call.offset}; }

Mod mod(dsl::KernelBuilder& k, const View& view);

}  // namespace sagegen::attention::causal
