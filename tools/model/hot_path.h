// The instructions that a warp executes for most tiles of attention: one iteration of the loop over keys that hides
// no score, with the copy of the next tile.
#pragma once

#include <optional>
#include <vector>

#include "tools/model/loops.h"
#include "tools/model/operation_class.h"

namespace sagegen::model {

struct Step {
  Instruction instruction;
  bool jumps;  // what follows is not the next instruction of the code
};

struct HotPath {
  std::size_t header;       // index of the loop's first instruction
  std::vector<Step> steps;  // in order; after the last one comes the first
};

// The kinds of multiplications in some code, as bits.
using MmaKindSet = unsigned;
constexpr MmaKindSet set_of(MmaKind kind) { return 1u << static_cast<unsigned>(kind); }

// Which of them are of Q K: integer ones, else those of f16 with f32 sums. `with_pv`: P V has the same kind.
struct QkProducts {
  MmaKindSet kinds = 0;
  bool with_pv = false;
  bool has(MmaKind kind) const { return (kinds & set_of(kind)) != 0; }
};
QkProducts qk_products(MmaKindSet all);

// Of loops with the products Q K and P V, the innermost with most products is taken, of these
// the one with least code: an edge loop is longer by what it hides. In that loop the path is taken that multiplies
// least (no second try of a tile), that does not hide scores (FSEL) or zero the end of a tile (STS), and that copies
// the next tile. Nothing if there is no such loop; emulated products, behind calls, are not seen.
std::optional<HotPath> hot_path(const Code& code);

}  // namespace sagegen::model
