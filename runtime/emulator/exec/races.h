// Race detection: accesses to one address, at least one of them a write, that nothing orders.
//
// Inside a CTA the warps are the threads of a FastTrack-like detector (Flanagan and Freund, PLDI 2009):
// each warp has a vector clock, barriers join clocks, and every cell of memory remembers its last write
// and the reads since. Atomic and volatile accesses do not race with each other. They order warps as they
// order CTAs (cta_races.h): what is before a fence in the one, a strong write behind it, a strong read of that
// place in the other, and what is behind a fence there (PTX ISA, memory consistency model: release and acquire
// patterns). A write of the value that is there already is no hazard to reads.
// Between the lanes of a warp a LaneOrder tells (lane_order.h); a cell remembers which lane wrote last
// and, of the warp that read last, which lanes.
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

#include "runtime/emulator/exec/lane_order.h"
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

// Who accesses, and when: `now` as in LaneOrder.
struct Actor {
  int warp = 0;
  int lane = 0;
  std::uint32_t op = 0;
  std::uint32_t now = 0;
};

struct RaceConflict {
  int warp = 0;  // the other party, and what it did
  int lane = 0;  // only if it is in the same warp
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
  std::optional<RaceConflict> access_shared(std::uint64_t offset, std::uint32_t bytes,
                                            const Actor& who, AccessKind kind);
  std::optional<RaceConflict> access_global(std::uint64_t address, std::uint32_t bytes,
                                            const Actor& who, AccessKind kind);

  // To be told of every write to global memory: whether this CTA has written these values there already.
  // What other CTAs write at the same time does not count, so that reports do not depend on it.
  bool writes_again(std::uint64_t address, std::uint32_t bytes, const void* value);

  LaneOrder& lanes(int warp) { return orders_[warp]; }
  void barrier_arrive(int warp, int barrier);
  void barrier_release(int barrier, std::uint32_t warps);

  const WarpClocks& clocks(int warp) const { return clocks_[warp]; }
  // A fence of any scope: what is before it is ready to be published. What the warp does from here on comes
  // behind what `clocks` said at the fence, which this returns.
  WarpClocks fence(int warp);
  // Memory for readers whose clocks differ: at most one per cell that has such.
  std::size_t kept_read_clocks() const { return read_clocks_.size(); }

 private:
  using Clock = WarpClocks;

  // The history of four bytes, or of one byte once anyone accessed less than four.
  struct Cell {
    std::uint32_t write_clock = 0;  // 0: never written
    std::uint32_t read_clock = 0;   // of every warp in `readers`, unless many_clocks
    std::uint32_t readers = 0;  // since the last write; or an index into splits_ or read_clocks_
    std::uint32_t write_op = 0, read_op = 0;
    std::uint32_t write_time = 0;  // of write_lane, in its warp's time
    std::uint32_t read_time = 0;   // of read_lanes: the earliest that still counts
    std::uint32_t read_lanes = 0;  // of read_warp, since the last write
    std::uint8_t write_warp = 0, write_lane = 0, read_warp = 0;
    bool strong_write : 1 = false, strong_reads : 1 = false;
    bool many_clocks : 1 = false, split : 1 = false;
    bool same_write : 1 = false;  // the last write has changed nothing that others do not know
  };
  static constexpr std::uint32_t kChunkCells = 256, kChunkBytes = 4 * kChunkCells;
  struct Chunk {
    std::array<Cell, kChunkCells> cells;
    std::array<std::uint8_t, kChunkBytes> values;  // where `written`
    std::array<bool, kChunkBytes> written = {};
  };
  Chunk& chunk_of(std::uint64_t address);

  template <class CellAt>
  std::optional<RaceConflict> access(CellAt&& cell_at, std::uint64_t address, std::uint32_t bytes,
                                     const Actor& who, AccessKind kind, std::uint64_t place);
  std::optional<RaceConflict> touch(Cell& cell, const Actor& who, AccessKind kind);
  std::optional<RaceConflict> touch_writing(Cell& cell, const Actor& who, AccessKind kind);
  bool behind_write(const Cell& cell, const Actor& who, bool strong) const;
  static RaceConflict write_of(const Cell& cell);
  std::optional<RaceConflict> against_reads(const Cell& cell, const Actor& who,
                                            AccessKind kind) const;
  bool read_before(const Cell& cell, const Actor& who, bool strong) const;
  void note_write(Cell& cell, const Actor& who, AccessKind kind);
  void forget_reads(Cell& cell);
  std::uint32_t keep_read_clocks(const Clock& reads);
  void publish(int warp, std::uint64_t place);
  void take_over(int warp, std::uint64_t place);
  void note_read(Cell& cell, const Actor& who, bool strong);
  void note_read_apart(Cell& cell, int warp, bool strong);
  void note_reading_lane(Cell& cell, const Actor& who) const;
  std::array<Cell, 4>& split(Cell& cell);

  std::vector<Clock> clocks_;      // per warp
  std::vector<LaneOrder> orders_;  // per warp
  std::array<Clock, 16> barriers_ = {};
  std::vector<Cell> shared_;
  std::unordered_map<std::uint64_t, std::unique_ptr<Chunk>> global_;  // by number
  std::uint64_t last_number_ = ~std::uint64_t{0};
  Chunk* last_chunk_ = nullptr;
  std::vector<std::array<Cell, 4>> splits_;
  std::vector<Clock> read_clocks_;
  std::vector<std::uint32_t> free_read_clocks_;  // indices

  // What strong accesses hand on. Nothing of it is in use before the first fence.
  using Snapshot = std::shared_ptr<const Clock>;  // null: nothing
  static void join(Snapshot& to, const Snapshot& from);
  static constexpr std::uint64_t kSharedPlace = std::uint64_t{1} << 63;
  struct HandedOn {
    Snapshot fenced, taken;  // ready to be published; read from where it was published
    void join(const HandedOn& other);
  };
  bool any_fence_ = false;
  std::vector<HandedOn> handed_on_;  // per warp
  std::array<HandedOn, 16> at_barriers_;
  // By address, of shared memory kSharedPlace + offset.
  std::unordered_map<std::uint64_t, Snapshot> published_;
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
