#include "templates/decode/block.h"

#include "templates/attention/mods/all.h"

namespace sagegen::decode {

using namespace dsl;
using attention::KeyRange;

namespace {

// Positions are those of tokens: query i of n stands at length - n + i.
attention::Mods mods_of(KernelBuilder& k, const Spec& spec, I32 tokens, I32 q_len) {
  std::vector<attention::Mod> mods(1);
  mods[0].keys_of = [=](I32, I32 origin) { return KeyRange{.begin = {}, .end = tokens - origin}; };
  if (spec.causal) {
    mods.emplace_back().keys_of = [](I32 position, I32 origin) {
      return KeyRange{.begin = {}, .end = position - origin + 1};
    };
  }
#define SAGEGEN_DECODE_MOD(name) \
  if (spec.name) mods.push_back(attention::name::mod(k));
#include "templates/decode/mods/mods.def"
  attention::Mods all(k, std::move(mods));
  all.place(tokens, tokens - q_len);
  return all;
}

}  // namespace

DecodeBlock::DecodeBlock(KernelBuilder& builder, const View& view, const View& kernel,
                         SharedPtr shared_memory)
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
      sequence(k.block_idx(2)),
      q_len(read_q_len()),
      tile(tile_of(k.block_idx(1), q_len)),
      tokens(k.min(
          k.max(k.load<I32>(p(&Params::lengths) + k.to_i64(sequence) * std::int64_t{4}), k.i32(0)),
          p(&Params::max_pages) * p(&Params::blocks_per_page) * kKvBlockTokens)),
      zero(tokens >> 31),
      shared(shared_memory),
      octaves_of_results(p_octaves(kernel.spec.v_bits)),
      has_exact(&view.spec != &kernel.spec),
      mods(mods_of(k, spec, tokens, q_len)) {}

// Without a branch: it would stand in front of the loop.
I32 DecodeBlock::read_q_len() const {
  const I32 most = p(&Params::q_len);
  const GlobalPtr lens = p(&Params::q_lens);
  const Pred all_alike = k.is_null(lens);
  const GlobalPtr any = k.select(all_alike, p(&Params::lengths), lens);
  const I32 own = k.load<I32>(any + k.to_i64(sequence) * std::int64_t{4});
  return k.select(all_alike, most, k.min(k.max(own, k.i32(0)), most));
}

RowTile DecodeBlock::tile_of(I32 block_y, I32 queries) const {
  const I32 kv_head = by_row_tiles(block_y);
  const I32 first_row = (block_y - kv_head * p(&Params::row_tiles)) * spec.rows;
  return {kv_head, first_row, queries * rows.heads() - first_row};
}

// No compiler knows that q_len is no negative number.
RowTile DecodeBlock::reread_tile() const {
  const I32 queries = read_q_len();
  return tile_of(k.block_idx(1) + (queries >> 31), queries);
}

SeenTokens::SeenTokens(const DecodeBlock& block, int half)
    : block_(block), keys_(block.mods.keys_of(block.rows.query(block.row(half)), block.k.i32(0))) {
  if (!block.spec.tree) return;
  KernelBuilder& k = block.k;
  const I32 most = block.p(&Params::q_len);
  // A row of no query has the mask of the last one.
  const I32 query = k.min(block.rows.query(block.row(half)), most - 1);
  const I64 index = k.to_i64(block.sequence) * k.to_i64(most) + k.to_i64(query);
  draft_ = k.load<I32>(k.params<TreeParams>()(&TreeParams::masks) + index * std::int64_t{4});
}

Pred SeenTokens::has(I32 token) const {
  Pred seen = token < keys_.end;
  if (keys_.begin.v != nullptr) seen = seen && token >= keys_.begin;
  if (!block_.spec.tree) return seen;
  const I32 in_draft = token - (block_.tokens - block_.q_len);
  // Of the tokens that there are the draft is the last q_len <= kMostQueries: others' bits are not asked for.
  return seen && (in_draft < 0 || (draft_ >> (in_draft & 31) & 1) != 0);
}

Tiles::Tiles(const DecodeBlock& block) {
  KernelBuilder& k = block.k;
  const int tile = block.schedule.tile;
  const I32 splits = block.spec.exact ? k.grid_dim(0) - 1 : k.grid_dim(0), none = k.i32(0);
  const KeyRange earliest = block.mods.keys_of(block.rows.query(block.tile.first_row), none);
  I32 all = (block.tokens + (tile - 1)) / tile, start = none;
  I32 seen_by_all =
      block.spec.causal || block.spec.window ? k.max(earliest.end, none) : earliest.end;
  if (block.spec.tree) seen_by_all = k.max(block.tokens - block.q_len, none);
  if (block.spec.window) {
    const I32 last_row =
        block.tile.first_row + (k.min(block.tile.rows_asked, k.i32(block.spec.rows)) - 1);
    const KeyRange latest = block.mods.keys_of(block.rows.query(k.max(last_row, none)), none);
    const I32 begin = k.max(earliest.begin, none);
    all = k.min(all, (k.max(latest.end, none) + (tile - 1)) / tile);
    start = k.min(begin / tile, all);
    whole_from = (k.max(latest.begin, none) + (tile - 1)) / tile;
    first_block = begin / kKvBlockTokens;
  }
  if (block.spec.exact) {
    const ExactTokens exact(block);
    const int blocks = tile_blocks(block.schedule);
    all = k.min(all, exact.codes_end / blocks);
    start = k.min(k.max(start, exact.sinks / blocks), all);
  }
  const I32 per_split = (all - start + (splits - 1)) / splits;
  first = k.min(start + block.split * per_split, all);
  end = k.min(first + per_split, all);
  whole = k.min(end, seen_by_all / tile);
  last_block = k.min(end * tile_blocks(block.schedule),
                     (block.tokens + (kKvBlockTokens - 1)) / kKvBlockTokens) -
               1;
}

// Behind the window codes begin with whole units, so that they end at a whole tile.
ExactTokens::ExactTokens(const DecodeBlock& decode_block) : block(decode_block) {
  KernelBuilder& k = block.k;
  const auto p = k.params<ExactParams>();
  sinks = p(&ExactParams::sinks);
  const I32 whole =
      k.max(block.tokens / kKvBlockTokens - p(&ExactParams::window) - sinks, k.i32(0));
  codes_end = sinks + quotient(k, whole, p(&ExactParams::unit_reciprocal)) * p(&ExactParams::unit);
  const I32 all = (block.tokens + (kKvBlockTokens - 1)) / kKvBlockTokens;
  count = k.min(all, sinks) + k.max(all - codes_end, k.i32(0));
}

I32 ExactTokens::block_of(I32 number) const {
  return block.k.select(number < sinks, number, codes_end + (number - sinks));
}

I32 ExactTokens::place_of(I32 number) const {
  KernelBuilder& k = block.k;
  const auto p = k.params<ExactParams>();
  const I32 behind = k.max(block_of(number) - sinks, k.i32(0)), ring = p(&ExactParams::ring);
  const I32 turns = quotient(k, behind, p(&ExactParams::ring_reciprocal));
  return k.select(number < sinks, number, sinks + (behind - turns * ring));
}

}  // namespace sagegen::decode
