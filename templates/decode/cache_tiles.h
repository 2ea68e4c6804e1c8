// Tiles of the cache on their way to a warp: found in the page table, copied to its ring in shared memory, read as
// operands. Warps do not wait for each other.
#pragma once

#include <array>
#include <vector>

#include "templates/decode/block.h"

namespace sagegen::decode {

// Scales and zero points of a block of 16 tokens as a lane reads them, pairs of f16. Of the four tokens of its quad, by
// parity: 4 t + parity in the low half, 4 t + parity + 2 in the high one; z_k: the tokens 2 row and 2 row + 1.
// What codes have no zero point there is none of.
struct TokenParameters {
  std::array<dsl::I32, 2> z_v, s_v, s_k;
  dsl::I32 z_k;
};

// Which tokens of a tile there are: what lies behind the last one may be anything, NaN above all.
class TokenMask {
 public:
  TokenMask(const DecodeBlock& block, dsl::I32 tile);
  // Whether the row of a half sees the token of a score: 4 t + parity + 2 column of a block.
  dsl::Pred sees(int half, int in_block, int parity, int column) const;
  // The words of it without what belongs to no token.
  TokenParameters masked(const TokenParameters& parameters, int in_block) const;
  std::array<dsl::I32, 4> masked_v16(const std::array<dsl::I32, 4>& words, int in_block) const;

 private:
  dsl::I32 pair_mask(dsl::I32 first, int distance) const;
  dsl::I32 quad_mask(int in_block, int parity) const {
    return pair_mask(first_ + (16 * in_block + parity) + 4 * block_.lane.quad, 2);
  }

  const DecodeBlock& block_;
  dsl::I32 first_;                // token of the tile
  std::vector<SeenTokens> seen_;  // by half
};

// Codes of e4m3 as numbers of f16, times 2^-8: bytes 0 and 2 of a word, and bytes 1 and 3. Finite, whatever they are.
std::array<dsl::I32, 2> f16_of_e4m3(dsl::I32 word);
inline constexpr float kUnitOfE4m3 = 0x1p8f;

// A tile in shared memory.
class CacheTile {
 public:
  CacheTile(const DecodeBlock& block, dsl::SharedPtr tile);

  // Words of the lane's share of the rows of the tokens 2 row + parity, in their order.
  std::vector<dsl::I32> key_words(int in_block, int parity) const;
  // Unit of the lane: as many words as v_piece_bytes().
  std::vector<dsl::I32> value_words(int in_block, int unit) const;
  TokenParameters parameters(int in_block) const;

 private:
  std::vector<dsl::I32> load(dsl::SharedPtr from, int bytes) const;

  const DecodeBlock& block_;
  // Where the lane begins to read: keys, values, and parameters by quad (16 and 8 bytes) and by row.
  dsl::SharedPtr key_lane_, value_lane_, quad_, pair_, row_;
};

class CacheRing {
 public:
  // Begins to copy the tiles tile, tile + warps, ...
  CacheRing(const DecodeBlock& block, const Tiles& tiles, dsl::I32 tile);
  // Of exact blocks, by their numbers.
  CacheRing(const DecodeBlock& block, const ExactTokens& tokens, dsl::I32 number);

  // The next tile, when it has come. go_on: another one is copied in place of the one before.
  CacheTile next(bool go_on);

 private:
  struct Source {  // the pages of codes, or the blocks of exact tokens
    dsl::I32 last_tile, first_block, last_block;
    dsl::GlobalPtr table, head;
    const ExactTokens* exact = nullptr;
    int warps;  // that have tiles
  };
  CacheRing(const DecodeBlock& block, const Source& source, dsl::I32 tile);
  void look_up();
  void copy();
  void advance(const dsl::Var<dsl::I32>& slot) const;
  dsl::GlobalPtr block_of(std::size_t lookup) const;
  int tile_bytes() const { return tile_blocks(block_.schedule) * block_.cache.bytes(); }

  const DecodeBlock& block_;
  const Source source_;  // of the sequence; head: of the lane
  const dsl::SharedPtr ring_, ring_lane_;
  dsl::Var<dsl::I32> to_copy_;        // the tile that is copied next
  dsl::Var<dsl::I32> filled_, read_;  // bytes of the ring
  struct Found {
    dsl::Var<dsl::I32> page, block;
  };
  std::vector<Found> found_;  // where the blocks of that tile lie, or its first one
};

}  // namespace sagegen::decode
