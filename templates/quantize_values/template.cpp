// V with one scale per channel: to e4m3, channel-major and permuted as the operand of P V wants it, or to
// f16 in the order of the keys.
#include "sagegen/dsl/tile.h"
#include "templates/quantize_values/params.h"
#include "templates/quantize_values/spec.h"
#include "templates/shared/rows.h"

namespace sagegen::quantize_values {

using namespace dsl;

namespace {

struct Block {
  I32 first_key, head, batch, head_index;
  GlobalPtr values;  // the block's first key
  I64 row_bytes;
  I32 left;  // keys from the first on; not positive if the block is padding
};

Block locate(KernelBuilder& k, const ParamReader<Params>& p) {
  Block b;
  b.first_key = k.block_idx(0) * kKeys;
  b.head = k.block_idx(1);
  b.batch = k.block_idx(2);
  b.head_index = b.batch * k.grid_dim(1) + b.head;
  b.row_bytes = p(&Params::v, &TensorParam::stride_token) * kElementBytes;
  b.values = head_of(k, p, &Params::v, b.batch, b.head) + k.to_i64(b.first_key) * b.row_bytes;
  b.left = p(&Params::kv_len) - b.first_key;
  return b;
}

// Inverse scale of this thread's channel, shared with the block in `inverses`. The caller has to wait.
void share_inverses(KernelBuilder& k, const ParamReader<Params>& p, int head_dim,
                    float largest_code, I32 head_index, SharedPtr inverses) {
  const I32 chunks = p(&Params::chunks);
  const I64 first = k.to_i64(head_index) * k.to_i64(chunks) * std::int64_t{4 * head_dim};
  const I32 channel_bytes = k.thread_idx() * 4;
  const GlobalPtr maxima = p(&Params::amax_partial) + first + channel_bytes;
  const Var<F32> amax = k.var(k.f32(0.0f));
  k.for_range(k.i32(0), chunks, 1, [&](I32 chunk) {
    amax = k.max(amax.get(), k.load<F32>(maxima + k.to_i64(chunk) * std::int64_t{4 * head_dim}));
  });
  const CodeScale code = code_scale(k, amax, largest_code);
  k.store(inverses + channel_bytes, code.inverse);
  k.if_(k.block_idx(0) == 0, [&] {
    k.store(p(&Params::scale) + k.to_i64(head_index) * std::int64_t{4 * head_dim} + channel_bytes,
            code.scale);
  });
}

// Reading a 16-bit tile as if for P V hands every lane the keys of one channel in the order that the FP8
// operand wants: 2t, 2t + 1, 2t + 8, 2t + 9 of every 16.
void to_fp8(KernelBuilder& k, DType io, int head_dim, float largest_code) {
  const auto p = k.params<Params>();
  const Block block = locate(k, p);
  const int threads = head_dim, warp_channels = 32;
  const TileLayout in_layout = OperandV::layout(io, kKeys, head_dim);
  const TileLayout out_layout = OperandV::layout(DType::e4m3, kKeys, head_dim);
  const SharedTile in{in_layout, k.shared(in_layout.bytes(), kBankBytes)};
  const SharedTile out{out_layout, k.shared(out_layout.bytes(), kBankBytes)};
  const SharedPtr inverses = k.shared(4 * head_dim, 16);

  copy_rows_async(k, in, {block.values, block.row_bytes}, k.thread_idx(), threads, block.left);
  k.cp_async_commit();
  share_inverses(k, p, head_dim, largest_code, block.head_index, inverses);
  k.cp_async_wait(0);
  k.barrier();

  const OperandV operand(k, io, in_layout);
  const LanePosition lane(k.thread_idx());
  const I32 warp_channel = k.warp_idx() * warp_channels;
  const SharedTile warp_in = in.panels_from(k.warp_idx());
  const QuadRows warp_out(out.rows_from(warp_channel), lane);
  for (int slice = 0; slice < warp_channels / OperandV::kChannels; ++slice) {
    const auto fragments = operand.load(warp_in, slice);
    for (int half = 0; half < 2; ++half) {
      const int channel_block = 2 * slice + half;
      const F32 inverse = k.load<F32>(inverses + (warp_channel + lane.row + 8 * channel_block) * 4);
      for (std::size_t step = 0; step < fragments.size(); ++step) {
        const auto low = k.unpack2(io, fragments[step][half][0]);
        const auto high = k.unpack2(io, fragments[step][half][1]);
        const I32 codes = k.pack4(DType::e4m3, low[0] * inverse, low[1] * inverse,
                                  high[0] * inverse, high[1] * inverse);
        warp_out.store(k, channel_block, static_cast<int>(step), codes);
      }
    }
  }
  k.barrier();
  const I64 padded = k.to_i64(p(&Params::kv_len_padded));
  const GlobalPtr to = p(&Params::codes) +
                       k.to_i64(block.head_index) * padded * std::int64_t{head_dim} +
                       k.to_i64(block.first_key);
  store_tile(k, out, k.thread_idx(), threads, to, padded, k.i32(head_dim));
}

void to_f16(KernelBuilder& k, DType io, int head_dim, float largest_code) {
  const auto p = k.params<Params>();
  const Block block = locate(k, p);
  const RowThreads threads(k, head_dim);
  const SharedPtr inverses = k.shared(4 * head_dim, 16);
  share_inverses(k, p, head_dim, largest_code, block.head_index, inverses);
  k.barrier();
  const RowPart inverse = load_f32x8(k, inverses + threads.channel() * 4);
  const I64 first_row =
      k.to_i64(block.head_index) * k.to_i64(p(&Params::kv_len_padded)) + k.to_i64(block.first_key);
  const GlobalPtr to = p(&Params::codes) + first_row * (head_dim * kElementBytes);
  for (int pass = 0; pass < kKeys / kRowsPerPass; ++pass) {
    const I32 row = threads.row() + pass * kRowsPerPass;
    const RowPart part =
        threads.load(io, block.values + k.to_i64(row) * block.row_bytes, row < block.left);
    std::array<I32, 4> codes;
    for (std::size_t i = 0; i < 4; ++i) {
      codes[i] =
          k.pack2(DType::f16, part[2 * i] * inverse[2 * i], part[2 * i + 1] * inverse[2 * i + 1]);
    }
    k.store_v4(to + (row * head_dim + threads.channel()) * static_cast<std::int32_t>(kElementBytes),
               codes);
  }
}

}  // namespace

void build(KernelBuilder& k, const Kernel& kernel) {
  const Spec& spec = kernel.view(family()).spec;
  (spec.codes == DType::e4m3 ? to_fp8 : to_f16)(k, spec.io, spec.head_dim,
                                                largest_v_code(spec.codes, spec.octaves));
}

}  // namespace sagegen::quantize_values
