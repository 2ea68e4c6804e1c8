// Scores of mean queries: dS = mean(Q block) . (K - mean(K)), the part of the scores that Smoothing::qk takes from
// Q before it is quantized (SageAttention2 section 3.1, equation 5).
#pragma once

#include "sagegen/kernel.h"
#include "templates/shared/quantization.h"

namespace sagegen::mean_scores {

struct Spec {
  int head_dim = 128;
  DType io = DType::f16;  // of K
};

inline constexpr int kKeys = 64;  // of one block, of head_dim threads

using View = ViewOf<Spec, NoSchedule>;
const FamilyOf<Spec>& family();

}  // namespace sagegen::mean_scores
