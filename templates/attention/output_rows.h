// Where the rows of a block lie in O.
#pragma once

#include <cstdint>
#include <functional>

#include "templates/attention/block.h"

namespace sagegen::attention {

struct OutputRows {
  dsl::GlobalPtr first;                          // what offsets are from
  std::function<dsl::I64(dsl::I32 row)> offset;  // bytes, of a row of the block
  dsl::I32 left;                                 // rows that exist, from the block's first on
};

// Elements of so many bytes, by which strides count. sequences: as they were read last.
OutputRows output_rows(const AttentionBlock& block, const AttentionPosition& at,
                       const BlockSequences& sequences, std::int64_t element_bytes);

}  // namespace sagegen::attention
