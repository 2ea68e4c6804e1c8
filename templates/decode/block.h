// What all parts of the template see: where a thread stands, and what the sizes are.
#pragma once

#include "sagegen/dsl/tile.h"
#include "templates/attention/mods.h"
#include "templates/decode/params.h"
#include "templates/decode/spec.h"
#include "templates/shared/packed_rows.h"

namespace sagegen::decode {

// By the number that has this reciprocal (params.h).
inline dsl::I32 quotient(dsl::KernelBuilder& k, dsl::I32 number, dsl::I32 reciprocal) {
  const dsl::I64 product = k.to_i64_unsigned(number * 2) * k.to_i64_unsigned(reciprocal);
  return k.to_i32(product >> std::int64_t{32});
}

// Rows of a KV head that a block has.
struct RowTile {
  dsl::I32 kv_head;
  dsl::I32 first_row;  // of the KV head
  // One after the other from the first on: those of queries that the sequence has. It may be negative.
  dsl::I32 rows_asked;
};

struct DecodeBlock {
  // Of a kernel; shared: its shared memory. of_exact: the block that has its exact tokens, whose view is that of 16 bits.
  DecodeBlock(dsl::KernelBuilder& builder, const View& view, const View& kernel,
              dsl::SharedPtr shared);

  // A lane has scores of the rows lane.row + 8 half of the tile of rows.
  int row_halves() const { return spec.rows / 8; }
  // Octaves by which P exceeds 1 here and in the results that splits leave, which have those of the kernel's V.
  int octaves() const { return p_octaves(spec.v_bits); }
  dsl::I32 tile_row(int half) const { return lane.row + 8 * half; }
  // Among those of the KV head.
  dsl::I32 row(int half) const { return tile.first_row + tile_row(half); }
  // As `tile`, from what is read anew: behind the loop, so that it takes no register on the way there.
  RowTile reread_tile() const;
  DType p_type() const { return kv_quantized(spec.v_bits) ? DType::f16 : spec.io; }
  // Bits that no compiler knows, and that are no others' copy: constants and copies would be moved into the registers of an
  // operand of mma before each of them.
  dsl::I32 opaque(std::int32_t bits, int copy) const { return zero * (copy + 1) | bits; }
  // A number of row tiles, as one of KV heads.
  dsl::I32 by_row_tiles(dsl::I32 tiles) const {
    return quotient(k, tiles, p(&Params::row_tile_reciprocal));
  }
  dsl::I32 row_tile_of_all() const { return sequence * k.grid_dim(1) + k.block_idx(1); }

  dsl::KernelBuilder& k;
  const Spec& spec;
  const Schedule& schedule;
  const KvBlock cache;
  const dsl::ParamReader<Params> p;
  const PackedRows rows;
  const dsl::I32 thread, warp;
  const dsl::LanePosition lane;
  const dsl::I32 split, sequence;
  const dsl::I32 q_len;  // of the sequence
  const RowTile tile;
  const dsl::I32 tokens;  // of the sequence, as far as its pages go
  const dsl::I32 zero;    // as tokens are no negative number
  const dsl::SharedPtr shared;
  const int octaves_of_results;
  const bool has_exact;        // rather than codes, or than all tokens
  const attention::Mods mods;  // on queries by their number in the sequence, and scores in octaves

 private:
  dsl::I32 read_q_len() const;
  RowTile tile_of(dsl::I32 block_y, dsl::I32 queries) const;
};

// The tokens that the lane's row of a half sees.
class SeenTokens {
 public:
  SeenTokens(const DecodeBlock& block, int half);
  dsl::Pred has(dsl::I32 token) const;

 private:
  const DecodeBlock& block_;
  const attention::KeyRange keys_;
  dsl::I32 draft_;  // with a tree: its mask
};

// Which tokens of a sequence are exact, in blocks of 16: those up to `sinks`, and those from `codes_end` on.
struct ExactTokens {
  explicit ExactTokens(const DecodeBlock& block);
  // Of a number of an exact block, that of the block in the sequence, and its place in the table.
  dsl::I32 block_of(dsl::I32 number) const;
  dsl::I32 place_of(dsl::I32 number) const;

  const DecodeBlock& block;
  dsl::I32 sinks, codes_end, count;
};

// Tiles of the block's split, counted from the first of the sequence.
struct Tiles {
  explicit Tiles(const DecodeBlock& block);
  dsl::I32 first, end;
  dsl::I32 whole;  // those from here on have tokens that not all rows see
  // With a window: those before it have tokens that not all rows see, too.
  dsl::I32 whole_from;
  dsl::I32 first_block, last_block;  // of 16 tokens; first_block: with a window
};

}  // namespace sagegen::decode
