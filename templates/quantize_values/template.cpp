// V, or V less its mean, with one scale per channel: to e4m3, channel-major and permuted as the operand of P V wants
// it, or to f16 in the order of the keys.
#include <limits>
#include <optional>

#include "sagegen/dsl/tile.h"
#include "templates/kv_statistics/params.h"
#include "templates/quantize_values/params.h"
#include "templates/quantize_values/spec.h"
#include "templates/shared/rows.h"
#include "templates/shared/sequence.h"

namespace sagegen::quantize_values {

using namespace dsl;

namespace {

struct Block {
  I32 first_key, head, batch, head_index;
  I32 index, first_code;  // of the head of the codes, and the block's first row there
  GlobalPtr values;       // the block's first key
  I64 row_bytes;
  I32 left;                          // keys from the first on; not positive if the block is padding
  std::optional<Sequence> sequence;  // varlen
};

Block locate(KernelBuilder& k, const ParamReader<Params>& p, const Spec& spec) {
  Block b;
  b.first_key = k.block_idx(0) * kKeys;
  b.head = k.block_idx(1);
  b.batch = k.block_idx(2);
  b.head_index = b.index = b.batch * k.grid_dim(1) + b.head;
  b.first_code = b.first_key;
  b.row_bytes = p(&Params::v, &TensorParam::stride_token) * kElementBytes;
  b.values = head_of(k, p, &Params::v, b.batch, b.head) + k.to_i64(b.first_key) * b.row_bytes;
  b.left = p(&Params::kv_len) - b.first_key;
  if (!spec.varlen) return b;
  b.sequence = sequence_of<SequencesOf::keys>(k, b.batch);
  b.index = b.batch * k.params<KeySequences>()(&KeySequences::heads) + b.head;
  b.first_code = b.sequence->start + b.first_key;
  b.values = b.values + k.to_i64(b.sequence->first) * b.row_bytes;
  b.left = b.sequence->len - b.first_key;
  return b;
}

// From one channel, or head of rows, of the codes to the next.
I64 rows_of_head(KernelBuilder& k, const ParamReader<Params>& p, const Block& block) {
  return k.to_i64(block.sequence ? k.params<KeySequences>()(&KeySequences::head_rows)
                                 : p(&Params::kv_len_padded));
}

// What quantizes a channel: in shared memory, f32 [channel] each.
struct Channels {
  SharedPtr inverses;
  std::optional<SharedPtr> means;  // if V is smoothed
};

// Smoothed, a channel has its mean within its range, whatever rounding does to the sum, and what is left of a
// constant one is 0. Where the range itself is beyond f32, the mean counts as 0.
F32 mean_of_channel(KernelBuilder& k, DType io, F32 sum, F32 keys, F32 least, F32 largest) {
  const F32 of_sum = sum / keys * (1 / kv_statistics::sum_factor(io));
  const F32 mean = k.min(k.max(of_sum, least), largest);
  return k.select(largest - least <= std::numeric_limits<float>::max(), mean, k.f32(0.0f));
}

// Inverse scale, and mean, of this thread's channel, of padding 0, shared with the block. The caller has to wait.
Channels share_channels(KernelBuilder& k, const ParamReader<Params>& p, const Spec& spec,
                        const Block& block) {
  const I32 head_index = block.head_index;
  const int head_dim = spec.head_dim, padded = threads(spec);
  const auto of_channel = [&](const auto& body) { of_own_channel(k, padded, head_dim, body); };
  const I32 chunks = p(&Params::chunks);
  const I32 there = block.sequence ? chunks_of(k, *block.sequence).count : chunks;
  const I64 first = k.to_i64(head_index) * k.to_i64(chunks) * std::int64_t{4 * head_dim};
  const I32 channel_bytes = k.thread_idx() * 4;
  const I64 of_head = k.to_i64(head_index) * std::int64_t{4 * head_dim};
  // Over all keys; padding has none.
  const auto over_keys = [&](GlobalPtr partials, float start, Combine combine) {
    const Var<F32> total = k.var(k.f32(start));
    const GlobalPtr from = partials + first + channel_bytes;
    of_channel([&] {
      k.for_range(k.i32(0), there, 1, [&](I32 chunk) {
        const F32 one = k.load<F32>(from + k.to_i64(chunk) * std::int64_t{4 * head_dim});
        total = combine(k, total, one);
      });
    });
    return total.get();
  };
  Channels channels{.inverses = k.shared(4 * padded, 16), .means = {}};
  F32 amax;
  if (spec.smooth) {
    const auto partials = k.params<SmoothParams>();
    constexpr float kLargest = std::numeric_limits<float>::max();
    const F32 sum = over_keys(partials(&SmoothParams::sum_partial), 0, add);
    const F32 least = over_keys(partials(&SmoothParams::least_partial), kLargest, sagegen::least);
    const F32 largest =
        over_keys(partials(&SmoothParams::largest_partial), -kLargest, sagegen::largest);
    const F32 keys =
        block.sequence ? rows_to_divide_by(k, *block.sequence) : k.to_f32(p(&Params::kv_len));
    const F32 mean = mean_of_channel(k, spec.io, sum, keys, least, largest);
    amax = k.max(largest - mean, mean - least);
    channels.means = k.shared(4 * padded, 16);
    k.store(*channels.means + channel_bytes, mean);
    k.if_(k.block_idx(0) == 0, [&] {
      of_channel([&] { k.store(partials(&SmoothParams::mean) + of_head + channel_bytes, mean); });
    });
  } else {
    amax = over_keys(p(&Params::amax_partial), 0, sagegen::largest);
  }
  const CodeScale code = code_scale(k, amax, largest_v_code(spec.codes, spec.octaves));
  k.store(channels.inverses + channel_bytes, code.inverse);
  k.if_(k.block_idx(0) == 0, [&] {
    of_channel([&] { k.store(p(&Params::scale) + of_head + channel_bytes, code.scale); });
  });
  return channels;
}

// Reading a 16-bit tile as if for P V hands every lane the keys of one channel in the order that the FP8
// operand wants: 2t, 2t + 1, 2t + 8, 2t + 9 of every 16.
void to_fp8(KernelBuilder& k, const Spec& spec, const Block& block) {
  const auto p = k.params<Params>();
  const int block_threads = threads(spec), stored = value_channels(spec.head_dim);
  const TileLayout in_layout = OperandV::layout(spec.io, kKeys, block_threads);
  const TileLayout out_layout = OperandV::layout(DType::e4m3, kKeys, block_threads);
  const SharedTile in{in_layout, k.shared(in_layout.bytes(), kBankBytes)};
  const SharedTile out{out_layout, k.shared(out_layout.bytes(), kBankBytes)};

  const int source_bytes = static_cast<int>(spec.head_dim * kElementBytes);
  copy_rows_async(k, in, {block.values, block.row_bytes, source_bytes}, k.thread_idx(),
                  block_threads, block.left);
  k.cp_async_commit();
  const Channels channels = share_channels(k, p, spec, block);
  k.cp_async_wait(0);
  k.barrier();

  const OperandV operand(k, spec.io, in_layout);
  const LanePosition lane(k.thread_idx());
  const I32 warp_channel = k.warp_idx() * kWarpChannels;
  const SharedTile warp_in = in.panels_from(k.warp_idx());
  const QuadRows warp_out(out.rows_from(warp_channel), lane);
  for (int slice = 0; slice < kWarpChannels / OperandV::kChannels; ++slice) {
    const auto fragments = operand.load(warp_in, slice);
    for (int half = 0; half < 2; ++half) {
      const int channel_block = 2 * slice + half;
      const I32 of_channel = (warp_channel + lane.row + 8 * channel_block) * 4;
      const F32 inverse = k.load<F32>(channels.inverses + of_channel);
      F32 mean;
      if (channels.means) mean = k.load<F32>(*channels.means + of_channel);
      for (std::size_t step = 0; step < fragments.size(); ++step) {
        const auto& pairs = fragments[step][half];
        const auto code = [&](int pair, int i) {
          const F32 value = k.unpack2(spec.io, pairs[static_cast<std::size_t>(pair)])[i];
          if (!channels.means) return value * inverse;
          const int key = 16 * static_cast<int>(step) + 8 * pair + i;
          const F32 left = k.select(2 * lane.quad + key < block.left, value - mean, k.f32(0.0f));
          return left * inverse;
        };
        warp_out.store(k, channel_block, static_cast<int>(step),
                       k.pack4(DType::e4m3, code(0, 0), code(0, 1), code(1, 0), code(1, 1)));
      }
    }
  }
  k.barrier();
  const I64 padded = rows_of_head(k, p, block);
  const GlobalPtr to = p(&Params::codes) + k.to_i64(block.index) * padded * std::int64_t{stored} +
                       k.to_i64(block.first_code);
  store_tile(k, out, k.thread_idx(), block_threads, to, padded, k.i32(stored));
}

void to_f16(KernelBuilder& k, const Spec& spec, const Block& block) {
  const auto p = k.params<Params>();
  const int stored = value_channels(spec.head_dim);
  const RowThreads threads(k, spec.head_dim, stored);
  const Channels channels = share_channels(k, p, spec, block);
  k.barrier();
  const I32 of_channels = threads.channel() * 4;
  const RowPart inverse = load_f32x8(k, channels.inverses + of_channels);
  RowPart mean;
  if (channels.means) mean = load_f32x8(k, *channels.means + of_channels);
  const I64 first_row =
      k.to_i64(block.index) * rows_of_head(k, p, block) + k.to_i64(block.first_code);
  const GlobalPtr to = p(&Params::codes) + first_row * (stored * kElementBytes);
  for (int pass = 0; pass < kKeys / kRowsPerPass; ++pass) {
    const I32 row = threads.row() + pass * kRowsPerPass;
    const Pred there = row < block.left;
    RowPart part = threads.load(spec.io, block.values + k.to_i64(row) * block.row_bytes, there);
    for (std::size_t i = 0; channels.means && i < part.size(); ++i)
      part[i] = k.select(there, part[i] - mean[i], k.f32(0.0f));
    std::array<I32, 4> codes;
    for (std::size_t i = 0; i < 4; ++i) {
      codes[i] =
          k.pack2(DType::f16, part[2 * i] * inverse[2 * i], part[2 * i + 1] * inverse[2 * i + 1]);
    }
    threads.of_channels(stored, [&] {
      k.store_v4(to + (row * stored + threads.channel()) * static_cast<std::int32_t>(kElementBytes),
                 codes);
    });
  }
}

}  // namespace

void build(KernelBuilder& k, const Kernel& kernel) {
  const Spec& spec = kernel.view(family()).spec;
  const Block block = locate(k, k.params<Params>(), spec);
  const auto quantize = [&] { (spec.codes == DType::e4m3 ? to_fp8 : to_f16)(k, spec, block); };
  if (!block.sequence) return quantize();
  k.if_(block.first_key < block.sequence->padded, quantize);
}

}  // namespace sagegen::quantize_values
