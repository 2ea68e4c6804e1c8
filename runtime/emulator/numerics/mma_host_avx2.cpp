// The mma kernels for x86-64 with AVX2.
#include "runtime/emulator/numerics/mma_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <bit>
#include <cstring>

#include "runtime/emulator/numerics/fused_sum.h"

// From here on, so that no inline function of the headers above is compiled for more than the base set.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif
namespace sagegen::emulator::tile {
namespace {
constexpr int kLanes = 8;  // of a 256-bit register
}  // namespace
}  // namespace sagegen::emulator::tile
#include "runtime/emulator/numerics/mma_tile.h"

namespace sagegen::emulator::tile {

const Kernels* avx2_kernels() { return &kTable; }

}  // namespace sagegen::emulator::tile

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
