// The softmax over the tokens that a warp has seen: maximum of each row, P of a tile, sum of P.
#pragma once

#include <functional>

#include "templates/decode/scores.h"

namespace sagegen::decode {

// P of a block of 16 tokens as operand B of V^T P^T, by half of the rows; with the scales of V, and without.
struct Weights {
  std::vector<dsl::MmaB> plain, of_codes;
};

// Multiplies what was summed before: of the rows 2 t and 2 t + 1 of a half, of which a lane has accumulators.
using Rescale = std::function<void(int half, const std::array<dsl::F32, 2>& factors)>;

class Softmax {
 public:
  explicit Softmax(const DecodeBlock& block, const Queries& queries);

  // Raises the maxima of rows, where a score is above them: seldom, behind a branch.
  void raise_maxima(const Scores& scores, const Rescale& rescale);
  // P = 2^(score - maximum + p_octaves()) <= 2^p_octaves().
  std::vector<Weights> weights(const Scores& scores,
                               const std::vector<TokenParameters>& parameters);
  // Sums of P, and of P times the zero points of V, as one more row of channels.
  void sum(const std::vector<Weights>& weights, const std::vector<TokenParameters>& parameters);

  // Of the lane's rows 2 t and 2 t + 1 of a half, in every lane.
  std::array<dsl::F32, 2> sums(int half) const { return of_channel(half, 1); }
  std::array<dsl::F32, 2> sums_of_zero_points(int half) const;
  // Of row lane.row + 8 half: the maximum of its scores in octaves.
  dsl::F32 maximum(int half) const;

 private:
  dsl::F32 scale(int half) const;  // of scores, to octaves
  std::array<dsl::F32, 2> of_channel(int half, int channel) const;

  const DecodeBlock& block_;
  const Queries& queries_;
  // By half: of scores as they come; -maximum in octaves + p_octaves(), rounded down.
  std::vector<dsl::Var<dsl::F32>> maximum_, shift_;
  std::vector<std::array<dsl::Var<dsl::F32>, 4>>
      sums_;  // accumulators; row 1 has sum p, others sum p z
};

}  // namespace sagegen::decode
