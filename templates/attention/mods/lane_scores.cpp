#include "templates/attention/mods/lane_scores.h"

#include "sagegen/dsl/tile.h"

namespace sagegen::attention {

using namespace dsl;

LaneScores::LaneScores(const Mods& mods, const ScoreElement& first, int rows)
    : mods_(&mods), first_(first) {
  for (int row = 0; row < rows; ++row) {
    seen_.push_back(mods.keys_of(first.query + Accumulator::tile_row(row), first.key));
  }
}

ScoreElement LaneScores::element(int row, int column) const {
  ScoreElement element = first_;
  element.query = first_.query + Accumulator::tile_row(row);
  element.key = first_.key + Accumulator::tile_column(column);
  return element;
}

// A comparison with a constant for each end.
Pred LaneScores::hidden(int row, int column) const {
  const auto [begin, end] = seen_[row];
  const int key = Accumulator::tile_column(column);
  Pred hidden = end <= key;
  if (begin.v != nullptr) hidden = hidden || begin > key;
  return mods_->hide_elements() ? hidden || mods_->hides(element(row, column)) : hidden;
}

}  // namespace sagegen::attention
