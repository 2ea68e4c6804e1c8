// Race detection: accesses to one address, at least one of them a write, that nothing orders.
//
// Inside a CTA the warps are the threads of a FastTrack-like detector (Flanagan and Freund, PLDI 2009):
// each warp has a vector clock, barriers join clocks, and every cell of memory remembers its last write
// and the reads since. Lanes of one warp count as ordered. Atomic and volatile accesses do not race
// with each other and order nothing.
//
// Between CTAs of a kernel without global atomics (with them: cta_races.h) nothing orders anything before
// the kernel ends, so it is enough to know which CTAs touched an address in which way. That summary does
// not depend on the order in which CTAs ran, so reports are the same for any number of host threads.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "runtime/emulator/exec/memory.h"

namespace sagegen::emulator {

// same_write: a write of the value that is there already. Several warps may set one flag.
enum class AccessKind : std::uint8_t { read, write, strong_read, strong_write, same_write };
inline bool is_write(AccessKind kind) {
  return kind != AccessKind::read && kind != AccessKind::strong_read;
}
inline bool is_strong(AccessKind kind) {
  return kind == AccessKind::strong_read || kind == AccessKind::strong_write;
}

struct RaceConflict {
  int warp = 0;  // the other party, and what it did
  std::uint32_t op = 0;
  AccessKind kind = AccessKind::read;
  std::uint64_t address = 0;
};

// A vector clock: what has happened before, by warp.
using WarpClocks = std::array<std::uint32_t, 32>;

class RaceDetector {
 public:
  static constexpr int kMaxWarps = std::tuple_size_v<WarpClocks>;

  RaceDetector(int warps, std::size_t shared_bytes);

  // Records an access; the conflict if it races. Shared addresses are offsets.
  std::optional<RaceConflict> access_shared(std::uint64_t offset, std::uint32_t bytes, int warp,
                                            std::uint32_t op, AccessKind kind);
  std::optional<RaceConflict> access_global(std::uint64_t address, std::uint32_t bytes, int warp,
                                            std::uint32_t op, AccessKind kind);

  void barrier_arrive(int warp, int barrier);
  void barrier_release(int barrier, std::uint32_t warps);

  const WarpClocks& clocks(int warp) const { return clocks_[warp]; }
  // What the warp does from here on comes behind what `clocks` said before.
  void advance(int warp) { ++clocks_[warp][warp]; }

 private:
  using Clock = WarpClocks;

  // The history of four bytes, or of one byte once anyone accessed less than four.
  struct Cell {
    std::uint32_t write_clock = 0;  // 0: never written
    std::uint32_t read_clock = 0;   // of every warp in `readers`, unless many_clocks
    std::uint32_t readers = 0;  // since the last write; or an index into splits_ or read_clocks_
    std::uint32_t write_op = 0, read_op = 0;
    std::uint8_t write_warp = 0;
    bool strong_write = false, strong_reads = false;
    bool many_clocks = false, split = false;
  };
  static constexpr std::uint32_t kChunkCells = 256;

  template <class CellAt>
  std::optional<RaceConflict> access(CellAt&& cell_at, std::uint64_t address, std::uint32_t bytes,
                                     int warp, std::uint32_t op, AccessKind kind);
  std::optional<RaceConflict> touch(Cell& cell, int warp, std::uint32_t op, AccessKind kind);
  std::optional<RaceConflict> against_write(const Cell& cell, int warp, bool strong) const;
  std::optional<RaceConflict> against_reads(const Cell& cell, int warp, bool strong) const;
  bool read_before(const Cell& cell, int warp, bool strong) const;
  void note_read(Cell& cell, int warp, std::uint32_t op, bool strong);
  std::array<Cell, 4>& split(Cell& cell);

  std::vector<Clock> clocks_;  // per warp
  std::array<Clock, 16> barriers_ = {};
  std::vector<Cell> shared_;
  std::unordered_map<std::uint64_t, std::unique_ptr<Cell[]>> global_;  // by chunk of 1 KB
  std::uint64_t last_chunk_ = ~std::uint64_t{0};
  Cell* last_cells_ = nullptr;
  std::vector<std::array<Cell, 4>> splits_;
  std::vector<Clock> read_clocks_;
};

class GlobalRaces {
 public:
  explicit GlobalRaces(const AddressMap& map);
  ~GlobalRaces();
  GlobalRaces(const GlobalRaces&) = delete;
  GlobalRaces& operator=(const GlobalRaces&) = delete;

  // Thread-safe. The range lies inside one live allocation. `value` is what a plain write stores: CTAs that
  // store nothing but one and the same value do not race with each other.
  void access(std::uint64_t address, std::uint32_t bytes, std::uint32_t cta, std::uint32_t op,
              AccessKind kind, const void* value);

  struct Party {
    std::uint32_t cta = 0, op = 0;
    AccessKind kind = AccessKind::read;
  };
  struct Conflict {
    std::uint64_t address = 0;
    Party first, second;
  };
  // After the launch: one conflict per pair of instructions, by address; at most `limit`.
  std::vector<Conflict> conflicts(std::size_t limit) const;

 private:
  static constexpr std::uint64_t kChunkBytes = 4096;
  // The lowest and the highest access, as (cta + 1) << 32 | op, so that their order is CTA order.
  struct Extremes {
    std::atomic<std::uint64_t> low{~std::uint64_t{0}}, high{0};
    void add(std::uint64_t key);
    bool empty() const { return high.load(std::memory_order_relaxed) == 0; }
  };
  // What plain writes have stored in a cell so far.
  class Stored {
   public:
    void add(std::uint32_t value);
    bool empty() const { return state_.load(std::memory_order_relaxed) == 0; }
    bool several() const { return (state_.load(std::memory_order_relaxed) & kSeveral) != 0; }
    std::uint32_t value() const {
      return static_cast<std::uint32_t>(state_.load(std::memory_order_relaxed));
    }

   private:
    static constexpr std::uint64_t kOne = std::uint64_t{1} << 32, kSeveral = std::uint64_t{1} << 33;
    std::atomic<std::uint64_t> state_{0};
  };
  // Words are accesses of whole aligned 4-byte cells, bytes all others.
  struct Summary {
    const Allocation* allocation = nullptr;
    std::array<std::vector<std::atomic<Extremes*>>, 4> words, bytes;  // by AccessKind, then chunk
    std::vector<std::atomic<Stored*>> stored_words, stored_bytes;
    bool one_value(std::size_t chunk, std::size_t at, bool by_byte) const;
  };
  struct Merged;

  Summary* find(std::uint64_t address);
  template <class Cell>
  static Cell* cells(std::vector<std::atomic<Cell*>>& chunks, std::size_t chunk, std::size_t count);

  std::vector<std::unique_ptr<Summary>> summaries_;  // by address
};

}  // namespace sagegen::emulator
