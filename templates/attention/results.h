// The end of the attention kernel: what the walk over keys has summed becomes O and LSE.
#pragma once

#include <vector>

#include "templates/attention/block.h"

namespace sagegen::attention {

// What a lane holds after the last tile. Per row: the maximum score in base 2 less p_offset, and the
// sum of P times v_code, the code of the largest V.
struct AttentionSums {
  const dsl::AccumulatorVars& o;
  const std::vector<dsl::Var<dsl::F32>>& maximum;
  const std::vector<dsl::Var<dsl::F32>>& sum;
};

// Writes O and, if its address is not null, LSE. `shared` is overwritten; its o_tile begins there.
void write_results(dsl::KernelBuilder& k, const AttentionPlan& plan,
                   const dsl::ParamReader<Params>& p, dsl::SharedPtr shared,
                   const AttentionSums& sums);

}  // namespace sagegen::attention
