#include "templates/attention/modify.h"

#include <limits>
#include <optional>
#include <vector>

namespace sagegen::attention {

using namespace dsl;

namespace {

constexpr float kHidden = -std::numeric_limits<float>::infinity();

// The scores that a lane holds, among queries and keys. row, column: of the lane, as in Accumulator.
class LaneScores {
 public:
  // Of a tile. For the branch that needs it: nothing of it stays in registers elsewhere.
  LaneScores(const AttentionBlock& block, I32 tile, const Scores& scores)
      : mods_(&block.mods), seen_(static_cast<std::size_t>(scores.elements.lane_rows())) {
    const AttentionPosition at = block.here();
    const I32 first_key = tile * block.plan.cta_k + 2 * at.lane.quad;
    first_ = {{at.batch, at.q_head, at.lane_query}, first_key, first_key};
  }

  ScoreElement element(int row, int column) const {
    ScoreElement element = first_;
    element.query = first_.query + Accumulator::tile_row(row);
    element.behind_first = Accumulator::tile_column(column);
    element.key = first_.key + element.behind_first;
    return element;
  }

  // Because the key is before those that the row sees; otherwise. A comparison with a constant each.
  Pred before(int row, int column) { return seen(row).begin > Accumulator::tile_column(column); }
  Pred hidden(int row, int column) {
    const Pred hidden = seen(row).end <= Accumulator::tile_column(column);
    return mods_->hide_elements() ? hidden || mods_->hides(element(row, column)) : hidden;
  }

 private:
  const KeyRange& seen(int row) {
    std::optional<KeyRange>& seen = seen_[static_cast<std::size_t>(row)];
    if (!seen) seen = mods_->keys_of(first_.query + Accumulator::tile_row(row), first_.key);
    return *seen;
  }

  const Mods* mods_;
  ScoreElement first_;
  std::vector<std::optional<KeyRange>> seen_;  // by row, from the first key on; where first asked
};

// In base 2, by row of the lane; empty where the scores may do without.
std::vector<F32> taken_by_smoothing(const AttentionBlock& block, const Scores& scores) {
  std::vector<F32> taken;
  if (!block.plan.smooth || !block.plan.whole_scores) return taken;
  const AttentionPosition at = block.here();
  for (int row = 0; row < scores.elements.lane_rows(); ++row) {
    const I32 query = at.lane_query + Accumulator::tile_row(row);
    taken.push_back(block.taken_by_smoothing(at, query) * kLog2E);
  }
  return taken;
}

}  // namespace

void modify(const AttentionBlock& block, const Ring::Tile& tile, Scores& scores) {
  KernelBuilder& k = block.k;
  const Mods& mods = block.mods;
  const bool inner = tile.part() == RingPart::inner;
  const Pred hides = inner ? k.pred(false)
                           : mods.may_hide(block.at.first_query, block.last_query(), tile.index(),
                                           block.plan.cta_k);
  const F32 unit = scores.scale;
  const auto lane_scores = [&] { return LaneScores(block, tile.index(), scores); };
  // Hides what is before the first key of a row: not with what is behind its last one, which would take
  // registers for both ends of all rows.
  Pred before;
  Accumulator::Prepare hide_before;
  if (!inner && mods.bound_from_below()) {
    before = mods.hides_before(block.last_query(), tile.index(), block.plan.cta_k);
    hide_before = [&]() -> Accumulator::Update {
      return [&, lane = lane_scores()](int row, int column, F32 score) mutable {
        return k.select(lane.before(row, column), k.f32(kHidden), score);
      };
    };
  }
  if (mods.change_scores()) {
    scores.elements.update_if(k, k.pred(true), [&]() -> Accumulator::Update {
      return [&, lane = lane_scores(), taken = taken_by_smoothing(block, scores)](
                 int row, int column, F32 e) {
        const F32 product = e - Scores::kBias;
        const F32 score = taken.empty() ? product * unit : k.fma(product, unit, taken[row]);
        return mods.changed(lane.element(row, column), score);
      };
    });
    const auto hide = [&]() -> Accumulator::Update {
      return [&, lane = lane_scores()](int row, int column, F32 score) mutable {
        return k.select(lane.hidden(row, column), k.f32(kHidden), score);
      };
    };
    scores.elements.update_if(k, hides, hide, before, hide_before);
    scores.scale = k.f32(1.0f);
    scores.bias = k.f32(0.0f);
    return;
  }
  if (inner) return;
  const Var<F32> scale_left = k.var(unit), bias_left = k.var(scores.bias);
  const auto scale_and_hide = [&]() -> Accumulator::Update {
    scale_left = k.f32(1.0f);
    bias_left = k.f32(0.0f);
    return [&, lane = lane_scores()](int row, int column, F32 e) mutable {
      return k.select(lane.hidden(row, column), k.f32(kHidden), (e - Scores::kBias) * unit);
    };
  };
  scores.elements.update_if(k, hides || scores.is_large(unit), scale_and_hide, before, hide_before);
  scores.scale = scale_left;
  scores.bias = bias_left;
  scores.scaled = true;
}

}  // namespace sagegen::attention
