#include "templates/decode/block.h"

namespace sagegen::decode {

using namespace dsl;

DecodeBlock::DecodeBlock(KernelBuilder& builder, const View& view)
    : k(builder),
      spec(view.spec),
      schedule(view.schedule),
      cache(kv_block(spec)),
      p(k.params<Params>()),
      rows(k),
      thread(k.thread_idx()),
      warp(k.warp_idx()),
      lane(thread),
      split(k.block_idx(0)),
      kv_head(k.block_idx(1)),
      sequence(k.block_idx(2)),
      tokens(k.min(
          k.max(k.load<I32>(p(&Params::lengths) + k.to_i64(sequence) * std::int64_t{4}), k.i32(0)),
          p(&Params::max_pages) * p(&Params::blocks_per_page) * kKvBlockTokens)),
      zero(tokens >> 31),
      shared(k.shared(shared_bytes(spec, schedule), kBankBytes)) {}

I32 DecodeBlock::visible(int half) const {
  if (!spec.causal) return tokens;
  return k.min(tokens - p(&Params::q_len) + 1 + rows.query(row(half)), tokens);
}

Tiles::Tiles(const DecodeBlock& block) {
  KernelBuilder& k = block.k;
  const int tile = block.schedule.tile;
  const I32 splits = k.grid_dim(0);
  const I32 all = (block.tokens + (tile - 1)) / tile;
  const I32 per_split = (all + (splits - 1)) / splits;
  const I32 seen_by_all = block.spec.causal
                              ? k.max(block.tokens - block.p(&Params::q_len) + 1, k.i32(0))
                              : block.tokens;
  first = k.min(block.split * per_split, all);
  end = k.min(first + per_split, all);
  whole = k.min(end, seen_by_all / tile);
  last_block = k.min(end * tile_blocks(block.schedule),
                     (block.tokens + (kKvBlockTokens - 1)) / kKvBlockTokens) -
               1;
}

}  // namespace sagegen::decode
