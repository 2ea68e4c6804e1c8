// Mods on the scores of a tile.
#pragma once

#include "sagegen/dsl/ring.h"
#include "templates/attention/scores.h"

namespace sagegen::attention {

// Changes what the block's mods change, hides what they hide, and scales what the softmax must not.
void modify(const AttentionBlock& block, const dsl::Ring::Tile& tile, Scores& scores);

}  // namespace sagegen::attention
