#include "templates/attention/scores.h"

namespace sagegen::attention {

using namespace dsl;

namespace {

constexpr std::int32_t kBiasBits = 0x4B400000;
constexpr std::int32_t kLargestFoldedUnitBits = 0x3C000000;  // 2^-7

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

// Bits of positive f32 are ordered as their values.
Pred Scores::is_large(KernelBuilder& k, F32 unit) {
  return k.as_bits(unit) > kLargestFoldedUnitBits;
}

Pred Scores::next_is_large() const {
  if (block_.mods.change_scores()) return block_.k.pred(false);
  return block_.k.any(is_large(block_.k, next_scale_));
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
  scale = next_scale_;
  bias = block_.k.f32(kBias);
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

}  // namespace sagegen::attention
