// Which bits of registers are undefined, where lanes as wholes do not tell enough: undefined operands that
// do not decide a result (the other side of selp, `and x, 0`) leave it defined, and undefined halves or
// bytes of a register stay what they are when it is taken apart.
//
// Nearly always all lanes are wholly defined. Then Warp::defined tells it and nothing here runs.
#pragma once

#include <cstdint>
#include <span>

#include "runtime/emulator/exec/binder.h"
#include "runtime/emulator/exec/warp.h"

namespace sagegen::emulator {

constexpr std::uint64_t low_bits(std::uint32_t count) {
  return count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

// Of one lane of a register of `bytes` bytes.
std::uint64_t undefined_bits(const Warp& w, std::uint16_t row, std::uint32_t bytes, int lane);
void set_undefined_bits(const Warp& w, std::uint16_t row, std::uint32_t bytes, int lane,
                        std::uint64_t bits);
// Bit i: byte i has an undefined bit.
std::uint32_t undefined_bytes_of(std::uint64_t bits);
// All bits of these bytes.
std::uint64_t bits_of_bytes(std::uint32_t bytes);

// The rule of an instruction; none if its destinations are undefined whenever a source is.
// `bytes`: of each operand of the draft, 0 for predicates.
SpreadRule spread_rule(const ptx::Instruction& instruction, const Draft& draft,
                       std::span<const std::uint8_t> bytes);

// For Taint::propagate, before the instruction runs, if a source is undefined in a lane of the mask.
// `defined`: the lanes in which all sources are defined.
void spread_undefined(Warp& w, const Op& op, std::uint32_t mask, std::uint32_t defined);

// The registers of a matrix instruction before it runs. Row i of D depends on row i of A, column j on
// column j of B, an element on that of C.
struct MatrixRows {
  std::span<const std::uint16_t> a, b, c, d;
  bool f16_accumulators = false;  // two elements of C and D in a register
};
void spread_matrix(const Warp& w, const MatrixRows& rows);

}  // namespace sagegen::emulator
