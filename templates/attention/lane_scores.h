// The scores that a lane holds, among queries and keys.
#pragma once

#include <optional>
#include <vector>

#include "templates/attention/mods.h"

namespace sagegen::attention {

class LaneScores {
 public:
  // first: the lane's element (0, 0) of an accumulator of `rows` rows.
  LaneScores(const Mods& mods, const ScoreElement& first, int rows);
  // row, column: of the lane, as in dsl::Accumulator.
  ScoreElement element(int row, int column) const;
  // Because the key is before those that the row sees; otherwise.
  dsl::Pred before(int row, int column);
  dsl::Pred hidden(int row, int column);

 private:
  const KeyRange& seen(int row);

  const Mods* mods_;
  ScoreElement first_;
  std::vector<std::optional<KeyRange>> seen_;  // by row, from the first key on; where first asked
};

}  // namespace sagegen::attention
