// The instructions that a warp executes for most tiles of attention: one iteration of the loop over keys that hides
// no score, with the copy of the next tile.
#pragma once

#include <optional>
#include <vector>

#include "tools/model/loops.h"

namespace sagegen::model {

struct Step {
  Instruction instruction;
  bool jumps;  // what follows is not the next instruction of the code
};

struct HotPath {
  std::size_t header;       // index of the loop's first instruction
  std::vector<Step> steps;  // in order; after the last one comes the first
};

// Of loops with an integer product (Q K) and another one (P V), the innermost with most products is taken, of these
// the one with least code: an edge loop is longer by what it hides. In that loop the path is taken that multiplies
// least (no second try of a tile), that does not hide scores (FSEL) or zero the end of a tile (STS), and that copies
// the next tile. Nothing if there is no such loop; emulated products, behind calls, are not seen.
std::optional<HotPath> hot_path(const Code& code);

}  // namespace sagegen::model
