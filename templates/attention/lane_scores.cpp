#include "templates/attention/lane_scores.h"

#include "sagegen/dsl/tile.h"

namespace sagegen::attention {

using namespace dsl;

LaneScores::LaneScores(const Mods& mods, const ScoreElement& first, int rows)
    : mods_(&mods), first_(first), seen_(static_cast<std::size_t>(rows)) {}

ScoreElement LaneScores::element(int row, int column) const {
  ScoreElement element = first_;
  element.query = first_.query + Accumulator::tile_row(row);
  element.behind_first = Accumulator::tile_column(column);
  element.key = first_.key + element.behind_first;
  return element;
}

const KeyRange& LaneScores::seen(int row) {
  std::optional<KeyRange>& seen = seen_[static_cast<std::size_t>(row)];
  if (!seen) seen = mods_->keys_of(first_.query + Accumulator::tile_row(row), first_.key);
  return *seen;
}

// A comparison with a constant each.
Pred LaneScores::before(int row, int column) {
  return seen(row).begin > Accumulator::tile_column(column);
}

Pred LaneScores::hidden(int row, int column) {
  const Pred hidden = seen(row).end <= Accumulator::tile_column(column);
  return mods_->hide_elements() ? hidden || mods_->hides(element(row, column)) : hidden;
}

}  // namespace sagegen::attention
