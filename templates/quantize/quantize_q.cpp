// Q to INT8. The softmax scale and log2(e) go into the scale of the codes, so attention works in base 2
// with one factor. Where the LSE is wanted, the term that smoothing K removes from it is computed here,
// while Q is at hand in full precision.
#include "templates/kernels.h"
#include "templates/quantize/rows.h"

namespace sagegen::templates {

using namespace dsl;
using abi::QuantizeQParams;
using abi::Tensor;

namespace {

constexpr float kLog2E = 1.44269504f;

}  // namespace

void build_quantize_q(KernelBuilder& k, const KernelSpec& spec) {
  const int head_dim = spec.problem.head_dim, group_rows = spec.quant.q_group;
  const bool per_thread = spec.quant.granularity == Granularity::per_thread;
  const int scales_per_group = per_thread ? 8 : 1;
  const auto p = k.params<QuantizeQParams>();
  const RowThreads threads(k, head_dim);

  const I32 group = k.block_idx(0), head = k.block_idx(1), batch = k.block_idx(2);
  const I32 head_index = batch * k.grid_dim(1) + head;
  const I32 first_row = group * group_rows;
  const I64 row_bytes = p(&QuantizeQParams::q, &Tensor::stride_token) * kElementBytes;
  const GlobalPtr q = head_of(k, p, &QuantizeQParams::q, batch, head);
  const I64 first_padded_row =
      k.to_i64(head_index) * k.to_i64(p(&QuantizeQParams::q_len_padded)) + k.to_i64(first_row);
  const F32 softmax_scale = p(&QuantizeQParams::softmax_scale);

  std::vector<RowPart> rows;
  F32 amax = k.f32(0.0f);
  for (int pass = 0; pass < group_rows / kRowsPerPass; ++pass) {
    const I32 row = first_row + (pass * kRowsPerPass + threads.row());
    const Pred is_there = row < p(&QuantizeQParams::q_len);
    rows.push_back(threads.load(spec.problem.io, q + k.to_i64(row) * row_bytes, is_there));
    amax = max_abs(k, rows.back(), amax);
  }
  amax = per_thread ? threads.max_of_row(amax)
                    : threads.max_of_block(amax, k.shared(4 * (head_dim / 32), 16));

  const CodeScale code = code_scale(k, amax, kLargestCode);
  const GlobalPtr codes = p(&QuantizeQParams::q_codes) + first_padded_row * std::int64_t{head_dim};
  for (std::size_t pass = 0; pass < rows.size(); ++pass) {
    const I32 row = threads.row() + static_cast<int>(pass) * kRowsPerPass;
    store_codes(k, rows[pass], code.inverse, codes + (row * head_dim + threads.channel()));
  }

  const I32 scale_index = per_thread ? threads.row() : k.i32(0);
  const GlobalPtr scales =
      p(&QuantizeQParams::q_scale) +
      (k.to_i64(head_index * k.grid_dim(0)) + k.to_i64(group)) * std::int64_t{4 * scales_per_group};
  const Pred first_of_row = threads.channel() == 0;
  k.if_(per_thread ? first_of_row : k.thread_idx() == 0,
        [&] { k.store(scales + scale_index * 4, code.scale * (softmax_scale * kLog2E)); });

  const GlobalPtr lse_correction = p(&QuantizeQParams::lse_correction);
  k.if_(!k.is_null(lse_correction), [&] {
    const I32 kv_index = head_index / p(&QuantizeQParams::heads_per_kv_head);
    const GlobalPtr mean =
        p(&QuantizeQParams::k_mean) +
        (k.to_i64(kv_index) * std::int64_t{head_dim} + k.to_i64(threads.channel())) *
            std::int64_t{4};
    const RowPart k_mean = load_f32x8(k, mean);
    for (std::size_t pass = 0; pass < rows.size(); ++pass) {
      const F32 correction = threads.dot(rows[pass], k_mean) * softmax_scale;
      const I32 row = threads.row() + static_cast<int>(pass) * kRowsPerPass;
      const GlobalPtr to = lse_correction + (first_padded_row + k.to_i64(row)) * std::int64_t{4};
      k.if_(first_of_row, [&] { k.store(to, correction); });
    }
  });
}

}  // namespace sagegen::templates
