// Machine code by hand, as ptxas 13.0 writes it: instructions with the operands that matter here, and control fields.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "tools/model/cubin.h"

namespace sagegen::test {

using model::Code;
using model::Control;
using model::Instruction;

inline constexpr std::uint64_t kAlways = 7ull << 12, kIf = 0ull << 12, kNever = 15ull << 12;
inline constexpr std::uint64_t kSecondAlways = 7ull << 23;

inline Instruction plain(int operation, const Control& control = {.stall = 1}) {
  Instruction instruction{.low = kAlways | static_cast<std::uint64_t>(operation),
                          .high = kSecondAlways};
  instruction.set(control);
  return instruction;
}

// A branch over `distance` instructions, counted from the next one, as sm_90 and later write it.
inline Instruction branch(int distance, std::uint64_t guard) {
  const std::int64_t words = std::int64_t{4} * distance;
  const auto upper = static_cast<std::uint64_t>(words >> 8);
  Instruction instruction{
      .low = 0x947u | guard | (static_cast<std::uint64_t>(words) & 0xff) << 16 | upper << 34,
      .high = kSecondAlways | (upper >> 30 & 0x3ffff)};
  instruction.set({.stall = 5});
  return instruction;
}

inline Code code_of(std::vector<Instruction> instructions) {
  return {.architecture = 90, .instructions = std::move(instructions)};
}

// Bits above 64 of an instruction of registers alone.
inline Instruction of_bits(std::uint64_t low, std::uint64_t high, const Control& control) {
  Instruction instruction{.low = kAlways | low, .high = high};
  instruction.set(control);
  return instruction;
}

inline Instruction imma_s8(const Control& control = {.stall = 1}) {  // m16n8k32
  return of_bits(0x237, 0x405c00, control);
}
inline Instruction imma_s4(const Control& control = {.stall = 1}) {  // m16n8k64
  return of_bits(0x237, 0x785400, control);
}
inline Instruction hmma_f32(const Control& control = {.stall = 1}) {  // m16n8k16, f32 sums
  return of_bits(0x23c, 0x1800, control);
}
inline Instruction qmma_f32(const Control& control = {.stall = 1}) {  // m16n8k32, f32 sums
  return of_bits(0x27a, 0x2c00, control);
}
inline Instruction ldsm_x4(const Control& control = {.stall = 1}) {
  return of_bits(0x83b, 0x200, control);
}
inline Instruction copy_16_bytes(const Control& control = {.stall = 1}) {  // as before sm_100
  return of_bits(0xfae, 0x0b901c00, control);
}

}  // namespace sagegen::test
