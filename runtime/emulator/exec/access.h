// From lane addresses to memory: windows, bounds, alignment.
#pragma once

#include <cstdint>

#include "runtime/emulator/exec/warp.h"

namespace sagegen::emulator {

// Where one lane's access goes.
struct Target {
  Space space = Space::global;  // global, shared, local, param or nowhere
  std::uint64_t address = 0;    // generic for global, otherwise an offset in its space
  std::uint8_t* data = nullptr;
  std::uint8_t* written = nullptr;  // shadow of global and local memory; null for shared and param
};

using LaneAddresses = std::array<std::uint64_t, kLanes>;
using LaneTargets = std::array<Target, kLanes>;
using LanePointers = std::array<std::uint8_t*, kLanes>;

// Base register plus offset, in all lanes. A 32-bit base is zero-extended.
LaneAddresses lane_addresses(const Warp& w, const Access& access, std::uint16_t base_row);

// Reports out-of-bounds, use-after-free or misaligned; the access then goes nowhere. `bytes` is a power of
// two; `access` is an index into Program::accesses; `doing` is "reads" or "writes".
Target locate(const Warp& w, const Op& op, std::uint32_t access, int lane, std::uint64_t address,
              std::uint32_t bytes, const char* doing);

// The same without a rule for alignment; any number of bytes.
Target locate_bytes(const Warp& w, const Op& op, std::uint32_t access, int lane,
                    std::uint64_t address, std::uint32_t bytes, const char* doing);

// The same for all lanes of the mask, quick where they go to one place. Other lanes' entries are
// undefined.
void locate_lanes(const Warp& w, const Op& op, std::uint32_t access, std::uint32_t mask,
                  const LaneAddresses& addresses, std::uint32_t bytes, const char* doing,
                  LanePointers& data);
void locate_targets(const Warp& w, const Op& op, std::uint32_t access, std::uint32_t mask,
                    const LaneAddresses& addresses, std::uint32_t bytes, const char* doing,
                    LaneTargets& targets);

// Reports "uninitialized" if a lane of the mask has an undefined address, and returns these lanes. They
// access nothing: theirs is Space::nowhere.
std::uint32_t undefined_addresses(const Warp& w, const Op& op, std::uint16_t base_row,
                                  std::uint32_t mask, const char* role);
Target nowhere(const Warp& w);
void send_nowhere(const Warp& w, std::uint32_t lanes, LaneTargets& targets);

// Counts the passes over shared memory that the access takes. Lanes go in groups of 128 bytes; in a
// group every bank of 4 bytes serves one word per pass.
void count_wavefronts(const Warp& w, const Op& op, std::uint32_t mask,
                      const LaneAddresses& addresses, std::uint32_t bytes);

}  // namespace sagegen::emulator
