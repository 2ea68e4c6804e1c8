// What all parts of the template see: where a thread stands, and what the sizes are.
#pragma once

#include "sagegen/dsl/tile.h"
#include "templates/decode/params.h"
#include "templates/decode/spec.h"
#include "templates/shared/packed_rows.h"

namespace sagegen::decode {

struct DecodeBlock {
  DecodeBlock(dsl::KernelBuilder& builder, const View& view);

  // A lane has scores of the rows lane.row + 8 half.
  int row_halves() const { return spec.rows / 8; }
  dsl::I32 row(int half) const { return lane.row + 8 * half; }
  // Keys that the lane's row of a half sees.
  dsl::I32 visible(int half) const;
  DType p_type() const { return kv_quantized(spec.v_bits) ? DType::f16 : spec.io; }
  // Bits that no compiler knows, and that are no others' copy: constants and copies would be moved into the registers of an
  // operand of mma before each of them.
  dsl::I32 opaque(std::int32_t bits, int copy) const { return zero * (copy + 1) | bits; }
  dsl::I32 head_of_all() const { return sequence * k.grid_dim(1) + kv_head; }

  dsl::KernelBuilder& k;
  const Spec& spec;
  const Schedule& schedule;
  const KvBlock cache;
  const dsl::ParamReader<Params> p;
  const PackedRows rows;
  const dsl::I32 thread, warp;
  const dsl::LanePosition lane;
  const dsl::I32 split, kv_head, sequence;
  const dsl::I32 tokens;  // of the sequence, as far as its pages go
  const dsl::I32 zero;    // as tokens are no negative number
  const dsl::SharedPtr shared;
};

// Tiles of the block's split, counted from the first of the sequence.
struct Tiles {
  explicit Tiles(const DecodeBlock& block);
  dsl::I32 first, end;
  dsl::I32 whole;       // those from here on have tokens that not all rows see
  dsl::I32 last_block;  // of 16 tokens
};

}  // namespace sagegen::decode
