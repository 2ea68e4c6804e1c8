// Soft capping of scores: cap * tanh(score / cap).
#pragma once

#include <cstdio>
#include <numbers>

#include "templates/attention/mods/call.h"

namespace sagegen::attention::softcap {

struct Arguments {
  float cap = 0;  // > 0; of scores as softmax takes them, q k softmax_scale

  static std::vector<ParamField> fields() { return {param_field("cap", &Arguments::cap)}; }
  friend bool operator==(const Arguments&, const Arguments&) = default;
};

struct Params {
  float from_score;  // ln(2) / cap: scores are in base 2
  float to_score;    // cap * log2(e)

  static constexpr std::string_view kName = "softcap";
  static std::vector<ParamField> fields() {
    return {param_field("from_score", &Params::from_score),
            param_field("to_score", &Params::to_score)};
  }
};

inline constexpr const char* kWhat =
    "a score becomes cap * tanh(score / cap); the cap is a launch argument";
inline constexpr bool kLoadsScores = false;
inline constexpr bool kSeesSmoothing = true;

inline std::string refusal(const Arguments& arguments, const ModCall&) {
  constexpr float kLeast = 1e-20f, kMost = 1e20f;  // beyond, its inverse leaves f32
  if (arguments.cap >= kLeast && arguments.cap <= kMost) return {};
  char cap[32];
  std::snprintf(cap, sizeof(cap), "%g", arguments.cap);
  return std::string("cap is ") + cap + "; it must be between 1e-20 and 1e20";
}
inline std::vector<ModTensor> tensors(const Arguments&, const ModCall&) { return {}; }
inline Arguments part(const Arguments& arguments, const ModCall&, const ModPart&) {
  return arguments;
}
inline Params params(const Arguments& arguments, const ModCall&) {
  const double cap = arguments.cap;
  return {.from_score = static_cast<float>(std::numbers::ln2 / cap),
          .to_score = static_cast<float>(cap * std::numbers::log2e)};
}

Mod mod(dsl::KernelBuilder& k);

}  // namespace sagegen::attention::softcap
