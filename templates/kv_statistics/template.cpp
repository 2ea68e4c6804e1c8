// Partial reductions over the keys of one chunk: the sum of K per channel, for smoothing, and the
// largest |V| per channel, for its scale. One pass over both.
#include <optional>

#include "templates/kv_statistics/params.h"
#include "templates/kv_statistics/spec.h"
#include "templates/shared/rows.h"

namespace sagegen::kv_statistics {

using namespace dsl;

namespace {

constexpr int kPasses = 4;  // rows per thread and iteration, so that loads overlap

F32 add(KernelBuilder&, F32 so_far, F32 value) { return so_far + value; }
F32 max_of_abs(KernelBuilder& k, F32 so_far, F32 value) { return k.max(so_far, k.abs(value)); }

// Eight numbers per thread, one per channel, that become one number per channel of the block.
struct Reduction {
  GlobalPtr tokens;  // of the block's head
  I64 row_bytes;
  GlobalPtr partial;
  F32 (*combine)(KernelBuilder& k, F32 so_far, F32 value);
};

template <typename P>
Reduction reduction(KernelBuilder& k, F32 (*combine)(KernelBuilder&, F32, F32)) {
  const auto p = k.params<P>();
  return {head_of(k, p, &P::tokens, k.block_idx(2), k.block_idx(1)),
          p(&P::tokens, &TensorParam::stride_token) * kElementBytes, p(&P::partial), combine};
}

}  // namespace

void build(KernelBuilder& k, const Kernel& kernel) {
  const Spec& spec = kernel.view(family()).spec;
  const int head_dim = spec.head_dim;
  std::vector<Reduction> reductions;
  if (spec.k_sum) reductions.push_back(reduction<KSumParams>(k, add));
  if (spec.v_amax) reductions.push_back(reduction<VAmaxParams>(k, max_of_abs));
  const auto p = k.params<Params>();
  const RowThreads threads(k, head_dim);

  const I32 chunk = k.block_idx(0), head = k.block_idx(1), batch = k.block_idx(2);
  const I32 first_row = chunk * p(&Params::chunk_len);
  const I32 rows = k.min(p(&Params::chunk_len), p(&Params::kv_len) - first_row);

  std::vector<std::array<Var<F32>, 8>> totals(reductions.size());
  for (auto& total : totals) {
    for (Var<F32>& channel : total) channel = k.var(k.f32(0.0f));
  }
  k.for_range(k.i32(0), rows, kPasses * kRowsPerPass, [&](I32 first) {
    for (std::size_t r = 0; r < reductions.size(); ++r) {
      std::vector<RowPart> parts;
      for (int pass = 0; pass < kPasses; ++pass) {
        const I32 row = first + (threads.row() + pass * kRowsPerPass);
        const GlobalPtr from =
            reductions[r].tokens + k.to_i64(first_row + row) * reductions[r].row_bytes;
        parts.push_back(threads.load(spec.io, from, row < rows));
      }
      for (const RowPart& part : parts) {
        for (std::size_t i = 0; i < part.size(); ++i) {
          totals[r][i].set(reductions[r].combine(k, totals[r][i], part[i]));
        }
      }
    }
  });

  // [reduction][row of the pass][channel]: each thread parks its eight, then takes one channel.
  const int table_bytes = kRowsPerPass * head_dim * 4;
  const SharedPtr tables = k.shared(static_cast<int>(reductions.size()) * table_bytes, 16);
  const I32 part_bytes = (threads.row() * head_dim + threads.channel()) * 4;
  for (std::size_t r = 0; r < reductions.size(); ++r) {
    const SharedPtr part = tables + part_bytes + static_cast<std::int64_t>(r) * table_bytes;
    for (std::size_t half = 0; half < 2; ++half) {
      std::array<I32, 4> words;
      for (std::size_t i = 0; i < 4; ++i) words[i] = k.as_bits(totals[r][4 * half + i].get());
      k.store_v4(part + static_cast<std::int64_t>(16 * half), words);
    }
  }
  k.barrier();
  const I32 head_index = batch * k.grid_dim(1) + head;
  const I64 chunk_index = k.to_i64(head_index * k.grid_dim(0)) + k.to_i64(chunk);
  const I32 channel_bytes = k.thread_idx() * 4;
  for (std::size_t r = 0; r < reductions.size(); ++r) {
    const SharedPtr column = tables + channel_bytes + static_cast<std::int64_t>(r) * table_bytes;
    F32 total = k.load<F32>(column);
    for (int row = 1; row < kRowsPerPass; ++row) {
      total =
          reductions[r].combine(k, total, k.load<F32>(column + std::int64_t{4 * row * head_dim}));
    }
    k.store(reductions[r].partial + chunk_index * std::int64_t{4 * head_dim} + channel_bytes,
            total);
  }
}

}  // namespace sagegen::kv_statistics
