// K to INT8, after the mean over all keys is subtracted per channel (SageAttention2 section 3.1).
#include "templates/kernels.h"
#include "templates/quantize/rows.h"

namespace sagegen::templates {

using namespace dsl;
using abi::QuantizeKParams;
using abi::Tensor;

namespace {

// Mean of this thread's channel from the sums of chunks, shared with the block in `means`.
void share_means(KernelBuilder& k, const ParamReader<QuantizeKParams>& p, int head_dim,
                 I32 head_index, SharedPtr means) {
  const I32 chunks = p(&QuantizeKParams::chunks);
  const I64 first = k.to_i64(head_index) * k.to_i64(chunks) * std::int64_t{4 * head_dim};
  const I32 channel_bytes = k.thread_idx() * 4;
  const GlobalPtr sums = p(&QuantizeKParams::k_sum_partial) + first + channel_bytes;
  const Var<F32> sum = k.var(k.f32(0.0f));
  k.for_range(k.i32(0), chunks, 1, [&](I32 chunk) {
    sum = sum.get() + k.load<F32>(sums + k.to_i64(chunk) * std::int64_t{4 * head_dim});
  });
  const F32 mean = sum.get() / k.to_f32(p(&QuantizeKParams::kv_len));
  k.store(means + channel_bytes, mean);
  k.if_(k.block_idx(0) == 0, [&] {
    k.store(p(&QuantizeKParams::k_mean) + k.to_i64(head_index) * std::int64_t{4 * head_dim} +
                channel_bytes,
            mean);
  });
  k.barrier();
}

}  // namespace

void build_quantize_k(KernelBuilder& k, const KernelSpec& spec) {
  const int head_dim = spec.problem.head_dim, group_rows = spec.quant.k_group;
  const bool per_thread = spec.quant.granularity == Granularity::per_thread;
  const bool smooth = spec.quant.smoothing == Smoothing::k;
  const int scales_per_group = per_thread ? 4 : 1;
  const auto p = k.params<QuantizeKParams>();
  const RowThreads threads(k, head_dim);

  const I32 group = k.block_idx(0), head = k.block_idx(1), batch = k.block_idx(2);
  const I32 head_index = batch * k.grid_dim(1) + head;
  const I32 first_row = group * group_rows;
  const I64 row_bytes = p(&QuantizeKParams::k, &Tensor::stride_token) * kElementBytes;
  const GlobalPtr keys = head_of(k, p, &QuantizeKParams::k, batch, head);

  RowPart mean;
  if (smooth) {
    const SharedPtr means = k.shared(4 * head_dim, 16);
    share_means(k, p, head_dim, head_index, means);
    mean = load_f32x8(k, means + threads.channel() * 4);
  }

  std::vector<RowPart> rows;
  F32 amax = k.f32(0.0f);
  for (int pass = 0; pass < group_rows / kRowsPerPass; ++pass) {
    const I32 row = first_row + (pass * kRowsPerPass + threads.row());
    const Pred is_there = row < p(&QuantizeKParams::kv_len);
    RowPart part = threads.load(spec.problem.io, keys + k.to_i64(row) * row_bytes, is_there);
    for (std::size_t i = 0; smooth && i < part.size(); ++i) {
      part[i] = k.select(is_there, part[i] - mean[i], k.f32(0.0f));
    }
    amax = max_abs(k, part, amax);
    rows.push_back(part);
  }
  amax = per_thread ? threads.max_of_row_pair(amax)
                    : threads.max_of_block(amax, k.shared(4 * (head_dim / 32), 16));

  const CodeScale code = code_scale(k, amax, kLargestCode);
  const I64 first_padded_row =
      k.to_i64(head_index) * k.to_i64(p(&QuantizeKParams::kv_len_padded)) + k.to_i64(first_row);
  const GlobalPtr codes = p(&QuantizeKParams::k_codes) + first_padded_row * std::int64_t{head_dim};
  for (std::size_t pass = 0; pass < rows.size(); ++pass) {
    const I32 row = threads.row() + static_cast<int>(pass) * kRowsPerPass;
    store_codes(k, rows[pass], code.inverse, codes + (row * head_dim + threads.channel()));
  }

  const GlobalPtr scales =
      p(&QuantizeKParams::k_scale) +
      (k.to_i64(head_index * k.grid_dim(0)) + k.to_i64(group)) * std::int64_t{4 * scales_per_group};
  const Pred first_of_pair = threads.channel() == 0 && threads.row() % 2 == 0;
  const I32 scale_index = per_thread ? threads.row() / 2 : k.i32(0);
  k.if_(per_thread ? first_of_pair : k.thread_idx() == 0,
        [&] { k.store(scales + scale_index * 4, code.scale); });
}

}  // namespace sagegen::templates
