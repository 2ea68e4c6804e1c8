// Quantized attention, SageAttention2 algorithm 1: INT8 Q K^T, online softmax in base 2, P V in FP8 with
// two-level accumulation or in FP16. A thread block walks the keys for cta_q queries of one head; each
// warp owns 16 or 32 of them.
#include <limits>
#include <vector>

#include "generator/dsl/tile.h"
#include "sagegen/abi.h"
#include "templates/attention/block.h"
#include "templates/kernels.h"
#include "templates/tensor.h"

namespace sagegen::templates {

using namespace dsl;
using abi::AttentionParams;
using abi::Tensor;

namespace {

// An s32 accumulator that starts at the bits of 1.5 * 2^23 reads as the f32 kScoreBias + sum, exactly,
// while |sum| < 2^22 (127 * 127 * 256 is less). So scores need no conversion.
constexpr std::int32_t kScoreBiasBits = 0x4B400000;
constexpr float kScoreBias = 12582912.0f;
constexpr float kFirstMaximum = -1e30f;       // finite, so that differences of maxima are never NaN
constexpr float kSmallestScale = 0x1p-100f;   // a masked score times a scale of 0 would be NaN
constexpr float kMasked = -std::numeric_limits<float>::infinity();
constexpr float kLn2 = 0.693147182f;

class Attention {
 public:
  Attention(KernelBuilder& k, const KernelSpec& spec);
  void build();

 private:
  using Operands = std::vector<MmaA>;   // by row block

  I32 visible_keys(I32 query) const;
  I32 count_key_tiles() const;
  Operands query_operands(int k_step) const;
  void quantized_qk(SharedPtr stage);
  void mask_scores(I32 tile);
  void online_softmax(I32 tile);
  std::vector<Operands> quantized_p();
  void accumulate_pv(SharedPtr stage);
  void write_lse(const AttentionPosition& at, const std::vector<F32>& sum) const;
  void write_output(const AttentionPosition& at, const std::vector<F32>& sum) const;

  SharedTile keys(SharedPtr stage) const { return {plan_.k_tile, stage}; }
  SharedTile values(SharedPtr stage) const { return {plan_.v_tile, stage, plan_.k_tile.bytes()}; }

  KernelBuilder& k_;
  const AttentionPlan plan_;
  const ParamReader<AttentionParams> p_;
  const AttentionPosition at_;
  const AttentionInputs inputs_;
  const SharedPtr shared_;
  const SharedTile queries_;
  const OperandA q_operand_;
  const OperandB k_operand_;
  const OperandV v_operand_;
  const I32 key_tiles_;
  const F32 q_scale_;
  std::vector<Operands> held_queries_;   // by k step, if they are kept in registers

  // Carried from tile to tile. Per row of the lane: the maximum score less p_offset, and the sum of P
  // over this lane's columns.
  AccumulatorVars o_;
  std::vector<Var<F32>> maximum_, sum_;
  Var<F32> next_k_scale_;

  // Of the current tile: scores, then P; and what a new maximum multiplies O and sum_ with.
  Accumulator scores_;
  std::vector<F32> rescale_;
};

Attention::Attention(KernelBuilder& k, const KernelSpec& spec)
    : k_(k),
      plan_(spec),
      p_(k.params<AttentionParams>()),
      at_(k, plan_, p_, k.thread_idx()),
      inputs_(k, plan_, at_, p_),
      shared_(k.shared(plan_.shared_bytes(), kBankBytes)),
      queries_{plan_.q_tile, shared_},
      q_operand_(k, plan_.q_tile),
      k_operand_(k, plan_.k_tile),
      v_operand_(k, plan_.pv, plan_.v_tile),
      key_tiles_(count_key_tiles()),
      q_scale_(inputs_.q_scale(at_)),
      o_(k, plan_.warp_rows, plan_.head_dim),
      next_k_scale_(k.var(inputs_.k_scale(at_.thread, k.i32(0)))),
      scores_(plan_.warp_rows, plan_.cta_k, k.i32(kScoreBiasBits)) {
  for (int row = 0; row < o_.lane_rows(); ++row) {
    maximum_.push_back(k.var(k.f32(kFirstMaximum)));
    sum_.push_back(k.var(k.f32(0.0f)));
  }
}

void Attention::build() {
  inputs_.load_queries(at_.thread, queries_);
  k_.cp_async_commit();
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
    quantized_qk(stage);
    mask_scores(tile);
  };
  steps.softmax = [&](I32 tile) { online_softmax(tile); };
  steps.values = [&](I32, SharedPtr stage) { accumulate_pv(stage); };
  pipelined(k_, key_tiles_, plan_.stages, shared_ + std::int64_t{plan_.q_tile.bytes()},
            plan_.stage_bytes(), steps);

  std::vector<F32> sum;
  for (const Var<F32>& lane_sum : sum_) sum.push_back(quad_sum(k_, lane_sum));
  const AttentionPosition at(k_, plan_, p_, k_.reread_thread_idx());
  write_lse(at, sum);
  write_output(at, sum);
}

// ---- the walk over keys ---------------------------------------------------------------------------

// A query sees the keys 0 .. visible_keys - 1.
I32 Attention::visible_keys(I32 query) const {
  const I32 kv_len = p_(&AttentionParams::kv_len);
  if (!plan_.causal) return kv_len;
  const I32 up_to_diagonal = query + p_(&AttentionParams::causal_offset) + 1;
  return k_.max(k_.min(kv_len, up_to_diagonal), k_.i32(0));
}

I32 Attention::count_key_tiles() const {
  const I32 last_query = k_.min(at_.first_query + plan_.cta_q, p_(&AttentionParams::q_len)) - 1;
  return (visible_keys(last_query) + (plan_.cta_k - 1)) / plan_.cta_k;
}

Attention::Operands Attention::query_operands(int k_step) const {
  if (!held_queries_.empty()) return held_queries_[k_step];
  Operands operands;
  for (int row = 0; row < plan_.warp_rows; row += 16) {
    operands.push_back(q_operand_.load(queries_.rows_from(at_.warp_row), row / 16, k_step));
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

// All queries of the block see all keys of the tiles before the first masked one. Distances are taken
// from the tile, so that nothing of this stays in registers outside the branch.
void Attention::mask_scores(I32 tile) {
  const I32 first_masked_tile = visible_keys(at_.first_query) / plan_.cta_k;
  I32 keys_left, diagonal;   // of the lane's first query, from its first key on
  std::vector<I32> visible(scores_.lane_rows());
  scores_.update_if(k_, tile >= first_masked_tile, [&](int row, int column, I32 score) {
    if (row == 0 && column == 0) {
      const AttentionPosition at(k_, plan_, p_, k_.reread_thread_idx());
      const I32 first_key = tile * plan_.cta_k + 2 * at.lane.quad;
      keys_left = p_(&AttentionParams::kv_len) - first_key;
      diagonal = at.lane_query - first_key + (p_(&AttentionParams::causal_offset) + 1);
    }
    if (column == 0) {
      const I32 up_to_diagonal = diagonal + Accumulator::tile_row(row);
      visible[row] = plan_.causal ? k_.min(keys_left, up_to_diagonal) : keys_left;
    }
    const Pred hidden = visible[row] <= Accumulator::tile_column(column);
    return k_.select(hidden, k_.as_bits(k_.f32(kMasked)), score);
  });
}

// score = (s - kScoreBias) * scale in base 2, P = 2^(score - maximum + p_offset): one fma per element.
void Attention::online_softmax(I32 tile) {
  const F32 scale = k_.max(q_scale_ * next_k_scale_.get(), k_.f32(kSmallestScale));
  next_k_scale_ = inputs_.k_scale(k_.reread_thread_idx(), k_.min(tile + 1, key_tiles_ - 1));
  const F32 minus_bias = k_.f32(-kScoreBias);
  const F32 maximum_shift = k_.fma(scale, minus_bias, k_.f32(-plan_.p_offset));
  rescale_.clear();
  for (int row = 0; row < scores_.lane_rows(); ++row) {
    F32 largest = k_.as_f32(scores_.at(row, 0));
    for (int column = 1; column < scores_.lane_columns(); ++column) {
      largest = k_.max(largest, k_.as_f32(scores_.at(row, column)));
    }
    const F32 before = maximum_[row];
    const F32 maximum = k_.max(before, quad_max(k_, k_.fma(largest, scale, maximum_shift)));
    const F32 rescale = k_.exp2(before - maximum);
    const F32 shift = k_.fma(scale, minus_bias, -maximum);
    F32 sum = sum_[row].get() * rescale;
    for (int column = 0; column < scores_.lane_columns(); ++column) {
      const F32 p = k_.exp2(k_.fma(k_.as_f32(scores_.at(row, column)), scale, shift));
      scores_.at(row, column) = k_.as_bits(p);
      sum = sum + p;
    }
    maximum_[row] = maximum;
    sum_[row] = sum;
    rescale_.push_back(rescale);
  }
}

// P as operands of P V, by k step.
std::vector<Attention::Operands> Attention::quantized_p() {
  std::vector<Operands> steps(plan_.cta_k / operand_keys(plan_.pv));
  for (std::size_t step = 0; step < steps.size(); ++step) {
    for (int row = 0; row < scores_.row_blocks(); ++row) {
      steps[step].push_back(to_operand_a(k_, plan_.pv, scores_, row, static_cast<int>(step)));
    }
  }
  return steps;
}

// O = O * rescale + P V, a slice of channels at a time. With two levels the tensor core sums the tile
// from zero and O is updated in f32; otherwise it sums into O.
void Attention::accumulate_pv(SharedPtr stage) {
  const Mma kind = plan_.pv == DType::e4m3 ? Mma::e4m3 : Mma::f16;
  const std::vector<Operands> p = quantized_p();
  for (int slice = 0; slice < plan_.head_dim / OperandV::kChannels; ++slice) {
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
          pv.block(row, column) = k_.mma(kind, p[step][row], v[step][column], pv.block(row, column));
        }
      }
    }
    each([&](const Var<F32>& o, F32 rescale, I32& sum) {
      o = plan_.two_level ? k_.fma(o, rescale, k_.as_f32(sum)) : k_.as_f32(sum);
    });
  }
}

// ---- results ----------------------------------------------------------------------------------------

// The natural logarithm of the sum of exp(score), plus what smoothing took from the scores. Where no key
// is visible the sum is 0 and the result -inf.
void Attention::write_lse(const AttentionPosition& at, const std::vector<F32>& sum) const {
  const GlobalPtr lse = p_(&AttentionParams::lse);
  const GlobalPtr lse_correction = p_(&AttentionParams::lse_correction);
  const I32 q_len = p_(&AttentionParams::q_len), q_rows = p_(&AttentionParams::q_len_padded);
  k_.if_(!k_.is_null(lse), [&] {
    for (int row = 0; row < o_.lane_rows(); ++row) {
      const I32 query = at.lane_query + Accumulator::tile_row(row);
      const auto of_query = [&](GlobalPtr base, I32 rows) {
        return base + (k_.to_i64(at.q_index) * k_.to_i64(rows) + k_.to_i64(query)) * std::int64_t{4};
      };
      k_.if_(query < q_len && at.lane.quad == 0, [&] {
        const Var<F32> value = k_.var((maximum_[row].get() + k_.log2(sum[row])) * kLn2);
        k_.if_(!k_.is_null(lse_correction), [&] {
          value = value.get() + k_.load<F32>(of_query(lse_correction, q_rows));
        });
        k_.store(of_query(lse, q_len), value.get());
      });
    }
  });
}

// O / sum, times the scale of the channel of V, through shared memory so that rows leave in one piece.
void Attention::write_output(const AttentionPosition& at, const std::vector<F32>& sum) const {
  k_.cp_async_wait(0);
  k_.barrier();   // nobody reads queries, keys or values any more
  const SharedTile out{plan_.o_tile, shared_};
  const SharedTile warp_out = out.rows_from(at.warp_row);
  const GlobalPtr v_scale = p_(&AttentionParams::v_scale) +
                            (k_.to_i64(at.kv_index) * std::int64_t{plan_.head_dim} +
                             k_.to_i64(2 * at.lane.quad)) * std::int64_t{4};
  std::vector<F32> inverse;
  for (const F32 s : sum) {
    inverse.push_back(k_.select(s > 0.0f, k_.reciprocal(s), k_.f32(0.0f)));
  }
  for (int block = 0; block < plan_.head_dim / 8; ++block) {
    std::array<F32, 2> scale;
    for (int i = 0; plan_.v_quantized && i < 2; ++i) {
      scale[i] = k_.load<F32>(v_scale + std::int64_t{4 * (8 * block + i)});
    }
    for (int row = 0; row < o_.lane_rows(); ++row) {
      const auto value = [&](int i) {
        const F32 o = o_.at(row, 2 * block + i).get() * inverse[row];
        return plan_.v_quantized ? o * scale[i] : o;
      };
      store_quad_part(k_, warp_out, at.lane, row, block, k_.pack2(plan_.io, value(0), value(1)));
    }
  }
  k_.barrier();
  const I64 row_stride = p_(&AttentionParams::o, &Tensor::stride_token) * kElementBytes;
  const GlobalPtr o = head_of(k_, p_, &AttentionParams::o, at.batch, at.q_head) +
                      k_.to_i64(at.first_query) * row_stride;
  store_tile(k_, out, at.thread, plan_.threads, o, row_stride,
             p_(&AttentionParams::q_len) - at.first_query);
}

}  // namespace

void build_attention(KernelBuilder& k, const KernelSpec& spec) { Attention(k, spec).build(); }

}  // namespace sagegen::templates
