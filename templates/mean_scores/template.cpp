// Scores of mean queries with the keys of one tile. The means of Q are the rows of A, sixteen at a time, the keys less
// their mean are the columns of B, and each number is split into two of K's type: high * high, high * low and low * high
// leave out 2^-22 (f16) or 2^-16 (bf16) of a product. K is not taken as it is, and the mean's score off the sums: where
// the mean is large, the sums would keep less of what is left.
#include <algorithm>
#include <optional>
#include <utility>

#include "sagegen/dsl/tile.h"
#include "templates/mean_scores/params.h"
#include "templates/mean_scores/spec.h"
#include "templates/shared/packed_rows.h"
#include "templates/shared/rows.h"
#include "templates/shared/sequence.h"

namespace sagegen::mean_scores {

using namespace dsl;

namespace {

constexpr int kRows = 16;  // of one mma
constexpr int kF32 = 4;

// What two numbers of a type make of x: its nearest, and the nearest to the rest.
struct Split {
  I32 high, low;
};
Split split(KernelBuilder& k, DType type, F32 x, F32 y) {
  const I32 high = k.pack2(type, x, y);
  const auto rounded = k.unpack2(type, high);
  return {high, k.pack2(type, x - rounded[0], y - rounded[1])};
}

// Factors that bring operands into the range of their type, and sums to octaves. Of f16 the difference of two numbers
// may be twice the largest. bf16 has the range of f32: there the softmax scale comes first, as in the scale of Q.
struct Factors {
  F32 of_means, of_keys, of_sums;
};
Factors factors(KernelBuilder& k, DType type) {
  const F32 unit = k.params<Params>()(&Params::softmax_scale) * kLog2E;
  if (type == DType::bf16) return {unit, k.f32(1.0f), k.f32(1.0f)};
  return {k.f32(1.0f), k.f32(0.5f), unit * 2.0f};
}

// Of a block: varlen.
struct Sequences {
  Sequence queries, keys;
};

// The keys of the block less their mean, in two tiles.
void store_keys(KernelBuilder& k, const Spec& spec, const RowThreads& threads, I32 head_index,
                GlobalPtr from, const std::optional<Sequences>& sequences, F32 factor,
                const std::array<SharedTile, 2>& tiles) {
  const auto p = k.params<Params>();
  const I32 first_key = k.block_idx(0) * kKeys;
  const I64 stride = p(&Params::k, &TensorParam::stride_token) * kElementBytes;
  const GlobalPtr of_mean =
      p(&Params::k_mean) +
      k.to_i64(head_index / p(&Params::heads_per_kv_head)) * std::int64_t{kF32 * spec.head_dim} +
      threads.channel() * kF32;
  const RowPart mean = threads.load_f32(of_mean);
  for (int pass = 0; pass < kKeys / kRowsPerPass; ++pass) {
    const I32 row = threads.row() + pass * kRowsPerPass, key = first_key + row;
    const Pred is_there = key < (sequences ? sequences->keys.len : p(&Params::kv_len));
    const RowPart part = threads.load(spec.io, from + k.to_i64(key) * stride, is_there);
    std::array<I32, 4> high, low;
    for (std::size_t i = 0; i < high.size(); ++i) {
      const auto less_mean = [&](std::size_t c) {
        return k.select(is_there, part[c] - mean[c], k.f32(0.0f)) * factor;
      };
      const Split pair = split(k, spec.io, less_mean(2 * i), less_mean(2 * i + 1));
      high[i] = pair.high;
      low[i] = pair.low;
    }
    const I32 offset = tiles[0].layout.offset(row, threads.channel() / 8);
    threads.of_channels(channels(spec), [&] {
      k.store_v4(tiles[0].base + offset, high);
      k.store_v4(tiles[1].base + offset, low);
    });
  }
}

// Sixteen means as A operands by k step.
struct Means {
  std::vector<MmaA> high, low;
};
Means load_means(KernelBuilder& k, const Spec& spec, const std::array<GlobalPtr, 2>& rows, I32 quad,
                 F32 factor) {
  Means means;
  for (int step = 0; step < channels(spec) / kStepChannels; ++step) {
    std::array<I32, 4> high, low;
    for (std::size_t half = 0; half < 2; ++half) {  // of the step: channels 2 quad, 2 quad + 8
      const int first = step * kStepChannels + static_cast<int>(half) * 8;
      for (std::size_t row = 0; row < 2; ++row) {
        if (first >= spec.head_dim) {
          high[2 * half + row] = low[2 * half + row] = k.i32(0);
          continue;
        }
        const auto bits = k.load_v2(rows[row] + (quad * 2 + first) * kF32);
        const Split pair =
            split(k, spec.io, k.as_f32(bits[0]) * factor, k.as_f32(bits[1]) * factor);
        high[2 * half + row] = pair.high;
        low[2 * half + row] = pair.low;
      }
    }
    means.high.emplace_back(spec.io, high);
    means.low.emplace_back(spec.io, low);
  }
  return means;
}

GlobalPtr head_of_keys(KernelBuilder& k, I32 batch, I32 kv_head,
                       const std::optional<Sequences>& sequences) {
  const auto p = k.params<Params>();
  const GlobalPtr head = head_of(k, p, &Params::k, batch, kv_head);
  if (!sequences) return head;
  return head + k.to_i64(sequences->keys.first) *
                    (p(&Params::k, &TensorParam::stride_token) * kElementBytes);
}

void compute(KernelBuilder& k, const Spec& spec, I32 batch, I32 head,
             const std::optional<Sequences>& sequences) {
  const auto p = k.params<Params>();
  const std::int64_t row_bytes = std::int64_t{kF32} * spec.head_dim;
  const I32 head_index = batch * p(&Params::heads) + head;
  const I32 kv_head = head / p(&Params::heads_per_kv_head);
  const Factors factor = factors(k, spec.io);

  const TileLayout layout = OperandB::layout(spec.io, kKeys, 2 * channels(spec));
  const SharedPtr shared = k.shared(2 * layout.bytes(), kBankBytes);
  const std::array<SharedTile, 2> keys{SharedTile{layout, shared},
                                       SharedTile{layout, shared + std::int64_t{layout.bytes()}}};
  store_keys(k, spec, RowThreads(k, spec.head_dim, channels(spec)), head_index,
             head_of_keys(k, batch, kv_head, sequences), sequences, factor.of_keys, keys);
  k.barrier();

  const LanePosition lane(k.thread_idx());
  const OperandB operand(k, layout);
  const auto mean_of_head = [&] {
    if (!sequences) return k.to_i64(head_index) * k.to_i64(p(&Params::blocks_of_head));
    return first_workspace_row<SequencesOf::queries>(k, sequences->queries, batch, head) /
           kMeanRows;
  };
  const I64 first_mean = mean_of_head() + k.to_i64(p(&Params::first_block));
  const GlobalPtr q_mean = p(&Params::q_mean) + first_mean * row_bytes;
  const I32 blocks = p(&Params::blocks);
  const I64 keys_bytes = k.to_i64(p(&Params::kv_len_padded)) * std::int64_t{kF32};
  const I64 first_row =
      k.to_i64(k.block_idx(2) * k.grid_dim(1) + k.block_idx(1)) * k.to_i64(blocks);
  const GlobalPtr scores = p(&Params::scores) + first_row * keys_bytes +
                           k.to_i64(k.block_idx(0)) * std::int64_t{kKeys * kF32} +
                           k.to_i64(lane.quad * (4 * kF32));
  const Mma kind = spec.io == DType::f16 ? Mma::f16 : Mma::bf16;

  const I32 there =
      sequences ? k.min(blocks, sequences->queries.padded / kMeanRows - p(&Params::first_block))
                : blocks;
  k.for_range(k.warp_idx() * kRows, there, threads(spec) / 32 * kRows, [&](I32 first) {
    std::array<I32, 2> rows;
    std::array<GlobalPtr, 2> from_rows;
    for (std::size_t i = 0; i < 2; ++i) {
      rows[i] = first + Accumulator::tile_row(static_cast<int>(i)) + lane.row;
      from_rows[i] = q_mean + k.to_i64(k.min(rows[i], there - 1)) * row_bytes;
    }
    const Means means = load_means(k, spec, from_rows, lane.quad, factor.of_means);
    Accumulator sums(kRows, kKeys, k.f32(0.0f));
    for (std::size_t step = 0; step < means.high.size(); ++step) {
      for (int pair = 0; pair < sums.column_blocks() / 2; ++pair) {
        const auto high = operand.load(keys[0], pair, static_cast<int>(step)),
                   low = operand.load(keys[1], pair, static_cast<int>(step));
        for (std::size_t half = 0; half < 2; ++half) {
          const int column = 2 * pair + static_cast<int>(half);
          multiply_add(k, kind, {means.high[step]}, high[half], sums, column);
          multiply_add(k, kind, {means.high[step]}, low[half], sums, column);
          multiply_add(k, kind, {means.low[step]}, high[half], sums, column);
        }
      }
    }
    for (int i = 0; i < 2; ++i) {
      const auto row = static_cast<std::size_t>(i);
      k.if_(rows[row] < there, [&] {
        const GlobalPtr to = scores + k.to_i64(rows[row]) * keys_bytes;
        for (int four = 0; four < sums.lane_columns(); four += 4) {  // of every 16 keys
          std::array<I32, 4> values;
          for (int j = 0; j < 4; ++j) {
            const F32 score = k.as_f32(sums.at(i, four + j)) * factor.of_sums;
            values[static_cast<std::size_t>(j)] = k.as_bits(score);
          }
          k.store_v4(to + std::int64_t{four / 4 * 16 * kF32}, values);
        }
      });
    }
  });
}

}  // namespace

void build(KernelBuilder& k, const Kernel& kernel) {
  const Spec& spec = kernel.view(family()).spec;
  const auto p = k.params<Params>();
  const I32 batch = p(&Params::first_batch) + k.block_idx(2);
  const I32 head = p(&Params::first_head) + k.block_idx(1);
  if (!spec.varlen) return compute(k, spec, batch, head, {});
  const Sequence queries =
      sequence_of<SequencesOf::queries>(k, batch, spec.pack_gqa ? PackedRows(k).heads() : I32{});
  const Sequences sequences{queries, sequence_of<SequencesOf::keys>(k, batch)};
  k.if_(k.block_idx(0) * kKeys < sequences.keys.padded,
        [&] { compute(k, spec, batch, head, sequences); });
}

}  // namespace sagegen::mean_scores
