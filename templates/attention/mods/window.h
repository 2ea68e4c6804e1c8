// A sliding window: query i, which stands at key p = i + offset, sees the keys p - left to p + right.
#pragma once

#include <algorithm>

#include "templates/attention/mods/call.h"

namespace sagegen::attention::window {

struct Arguments {
  std::int64_t left = -1, right = -1;  // keys beside its own; negative: no bound on that side

  static std::vector<ParamField> fields() {
    return {param_field("left", &Arguments::left), param_field("right", &Arguments::right)};
  }
  friend bool operator==(const Arguments&, const Arguments&) = default;
};

struct Params {
  std::int32_t left, right, offset;

  static constexpr std::string_view kName = "window";
  static std::vector<ParamField> fields() {
    return {param_field("left", &Params::left), param_field("right", &Params::right),
            param_field("offset", &Params::offset)};
  }
};

inline constexpr const char* kWhat =
    "key j is visible to query i if i + offset - left <= j <= i + offset + right; all are "
    "launch arguments";
inline constexpr bool kLoadsScores = false;
inline constexpr bool kSeesSmoothing = false;

// Far enough to be no bound, and near enough that positions of queries and keys stay within 32 bits.
inline constexpr std::int64_t kMostLength = std::int64_t{1} << 29;

inline std::string refusal(const Arguments&, const ModCall& call) {
  if (std::max(call.q_len, call.kv_len) <= kMostLength) return {};
  return "windows are for lengths of at most 536870912";
}
inline std::vector<ModTensor> tensors(const Arguments&, const ModCall&) { return {}; }
inline Arguments part(const Arguments& arguments, const ModCall&, const ModPart&) {
  return arguments;
}
inline Params params(const Arguments& arguments, const ModCall& call) {
  const auto bound = [&](std::int64_t keys) {
    const std::int64_t all = call.q_len + call.kv_len;
    return static_cast<std::int32_t>(keys < 0 ? all : std::min(keys, all));
  };
  return {.left = bound(arguments.left), .right = bound(arguments.right), .offset = call.offset};
}

Mod mod(dsl::KernelBuilder& k);

}  // namespace sagegen::attention::window
