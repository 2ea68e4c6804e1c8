// The mma kernels for the instruction set of the build.
namespace sagegen::emulator::tile {
namespace {
constexpr int kLanes =
    4;  // of a 128-bit register, which every architecture has or the compiler makes up
}  // namespace
}  // namespace sagegen::emulator::tile
#include "runtime/emulator/numerics/mma_tile.h"

namespace sagegen::emulator::tile {

const Kernels* portable_kernels() { return &kTable; }

}  // namespace sagegen::emulator::tile
