// What the files of the spec layer share with each other and with nobody else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "sagegen/spec.h"

namespace sagegen::detail {

// Shared memory of the attention kernel: the Q tile, then per stage one K and one V tile.
std::int64_t attention_smem(const AttentionProblem& problem, const QuantSpec& quant,
                            const TileSchedule& schedule);

// Untrusted text in a message: short and printable.
std::string shown(std::string_view text, std::size_t most = 120);

// Throws SpecError, with a place in the text, for a set description that is too large, too deep or
// written in letters that the TOML library must not see. Linear in time.
constexpr std::size_t kMaxSetBytes = 256 * 1024;
void check_set_limits(std::string_view text, const std::string& file);

// The product that enumerate() describes. `refused` hears of every kernel that is left out and why;
// it may throw.
using Refused = std::function<void(const KernelSpec&, const std::vector<std::string>& sentences)>;
std::vector<KernelSpec> expand(const SpecSpace& space, const Refused& refused);

}  // namespace sagegen::detail
