// Bank conflicts of accesses to shared memory: 32 banks of 4 bytes, so that 128 bytes leave in a cycle, a wavefront, if
// no bank is asked for two of them. Source: CUDA C++ Programming Guide, shared memory, and for accesses of 16 bytes per
// lane, which take four wavefronts of eight lanes, Nsight Compute's counters.
#pragma once

#include <array>
#include <span>

#include "tools/pictures/layouts.h"

namespace sagegen::pictures {

inline constexpr int kChunkBytes = 16;  // of a lane: ldmatrix and cp.async
inline constexpr int kPhases = 4;       // of a request
inline constexpr int kPhaseLanes = kLanes / kPhases;
inline constexpr int kBankGroups = 8;  // of 16 bytes, four banks

// How many of a phase's chunks lie in each bank group, the same chunk counting once. The largest of these is the number
// of wavefronts that the phase takes.
std::array<int, kBankGroups> bank_groups(std::span<const int> addresses);

struct Conflicts {
  int requests = 0;  // of the block, for one tile
  int phases = 0;
  int wavefronts = 0;  // all phases together
  int worst = 0;       // wavefronts of a phase: n is an n-way conflict, 1 is none
  int extra() const { return wavefronts - phases; }
};
Conflicts conflicts_of(const Access& access);

// The same access to the same chunks of a tile whose rows lie one after the other, without panels and swizzle.
Access in_order(const Tile& tile, const Access& access);

}  // namespace sagegen::pictures
