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

F32 max_of_abs(KernelBuilder& k, F32 so_far, F32 value) { return k.max(so_far, k.abs(value)); }

// Eight numbers per thread, one per channel, that become one number per channel of the block.
struct Reduction {
  GlobalPtr tokens;  // of the block's head
  I64 row_bytes;
  GlobalPtr partial;
  Combine combine;
};

template <typename P>
Reduction reduction(KernelBuilder& k, Combine combine) {
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

  const int table_bytes = column_table_bytes(head_dim);
  const SharedPtr tables = k.shared(static_cast<int>(reductions.size()) * table_bytes, 16);
  const auto table_of = [&](std::size_t r) {
    return tables + static_cast<std::int64_t>(r) * table_bytes;
  };
  for (std::size_t r = 0; r < reductions.size(); ++r) {
    RowPart part;
    for (std::size_t i = 0; i < part.size(); ++i) part[i] = totals[r][i].get();
    store_columns(k, threads, part, table_of(r));
  }
  k.barrier();
  const I32 head_index = batch * k.grid_dim(1) + head;
  const I64 chunk_index = k.to_i64(head_index * k.grid_dim(0)) + k.to_i64(chunk);
  const I32 channel_bytes = k.thread_idx() * 4;
  for (std::size_t r = 0; r < reductions.size(); ++r) {
    const F32 total = combined_column(k, threads, table_of(r), reductions[r].combine);
    k.store(reductions[r].partial + chunk_index * std::int64_t{4 * head_dim} + channel_bytes,
            total);
  }
}

}  // namespace sagegen::kv_statistics
