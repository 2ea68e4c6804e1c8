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
    first_ = {{at.batch, at.q_head, at.lane_query, at.q_index},
              block.mods.position(at.lane_query),
              first_key,
              first_key};
    for (int row = 0; block.plan.pack_gqa && row < scores.elements.lane_rows(); ++row)
      packed_.push_back(block.score_row(at, at.lane_query + Accumulator::tile_row(row)));
  }

  ScoreElement element(int row, int column) const {
    ScoreElement element = first_;
    if (packed_.empty()) {
      element.query = query(row);
      element.position = first_.position + Accumulator::tile_row(row);
    } else {
      static_cast<ScoreRow&>(element) = packed_[static_cast<std::size_t>(row)];
      element.position = mods_->position(element.query);
    }
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
  I32 query(int row) const {
    return packed_.empty() ? first_.query + Accumulator::tile_row(row)
                           : packed_[static_cast<std::size_t>(row)].query;
  }
  const KeyRange& seen(int row) {
    std::optional<KeyRange>& seen = seen_[static_cast<std::size_t>(row)];
    if (!seen) seen = mods_->keys_of(query(row), first_.key);
    return *seen;
  }

  const Mods* mods_;
  ScoreElement first_;
  std::vector<ScoreRow> packed_;               // with pack_gqa, by row
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

// What products of a lane are worth, in base 2: whole scores where mods want them.
class Worth {
 public:
  Worth(const AttentionBlock& block, I32 tile, const Scores& scores)
      : k_(&block.k), scores_(&scores), taken_(taken_by_smoothing(block, scores)) {
    if (!block.plan.per_token()) return;
    q_scales_ = block.inputs.q_scales(block.here());
    k_scales_ = block.inputs.k_scales(block.k.reread_thread_idx(), tile);
  }
  F32 score(int row, int column, F32 product) const {
    const auto r = static_cast<std::size_t>(row), c = static_cast<std::size_t>(column);
    const F32 unit = q_scales_.empty() ? scores_->scale : q_scales_[r] * k_scales_[c];
    std::vector<F32> plus;
    if (!scores_->mean_scores.empty()) plus.push_back(scores_->mean_scores[c]);
    if (!taken_.empty()) plus.push_back(taken_[r]);
    if (plus.empty()) return product * unit;
    const F32 score = k_->fma(product, unit, plus[0]);
    return plus.size() == 1 ? score : score + plus[1];
  }

 private:
  KernelBuilder* k_;
  const Scores* scores_;
  std::vector<F32> taken_, q_scales_, k_scales_;  // scales: per token
};

}  // namespace

void modify(const AttentionBlock& block, const Ring::Tile& tile, Scores& scores) {
  KernelBuilder& k = block.k;
  const Mods& mods = block.mods;
  const bool inner = tile.part() == RingPart::inner;
  const Pred hides = inner ? k.pred(false)
                           : mods.may_hide(block.first_query(), block.last_query(), tile.index(),
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
  if (block.plan.scaled_scores) {
    scores.elements.update_if(k, k.pred(true), [&]() -> Accumulator::Update {
      return [&, lane = lane_scores(), worth = Worth(block, tile.index(), scores)](
                 int row, int column, F32 e) {
        return mods.changed(lane.element(row, column),
                            worth.score(row, column, scores.unbiased(e)));
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
      return k.select(lane.hidden(row, column), k.f32(kHidden), scores.unbiased(e) * unit);
    };
  };
  scores.elements.update_if(k, hides || scores.is_large(unit), scale_and_hide, before, hide_before);
  scores.scale = scale_left;
  scores.bias = bias_left;
  scores.scaled = true;
}

}  // namespace sagegen::attention
