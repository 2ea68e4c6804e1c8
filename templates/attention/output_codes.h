// O as codes of one byte: e4m3 by a scale of the caller's, or s8 with scales of its own.
#pragma once

#include "templates/attention/block.h"

namespace sagegen::attention {

// Writes finished values, which the lanes hold as they hold O. Overwrites the shared memory of the block, behind a
// barrier of the caller's.
void write_output_codes(const AttentionBlock& block, const AttentionPosition& at,
                        const BlockSequences& sequences, const dsl::AccumulatorVars& values);

}  // namespace sagegen::attention
