// Scores of mean queries: dS = mean(Q block) . (K - mean(K)), the part of the scores that Smoothing::qk takes from
// Q before it is quantized (SageAttention2 section 3.1, equation 5).
#pragma once

#include "sagegen/kernel.h"
#include "templates/shared/quantization.h"

namespace sagegen::mean_scores {

struct Spec {
  int head_dim = 128;
  DType io = DType::f16;  // of K
  bool varlen = false;    // batches of packed sequences (shared/params.h)
  bool pack_gqa = false;  // with varlen: rows of Q are those of all heads that share a KV head
};

inline constexpr int kKeys = 64;  // of one block

// Channels of the product come in steps of 16, the last of which may end with zeros.
inline constexpr int kStepChannels = 16;
constexpr int channels(const Spec& spec) { return rounded_up(spec.head_dim, kStepChannels); }
constexpr int threads(const Spec& spec) { return lane_channels(channels(spec)); }

using View = ViewOf<Spec, NoSchedule>;
const FamilyOf<Spec>& family();

}  // namespace sagegen::mean_scores
