// A mod: which keys a query sees and how scores change (the mask_mod and score_mod of FlexAttention), as an
// object that exists while a kernel is generated. A hook that is empty emits nothing. A mod is one file pair in
// mods/ (mods/call.h) whose function mod() returns a Mod; mods_of() lists those of a spec. Hooks may emit code
// where they are called and nowhere else; they are called more than once.
//
//   mod                     hooks
//   key length              keys_of: keys 0 to kv_len - 1
//   causal mask             keys_of: up to query + offset; later_queries_see_more
//   sliding window          keys_of: from query + offset - left to query + offset + right
//   attention sinks         sink: a logit of the head
//   soft cap                changes: cap * tanh(score / cap), cap times log2(e); changes_whole_scores
//   additive bias           changes: score + bias[batch, head, query, key] * log2(e)
//   ALiBi                   changes: score - slope[head] * log2(e) * distance
//   boolean mask            hides: an element of [batch, head, query, key]
//   block-sparse mask       skipped: a bit of [batch, head, query tile, key tile]
//   skip-softmax            least_weight: a threshold of the request; count_tiles
#pragma once

#include <functional>

#include "sagegen/dsl/kernel_builder.h"

namespace sagegen::attention {

// Keys begin to end - 1. An empty handle is no bound on that side.
struct KeyRange {
  dsl::I32 begin, end;
};

// A row of the scores. Heads are those of Q. A launch may be a part of the problem: the grid and the index of the block
// say nothing of it.
struct ScoreRow {
  dsl::I32 batch, head, query;
  dsl::I32 head_of_all;  // over all batches: batch * q_heads + head
};
// One of its scores. Behind the last key and the last query of the problem there are more: a hook that
// loads must stay inside its tensor there.
struct ScoreElement : ScoreRow {
  dsl::I32 position;  // of the query among the keys, but for the offset that is a launch argument
  dsl::I32 key;
  // key = first_key + behind_first, and first_key is the same for all elements of a lane: what depends on it
  // and on the row is computed once.
  dsl::I32 first_key;
  int behind_first = 0;
};

struct Mod {
  // The keys that a query sees, if they are one range, as distances from key `origin`. query: its position (above),
  // which for most kernels is its number. Neither end may
  // fall as the query rises, and a query may be negative or behind the last one. So a block knows from its
  // first and last query which tiles any of its queries sees (no others are walked) and which tiles
  // all of them see (nothing is checked there); elsewhere an element costs a comparison with a constant.
  std::function<KeyRange(dsl::I32 query, dsl::I32 origin)> keys_of;
  bool keys_are_all = false;  // that there are: of a batch of sequences, another number

  // Whether a query does not see a key, if these keys are no range. Asked in every tile.
  std::function<dsl::Pred(const ScoreElement&)> hides;

  // The score that takes the place of `score`, in base 2: q k softmax_scale log2(e). Before the maximum is
  // taken, in every tile and before keys are hidden, in the order of the list.
  std::function<dsl::F32(const ScoreElement&, dsl::F32 score)> changes;
  // K smoothing takes a number from all scores of a row. A sum does not mind; where this is true, `changes` is
  // something else and gets the scores as they were.
  bool changes_whole_scores = false;

  // A score in base 2 that counts in the maximum and the sum of a row but has no V; -inf is none.
  std::function<dsl::F32(const ScoreRow&)> sink;

  // True if no query of the block sees any key of the tile: it is neither copied nor computed. The same
  // for all threads of the block. first_query: of the block, with pack_gqa its first row, and the head that of K and V;
  // tile: in tiles of cta_k keys.
  std::function<dsl::Pred(const ScoreRow& first_query, dsl::I32 tile)> skipped;

  // log2 of a share, in [0, 1), of the largest weight that a row has seen so far. A warp computes neither P nor P V of a
  // tile in which no weight of its rows reaches that. Asked once. The same for all threads of the block.
  std::function<dsl::F32(dsl::I32 batch)> least_weight;
  // Told by one thread of each warp, in the end, how many tiles it left out so, and how many it computed.
  std::function<void(dsl::I32 batch, dsl::I32 skipped, dsl::I32 computed)> count_tiles;

  // Blocks of later queries have more to do: they start first.
  bool later_queries_see_more = false;
};

}  // namespace sagegen::attention
