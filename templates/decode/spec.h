// Split-KV flash decoding on a KV cache of few bits: few queries attend to all tokens of their sequence, which lie in
// pages. Tensor cores multiply the codes as they are stored (shared/kv_format.h); scales and zero points come in as
// operands of their own:
//
//   K: q . k = s_k (q . codes) + z_k sum(q)          V: O = sum p s_v codes + sum p z_v
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
  int rows = 8;  // of a KV head, at most: query heads that share it times q_len
  // What was done to K before it was stored, and is done to Q here: an orthonormal Hadamard matrix, of each
  // rotation_block() channels.
  Rotation rotation = Rotation::none;
  bool causal = false;  // the last query is that of the last token; else all queries see all tokens
};

struct Schedule {
  int tile = 32;   // tokens of a warp and iteration
  int stages = 3;  // tiles in the ring of a warp
  int warps = 4;   // of a block; each takes every so manieth tile of its split
  int lookups =
      1;  // in the page table, for a tile: 1 where pages have whole tiles, or each block of it has its own
};

inline constexpr int kMostSplits = 256;

constexpr KvBlock kv_block(const Spec& spec) { return {spec.k_bits, spec.v_bits, spec.head_dim}; }
constexpr int tile_blocks(const Schedule& schedule) { return schedule.tile / kKvBlockTokens; }
// Octaves by which P exceeds 1 at most. P times the scale of a token is a number of f16 below its end, 65504, for all
// scales of values that f16 has: codes of n bits have scales of at most 131008 / (2^n - 1).
constexpr int p_octaves(int v_bits) {
  return v_bits == 16 ? 8 : v_bits == 8 ? 6 : v_bits == 4 ? 2 : 0;
}

// Shared memory: the rings of the warps; in the end O of each warp, its rows a chunk apart from a multiple of all
// banks, with maximum and sum of each row, or the weights of the splits.
constexpr int ring_bytes(const Spec& spec, const Schedule& schedule) {
  return schedule.warps * schedule.stages * tile_blocks(schedule) * kv_block(spec).bytes();
}
constexpr int o_row_bytes(const Spec& spec) { return 4 * (kv_block(spec).channels + 4); }
constexpr int o_bytes(const Spec& spec, const Schedule& schedule) {
  return schedule.warps * spec.rows * o_row_bytes(spec);
}
constexpr int shared_bytes(const Spec& spec, const Schedule& schedule) {
  const int results = o_bytes(spec, schedule) + 8 * schedule.warps * spec.rows;
  const int weights = 4 * spec.rows * (kMostSplits + 1);
  return std::max({ring_bytes(spec, schedule), results, weights});
}

using View = ViewOf<Spec, Schedule>;
const FamilyOf<Spec, Schedule>& family();

}  // namespace sagegen::decode
