// Skip-softmax: tiles of keys that weigh next to nothing beside the keys before them count for nothing (BLASST,
// arXiv 2512.12087).
#pragma once

#include <cstdio>

#include "templates/attention/mods/call.h"

namespace sagegen::attention::skipsoftmax {

struct Arguments {
  // In [0, 1), of the largest weight that a row has seen so far, a sink's among them. A warp computes neither P nor P V
  // of a tile in which no weight of its rows reaches that; where maxima lag behind the scores (maximum_slack(), maximum_step()
  // of spec.h), it takes some for heavier than they are. 0: none is skipped.
  float threshold = 0;
  // f32 [batch] on the device, in place of `threshold`; 0: there are none.
  Address thresholds = 0;
  // u32 [batch, 2] on the device, modulo 2^32: added to these are the tiles, of a warp, that were skipped, and those that
  // were not. 0: nobody counts.
  Address counts = 0;

  static std::vector<ParamField> fields() {
    return {param_field("threshold", &Arguments::threshold),
            param_field("thresholds", &Arguments::thresholds),
            param_field("counts", &Arguments::counts)};
  }
  friend bool operator==(const Arguments&, const Arguments&) = default;
};

struct Params {
  Address thresholds, counts;
  float threshold;

  static constexpr std::string_view kName = "skipsoftmax";
  static std::vector<ParamField> fields() {
    return {param_field("thresholds", &Params::thresholds), param_field("counts", &Params::counts),
            param_field("threshold", &Params::threshold)};
  }
};

inline constexpr const char* kWhat =
    "a warp skips tiles in which no weight reaches a threshold; it is a launch argument";
inline constexpr bool kLoadsScores = false;
inline constexpr bool kSeesSmoothing = false;

inline std::string refusal(const Arguments& arguments, const ModCall&) {
  const float threshold = arguments.threshold;
  char text[32];
  std::snprintf(text, sizeof(text), "%g", threshold);
  if (!(threshold >= 0 && threshold < 1)) {
    return std::string("threshold is ") + text +
           "; it is a share of the largest weight, at least 0, which skips nothing, and less than "
           "1";
  }
  if (threshold != 0 && arguments.thresholds != 0) {
    return std::string("threshold is ") + text +
           ", and thresholds are given, too; give one for all requests, or one for each";
  }
  return {};
}
inline std::vector<ModTensor> tensors(const Arguments& arguments, const ModCall& call) {
  const auto batch = static_cast<std::uint64_t>(call.batch);
  std::vector<ModTensor> tensors;
  if (arguments.thresholds != 0)
    tensors.push_back({"skipsoftmax.thresholds", arguments.thresholds, 4 * batch, 4});
  if (arguments.counts != 0)
    tensors.push_back({"skipsoftmax.counts", arguments.counts, 8 * batch, 4, /*written=*/true});
  return tensors;
}
inline Arguments part(const Arguments& arguments, const ModCall&, const ModPart& part) {
  const auto batch = static_cast<Address>(part.batch);
  Arguments of_part = arguments;
  if (arguments.thresholds != 0) of_part.thresholds += 4 * batch;
  if (arguments.counts != 0) of_part.counts += 8 * batch;
  return of_part;
}
inline Params params(const Arguments& arguments, const ModCall&) {
  return {.thresholds = arguments.thresholds,
          .counts = arguments.counts,
          .threshold = arguments.threshold};
}

Mod mod(dsl::KernelBuilder& k, const View& view);

}  // namespace sagegen::attention::skipsoftmax
