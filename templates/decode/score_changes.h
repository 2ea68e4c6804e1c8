// The mods that change scores (attention/mod.h), on those of a tile.
#pragma once

#include <vector>

#include "templates/decode/scores.h"

namespace sagegen::decode {

class ScoreChanges {
 public:
  ScoreChanges(const DecodeBlock& block, const Queries& queries);

  // Where mods change them: scores in octaves, which need no Queries::scale() any more.
  void apply(dsl::I32 tile, Scores& scores) const;

 private:
  const DecodeBlock& block_;
  const Queries& queries_;
  std::vector<attention::ScoreElement> rows_;  // of the lane, by half; where mods change scores
};

}  // namespace sagegen::decode
