// Quantized attention, SageAttention2 algorithm 1: INT8 Q K^T, online softmax in base 2, P V in FP8 with
// two-level accumulation or in FP16. A thread block walks the keys for cta_q queries of one head; each
// warp owns 16 or 32 of them.
#include <limits>
#include <utility>
#include <vector>

#include "sagegen/dsl/tile.h"
#include "templates/attention/block.h"
#include "templates/attention/results.h"

namespace sagegen::attention {

using namespace dsl;

namespace {

// An s32 accumulator that starts at the bits of 1.5 * 2^23 reads as the f32 kScoreBias + sum, exactly,
// while |sum| < 2^22 (127 * 127 * 256 is less). So scores need no conversion.
constexpr std::int32_t kScoreBiasBits = 0x4B400000;
constexpr float kScoreBias = 12582912.0f;
// The softmax's fma scales the scores and takes off the bias by its constant, whose last bit is then
// worth up to one unit of s. Where a unit is more than this part of an octave, that is done before.
// (Bits of positive f32 are ordered as their values.)
constexpr std::int32_t kLargestFoldedScaleBits = 0x3C000000;  // 2^-7
// Finite, so that differences of maxima are never NaN.
constexpr float kFirstMaximum = std::numeric_limits<float>::lowest();
constexpr float kMasked = -std::numeric_limits<float>::infinity();
constexpr std::size_t kUnfinished = 32;  // registers for sums of P V that O has not taken up yet

// An operand register of P V that holds nothing but v_code.
std::int32_t repeated(const AttentionPlan& plan) {
  if (plan.pv == DType::e4m3) return 0x7E7E7E7E;      // 448
  return plan.v_quantized ? 0x64006400 : 0x3C003C00;  // 1024, 1
}

class Attention {
 public:
  Attention(KernelBuilder& k, const View& view);
  void build();

 private:
  using Operands = std::vector<MmaA>;  // by row block

  void load_scales(I32 tile, I32 thread);
  F32 loaded_scale() const;
  I32 visible_keys(I32 query) const;
  I32 count_key_tiles() const;
  Operands query_operands(int k_step) const;
  void quantized_qk(SharedPtr stage);
  void mask_scores(I32 tile);
  void online_softmax();
  void quantize_p();
  void sum_weights();
  void accumulate_pv(SharedPtr stage);
  void finish_now(const std::vector<Var<F32>>& values) const;

  Mma pv_kind() const { return plan_.pv == DType::e4m3 ? Mma::e4m3 : Mma::f16; }
  SharedTile keys(SharedPtr stage) const { return {plan_.k_tile, stage}; }
  SharedTile values(SharedPtr stage) const { return {plan_.v_tile, stage, plan_.k_tile.bytes()}; }

  KernelBuilder& k_;
  const AttentionPlan plan_;
  const ParamReader<Params> p_;
  const AttentionPosition at_;
  const AttentionInputs inputs_;
  const SharedPtr shared_;
  const SharedTile queries_;
  const OperandA q_operand_;
  const OperandB k_operand_;
  const OperandV v_operand_;
  const I32 key_tiles_;
  std::vector<Operands> held_queries_;  // by k step, if they are kept in registers

  // Carried from tile to tile. Per row of the lane: the maximum score less p_offset, and the sum of P,
  // times v_code.
  AccumulatorVars o_;
  std::vector<Var<F32>> maximum_, sum_;
  Var<F32> next_scale_;

  // Of the current tile: scores, then P; P as operands, by k step; what O and sum_ are multiplied with.
  Accumulator scores_;
  F32 scale_, bias_;                     // of the lane's scores
  F32 loaded_q_scale_, loaded_k_scale_;  // for the next tile; their product is taken late
  std::vector<Operands> p_codes_;
  std::vector<F32> rescale_;
};

Attention::Attention(KernelBuilder& k, const View& view)
    : k_(k),
      plan_(view),
      p_(k.params<Params>()),
      at_(k, plan_, p_, k.thread_idx()),
      inputs_(k, plan_, at_, p_),
      shared_(k.shared(plan_.shared_bytes(), kBankBytes)),
      queries_{plan_.q_tile, shared_},
      q_operand_(k, queries_.rows_from(at_.warp_row)),
      k_operand_(k, plan_.k_tile),
      v_operand_(k, plan_.pv, plan_.v_tile),
      key_tiles_(count_key_tiles()),
      o_(k, plan_.warp_rows, plan_.head_dim),
      next_scale_(k.var(k.f32(0.0f))),
      scores_(plan_.warp_rows, plan_.cta_k, k.i32(kScoreBiasBits)) {
  for (int row = 0; row < o_.lane_rows(); ++row) {
    maximum_.push_back(k.var(k.f32(kFirstMaximum)));
    sum_.push_back(k.var(k.f32(0.0f)));
  }
}

void Attention::build() {
  inputs_.load_queries(at_.thread, queries_);
  k_.cp_async_commit();
  load_scales(k_.i32(0), at_.thread);
  next_scale_ = loaded_scale();
  PipelineSteps steps;
  if (plan_.queries_in_registers) {
    steps.prologue = [&] {
      std::vector<Operands> held;
      for (int step = 0; step < plan_.head_dim / 32; ++step) held.push_back(query_operands(step));
      held_queries_ = held;
    };
  }
  steps.load_keys = [&](I32 tile, SharedPtr stage) {
    inputs_.load_keys(k_.reread_thread_idx(), tile, keys(stage));
  };
  steps.load_values = [&](I32 tile, SharedPtr stage) {
    inputs_.load_values(k_.reread_thread_idx(), tile, values(stage));
  };
  steps.scores = [&](I32 tile, SharedPtr stage) {
    load_scales(k_.min(tile + 1, key_tiles_ - 1), k_.reread_thread_idx());
    quantized_qk(stage);
    mask_scores(tile);
  };
  steps.softmax = [&](I32) { online_softmax(); };
  steps.values = [&](I32, SharedPtr stage) {
    quantize_p();
    sum_weights();
    if (!plan_.queries_in_registers) finish_now(sum_);
    accumulate_pv(stage);
    next_scale_ = loaded_scale();
  };
  pipelined(k_, key_tiles_, plan_.stages, shared_ + std::int64_t{plan_.q_tile.bytes()},
            plan_.stage_bytes(), steps);

  write_results(k_, plan_, p_, shared_, {.o = o_, .maximum = maximum_, .sum = sum_});
}

// ---- the walk over keys ---------------------------------------------------------------------------

// Scales of the scores that this lane will hold in a tile; the loads take as long as the tile before.
void Attention::load_scales(I32 tile, I32 thread) {
  loaded_q_scale_ = inputs_.q_scale({k_, plan_, p_, thread});
  loaded_k_scale_ = inputs_.k_scale(thread, tile);
}

F32 Attention::loaded_scale() const { return loaded_q_scale_ * loaded_k_scale_; }

// A query sees the keys 0 .. visible_keys - 1.
I32 Attention::visible_keys(I32 query) const {
  const I32 kv_len = p_(&Params::kv_len);
  if (!plan_.causal) return kv_len;
  const I32 up_to_diagonal = query + k_.params<CausalParams>()(&CausalParams::offset) + 1;
  return k_.max(k_.min(kv_len, up_to_diagonal), k_.i32(0));
}

// At least one tile, all of which is hidden if no query of the block sees a key: a loop that is known to
// run needs no second way around it.
I32 Attention::count_key_tiles() const {
  const I32 last_query = k_.min(at_.first_query + plan_.cta_q, p_(&Params::q_len)) - 1;
  return k_.max((visible_keys(last_query) + (plan_.cta_k - 1)) / plan_.cta_k, k_.i32(1));
}

Attention::Operands Attention::query_operands(int k_step) const {
  if (!held_queries_.empty()) return held_queries_[k_step];
  Operands operands;
  for (int row = 0; row < plan_.warp_rows; row += 16) {
    operands.push_back(q_operand_.load(row / 16, k_step));
  }
  return operands;
}

void Attention::quantized_qk(SharedPtr stage) {
  scores_ = Accumulator(plan_.warp_rows, plan_.cta_k, k_.i32(kScoreBiasBits));
  for (int step = 0; step < plan_.head_dim / 32; ++step) {
    const Operands q = query_operands(step);
    for (int pair = 0; pair < scores_.column_blocks() / 2; ++pair) {
      const std::array<MmaB, 2> key = k_operand_.load(keys(stage), pair, step);
      for (int half = 0; half < 2; ++half) {
        for (int row = 0; row < scores_.row_blocks(); ++row) {
          MmaC& score = scores_.block(row, 2 * pair + half);
          score = k_.mma(Mma::s8, q[row], key[half], score);
        }
      }
    }
  }
}

// Hides what a query does not see, and scales the scores here if the softmax must not; in most tiles
// there is nothing to do. All queries of the block see all keys of the tiles before the first masked
// one. Distances are taken from the tile, so that nothing of this stays in registers outside the branch.
void Attention::mask_scores(I32 tile) {
  const Pred masked = tile >= visible_keys(at_.first_query) / plan_.cta_k;
  const F32 scale = next_scale_;
  const Var<F32> scale_left = k_.var(scale), bias_left = k_.var(k_.f32(kScoreBias));
  I32 keys_left, diagonal;  // of the lane's first query, from its first key on
  std::vector<I32> visible(scores_.lane_rows());
  scores_.update_if(k_, masked || k_.as_bits(scale) > kLargestFoldedScaleBits,
                    [&](int row, int column, F32 score) {
                      if (row == 0 && column == 0) {
                        const AttentionPosition at(k_, plan_, p_, k_.reread_thread_idx());
                        const I32 first_key = tile * plan_.cta_k + 2 * at.lane.quad;
                        keys_left = p_(&Params::kv_len) - first_key;
                        if (plan_.causal) {
                          diagonal = at.lane_query - first_key +
                                     (k_.params<CausalParams>()(&CausalParams::offset) + 1);
                        }
                        scale_left = k_.f32(1.0f);
                        bias_left = k_.f32(0.0f);
                      }
                      if (column == 0) {
                        visible[row] =
                            plan_.causal ? k_.min(keys_left, diagonal + Accumulator::tile_row(row))
                                         : keys_left;
                      }
                      const Pred hidden = visible[row] <= Accumulator::tile_column(column);
                      return k_.select(hidden, k_.f32(kMasked), (score - kScoreBias) * scale);
                    });
  scale_ = scale_left;
  bias_ = bias_left;
}

// score = (s - bias) * scale in base 2, P = 2^(score - maximum + p_offset): one fma per element. Roundings
// of the maximum go up and those of what is taken off go down, so that no P exceeds 2^p_offset, where
// FP8 ends, however large the scores; a maximum that is a little high scales P and its sum alike.
void Attention::online_softmax() {
  const F32 minus_bias = -bias_;
  const F32 maximum_shift = k_.fma_up(scale_, minus_bias, k_.f32(-plan_.p_offset));
  rescale_.clear();
  for (int row = 0; row < scores_.lane_rows(); ++row) {
    F32 largest = k_.as_f32(scores_.at(row, 0));
    for (int column = 1; column < scores_.lane_columns(); ++column) {
      largest = k_.max(largest, k_.as_f32(scores_.at(row, column)));
    }
    const F32 before = maximum_[row];
    const F32 maximum = k_.max(before, quad_max(k_, k_.fma_up(largest, scale_, maximum_shift)));
    const F32 rescale = k_.exp2(before - maximum);
    const F32 shift = k_.fma_down(scale_, minus_bias, -maximum);
    for (int column = 0; column < scores_.lane_columns(); ++column) {
      const F32 p = k_.exp2(k_.fma(k_.as_f32(scores_.at(row, column)), scale_, shift));
      scores_.at(row, column) = k_.as_bits(p);
    }
    maximum_[row] = maximum;
    rescale_.push_back(rescale);
  }
}

void Attention::quantize_p() {
  p_codes_.assign(plan_.cta_k / operand_keys(plan_.pv), {});
  for (std::size_t step = 0; step < p_codes_.size(); ++step) {
    for (int row = 0; row < scores_.row_blocks(); ++row) {
      p_codes_[step].push_back(to_operand_a(k_, plan_.pv, scores_, row, static_cast<int>(step)));
    }
  }
}

// The sum of P, as one more channel of P V, in which every V has the code v_code. So the sum has the
// roundings of P, and the truncations of the tensor core, that P V has: O stays within the range of V,
// and a constant channel comes out as it is, whatever the formats lose. All columns of the
// product are the same; every lane of a quad gets the whole sum.
void Attention::sum_weights() {
  const I32 code = k_.i32(repeated(plan_)), zero = k_.i32(0);
  for (int block = 0; block < scores_.row_blocks(); ++block) {
    const int first_row = 2 * block;
    std::array<F32, 2> before;
    for (int half = 0; half < 2; ++half) {
      before[half] = sum_[first_row + half].get() * rescale_[first_row + half];
    }
    MmaC sum{zero, zero, zero, zero};
    if (!plan_.two_level) sum = {k_.as_bits(before[0]), zero, k_.as_bits(before[1]), zero};
    const MmaB codes(plan_.pv, {code, code});
    for (const Operands& p : p_codes_) sum = k_.mma(pv_kind(), p[block], codes, sum);
    for (int half = 0; half < 2; ++half) {
      const F32 tile = k_.as_f32(sum[2 * half]);
      sum_[first_row + half] = plan_.two_level ? before[half] + tile : tile;
    }
  }
}

// O = O * rescale + P V, a slice of channels at a time. With two levels the tensor core sums the tile
// from zero and O is updated in f32; otherwise it sums into O.
void Attention::accumulate_pv(SharedPtr stage) {
  std::vector<Var<F32>> updated;
  for (int slice = 0; slice < plan_.head_dim / OperandV::kChannels; ++slice) {
    if (plan_.two_level && updated.size() >= kUnfinished) finish_now(std::exchange(updated, {}));
    const auto v = v_operand_.load(values(stage), slice);
    Accumulator pv(plan_.warp_rows, OperandV::kChannels, k_.i32(0));
    const auto each = [&](const auto& visit) {
      for (int row = 0; row < pv.lane_rows(); ++row) {
        for (int column = 0; column < pv.lane_columns(); ++column) {
          visit(o_.at(row, slice * pv.lane_columns() + column), rescale_[row], pv.at(row, column));
        }
      }
    };
    if (!plan_.two_level) {
      each([&](const Var<F32>& o, F32 rescale, I32& sum) { sum = k_.as_bits(o.get() * rescale); });
    }
    for (std::size_t step = 0; step < v.size(); ++step) {
      for (int column = 0; column < pv.column_blocks(); ++column) {
        for (int row = 0; row < pv.row_blocks(); ++row) {
          pv.block(row, column) =
              k_.mma(pv_kind(), p_codes_[step][row], v[step][column], pv.block(row, column));
        }
      }
    }
    each([&](const Var<F32>& o, F32 rescale, I32& sum) {
      o = plan_.two_level ? k_.fma(o, rescale, k_.as_f32(sum)) : k_.as_f32(sum);
      updated.push_back(o);
    });
  }
}

// See finish(). No launch has a negative kv_len.
void Attention::finish_now(const std::vector<Var<F32>>& values) const {
  finish(k_, p_(&Params::kv_len) < 0, shared_, {values.begin(), values.end()});
}

}  // namespace

void build(KernelBuilder& k, const Kernel& kernel) { Attention(k, kernel.view(family())).build(); }

}  // namespace sagegen::attention
