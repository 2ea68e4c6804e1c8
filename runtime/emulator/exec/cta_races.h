// Races in global memory between the CTAs of a kernel that orders them: with global atomics, ld.acquire or
// st.release (Program::orders_ctas).
//
// Such CTAs run one after the other, so the order that atomics and fences make between them can be followed
// (PTX ISA, memory consistency model: release and acquire patterns). What a warp did before a fence is
// published by its next strong write; a strong read of that place takes it over, and it is over for what the
// warp does behind its next fence. Barriers hand both on to the other warps. That is a little more than the
// model promises, which wants fence and strong access in one thread; and what is overwritten stays published.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <unordered_map>
#include <vector>

#include "runtime/emulator/exec/races.h"

namespace sagegen::emulator {

// Of other CTAs: up to which clock of each of their warps everything is over.
using Ends = std::map<std::uint32_t, WarpClocks>;
using History = std::shared_ptr<const Ends>;  // null: nothing

// What a warp knows, or a barrier hands on.
struct Knowledge {
  WarpClocks fenced = {};  // of this CTA: before a fence, ready to be published
  History taken, over;     // of other CTAs: read from where it was published; with a fence since
  void join(const Knowledge& other);
  void fence(const WarpClocks& now);
};

class CtaRaces {
 public:
  struct Access {
    static constexpr std::uint32_t kNobody = 0xffff'ffff;
    std::uint32_t cta = kNobody;
    std::uint32_t clock = 0;  // of the warp
    std::uint32_t op : 27 = 0;
    std::uint32_t warp : 5 = 0;
  };
  // Accesses come in the order of execution. A strong read adds to what the warp knows.
  void access(std::uint64_t address, std::uint32_t bytes, const Access& access, AccessKind kind,
              Knowledge& known);

  // One per pair of instructions, at most `kMaxConflicts`.
  const std::vector<GlobalRaces::Conflict>& conflicts() const { return conflicts_; }
  static constexpr std::size_t kMaxConflicts = 64;

 private:
  // Four bytes, or one once anyone accessed less than four.
  struct Cell {
    Access write, strong_write, strong_read;
    Access first_read, last_read;  // nothing orders the first before the last
  };
  static constexpr std::uint64_t kChunkBytes = 1024;
  struct Chunk {
    std::array<Cell, kChunkBytes / 4> words;
    std::map<std::uint32_t, std::array<Cell, 4>> split;  // by word
  };

  void touch(Cell& cell, std::uint64_t address, const Access& access, AccessKind kind,
             const Knowledge& known);
  static void publish(History& at, std::uint32_t cta, const Knowledge& known);

  std::unordered_map<std::uint64_t, std::unique_ptr<Chunk>> chunks_;
  std::unordered_map<std::uint64_t, History> published_;  // by address
  std::vector<GlobalRaces::Conflict> conflicts_;
  std::set<std::pair<std::uint32_t, std::uint32_t>> reported_;  // pairs of ops
};

}  // namespace sagegen::emulator
