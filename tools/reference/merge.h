// Partial results of attention over parts of the keys, merged in double precision.
#pragma once

#include <cstdint>
#include <vector>

#include "tools/reference/reference.h"

namespace sagegen::reference {

// O and LSE over all keys, from those over each part: in their order, rows of so many channels. A part whose LSE is
// -infinity counts for nothing, whatever its O; without any other O is 0. Throws std::invalid_argument if shapes differ.
Output merged(const std::vector<Output>& parts, std::int64_t channels);

// By how much O and LSE of f32 arithmetic may differ from that, before O is rounded to its format. O: of each part, its |O|
// times its weight, 2^-20, 2^-23 for each part, and 2^-22 for each unit by which its LSE is below the largest; besides
// 2^-125 of the largest |O|, for weights that f32 takes for 0. LSE: 2^-20, 2^-23 for each part, and 2^-22 of its size.
Output merge_allowance(const std::vector<Output>& parts, std::int64_t channels);

// Half of what neighbours in a format differ by.
double half_ulp(IoType type, double value);

}  // namespace sagegen::reference
