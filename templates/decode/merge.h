// What becomes of the results of warps: one of the block, through shared memory; and of the blocks of a KV head, through
// global memory. Orders are those of warps and splits, whoever comes first: equal splits give equal bits.
#pragma once

#include "templates/decode/values.h"

namespace sagegen::decode {

// All warps come here, when their rings are not in use any more.
void merge_and_write(const DecodeBlock& block, const Softmax& softmax, const Values& values);

}  // namespace sagegen::decode
