// The forms whose handlers are vectorized lane loops. Included once per translation unit; see lanes.h.
#pragma once

#include "runtime/emulator/exec/lanes_float.h"
#include "runtime/emulator/exec/lanes_integer.h"

namespace sagegen::emulator {
namespace {

template <Shuffle kMode>
void add_shuffle(FormTable& t, const char* name) {
  t.add_checked(name, "vWWWW", shuffle_warp<kMode, ShuffleChecks::off>,
                shuffle_warp<kMode, ShuffleChecks::on>, Taint::custom);
}

void register_vector_forms(FormTable& t) {
  add_shuffle<Shuffle::up>(t, "shfl.sync.up.b32");
  add_shuffle<Shuffle::down>(t, "shfl.sync.down.b32");
  add_shuffle<Shuffle::bfly>(t, "shfl.sync.bfly.b32");
  add_shuffle<Shuffle::idx>(t, "shfl.sync.idx.b32");
  register_integer_arithmetic(t);
  register_bits(t);
  register_compares(t);
  register_floats(t);
}

}  // namespace
}  // namespace sagegen::emulator
