#include "templates/attention/scores.h"

namespace sagegen::attention {

using namespace dsl;

namespace {

constexpr std::int32_t kBiasBits = 0x4B400000;
constexpr std::int32_t kLargestFoldedUnitBits = 0x3C000000;  // 2^-7
constexpr std::int32_t kLargestExactUnitBits = 0x3F7FFFFF;   // less than 1, which is the step
// So small that it is nothing, and still has an inverse.
constexpr float kSmallestUnit = 0x1p-100f;
// So that bias * scale is exact.
constexpr std::int32_t kShortScaleBits = ~3;

}  // namespace

Scores::Scores(const AttentionBlock& block)
    : elements(block.plan.warp_rows, block.plan.cta_k, start_bits(block)),
      block_(block),
      q_(block.k, SharedTile{block.plan.q_tile, block.shared}.rows_from(block.at.warp_row)),
      k_(block.k, block.plan.k_tile),
      next_scale_(block.k.var(block.k.f32(0.0f))) {}

I32 Scores::start_bits(const AttentionBlock& block) {
  return block.k.i32(block.plan.qk_quantized ? kBiasBits : 0);
}

F32 Scores::unbiased(F32 element) const {
  return block_.plan.qk_quantized ? element - kBias : element;
}

void Scores::load_q_scale(I32 thread) {
  if (block_.plan.per_token() || !block_.plan.qk_quantized) return;
  loaded_q_scale_ = block_.inputs.q_scale({block_.k, block_.plan, block_.p, thread});
}

void Scores::load_k_scale(I32 tile, I32 thread) {
  if (block_.plan.per_token() || !block_.plan.qk_quantized) return;
  const GlobalPtr from = block_.inputs.k_scale(thread, tile);
  if (block_.plan.walks_k_scales)
    next_k_scale_.emplace(block_.k.var(from + std::int64_t{block_.inputs.k_scale_bytes()}));
  loaded_k_scale_ = block_.k.load<F32>(from);
}

void Scores::load_next_k_scale(I32 tile, std::optional<I32> end, I32 thread) {
  KernelBuilder& k = block_.k;
  if (!next_k_scale_) return load_k_scale(end ? k.min(tile, *end - 1) : tile, thread);
  const GlobalPtr next = *next_k_scale_;
  const std::int64_t bytes = block_.inputs.k_scale_bytes();
  loaded_k_scale_ = k.load<F32>(end ? k.select(tile < *end, next, next + -bytes) : next);
  *next_k_scale_ = next + bytes;
}

void Scores::next_tile() {
  if (block_.plan.per_token() || !block_.plan.qk_quantized) return;
  KernelBuilder& k = block_.k;
  F32 product = loaded_q_scale_ * loaded_k_scale_;
  if (block_.plan.mean_scores) product = k.max(product, k.f32(kSmallestUnit));
  next_scale_ =
      block_.plan.maximum_step == 0 ? product : k.as_f32(k.as_bits(product) & kShortScaleBits);
}

// Bits of positive f32 are ordered as their values.
Pred Scores::is_large(F32 unit) const {
  if (!block_.plan.qk_quantized) return block_.k.pred(false);
  return block_.k.as_bits(unit) >
         (block_.plan.maximum_step == 0 ? kLargestFoldedUnitBits : kLargestExactUnitBits);
}

Pred Scores::next_is_large() const {
  if (block_.plan.scaled_scores || !block_.plan.qk_quantized) return block_.k.pred(false);
  return block_.k.any(is_large(next_scale_));
}

void Scores::hold_queries() {
  std::vector<RowOperands> held;
  for (int step = 0; step < block_.plan.qk_steps(); ++step) held.push_back(queries(step));
  held_queries_ = held;
}

RowOperands Scores::queries(int k_step) const {
  if (!held_queries_.empty()) return held_queries_[k_step];
  RowOperands operands;
  for (int row = 0; row < elements.row_blocks(); ++row) operands.push_back(q_.load(row, k_step));
  return operands;
}

// All rows of a lane have the same unit and the same mean query. An mma starts from four registers in a row, which
// are those of two rows: the same numbers twice. The assembler makes the second two by moves, for each mma anew,
// unless they are results of their own. So the fma of odd rows is another one, which also takes subnormal scores
// for 0: beside the bias they are nothing.
void Scores::start_from_mean_scores(SharedPtr from) {
  KernelBuilder& k = block_.k;
  const bool per_token = block_.plan.per_token();
  mean_scores.clear();
  F32 units;
  if (!per_token) units = k.reciprocal(scale);
  const SharedPtr of_lane = from + LanePosition(k.reread_thread_idx()).quad * kChunkBytes;
  for (int four = 0; four < elements.lane_columns(); four += 4) {  // of every 16 keys
    const auto scores = k.load_v4(of_lane + std::int64_t{four * kChunkBytes});
    for (int i = 0; i < 4; ++i) {
      const F32 score = k.as_f32(scores[static_cast<std::size_t>(i)]);
      if (per_token) {
        mean_scores.push_back(score);
        continue;
      }
      const I32 even = k.as_bits(k.fma(score, units, k.f32(kBias)));
      const I32 odd = k.as_bits(k.fma_ftz(score, units, k.f32(kBias)));
      for (int row = 0; row < elements.lane_rows(); ++row)
        elements.at(row, four + i) = row % 2 == 0 ? even : odd;
    }
  }
}

void Scores::multiply(SharedPtr keys) {
  const AttentionPlan& plan = block_.plan;
  elements = Accumulator(plan.warp_rows, plan.cta_k, start_bits(block_));
  if (plan.qk_quantized) {
    scale = plan.per_token() ? block_.k.f32(1.0f) : next_scale_.get();
    bias = block_.k.f32(kBias);
  } else {
    scale = block_.k.f32(1.0f);
    bias = block_.k.f32(0.0f);
  }
  scaled = false;
  if (plan.mean_scores) start_from_mean_scores(keys + std::int64_t{plan.k_tile.bytes()});
  for (int step = 0; step < plan.qk_steps(); ++step) {
    const RowOperands q = queries(step);
    for (int pair = 0; pair < elements.column_blocks() / 2; ++pair) {
      const std::array<MmaB, 2> key = k_.load({plan.k_tile, keys}, pair, step);
      for (int half = 0; half < 2; ++half) {
        multiply_add(block_.k, plan.qk_mma(), q, key[half], elements, 2 * pair + half);
      }
    }
  }
  if (!plan.qk_quantized) scale_sums();
}

void Scores::scale_sums() {
  KernelBuilder& k = block_.k;
  const F32 unit = k.params<UnquantizedParams>()(&UnquantizedParams::unit);
  for (int row = 0; row < elements.lane_rows(); ++row) {
    for (int column = 0; column < elements.lane_columns(); ++column) {
      I32& element = elements.at(row, column);
      element = k.as_bits(k.as_f32(element) * unit);
    }
  }
}

}  // namespace sagegen::attention
