#include "templates/attention/scores.h"

#include <limits>

#include "templates/attention/lane_scores.h"

namespace sagegen::attention {

using namespace dsl;

namespace {

constexpr std::int32_t kBiasBits = 0x4B400000;
constexpr float kBias = 12582912.0f;
// The softmax's fma scales the scores and takes off the bias by its constant, whose last bit is then
// worth up to 1.5 units of s. Where a unit is more than this part of an octave, that is done before.
// (Bits of positive f32 are ordered as their values.)
constexpr std::int32_t kLargestFoldedScaleBits = 0x3C000000;  // 2^-7
constexpr float kLog2E = 1.44269504f;
constexpr float kHidden = -std::numeric_limits<float>::infinity();

}  // namespace

Scores::Scores(const AttentionBlock& block)
    : elements(block.plan.warp_rows, block.plan.cta_k, block.k.i32(kBiasBits)),
      block_(block),
      q_(block.k, SharedTile{block.plan.q_tile, block.shared}.rows_from(block.at.warp_row)),
      k_(block.k, block.plan.k_tile),
      next_scale_(block.k.var(block.k.f32(0.0f))) {}

void Scores::load_scales(I32 tile, I32 thread) {
  loaded_q_scale_ = block_.inputs.q_scale({block_.k, block_.plan, block_.p, thread});
  loaded_k_scale_ = block_.inputs.k_scale(thread, tile);
}

void Scores::next_tile() { next_scale_ = loaded_q_scale_ * loaded_k_scale_; }

Pred Scores::next_is_large() const {
  if (block_.mods.change_scores()) return block_.k.pred(false);
  return block_.k.any(block_.k.as_bits(next_scale_) > kLargestFoldedScaleBits);
}

void Scores::hold_queries() {
  std::vector<RowOperands> held;
  for (int step = 0; step < block_.plan.head_dim / 32; ++step) held.push_back(queries(step));
  held_queries_ = held;
}

RowOperands Scores::queries(int k_step) const {
  if (!held_queries_.empty()) return held_queries_[k_step];
  RowOperands operands;
  for (int row = 0; row < elements.row_blocks(); ++row) operands.push_back(q_.load(row, k_step));
  return operands;
}

void Scores::multiply(SharedPtr keys) {
  const AttentionPlan& plan = block_.plan;
  elements = Accumulator(plan.warp_rows, plan.cta_k, block_.k.i32(kBiasBits));
  for (int step = 0; step < plan.head_dim / 32; ++step) {
    const RowOperands q = queries(step);
    for (int pair = 0; pair < elements.column_blocks() / 2; ++pair) {
      const std::array<MmaB, 2> key = k_.load({plan.k_tile, keys}, pair, step);
      for (int half = 0; half < 2; ++half) {
        multiply_add(block_.k, Mma::s8, q, key[half], elements, 2 * pair + half);
      }
    }
  }
}

// In base 2, by row of the lane; empty where the scores may do without.
std::vector<F32> Scores::taken_by_smoothing() const {
  std::vector<F32> taken;
  if (!block_.plan.smooth || !block_.plan.whole_scores) return taken;
  const AttentionPosition at = block_.here();
  for (int row = 0; row < elements.lane_rows(); ++row) {
    const I32 query = at.lane_query + Accumulator::tile_row(row);
    taken.push_back(block_.taken_by_smoothing(at, query) * kLog2E);
  }
  return taken;
}

void Scores::modify(const Ring::Tile& tile) {
  KernelBuilder& k = block_.k;
  const Mods& mods = block_.mods;
  const bool inner = tile.part() == RingPart::inner;
  const Pred hides = inner ? k.pred(false)
                           : mods.may_hide(block_.at.first_query, block_.last_query(), tile.index(),
                                           block_.plan.cta_k);
  const F32 unit = next_scale_;
  // Asked for in the branches that need it: nothing of it stays in registers elsewhere.
  const auto view = [&] {
    const AttentionPosition at = block_.here();
    const I32 first_key = tile.index() * block_.plan.cta_k + 2 * at.lane.quad;
    return LaneScores(mods, {{at.batch, at.q_head, at.lane_query}, first_key, first_key},
                      elements.lane_rows());
  };
  // Hides what is before the first key of a row: not with what is behind its last one, which would take
  // registers for both ends of all rows.
  Pred before;
  Accumulator::Prepare hide_before;
  if (!inner && mods.bound_from_below()) {
    before = mods.hides_before(block_.last_query(), tile.index(), block_.plan.cta_k);
    hide_before = [&]() -> Accumulator::Update {
      return [&, lane = view()](int row, int column, F32 score) mutable {
        return k.select(lane.before(row, column), k.f32(kHidden), score);
      };
    };
  }
  if (mods.change_scores()) {
    elements.update_if(k, k.pred(true), [&]() -> Accumulator::Update {
      return [&, lane = view(), taken = taken_by_smoothing()](int row, int column, F32 e) {
        const F32 product = e - kBias;
        const F32 score = taken.empty() ? product * unit : k.fma(product, unit, taken[row]);
        return mods.changed(lane.element(row, column), score);
      };
    });
    const auto hide = [&]() -> Accumulator::Update {
      return [&, lane = view()](int row, int column, F32 score) mutable {
        return k.select(lane.hidden(row, column), k.f32(kHidden), score);
      };
    };
    elements.update_if(k, hides, hide, before, hide_before);
    scale = k.f32(1.0f);
    bias = k.f32(0.0f);
    return;
  }
  scale = unit;
  bias = k.f32(kBias);
  if (inner) return;
  const Var<F32> scale_left = k.var(scale), bias_left = k.var(bias);
  const Pred large = k.as_bits(unit) > kLargestFoldedScaleBits;
  const auto scale_and_hide = [&]() -> Accumulator::Update {
    scale_left = k.f32(1.0f);
    bias_left = k.f32(0.0f);
    return [&, lane = view()](int row, int column, F32 e) mutable {
      return k.select(lane.hidden(row, column), k.f32(kHidden), (e - kBias) * unit);
    };
  };
  elements.update_if(k, hides || large, scale_and_hide, before, hide_before);
  scale = scale_left;
  bias = bias_left;
}

}  // namespace sagegen::attention
