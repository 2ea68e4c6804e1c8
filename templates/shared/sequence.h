// The sequence of a thread block, for kernels with `varlen` (shared/params.h).
#pragma once

#include "sagegen/dsl/kernel_builder.h"
#include "templates/shared/params.h"

namespace sagegen {

struct Sequence {
  dsl::I32 first;   // its first row in the caller's tensor
  dsl::I32 len;     // rows of that tensor
  dsl::I32 start;   // its first row in a head of the workspace
  dsl::I32 padded;  // rows that it has there: whole granules, one at least
};

// The lengths of the batch as they are on the device now; where they exceed what the host knows, less of them, so that
// no row is outside of a tensor. heads: rows that the workspace has of each of the tensor (pack_gqa); empty: one.
template <SequencesOf Of>
Sequence sequence_of(dsl::KernelBuilder& k, dsl::I32 batch, dsl::I32 heads = {}) {
  using namespace dsl;
  const auto rows_of = [&](I32 tokens) { return heads.v == nullptr ? tokens : tokens * heads; };
  using P = SequenceParams<Of>;
  const auto p = k.params<P>();
  const GlobalPtr sums = p(&P::sums);
  const I32 granule = p(&P::granule), longest = p(&P::longest);
  const Var<I32> first = k.var(k.i32(0)), len = k.var(longest), start = k.var(k.i32(0));
  k.if_(!k.is_null(sums), [&] {
    const GlobalPtr of_batch = sums + k.to_i64(batch) * std::int64_t{4};
    const I32 total = p(&P::total);
    const I32 begin = k.min(k.max(k.load<I32>(of_batch), k.i32(0)), total);
    const I32 end = k.min(k.max(k.load<I32>(of_batch + std::int64_t{4}), begin), total);
    first = begin;
    len = k.min(end - begin, longest);
    start = (rows_of(begin) & -granule) + batch * granule;
  });
  const I32 rows = rows_of(len.get());
  return {first, len, start, (k.max(rows, k.i32(1)) + (granule - 1)) & -granule};
}

// The first row of the sequence in a tensor of the workspace that has rows, counted over all heads.
template <SequencesOf Of>
dsl::I64 first_workspace_row(dsl::KernelBuilder& k, const Sequence& sequence, dsl::I32 batch,
                             dsl::I32 head) {
  using P = SequenceParams<Of>;
  const auto p = k.params<P>();
  const dsl::I32 index = batch * p(&P::heads) + head;
  return k.to_i64(index) * k.to_i64(p(&P::head_rows)) + k.to_i64(sequence.start);
}

// What a number of rows is divided by for their mean: a sequence without any has the mean 0.
inline dsl::F32 rows_to_divide_by(dsl::KernelBuilder& k, const Sequence& sequence) {
  return k.to_f32(k.max(sequence.len, k.i32(1)));
}

// Keys of a chunk, and how many chunks a sequence has.
struct Chunks {
  dsl::I32 len, count;
};
inline Chunks chunks_of(dsl::KernelBuilder& k, const Sequence& keys) {
  using dsl::I32;
  const I32 wanted =
      k.min(k.max((keys.len + (kKeysPerChunk - 1)) / kKeysPerChunk, k.i32(1)), k.i32(kMostChunks));
  const I32 even = (keys.len + (wanted - 1)) / wanted;
  const I32 len = (k.max(even, k.i32(1)) + (kChunkStep - 1)) / kChunkStep * kChunkStep;
  return {len, (keys.len + (len - 1)) / len};
}

}  // namespace sagegen
