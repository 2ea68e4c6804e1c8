// O^T = V^T P^T: codes of V are numbers of f16 as they stand, multiples of 2^-24, so that a mask makes an operand of them.
#pragma once

#include <array>
#include <vector>

#include "templates/decode/softmax.h"

namespace sagegen::decode {

// Channels of 16 rows of an operand A of V^T: row r has channel `factor` r + first[0], row r + 8 that plus the difference
// to first[1], with r < 8; and what a code counts for there.
struct ChannelTile {
  int factor;
  std::array<int, 2> first;
  std::array<float, 2> unit;
};

class Values {
 public:
  explicit Values(const DecodeBlock& block);

  // mask: of the last tile.
  void add(const CacheTile& tile, const std::vector<Weights>& weights, const TokenMask* mask);
  void rescale(int half, const std::array<dsl::F32, 2>& factors);

  const std::vector<ChannelTile>& tiles() const { return tiles_; }
  // Sum of p s codes: of the channel of row lane.row + 8 upper, and row 2 t + column of a half.
  dsl::F32 sum(std::size_t tile, int half, int upper, int column) const;

 private:
  std::vector<std::array<dsl::I32, 4>> operands(const std::vector<dsl::I32>& words) const;

  const DecodeBlock& block_;
  std::vector<ChannelTile> tiles_;  // in the order of units and operands()
  std::vector<std::vector<std::array<dsl::Var<dsl::F32>, 4>>> sums_;  // by tile and half
};

}  // namespace sagegen::decode
