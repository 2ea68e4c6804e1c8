// Scores of a tile of keys, from the codes of K as they are stored.
#pragma once

#include <array>
#include <vector>

#include "templates/decode/cache_tiles.h"
#include "templates/decode/queries.h"

namespace sagegen::decode {

// Of a row that a lane has, with the two tokens of a parity that it has: 4 t + parity and 4 t + parity + 2 of a block.
using ScorePair = std::array<dsl::F32, 2>;
// By block of the tile, parity and half of the rows.
using Scores = std::vector<std::array<std::vector<ScorePair>, 2>>;

// q . k of all rows, which Queries::scale() makes octaves. parameters: by block of the tile.
Scores scores_of(const DecodeBlock& block, const Queries& queries, const CacheTile& tile,
                 const std::vector<TokenParameters>& parameters);
// Where the row does not see the token: a score that is less than any other one.
void hide(const DecodeBlock& block, const TokenMask& mask, Scores& scores);
inline constexpr float kHidden = -1e30f;

}  // namespace sagegen::decode
