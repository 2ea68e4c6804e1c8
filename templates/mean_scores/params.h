// Launch parameters of mean_scores. grid (LkP / 64, heads of the part, batches of the part).
//
// Scores take 4 bytes for every kMeanRows queries and each key of each head: 1 GB for 32 heads of 32768 tokens. So
// they are computed for parts of the problem, and each part is attended before the next one is computed.
#pragma once

#include "sagegen/params.h"

namespace sagegen::mean_scores {

struct Params {
  TensorParam k;   // the caller's
  Address k_mean;  // f32 [B, Hkv, D]
  Address q_mean;  // f32 [B, Hq, LqP / kMeanRows, D]
  // out f32 [batches, heads, blocks of the part, LkP]: in octaves, softmax_scale * log2(e) included. Inside every 16
  // keys the order is 0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15: what a lane of the score accumulators needs is
  // 16 bytes. 0 of keys behind kv_len.
  Address scores;
  float softmax_scale;
  std::int32_t kv_len;
  std::int32_t kv_len_padded;
  std::int32_t heads, heads_per_kv_head;  // Hq, Hq / Hkv
  std::int32_t blocks_of_head;            // LqP / kMeanRows
  std::int32_t first_batch, first_head;   // of the part
  std::int32_t first_block, blocks;       // of kMeanRows queries

  static constexpr std::string_view kName = "mean_scores";
  static std::vector<ParamField> fields() {
    using P = Params;
    return {param_field("k", &P::k),
            param_field("k_mean", &P::k_mean),
            param_field("q_mean", &P::q_mean),
            param_field("scores", &P::scores),
            param_field("softmax_scale", &P::softmax_scale),
            param_field("kv_len", &P::kv_len),
            param_field("kv_len_padded", &P::kv_len_padded),
            param_field("heads", &P::heads),
            param_field("heads_per_kv_head", &P::heads_per_kv_head),
            param_field("blocks_of_head", &P::blocks_of_head),
            param_field("first_batch", &P::first_batch),
            param_field("first_head", &P::first_head),
            param_field("first_block", &P::first_block),
            param_field("blocks", &P::blocks)};
  }
};

}  // namespace sagegen::mean_scores
