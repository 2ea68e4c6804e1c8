// One machine instruction of sm_80 to sm_120: 16 bytes, taken apart without a disassembler. The fields were found by
// assembling single instructions with ptxas 13.0.
#pragma once

#include <cstdint>

namespace sagegen::model {

// Operations that have a meaning beyond their class (operation_class.h).
namespace operation {
inline constexpr int kImma = 0x037, kHmma = 0x03c, kQmma = 0x07a;
inline constexpr int kLoadMatrix = 0x03b, kCopy = 0x1ae, kStoreShared = 0x188, kFloatSelect = 0x008;
inline constexpr int kBarrier = 0x11d, kWaitScoreboard = 0x11a, kCloseCopyGroup = 0x1af;
inline constexpr int kNop = 0x118, kBranch = 0x147, kCallRelative = 0x144, kExit = 0x14d,
                     kKill = 0x15b, kReturn = 0x150, kJump = 0x14a, kIndirectBranch = 0x149;
}  // namespace operation

inline constexpr int kScoreboards = 6;  // of a warp

// How an instruction is issued. Fixed latencies are in the stall counts, others in scoreboards, so that together they
// hold every dependence of the code.
struct Control {
  static constexpr int kNoScoreboard = 7;
  int stall = 0;                         // cycles until the warp may issue again
  bool yields = false;                   // a hint: let another warp go first
  int write_scoreboard = kNoScoreboard;  // counts down when the result is there
  int read_scoreboard = kNoScoreboard;   // counts down when the operands have been read
  unsigned wait_mask = 0;                // bit i: scoreboard i has to be 0
  friend bool operator==(const Control&, const Control&) = default;
};

// A field is counted from bit 0 of `low` to bit 127, the last of `high`.
struct Instruction {
  std::uint64_t low, high;

  int operation() const { return static_cast<int>(bits(0, 9)); }
  // Kinds of operands: 1 registers alone, 2 and 4 an immediate, 3 and 5 a constant, 6 and 7 a uniform register.
  int form() const { return static_cast<int>(bits(9, 3)); }
  int guard() const { return static_cast<int>(bits(12, 4)); }  // predicate; kNegated is added
  bool is_always_executed() const { return guard() == kAlwaysTrue; }
  bool is_never_executed() const { return guard() == kNegated + kAlwaysTrue; }  // a mere delay

  // Fields of source registers; 255 reads as 0. What the third one holds depends on the form.
  int source_a() const { return static_cast<int>(bits(24, 8)); }
  int source_b() const { return static_cast<int>(bits(32, 8)); }
  int source_c() const { return static_cast<int>(bits(64, 8)); }

  Control control() const {
    return {.stall = static_cast<int>(bits(105, 4)),
            .yields = bits(109, 1) == 0,
            .write_scoreboard = static_cast<int>(bits(110, 3)),
            .read_scoreboard = static_cast<int>(bits(113, 3)),
            .wait_mask = static_cast<unsigned>(bits(116, 6))};
  }
  void set(const Control& control) {
    const std::uint64_t fields = static_cast<std::uint64_t>(control.stall) |
                                 (control.yields ? 0u : 1u) << 4 |
                                 static_cast<std::uint64_t>(control.write_scoreboard) << 5 |
                                 static_cast<std::uint64_t>(control.read_scoreboard) << 8 |
                                 static_cast<std::uint64_t>(control.wait_mask) << 11;
    constexpr int kFirst = 105 - 64, kWidth = 17;
    high = (high & ~(((std::uint64_t{1} << kWidth) - 1) << kFirst)) | fields << kFirst;
  }

  // At most 32 bits that do not cross from one half to the other.
  std::uint64_t bits(int first, int count) const {
    const std::uint64_t half = first < 64 ? low >> first : high >> (first - 64);
    return half & ((std::uint64_t{1} << count) - 1);
  }

  static constexpr int kAlwaysTrue = 7, kNegated = 8;
  static constexpr int kZeroRegister = 255;
};

}  // namespace sagegen::model
