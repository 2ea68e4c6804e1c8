// The mma kernels for x86-64 with AVX-512.
#include "runtime/emulator/numerics/mma_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <bit>
#include <cstring>

#include "runtime/emulator/numerics/fused_sum.h"

// From here on, so that no inline function of the headers above is compiled for more than the base set.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
namespace sagegen::emulator::tile {
namespace {
constexpr int kLanes = 16;  // of a 512-bit register
}  // namespace
}  // namespace sagegen::emulator::tile
#include "runtime/emulator/numerics/mma_tile.h"

namespace sagegen::emulator::tile {

const Kernels* avx512_kernels() { return &kTable; }

}  // namespace sagegen::emulator::tile

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
