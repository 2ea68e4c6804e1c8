// Split-KV flash decoding on a KV cache of few bits: few queries attend to all tokens of their sequence, which lie in
// pages. Tensor cores multiply the codes as they are stored (shared/kv_format.h); scales and zero points come in as
// operands of their own:
//
//   K: q . k = s_k (q . codes) + z_k sum(q)          V: O = sum p s_v codes + sum p z_v
//
// Codes without zero point (KvCoding): the offset of symmetric ones is in what sums of q . codes start from, and of V a zero
// point of -offset s_v. Codes of e4m3 become numbers of f16 by their bits.
//
// Scores are Q K^T with Q as A, the output is O^T = V^T P^T with V as A: accumulators of the scores are the operand B of P.
#pragma once

#include <algorithm>

#include "sagegen/kernel.h"
#include "sagegen/types.h"
#include "templates/shared/kv_format.h"
#include "templates/shared/quantization.h"

namespace sagegen::decode {

struct Spec {
  int head_dim = 128;
  DType io = DType::f16;  // of Q and O, and of what the cache has in 16 bits
  int k_bits = 8, v_bits = 8;
  KvCoding k_codes = KvCoding::asymmetric, v_codes = KvCoding::asymmetric;
  // That a block has of a KV head, whose rows are those of all query heads that share it, times q_len: more rows than these
  // are tiles, with blocks of their own that read the same tokens.
  int rows = 8;
  // What was done to K before it was stored, and is done to Q here: an orthonormal Hadamard matrix, of each
  // rotation_block() channels.
  Rotation rotation = Rotation::none;
  // Query i of n is that of token length - n + i, and sees the tokens up to it; else all queries see all tokens.
  bool causal = false;
  // The first tokens of a sequence and the last ones are read in 16 bits, from a pool of their own (ExactWindow): codes count
  // of those between them alone.
  bool exact = false;
  // Queries are those of the last tokens, a tree of drafts: of these each sees those that its mask has, and all before them.
  bool tree = false;
#define SAGEGEN_DECODE_MOD(name) bool name = false;
#include "templates/decode/mods/mods.def"
};

struct Schedule {
  int tile = 32;   // tokens of a warp and iteration
  int stages = 3;  // tiles in the ring of a warp
  int warps = 4;   // of a block; each takes every so manieth tile of its split
  int lookups =
      1;  // in the page table, for a tile: 1 where pages have whole tiles, or each block of it has its own
  // Codes of V are f16 as they stand, subnormal numbers. With this they are made normal ones first, by an OR and a subtraction:
  // for a GPU whose tensor cores are slow on subnormal numbers, of which none is known.
  bool normal_codes = false;
};

inline constexpr int kMostSplits = 256;
// Of a sequence. With masks that bound the last tokens from above, a warp has one tile that not all rows see whole.
inline constexpr int kMostQueries = 16;

// Whether scores change before the softmax (attention/mod.h).
constexpr bool changes_scores(const Spec& spec) { return spec.softcap || spec.alibi; }
constexpr bool needs_positions(const Spec& spec) { return spec.window || spec.alibi; }
constexpr KvBlock kv_block(const Spec& spec) {
  return KvBlock({.head_dim = spec.head_dim,
                  .k_bits = spec.k_bits,
                  .v_bits = spec.v_bits,
                  .k_codes = spec.k_codes,
                  .v_codes = spec.v_codes});
}
constexpr int tile_blocks(const Schedule& schedule) { return schedule.tile / kKvBlockTokens; }
// Octaves by which P exceeds 1 at most. P times the scale of a token is a number of f16 below its end, 65504, for all
// scales of values that f16 has: codes of n bits have scales of at most 131008 / (2^n - 1). Those of symmetric ones, at
// most 65504 / (2^(n - 1) - 1), fit as well; those of e4m3 are far smaller.
constexpr int p_octaves(int v_bits) {
  return v_bits == 16 ? 8 : v_bits == 8 ? 6 : v_bits == 4 ? 2 : 0;
}

// Shared memory: the rings of the warps; in the end O of each warp, its rows a chunk apart from a multiple of all
// banks, with maximum and sum of each row, or the weights of the splits.
constexpr int ring_bytes(const Spec& spec, const Schedule& schedule) {
  return schedule.warps * schedule.stages * tile_blocks(schedule) * kv_block(spec).bytes();
}
// Of the block that has the exact tokens, in blocks of 16: fewer warps, as there are few of them.
constexpr Schedule exact_schedule(const Schedule& schedule) {
  return {.tile = kKvBlockTokens, .stages = 2, .warps = schedule.warps, .lookups = 1};
}
inline constexpr int kExactWarps = 2;
constexpr Spec exact_spec(Spec spec) {
  spec.k_bits = spec.v_bits = 16;
  spec.k_codes = spec.v_codes = KvCoding::asymmetric;
  spec.rotation = Rotation::none;
  return spec;
}
constexpr int exact_ring_bytes(const Spec& spec, const Schedule& schedule) {
  return spec.exact
             ? kExactWarps * exact_schedule(schedule).stages * kv_block(exact_spec(spec)).bytes()
             : 0;
}
constexpr int o_row_bytes(const Spec& spec) { return 4 * (kv_block(spec).channels + 4); }
constexpr int o_bytes(const Spec& spec, const Schedule& schedule) {
  return schedule.warps * spec.rows * o_row_bytes(spec);
}
constexpr int shared_bytes(const Spec& spec, const Schedule& schedule) {
  const int results = o_bytes(spec, schedule) + 8 * schedule.warps * spec.rows;
  const int weights = 4 * spec.rows * (kMostSplits + 1);
  return std::max({ring_bytes(spec, schedule), exact_ring_bytes(spec, schedule), results, weights});
}

using View = ViewOf<Spec, Schedule>;
const FamilyOf<Spec, Schedule>& family();

// The kernel that a cache of this format usually has for so many rows of a KV head, query heads that share it times queries
// of a sequence: any number of them, as more than Spec::rows are tiles. `spec` says the rest, masks above all; what it says of
// the format and of rows does not count.
Kernel usual_kernel(const KvFormat& format, std::int64_t rows, Target target, Spec spec = {});
// Of a device for which `best` is the target of other kernels (best_target()). Tiles are on their way in shared memory, and
// SMs of sm_80 have more than those of the targets after it: a device with as much, sm_90 as well, takes its kernels.
Target target_on(Target best, int smem_per_sm);

}  // namespace sagegen::decode
