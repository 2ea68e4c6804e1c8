// Partial reductions over the keys of a chunk: what smoothing and the quantization of V need to know of all
// keys before they begin.
#pragma once

#include "sagegen/kernel.h"
#include "templates/shared/quantization.h"

namespace sagegen::kv_statistics {

struct Spec {
  int head_dim = 128;
  DType io = DType::f16;
  bool k_sum = false;    // sum of K per channel
  bool v_amax = false;   // largest |V| per channel
  bool v_range = false;  // sum, least and largest V per channel
  bool varlen = false;   // batches of packed sequences (shared/params.h)
};

using View = ViewOf<Spec, NoSchedule>;
const FamilyOf<Spec>& family();

}  // namespace sagegen::kv_statistics
