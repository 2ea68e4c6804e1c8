// O, SageAttention2 algorithm 1: sums P V over the tiles, one level or two, and writes the result.
#pragma once

#include <vector>

#include "templates/attention/online_softmax.h"

namespace sagegen::attention {

class Output {
 public:
  explicit Output(const AttentionBlock& block);

  // O = O * factor, in a row of the lane.
  void rescale(int row, dsl::F32 factor) const;
  // O = O * rescale + P V.
  void add(const OnlineSoftmax& softmax, dsl::SharedPtr values);

  // O / sum, times the scale of the channel of V, and of the channel's mean, if V is smoothed, what keys have of the
  // weights. Overwrites the shared memory of the block. A row whose sum is 0 is 0.
  void write(const AttentionPosition& at, const BlockSequences& sequences,
             const RowSums& sums) const;

 private:
  const AttentionBlock& block_;
  const dsl::OperandV v_;
  const dsl::AccumulatorVars o_;
};

}  // namespace sagegen::attention
