// Partial reductions over the keys of one chunk: the sum of K per channel, for smoothing, and the
// largest |V| per channel, for its scale, or the sum and the range of V, for both. One pass.
#include <limits>
#include <optional>
#include <utility>

#include "templates/kv_statistics/params.h"
#include "templates/kv_statistics/spec.h"
#include "templates/shared/rows.h"
#include "templates/shared/sequence.h"

namespace sagegen::kv_statistics {

using namespace dsl;

namespace {

constexpr int kPasses = 4;  // rows per thread and iteration, so that loads overlap

F32 max_of_abs(KernelBuilder& k, F32 so_far, F32 value) { return k.max(so_far, k.abs(value)); }

// Eight numbers per thread, one per channel, that become one number per channel of the block.
struct Reduction {
  GlobalPtr partial;
  Combine combine;
  float start;  // that changes nothing
  float factor = 1;
};

// What is reduced, of the block's head. Rows that are not there are zeros.
struct Source {
  GlobalPtr tokens;
  I64 row_bytes;
  std::vector<Reduction> reductions;
};

template <typename P>
Source source(KernelBuilder& k, std::vector<Reduction> reductions) {
  const auto p = k.params<P>();
  return {head_of(k, p, &P::tokens, k.block_idx(2), k.block_idx(1)),
          p(&P::tokens, &TensorParam::stride_token) * kElementBytes, std::move(reductions)};
}

std::vector<Source> sources_of(KernelBuilder& k, const Spec& spec) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  std::vector<Source> sources;
  if (spec.k_sum) {
    const auto p = k.params<KSumParams>();
    sources.push_back(source<KSumParams>(k, {{p(&KSumParams::partial), add, 0}}));
  }
  if (spec.v_amax) {
    const auto p = k.params<VAmaxParams>();
    sources.push_back(source<VAmaxParams>(k, {{p(&VAmaxParams::partial), max_of_abs, 0}}));
  }
  if (spec.v_range) {
    const auto p = k.params<VRangeParams>();
    sources.push_back(
        source<VRangeParams>(k, {{p(&VRangeParams::sum_partial), add, 0, sum_factor(spec.io)},
                                 {p(&VRangeParams::least_partial), least, kLargest},
                                 {p(&VRangeParams::largest_partial), largest, -kLargest}}));
  }
  return sources;
}

// Rows of a chunk, among those of a head of the caller.
struct ChunkRows {
  I32 first, count;
};

ChunkRows rows_of_chunk(KernelBuilder& k, I32 chunk) {
  const auto p = k.params<Params>();
  const I32 first_row = chunk * p(&Params::chunk_len);
  const I32 rows = k.min(p(&Params::chunk_len), p(&Params::kv_len) - first_row);
  return {first_row, rows};
}

void reduce(KernelBuilder& k, const Spec& spec, const std::optional<ChunkRows>& of_sequence) {
  const int head_dim = spec.head_dim;
  const std::vector<Source> sources = sources_of(k, spec);
  const RowThreads threads(k, head_dim);

  const I32 chunk = k.block_idx(0), head = k.block_idx(1), batch = k.block_idx(2);
  const auto [first_row, rows] = of_sequence ? *of_sequence : rows_of_chunk(k, chunk);

  std::vector<Reduction> reductions;
  for (const Source& source : sources)
    reductions.insert(reductions.end(), source.reductions.begin(), source.reductions.end());
  std::vector<std::array<Var<F32>, 8>> totals(reductions.size());
  for (std::size_t r = 0; r < reductions.size(); ++r) {
    for (Var<F32>& channel : totals[r]) channel = k.var(k.f32(reductions[r].start));
  }
  k.for_range(k.i32(0), rows, kPasses * kRowsPerPass, [&](I32 first) {
    auto total = totals.begin();
    for (const Source& source : sources) {
      std::vector<RowPart> parts;
      std::vector<Pred> there;
      for (int pass = 0; pass < kPasses; ++pass) {
        const I32 row = first + (threads.row() + pass * kRowsPerPass);
        const GlobalPtr from = source.tokens + k.to_i64(first_row + row) * source.row_bytes;
        there.push_back(row < rows);
        parts.push_back(threads.load(spec.io, from, there.back()));
      }
      for (const Reduction& reduction : source.reductions) {
        for (std::size_t pass = 0; pass < parts.size(); ++pass) {
          for (std::size_t i = 0; i < total->size(); ++i) {
            F32 value = parts[pass][i];
            if (reduction.factor != 1) value = value * reduction.factor;
            if (reduction.start != 0) value = k.select(there[pass], value, k.f32(reduction.start));
            (*total)[i].set(reduction.combine(k, (*total)[i], value));
          }
        }
        ++total;
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
    of_own_channel(k, threads.threads(), head_dim, [&] {
      k.store(reductions[r].partial + chunk_index * std::int64_t{4 * head_dim} + channel_bytes,
              total);
    });
  }
}

}  // namespace

void build(KernelBuilder& k, const Kernel& kernel) {
  const Spec& spec = kernel.view(family()).spec;
  if (!spec.varlen) return reduce(k, spec, {});
  const Sequence keys = sequence_of<SequencesOf::keys>(k, k.block_idx(2));
  const I32 chunk_len = chunks_of(k, keys).len, first_row = k.block_idx(0) * chunk_len;
  k.if_(first_row < keys.len, [&] {
    const I32 rows = k.min(chunk_len, keys.len - first_row);
    reduce(k, spec, ChunkRows{keys.first + first_row, rows});
  });
}

}  // namespace sagegen::kv_statistics
