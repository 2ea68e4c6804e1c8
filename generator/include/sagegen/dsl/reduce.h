// Sums and maxima over the lanes of a warp and the threads of a block. Every thread gets the result, the
// same bits each, in an order that does not depend on timing. All threads must call.
#pragma once

#include "sagegen/dsl/kernel_builder.h"

namespace sagegen::dsl {

// Over 32 lanes: five shuffles. The non-NaN operand wins a maximum. (I32: KernelBuilder::warp_sum.)
F32 warp_sum(KernelBuilder& k, F32 value, SourceLoc loc = SourceLoc::here());
F32 warp_max(KernelBuilder& k, F32 value, SourceLoc loc = SourceLoc::here());

// Over the four lanes that hold one row of accumulators.
F32 quad_max(KernelBuilder& k, F32 value, SourceLoc loc = SourceLoc::here());

// Over the block, through shared memory that is carved for the purpose: 4 bytes per warp and two
// barriers. A block of one warp needs neither.
F32 block_sum(KernelBuilder& k, F32 value, SourceLoc loc = SourceLoc::here());
F32 block_max(KernelBuilder& k, F32 value, SourceLoc loc = SourceLoc::here());
I32 block_sum(KernelBuilder& k, I32 value, SourceLoc loc = SourceLoc::here());
I32 block_max(KernelBuilder& k, I32 value, SourceLoc loc = SourceLoc::here());

}  // namespace sagegen::dsl
