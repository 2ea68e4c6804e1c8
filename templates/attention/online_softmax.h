// The softmax over the keys that the walk has seen, SageAttention2 algorithm 1: maximum, sum, and P of a tile.
#pragma once

#include <functional>
#include <vector>

#include "templates/attention/scores.h"

namespace sagegen::attention {

// Sums of P of the lane's rows, after the walk.
struct RowSums {
  std::vector<dsl::F32> of_keys;
  std::vector<dsl::F32> all;  // with that of the sink
};

// P = 2^(score - maximum + p_offset) <= 2^p_offset, where its format ends; or, where that has room, up to
// maximum_slack octaves more: then the maximum is that of some tile before.
class OnlineSoftmax {
 public:
  explicit OnlineSoftmax(const AttentionBlock& block);

  // Multiplies what P V came to before by a factor, of a row of the lane.
  using Rescale = std::function<void(int row, dsl::F32 factor)>;
  // Whether no weight of the warp's rows in the tile reaches the share of the largest so far that mods ask for: then the
  // tile may count for nothing, and is to be left out. Comes before update(), where mods ask at all.
  dsl::Pred is_light(Scores& scores);
  // m = max(m, scores), P in place of the scores; what was summed before must be rescaled. Where maxima have slack,
  // rescale_earlier() does that, in a branch, if at all.
  void update(Scores& scores, const Rescale& rescale_earlier);
  // Scores, which update() made P, become operands of P V.
  void pack(Scores& scores);
  // l = l * rescale + sum of P. Comes after pack().
  void sum();

  const std::vector<RowOperands>& p() const { return p_; }           // by k step
  const std::vector<dsl::F32>& rescale() const { return rescale_; }  // by row; empty: it is done
  RowSums sums(const AttentionPosition& at) const;

  // The natural logarithm of the sum of exp(score), plus what smoothing took from the scores, if the address
  // of LSE is not null. Where no key is visible the sum is 0 and the result -inf.
  void write_lse(const AttentionPosition& at, const BlockSequences& sequences,
                 const std::vector<dsl::F32>& sums) const;

 private:
  // Of a row of the lane, among its scores.
  dsl::F32 sink(const AttentionPosition& at, int row) const;
  void raise_far_maxima(Scores& scores, const Rescale& rescale_earlier);
  dsl::F32 maximum_of_tile(const Scores& scores, dsl::F32 largest) const;
  dsl::F32 first_maximum(int row) const;
  dsl::F32 on_grid(dsl::F32 score, bool may_be_large) const;
  dsl::F32 shift_of(const Scores& scores, int row) const;
  void exponentials(Scores& scores, int row) const;

  const AttentionBlock& block_;
  std::vector<RowOperands> p_;
  std::vector<dsl::F32> rescale_;
  dsl::F32 least_weight_;                  // octaves; none if no mod asks
  std::vector<dsl::F32> maximum_of_tile_;  // by row, of is_light(); without slack
  // By row of the lane: the maximum score less p_offset; the sum of P times v_code.
  std::vector<dsl::Var<dsl::F32>> maximum_, sum_;
};

}  // namespace sagegen::attention
