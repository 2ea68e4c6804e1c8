// The mma kernels for the instruction set of the build.
#include "runtime/emulator/numerics/mma_tile.h"

namespace sagegen::emulator::tile {

const Kernels* portable_kernels() { return &kTable; }

}  // namespace sagegen::emulator::tile
