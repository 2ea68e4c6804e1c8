// Scores of mean queries with the keys of one tile. The means are the rows of A, sixteen at a time, and each is split
// into two numbers of K's type, so that K itself is the B operand and the products are exact. The mean of K is taken
// off as one number per row.
#include <utility>

#include "sagegen/dsl/reduce.h"
#include "sagegen/dsl/tile.h"
#include "templates/mean_scores/params.h"
#include "templates/mean_scores/spec.h"
#include "templates/shared/tensor.h"

namespace sagegen::mean_scores {

using namespace dsl;

namespace {

constexpr int kRows = 16, kStepChannels = 16;  // of one mma
constexpr int kF32 = 4;

// Two f32 to two numbers of `type`, and to what that leaves of them.
std::array<I32, 2> split(KernelBuilder& k, DType type, const std::array<F32, 2>& x) {
  const I32 high = k.pack2(type, x[0], x[1]);
  const auto rounded = k.unpack2(type, high);
  return {high, k.pack2(type, x[0] - rounded[0], x[1] - rounded[1])};
}

std::array<F32, 2> load_pair(KernelBuilder& k, GlobalPtr from) {
  const auto bits = k.load_v2(from);
  return {k.as_f32(bits[0]), k.as_f32(bits[1])};
}

// Sixteen means as A operands by k step, and what each lane's two of them score with the mean of K.
struct Means {
  std::vector<MmaA> high, low;
  std::array<F32, 2> of_k_mean;
};

Means load_means(KernelBuilder& k, const Spec& spec, const std::array<GlobalPtr, 2>& rows,
                 GlobalPtr k_mean, const LanePosition& lane) {
  Means means{.high = {}, .low = {}, .of_k_mean = {k.f32(0.0f), k.f32(0.0f)}};
  for (int step = 0; step < spec.head_dim / kStepChannels; ++step) {
    std::array<I32, 4> high, low;
    for (std::size_t half = 0; half < 2; ++half) {  // of the step: channels 2 quad, 2 quad + 8
      const I32 bytes =
          lane.quad * (2 * kF32) + (step * kStepChannels + static_cast<int>(half) * 8) * kF32;
      const auto of_k = load_pair(k, k_mean + bytes);
      for (std::size_t row = 0; row < 2; ++row) {
        const auto pair = load_pair(k, rows[row] + bytes);
        means.of_k_mean[row] =
            k.fma(pair[1], of_k[1], k.fma(pair[0], of_k[0], means.of_k_mean[row]));
        const auto parts = split(k, spec.io, pair);
        high[2 * half + row] = parts[0];
        low[2 * half + row] = parts[1];
      }
    }
    means.high.emplace_back(spec.io, high);
    means.low.emplace_back(spec.io, low);
  }
  for (F32& sum : means.of_k_mean) sum = quad_sum(k, sum);
  return means;
}

}  // namespace

void build(KernelBuilder& k, const Kernel& kernel) {
  const Spec& spec = kernel.view(family()).spec;
  const auto p = k.params<Params>();
  const std::int64_t row_bytes = std::int64_t{kF32} * spec.head_dim;
  const I32 batch = p(&Params::first_batch) + k.block_idx(2);
  const I32 head = p(&Params::first_head) + k.block_idx(1);
  const I32 head_index = batch * p(&Params::heads) + head;
  const I32 kv_head = head / p(&Params::heads_per_kv_head);
  const I32 first_key = k.block_idx(0) * kKeys;

  const TileLayout layout = OperandB::layout(spec.io, kKeys, 2 * spec.head_dim);
  const SharedTile keys{layout, k.shared(layout.bytes(), kBankBytes)};
  const I64 stride = p(&Params::k, &TensorParam::stride_token) * kElementBytes;
  const GlobalPtr from = head_of(k, p, &Params::k, batch, kv_head) + k.to_i64(first_key) * stride;
  copy_rows_async(k, keys, {from, stride}, k.thread_idx(), kThreads,
                  p(&Params::kv_len) - first_key);
  k.cp_async_commit();
  k.cp_async_wait(0);
  k.barrier();

  const LanePosition lane(k.thread_idx());
  const OperandB operand(k, layout);
  const GlobalPtr k_mean =
      p(&Params::k_mean) + k.to_i64(head_index / p(&Params::heads_per_kv_head)) * row_bytes;
  const I64 first_mean = k.to_i64(head_index) * k.to_i64(p(&Params::blocks_of_head)) +
                         k.to_i64(p(&Params::first_block));
  const GlobalPtr q_mean = p(&Params::q_mean) + first_mean * row_bytes;
  const I32 blocks = p(&Params::blocks);
  const I64 keys_bytes = k.to_i64(p(&Params::kv_len_padded)) * std::int64_t{kF32};
  const I64 first_row =
      k.to_i64(k.block_idx(2) * k.grid_dim(1) + k.block_idx(1)) * k.to_i64(blocks);
  const GlobalPtr scores = p(&Params::scores) + first_row * keys_bytes +
                           k.to_i64(first_key * kF32) + k.to_i64(lane.quad * (4 * kF32));
  const F32 unit = p(&Params::softmax_scale) * kLog2E;
  const Mma kind = spec.io == DType::f16 ? Mma::f16 : Mma::bf16;

  k.for_range(k.warp_idx() * kRows, blocks, kThreads / 32 * kRows, [&](I32 first) {
    std::array<I32, 2> rows;
    std::array<GlobalPtr, 2> from_rows;
    for (std::size_t i = 0; i < 2; ++i) {
      rows[i] = first + Accumulator::tile_row(static_cast<int>(i)) + lane.row;
      from_rows[i] = q_mean + k.to_i64(k.min(rows[i], blocks - 1)) * row_bytes;
    }
    const Means means = load_means(k, spec, from_rows, k_mean, lane);
    Accumulator sums(kRows, kKeys, k.f32(0.0f));
    for (std::size_t step = 0; step < means.high.size(); ++step) {
      for (int pair = 0; pair < sums.column_blocks() / 2; ++pair) {
        const auto b = operand.load(keys, pair, static_cast<int>(step));
        for (int half = 0; half < 2; ++half) {
          for (const auto* part : {&means.high, &means.low})
            multiply_add(k, kind, {(*part)[step]}, b[static_cast<std::size_t>(half)], sums,
                         2 * pair + half);
        }
      }
    }
    for (int i = 0; i < 2; ++i) {
      const auto row = static_cast<std::size_t>(i);
      k.if_(rows[row] < blocks, [&] {
        const GlobalPtr to = scores + k.to_i64(rows[row]) * keys_bytes;
        for (int four = 0; four < sums.lane_columns(); four += 4) {  // of every 16 keys
          std::array<I32, 4> values;
          for (int j = 0; j < 4; ++j) {
            const F32 score = k.as_f32(sums.at(i, four + j)) - means.of_k_mean[row];
            values[static_cast<std::size_t>(j)] = k.as_bits(score * unit);
          }
          k.store_v4(to + std::int64_t{four / 4 * 16 * kF32}, values);
        }
      });
    }
  });
}

}  // namespace sagegen::mean_scores
