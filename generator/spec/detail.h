// What the files of the spec layer share with each other and with nobody else.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "sagegen/spec.h"

namespace sagegen::detail {

// Shared memory of the attention kernel: the Q tile, then per stage one K and one V tile.
std::int64_t attention_smem(const AttentionProblem& problem, const QuantSpec& quant,
                            const TileSchedule& schedule);

// The product that enumerate() describes. `refused` hears of every kernel that is left out and why;
// it may throw.
using Refused = std::function<void(const KernelSpec&, const std::vector<std::string>& sentences)>;
std::vector<KernelSpec> expand(const SpecSpace& space, const Refused& refused);

}  // namespace sagegen::detail
