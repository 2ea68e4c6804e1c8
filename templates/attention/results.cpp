#include "templates/attention/results.h"

#include "templates/shared/tensor.h"

namespace sagegen::attention {

using namespace dsl;

namespace {

constexpr float kLn2 = 0.693147182f;

// The natural logarithm of the sum of exp(score), plus what smoothing took from the scores. Where no
// key is visible the sum is 0 and the result -inf. All lanes of a quad hold the same rows: each writes one.
void write_lse(KernelBuilder& k, const AttentionPlan& plan, const ParamReader<Params>& p,
               const AttentionPosition& at, const std::vector<Var<F32>>& maximums,
               const std::vector<F32>& sums) {
  const GlobalPtr lse = p(&Params::lse);
  const I32 q_len = p(&Params::q_len), q_rows = p(&Params::q_len_padded);
  const int rows = static_cast<int>(sums.size());
  k.if_(!k.is_null(lse), [&] {
    F32 maximum = maximums[0], sum = sums[0];
    for (int row = 1; row < rows; ++row) {
      const Pred mine = at.lane.quad == row;
      maximum = k.select(mine, maximums[row].get(), maximum);
      sum = k.select(mine, sums[row], sum);
    }
    const I32 query = at.lane_query + at.lane.quad * Accumulator::tile_row(1);
    const auto of_query = [&](GlobalPtr base, I32 length) {
      return base + (k.to_i64(at.q_index) * k.to_i64(length) + k.to_i64(query)) * std::int64_t{4};
    };
    k.if_(query < q_len && at.lane.quad < rows, [&] {
      const Var<F32> value = k.var((maximum + k.log2(sum)) * kLn2);
      if (plan.smooth) {
        const GlobalPtr correction = k.params<SmoothingParams>()(&SmoothingParams::lse_correction);
        k.if_(!k.is_null(correction),
              [&] { value = value.get() + k.load<F32>(of_query(correction, q_rows)); });
      }
      k.store(of_query(lse, q_len), value.get());
    });
  });
}

// O / sum, times the scale of the channel of V, through shared memory so that rows leave in one piece.
void write_output(KernelBuilder& k, const AttentionPlan& plan, const ParamReader<Params>& p,
                  const AttentionPosition& at, SharedPtr shared, const AccumulatorVars& o,
                  const std::vector<F32>& sum) {
  k.barrier();  // nobody reads queries, keys or values any more
  const SharedTile out{plan.o_tile, shared};
  const QuadRows lane_out(out.rows_from(at.warp_row), at.lane);
  const GlobalPtr v_scale =
      p(&Params::v_scale) +
      (k.to_i64(at.kv_index) * std::int64_t{plan.head_dim} + k.to_i64(2 * at.lane.quad)) *
          std::int64_t{4};
  std::vector<F32> inverse;
  for (const F32 s : sum) {
    inverse.push_back(k.select(s > 0.0f, k.reciprocal(s), k.f32(0.0f)));
  }
  for (int block = 0; block < plan.head_dim / 8; ++block) {
    std::array<F32, 2> scale;
    for (int i = 0; plan.v_quantized && i < 2; ++i) {
      scale[i] = k.load<F32>(v_scale + std::int64_t{4 * (8 * block + i)});
    }
    for (int row = 0; row < o.lane_rows(); ++row) {
      const auto value = [&](int i) {
        const F32 normalized = o.at(row, 2 * block + i).get() * inverse[row];
        return plan.v_quantized ? normalized * scale[i] : normalized;
      };
      lane_out.store(k, row, block, k.pack2(plan.io, value(0), value(1)));
    }
  }
  k.barrier();
  const I64 row_stride = p(&Params::o, &TensorParam::stride_token) * kElementBytes;
  const GlobalPtr first_row =
      head_of(k, p, &Params::o, at.batch, at.q_head) + k.to_i64(at.first_query) * row_stride;
  store_tile(k, out, at.thread, plan.threads, first_row, row_stride,
             p(&Params::q_len) - at.first_query);
}

}  // namespace

void write_results(KernelBuilder& k, const AttentionPlan& plan, const ParamReader<Params>& p,
                   SharedPtr shared, const AttentionSums& sums) {
  std::vector<F32> sum;
  for (const Var<F32>& of_row : sums.sum) sum.push_back(of_row.get() * (1.0f / plan.v_code));
  const AttentionPosition at(k, plan, p, k.reread_thread_idx());
  write_lse(k, plan, p, at, sums.maximum, sum);
  write_output(k, plan, p, at, shared, sums.o, sum);
}

}  // namespace sagegen::attention
