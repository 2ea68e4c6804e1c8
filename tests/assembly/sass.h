// Machine code out of a cubin, as far as tests need it: which operations a loop holds. No disassembler
// is involved; the fields were found by assembling single instructions with ptxas 13.0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace sagegen::assembly {

// 16 bytes; a field is counted from bit 0 of `low` to bit 127, the last of `high`.
struct Instruction {
  std::uint64_t low, high;
  int operation() const { return static_cast<int>(low & 0x1ff); }  // bits 0-8
  int guard() const { return static_cast<int>(low >> 12 & 0xf); }  // bits 12-15
  bool is_always_executed() const { return guard() == kAlwaysTrue; }
  bool is_never_executed() const { return guard() == kNegated + kAlwaysTrue; }  // a mere delay

 private:
  static constexpr int kAlwaysTrue = 7, kNegated = 8;
};

// Operations that have a meaning here.
namespace operation {
inline constexpr int kImma = 0x037, kHmma = 0x03c, kQmma = 0x07a;
inline constexpr int kNop = 0x118, kBranch = 0x147, kCallRelative = 0x144, kExit = 0x14d,
                     kKill = 0x15b, kReturn = 0x150, kJump = 0x14a, kIndirectBranch = 0x149;
}  // namespace operation

struct Code {
  int architecture;  // 89 of sm_89
  std::vector<Instruction> instructions;
};

// The only kernel of a cubin. Throws std::runtime_error if the bytes are something else.
Code read_cubin(const std::string& cubin);

// A natural loop: a branch goes back to an instruction that nothing of the loop is reached without.
// Numbers are indices into Code::instructions, ascending.
struct Loop {
  std::vector<std::size_t> body;   // with everything that is executed in some iterations only
  std::vector<std::size_t> every;  // what each iteration executes; an inner loop counts once
};
std::vector<Loop> find_loops(const Code& code);

int count(const Code& code, const std::vector<std::size_t>& indices, int operation);

}  // namespace sagegen::assembly
