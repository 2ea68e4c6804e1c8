// The scores of a tile, S = Q K^T: integer products and what they are worth.
#pragma once

#include <optional>
#include <vector>

#include "templates/attention/block.h"

namespace sagegen::attention {

// The score of an element in base 2 is (element - bias) * scale. What the products leave has a bias: an s32
// accumulator that starts at the bits of 1.5 * 2^23 reads as the f32 1.5 * 2^23 + sum, exactly, while |sum| <
// 2^22 (127 * 127 * 256 is less), so scores need no conversion; the softmax takes the bias off. Where it
// must not, and where mods change or hide scores, they are brought to scale 1 and bias 0 (modify()).
//
// Where the mean of the queries was subtracted, sums start from its scores instead of 0, to the nearest unit
// (SageAttention2 equation 5): one fma makes the f32 1.5 * 2^23 + score / unit, whose bits are the start.
//
// Sums of unquantized Q and K are f32 without a bias, and are scaled as soon as they are there. The softmax could
// scale them, too; but where the last bit of a score is worth octaves, what it takes off the scores, which is an f32,
// would miss their largest by as many, and all weights of the row would be 0 or infinite.
class Scores {
 public:
  explicit Scores(const AttentionBlock& block);

  // Start to load the scales of a tile; they are used from next_tile() on. The loads may take as long as
  // the tile before.
  void load_q_scale(dsl::I32 thread);
  void load_k_scale(dsl::I32 tile, dsl::I32 thread);
  // Of the tile after the one whose scale was loaded last; the last one's again where it is no tile, if there is an end.
  void load_next_k_scale(dsl::I32 tile, std::optional<dsl::I32> end, dsl::I32 thread);
  void next_tile();
  // Whether the softmax must not scale the next tile, in any lane of the warp: it is no inner one then.
  dsl::Pred next_is_large() const;
  // Keeps the queries in registers; they lie in shared memory now.
  void hold_queries();

  void multiply(dsl::SharedPtr keys);

  // What a product is in units of the scale.
  dsl::F32 unbiased(dsl::F32 element) const;

  static constexpr float kBias = 12582912.0f;
  // The softmax's fma scales the scores and takes bias and maximum off by one constant. Maxima that are multiples
  // of a step make it exact while a unit of s is less than the step; else its last bit is worth up to 1.5 units. Where
  // a unit is too many octaves for that, scores are scaled before.
  dsl::Pred is_large(dsl::F32 unit) const;

  dsl::Accumulator elements;  // f32
  dsl::F32 scale, bias;  // of the lane's elements; no scale where they have one each (modify())
  std::vector<dsl::F32> mean_scores;  // per token: by column of the lane; sums start from 0
  bool scaled = false;                // some may be: larger than 2^22 steps of the maximum

 private:
  static dsl::I32 start_bits(const AttentionBlock& block);
  RowOperands queries(int k_step) const;
  void start_from_mean_scores(dsl::SharedPtr from);
  void scale_sums();

  const AttentionBlock& block_;
  const dsl::OperandA q_;
  const dsl::OperandB k_;
  std::vector<RowOperands> held_queries_;  // by k step
  dsl::Var<dsl::F32> next_scale_;
  dsl::F32 loaded_q_scale_, loaded_k_scale_;              // their product is taken late
  std::optional<dsl::Var<dsl::GlobalPtr>> next_k_scale_;  // if the plan walks them
};

}  // namespace sagegen::attention
