// What a thread block of the attention kernel works on: sizes that the spec fixes, where the block
// stands in the problem, and the loads of its tiles.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <vector>

#include "sagegen/dsl/tile.h"
#include "templates/attention/mods.h"
#include "templates/attention/params.h"
#include "templates/attention/spec.h"
#include "templates/shared/sequence.h"
#include "templates/shared/tensor.h"

namespace sagegen::attention {

using RowOperands = std::vector<dsl::MmaA>;  // by row block

// What the assembler is kept from mixing with what comes before it in a tile.
enum class Apart { none, exponentials, products };

// What spec and mods fix.
struct AttentionPlan {
  AttentionPlan(const View& view, const Mods& mods);

  int head_dim;   // of Q and K
  int value_dim;  // of V and O
  int cta_q, cta_k, stages, threads;
  int value_channels;  // of V as it lies in shared memory
  int warp_rows;       // queries of one warp
  int q_group, k_group;
  DType io, qk, pv;
  Granularity granularity;
  bool qk_quantized, v_quantized, smooth, smooth_v;
  bool given;            // codes are the caller's
  bool two_level;        // P V of a tile is summed from zero, then added to O in f32
  bool half_sums;        // that sum is one of f16
  bool finish_sums;      // O takes such sums up early, lest registers run short
  bool finish_row_sums;  // so do the sums of P
  bool pack_gqa;         // rows of the block are of several heads
  bool mean_scores;      // sums of scores start from those of the mean query
  bool scaled_scores;    // before the softmax: mods change them, or each has a scale of its own
  bool whole_scores;     // the softmax sees scores from which K smoothing took nothing
  bool last_queries_first;
  bool varlen;
  bool queries_in_registers;  // few channels leave enough of them
  Apart apart;                // exponentials and products, or products alone
  bool k_scale_late;          // that of the next tile is loaded beside P V, not beside Q K^T
  // Pointers that run from tile to tile: what they lead to is not found anew by the tile's index.
  bool walks_keys = false, walks_values = false, walks_k_scales = false;
  bool holds_q_scale = false;  // in a register: it is not loaded again for every tile
  bool sums_p_last;            // after P V, not before
  bool inner_loop;             // a loop without masks beside the one with; needs a few registers
  float p_offset;              // P <= 2^p_offset
  float maximum_step;          // octaves; maxima of rows are multiples of it; 0: of none
  float maximum_slack;         // octaves that P may exceed 2^p_offset by before a maximum rises
  int v_octaves;               // of v_code, below the largest code that there is
  OutputFormat out;            // of O
  float v_code;                // of the largest |V| of a channel; 1 if V is not quantized
  dsl::TileLayout q_tile, k_tile, v_tile, o_tile;
  bool per_token() const { return granularity == Granularity::per_token; }
  // Of the caller's tensors: Q and K, V and O.
  int row_bytes() const { return static_cast<int>(head_dim * kElementBytes); }
  int value_row_bytes() const { return static_cast<int>(value_dim * kElementBytes); }
  int qk_row_bytes() const { return code_row_bytes(qk, head_dim); }
  dsl::Mma qk_mma() const;
  int qk_steps() const { return q_tile.row_bytes / 32; }                    // of the product Q K^T
  int slices() const { return value_channels / dsl::OperandV::kChannels; }  // of P V
  // Channels of a slice that O has.
  int slice_channels(int slice) const {
    return std::min(dsl::OperandV::kChannels, value_dim - slice * dsl::OperandV::kChannels);
  }
  int k_stage_bytes() const;  // keys, and scores of the mean query
  int stage_bytes() const { return k_stage_bytes() + v_tile.bytes(); }
  int shared_bytes() const;  // queries and stages, in the end O
  dsl::Mma pv_mma() const;

 private:
  void choose_pointers(const View& view, const Mods& mods);
};

// Position of block, warp and lane. Indices count heads over all batches. With pack_gqa queries are rows
// (shared/params.h), q_head is the first head of the group, and q_index is kv_index.
struct AttentionPosition {
  AttentionPosition(dsl::KernelBuilder& k, const AttentionPlan& plan,
                    const dsl::ParamReader<Params>& p, dsl::I32 thread_index);

  dsl::I32 batch, q_head, kv_head, q_index, kv_index;
  dsl::I32 first_query;       // of the block
  dsl::I32 thread, warp_row;  // warp_row: first row of the warp in the block
  dsl::LanePosition lane;
  dsl::I32 lane_query;  // of the first row that the lane holds
};

// The queries and the keys of the block's sequence; nothing without varlen.
struct BlockSequences {
  Sequence queries, keys;
};

// Codes and scales of the block's queries and of its head's keys and values. What depends on the thread is
// computed where it is used, from a thread index that the caller reads there: registers are short.
class AttentionInputs {
 public:
  AttentionInputs(dsl::KernelBuilder& k, const AttentionPlan& plan, const AttentionPosition& at,
                  const BlockSequences& sequences, const dsl::ParamReader<Params>& p);

  // Where the thread copies the next tile from, if the plan wants a pointer that runs. Starts at `tile`; tiles must be
  // loaded one after another then.
  using Walk = std::optional<dsl::Var<dsl::GlobalPtr>>;
  Walk walk_keys(dsl::I32 thread, dsl::I32 tile) const;
  Walk walk_values(dsl::I32 thread, dsl::I32 tile) const;

  // Asynchronous copies to shared memory; the caller commits and waits. whole: the tile is known to have cta_k
  // keys.
  void load_queries(dsl::I32 thread, const dsl::SharedTile& to) const;
  void load_keys(dsl::I32 thread, dsl::I32 tile, const dsl::SharedTile& to, bool whole,
                 const Walk& walk = {}) const;
  // f32 [cta_k], in the order of mean_scores.
  void load_mean_scores(dsl::I32 thread, dsl::I32 tile, dsl::SharedPtr to) const;
  void load_values(dsl::I32 thread, dsl::I32 tile, const dsl::SharedTile& to, bool whole,
                   const Walk& walk = {}) const;

  // Scales of the scores that a lane holds, of codes: softmax_scale * log2(e) is part of the first.
  dsl::F32 q_scale(const AttentionPosition& at) const;
  dsl::GlobalPtr k_scale(dsl::I32 thread, dsl::I32 tile) const;
  int k_scale_bytes() const;  // of a group
  // Per token: of the lane's rows; of its keys of a tile.
  std::vector<dsl::F32> q_scales(const AttentionPosition& at) const;
  std::vector<dsl::F32> k_scales(dsl::I32 thread, dsl::I32 tile) const;

 private:
  // Keys or values of a head; tile_bytes: from one tile to the next; row_bytes: that the source has. Codes are padded
  // with zeros; the caller's rows end with the last one.
  struct Rows {
    dsl::GlobalPtr data;
    dsl::I64 row_stride, tile_bytes;
    int row_bytes;
    bool padded;
    int rows = 0;  // that every tile has in global memory; 0: all of it, or up to the last key
  };
  template <typename P>
  Rows caller_rows(const dsl::ParamReader<P>& p, TensorParam P::*tensor, int row_bytes,
                   const AttentionPosition& at, const BlockSequences& sequences) const;
  // What the caller gives, by strides in bytes.
  template <typename P>
  dsl::GlobalPtr given_head(const dsl::ParamReader<P>& p, TensorParam P::*tensor, dsl::I32 batch,
                            dsl::I32 head) const;
  void find_given_codes(const AttentionPosition& at, const dsl::ParamReader<Params>& p);
  Rows given_values(const AttentionPosition& at, const dsl::ParamReader<Params>& p) const;
  dsl::TileSource source(const Rows& rows, dsl::I32 tile) const;
  void load_tile(const Rows& rows, dsl::I32 thread, dsl::I32 tile, const dsl::SharedTile& to,
                 bool whole, const Walk& walk) const;

  dsl::KernelBuilder& k_;
  const AttentionPlan& plan_;
  dsl::I32 kv_len_, queries_left_;
  dsl::TileSource queries_;  // of the block
  Rows keys_, values_;
  dsl::GlobalPtr q_scale_, k_scale_, mean_scores_;
  dsl::I32 last_q_group_;  // given codes have scales up to this one
};

// What all parts of the template see.
struct AttentionBlock {
  AttentionBlock(dsl::KernelBuilder& builder, const View& view, Mods block_mods);

  // The position from a thread index that is read here: nothing of it stays in registers on the way.
  AttentionPosition here() const { return {k, plan, p, k.reread_thread_idx()}; }
  dsl::I32 rows(
      const BlockSequences& of) const;  // of Q that exist, of the block's head or group of heads
  dsl::I32 rows() const { return rows(sequences); }
  // Of the block that exist: with pack_gqa, too, which queries these are, not which rows.
  dsl::I32 first_query() const { return query_of(at.first_query); }
  dsl::I32 last_query() const;
  dsl::I32 query_of(dsl::I32 row) const;
  ScoreRow score_row(const AttentionPosition& from, dsl::I32 row) const;
  // The block's first row as one of a tile: with pack_gqa of a head of K and V.
  ScoreRow first_of_tile() const;
  // Lengths of the block's sequence; of one that is passed, as they were read there.
  dsl::I32 q_len(const BlockSequences& of) const;
  dsl::I32 q_len() const { return q_len(sequences); }
  dsl::I32 kv_len() const;
  BlockSequences reread_sequences() const;
  // Of a row of Q in what the caller has a number for each of, as the LSE: [B, Hq, Lq], packed [Hq, total].
  dsl::I64 index_of_row(const AttentionPosition& from, const BlockSequences& of,
                        dsl::I32 row) const;
  // What K smoothing took from the scores of a row, in natural logarithms.
  dsl::F32 taken_by_smoothing(const AttentionPosition& from, dsl::I32 row) const;
  // Emits it behind a branch that is always taken: the assembler moves nothing across. No launch has a negative kv_len.
  void apart_if(bool is_apart, const std::function<void()>& emit) const;
  // Makes the assembler compute the values here (dsl::finish): no launch has a negative kv_len.
  void compute_here(const std::vector<dsl::Var<dsl::F32>>& values) const;

  dsl::KernelBuilder& k;
  const dsl::ParamReader<Params> p;
  const BlockSequences sequences;
  const Mods mods;
  const AttentionPlan plan;
  const AttentionPosition at;
  const AttentionInputs inputs;
  const dsl::SharedPtr shared;  // queries, then the stages; in the end O
};

}  // namespace sagegen::attention
