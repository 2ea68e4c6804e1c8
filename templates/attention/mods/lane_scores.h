// The scores that a lane holds, among queries and keys.
#pragma once

#include <vector>

#include "templates/attention/mods/mods.h"

namespace sagegen::attention {

class LaneScores {
 public:
  // first: the lane's element (0, 0) of an accumulator of `rows` rows.
  LaneScores(const Mods& mods, const ScoreElement& first, int rows);
  // row, column: of the lane, as in dsl::Accumulator.
  ScoreElement element(int row, int column) const;
  dsl::Pred hidden(int row, int column) const;

 private:
  const Mods* mods_;
  ScoreElement first_;
  std::vector<KeyRange> seen_;  // by row, from the first key on
};

}  // namespace sagegen::attention
