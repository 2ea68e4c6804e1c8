#include "templates/attention/online_softmax.h"

#include <limits>

namespace sagegen::attention {

using namespace dsl;

namespace {

// Finite, so that differences of maxima are never NaN.
constexpr float kFirstMaximum = std::numeric_limits<float>::lowest();
constexpr float kLn2 = 0.693147182f;

// An operand register of P V that holds nothing but v_code: 448 or 1024, and so many octaves less. bf16 is never
// a code of V: 1.
std::int32_t repeated(const AttentionPlan& plan) {
  if (plan.pv == DType::bf16) return 0x3F803F80;
  if (plan.pv == DType::e4m3) return 0x01010101 * (0x7E - (plan.v_octaves << 3));
  return 0x00010001 * (0x6400 - (plan.v_octaves << 10));
}

}  // namespace

OnlineSoftmax::OnlineSoftmax(const AttentionBlock& block) : block_(block) {
  KernelBuilder& k = block.k;
  if (block.mods.skip_light_tiles()) {
    // Maxima that are multiples of a step are up to a step above the scores.
    least_weight_ = block.mods.least_weight(block.at.batch) - block.plan.maximum_step;
  }
  for (int row = 0; row < block.plan.warp_rows / 8; ++row) {
    F32 maximum = first_maximum(row);
    if (block.mods.have_sink()) {
      const F32 score = sink(block.at, row);
      const bool steps = block.plan.maximum_step != 0;
      const F32 less_offset = steps ? on_grid(score, true) : score - block.plan.p_offset;
      maximum = k.max(less_offset, maximum);
    }
    maximum_.push_back(k.var(maximum));
    sum_.push_back(k.var(k.f32(0.0f)));
  }
}

// Rows behind the last query see no tile that is worth its while, lest they keep others from leaving one out.
F32 OnlineSoftmax::first_maximum(int row) const {
  KernelBuilder& k = block_.k;
  if (!block_.mods.skip_light_tiles()) return k.f32(kFirstMaximum);
  const Pred is_there = block_.at.lane_query + Accumulator::tile_row(row) < block_.rows();
  return k.select(is_there, k.f32(kFirstMaximum), k.f32(-kFirstMaximum));
}

F32 OnlineSoftmax::sink(const AttentionPosition& at, int row) const {
  const I32 query = at.lane_query + Accumulator::tile_row(row);
  const F32 score = block_.mods.sink(block_.score_row(at, query));
  if (block_.plan.whole_scores) return score;
  return score - block_.taken_by_smoothing(at, query) * kLog2E;
}

// A score, up to the next multiple of the step, less p_offset, which is a multiple, too. Adding 1.5 * 2^23 steps
// leaves no smaller part of it. Scores as large as 2^22 steps stay as they are: they are multiples of more, and P
// loses nothing.
F32 OnlineSoftmax::on_grid(F32 score, bool may_be_large) const {
  KernelBuilder& k = block_.k;
  const float step = block_.plan.maximum_step;
  const F32 one = k.f32(1.0f), p_offset = k.f32(block_.plan.p_offset);
  F32 rounder = k.f32(Scores::kBias * step);
  if (may_be_large) rounder = k.select(k.abs(score) < 0x1p22f * step, rounder, k.f32(0.0f));
  return k.fma_up(k.fma_up(score, one, rounder), one, -(rounder + p_offset));
}

Pred OnlineSoftmax::is_light(Scores& scores) {
  KernelBuilder& k = block_.k;
  const AttentionPlan& plan = block_.plan;
  Pred light = k.pred(true);
  maximum_of_tile_.clear();
  for (int row = 0; row < scores.elements.lane_rows(); ++row) {
    const F32 largest = lane_max(k, scores.elements, row);
    if (plan.maximum_slack != 0) {
      const F32 exponent = k.fma(largest, scores.scale, shift_of(scores, row));
      light = light && exponent < least_weight_ + plan.p_offset;
    } else {
      maximum_of_tile_.push_back(maximum_of_tile(scores, largest));
      light = light && maximum_of_tile_.back() < maximum_[row].get() + least_weight_;
    }
  }
  return k.all(light);
}

// One fma per element. Roundings of the maximum go up and those of what is taken off go down, so that no P
// exceeds 2^p_offset, where FP8 ends, however large the scores; a maximum that is a little high scales P
// and its sum alike.
void OnlineSoftmax::update(Scores& scores, const Rescale& rescale_earlier) {
  rescale_.clear();
  if (block_.plan.maximum_slack != 0) raise_far_maxima(scores, rescale_earlier);
  for (int row = 0; row < scores.elements.lane_rows(); ++row) {
    if (block_.plan.maximum_slack == 0) {
      const F32 before = maximum_[row];
      const F32 of_tile = maximum_of_tile_.empty()
                              ? maximum_of_tile(scores, lane_max(block_.k, scores.elements, row))
                              : maximum_of_tile_[static_cast<std::size_t>(row)];
      maximum_[row] = block_.k.max(before, of_tile);
      rescale_.push_back(block_.k.exp2(before - maximum_[row].get()));
    }
    exponentials(scores, row);
  }
}

// The scores of a row, of which this is the lane's largest.
F32 OnlineSoftmax::maximum_of_tile(const Scores& scores, F32 largest) const {
  KernelBuilder& k = block_.k;
  const bool steps = block_.plan.maximum_step != 0;
  const F32 minus_bias = -scores.bias;
  const F32 taken = steps ? scores.scale * minus_bias  // exact
                          : k.fma_up(scores.scale, minus_bias, k.f32(-block_.plan.p_offset));
  const F32 of_tile = quad_max(k, k.fma_up(largest, scores.scale, taken));
  return steps ? on_grid(of_tile, scores.scaled) : of_tile;
}

F32 OnlineSoftmax::shift_of(const Scores& scores, int row) const {
  return block_.k.fma_down(scores.scale, -scores.bias, -maximum_[row].get());
}

void OnlineSoftmax::exponentials(Scores& scores, int row) const {
  KernelBuilder& k = block_.k;
  const F32 shift = shift_of(scores, row);
  for (int column = 0; column < scores.elements.lane_columns(); ++column) {
    I32& element = scores.elements.at(row, column);
    element = k.as_bits(k.exp2(k.fma(k.as_f32(element), scores.scale, shift)));
  }
}

// Lanes ask for themselves whether a P of theirs is too large, and one of a warp is enough for the branch. In
// there each row answers for itself: what becomes of it does not depend on the other rows of its warp.
void OnlineSoftmax::raise_far_maxima(Scores& scores, const Rescale& rescale_earlier) {
  KernelBuilder& k = block_.k;
  const F32 limit = k.f32(block_.plan.p_offset + block_.plan.maximum_slack);
  std::vector<F32> largest, exponent;  // of the lane: its largest score, and log2 P of that
  Pred far = k.pred(false);
  for (int row = 0; row < scores.elements.lane_rows(); ++row) {
    largest.push_back(lane_max(k, scores.elements, row));
    exponent.push_back(k.fma(largest.back(), scores.scale, shift_of(scores, row)));
    far = far || exponent.back() > limit;
  }
  k.if_(k.any(far), [&] {
    for (int row = 0; row < scores.elements.lane_rows(); ++row) {
      const auto r = static_cast<std::size_t>(row);
      const F32 before = maximum_[row], of_tile = maximum_of_tile(scores, largest[r]);
      const F32 maximum =
          k.select(quad_max(k, exponent[r]) > limit, k.max(before, of_tile), before);
      const F32 factor = k.exp2(before - maximum);  // 1 where the maximum stays
      sum_[row] = sum_[row].get() * factor;
      rescale_earlier(row, factor);
      maximum_[row] = maximum;
    }
  });
}

void OnlineSoftmax::pack(Scores& scores) {
  KernelBuilder& k = block_.k;
  const AttentionPlan& plan = block_.plan;
  p_.assign(plan.cta_k / operand_keys(plan.pv), {});
  for (std::size_t step = 0; step < p_.size(); ++step) {
    for (int row = 0; row < scores.elements.row_blocks(); ++row) {
      p_[step].push_back(to_operand_a(k, plan.pv, scores.elements, row, static_cast<int>(step)));
    }
  }
}

// The sum of P is one more channel of P V, in which every V has the code v_code. So it has the roundings
// of P, and the truncations of the tensor core, that P V has: O stays within the range of V, and a constant
// channel comes out as it is, whatever the formats lose. All columns of the product are the same; every
// lane of a quad gets the whole sum.
void OnlineSoftmax::sum() {
  KernelBuilder& k = block_.k;
  const AttentionPlan& plan = block_.plan;
  const I32 code = k.i32(repeated(plan)), zero = k.i32(0);
  for (std::size_t block = 0; block < p_[0].size(); ++block) {
    std::array<F32, 2> before;
    for (std::size_t half = 0; half < 2; ++half) {
      before[half] = sum_[2 * block + half];
      if (!rescale_.empty()) before[half] = before[half] * rescale_[2 * block + half];
    }
    const MmaB codes(plan.pv, {code, code});
    const auto sum_from = [&](auto sum) {
      for (const RowOperands& p : p_) sum = k.mma(plan.pv_mma(), p[block], codes, sum);
      return sum;
    };
    std::array<F32, 2> tile;
    if (plan.half_sums) {
      const MmaHalfC sum = sum_from(MmaHalfC(zero, zero));
      for (std::size_t half = 0; half < 2; ++half) tile[half] = k.unpack2(DType::f16, sum[half])[0];
    } else {
      MmaC sum{zero, zero, zero, zero};
      if (!plan.two_level) sum = {k.as_bits(before[0]), zero, k.as_bits(before[1]), zero};
      sum = sum_from(sum);
      for (std::size_t half = 0; half < 2; ++half) tile[half] = k.as_f32(sum[2 * half]);
    }
    for (std::size_t half = 0; half < 2; ++half) {
      sum_[2 * block + half] = plan.two_level ? before[half] + tile[half] : tile[half];
    }
  }
  if (plan.finish_row_sums) block_.compute_here(sum_);
}

RowSums OnlineSoftmax::sums(const AttentionPosition& at) const {
  RowSums sums;
  for (const Var<F32>& sum : sum_) sums.of_keys.push_back(sum.get() * (1.0f / block_.plan.v_code));
  sums.all = sums.of_keys;
  if (!block_.mods.have_sink()) return sums;
  for (std::size_t row = 0; row < sum_.size(); ++row) {
    const F32 score = sink(at, static_cast<int>(row));
    sums.all[row] = sums.of_keys[row] + block_.k.exp2(score - maximum_[row]);
  }
  return sums;
}

// All lanes of a quad hold the same rows: each writes one.
void OnlineSoftmax::write_lse(const AttentionPosition& at, const BlockSequences& sequences,
                              const std::vector<F32>& sums) const {
  KernelBuilder& k = block_.k;
  const auto& p = block_.p;
  const GlobalPtr lse = p(&Params::lse);
  const AttentionPlan& plan = block_.plan;
  const I32 rows_of_q = block_.rows(sequences);
  const int rows = static_cast<int>(sums.size());
  k.if_(!k.is_null(lse), [&] {
    F32 maximum = maximum_[0], sum = sums[0];
    for (int row = 1; row < rows; ++row) {
      const Pred mine = at.lane.quad == row;
      maximum = k.select(mine, maximum_[row].get(), maximum);
      sum = k.select(mine, sums[row], sum);
    }
    const I32 query = at.lane_query + at.lane.quad * Accumulator::tile_row(1);
    k.if_(query < rows_of_q && at.lane.quad < rows, [&] {
      const Var<F32> value = k.var((maximum + k.log2(sum)) * kLn2);
      if (!plan.whole_scores) value = value.get() + block_.taken_by_smoothing(at, query);
      const I64 row = block_.index_of_row(at, sequences, query);
      k.store(lse + row * std::int64_t{4}, value.get());
    });
  });
}

}  // namespace sagegen::attention
