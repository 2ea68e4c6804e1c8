#include "runtime/emulator/exec/races.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>

namespace sagegen::emulator {

// ---- RaceDetector: inside a CTA ------------------------------------------------------------------

RaceDetector::RaceDetector(int warps, std::size_t shared_bytes)
    : clocks_(warps, Clock{}), orders_(warps), shared_((shared_bytes + 3) / 4), handed_on_(warps) {
  for (int w = 0; w < warps; ++w) clocks_[w][w] = 1;
}

void RaceDetector::barrier_arrive(int warp, int barrier) {
  Clock& clock = clocks_[warp];
  for (int i = 0; i < kMaxWarps; ++i) {
    barriers_[barrier][i] = std::max(barriers_[barrier][i], clock[i]);
  }
  ++clock[warp];  // what the warp does from here on is not covered by this arrival
  if (any_fence_) at_barriers_[barrier].join(handed_on_[warp]);
}

void RaceDetector::barrier_release(int barrier, std::uint32_t warps) {
  for (; warps != 0; warps &= warps - 1) {
    const int warp = std::countr_zero(warps);
    Clock& clock = clocks_[warp];
    for (int i = 0; i < kMaxWarps; ++i) clock[i] = std::max(clock[i], barriers_[barrier][i]);
    if (any_fence_) handed_on_[warp].join(at_barriers_[barrier]);
  }
  barriers_[barrier] = {};
  if (any_fence_) at_barriers_[barrier] = {};
}

void RaceDetector::join(Snapshot& to, const Snapshot& from) {
  if (from == nullptr || to == from) return;
  if (to == nullptr) {
    to = from;
    return;
  }
  Clock both = *to;
  for (int i = 0; i < kMaxWarps; ++i) both[i] = std::max(both[i], (*from)[i]);
  if (both == *to) return;
  to = both == *from ? from : std::make_shared<const Clock>(both);
}

void RaceDetector::HandedOn::join(const HandedOn& other) {
  RaceDetector::join(fenced, other.fenced);
  RaceDetector::join(taken, other.taken);
}

WarpClocks RaceDetector::fence(int warp) {
  any_fence_ = true;
  Clock& clock = clocks_[warp];
  HandedOn& handed_on = handed_on_[warp];
  if (handed_on.taken != nullptr) {
    for (int i = 0; i < kMaxWarps; ++i) clock[i] = std::max(clock[i], (*handed_on.taken)[i]);
    handed_on.taken = nullptr;
  }
  const Clock now = clock;
  join(handed_on.fenced, std::make_shared<const Clock>(now));
  ++clock[warp];
  return now;
}

void RaceDetector::publish(int warp, std::uint64_t place) {
  if (const Snapshot& fenced = handed_on_[warp].fenced; fenced != nullptr) {
    join(published_[place], fenced);
  }
}

void RaceDetector::take_over(int warp, std::uint64_t place) {
  if (published_.empty()) return;
  if (const auto at = published_.find(place); at != published_.end()) {
    join(handed_on_[warp].taken, at->second);
  }
}

inline bool RaceDetector::behind_write(const Cell& cell, const Actor& who, bool strong) const {
  if (cell.write_clock == 0 || (strong && cell.strong_write)) return true;
  return cell.write_warp == who.warp
             ? orders_[who.warp].before(cell.write_lane, cell.write_time, who.lane, who.now)
             : cell.write_clock <= clocks_[who.warp][cell.write_warp];
}

RaceConflict RaceDetector::write_of(const Cell& cell) {
  return {.warp = cell.write_warp,
          .lane = cell.write_lane,
          .op = cell.write_op,
          .kind = cell.strong_write ? AccessKind::strong_write : AccessKind::write};
}

std::optional<RaceConflict> RaceDetector::against_reads(const Cell& cell, const Actor& who,
                                                        AccessKind kind) const {
  // A write of the value that another has read is no hazard.
  if (kind == AccessKind::same_write || (is_strong(kind) && cell.strong_reads)) return std::nullopt;
  const Clock& mine = clocks_[who.warp];
  const auto conflict = [&](int warp, int lane) {
    return RaceConflict{.warp = warp,
                        .lane = lane,
                        .op = cell.read_op,
                        .kind = cell.strong_reads ? AccessKind::strong_read : AccessKind::read};
  };
  if (cell.read_lanes != 0 && cell.read_warp == who.warp) {
    const int lane = orders_[who.warp].first_not_before(cell.read_lanes, cell.read_time, who.lane);
    if (lane >= 0) return conflict(who.warp, lane);
  }
  if (cell.many_clocks) {
    const Clock& reads = read_clocks_[cell.readers];
    for (int i = 0; i < static_cast<int>(clocks_.size()); ++i) {
      if (i != who.warp && reads[i] > mine[i]) return conflict(i, 0);
    }
    return std::nullopt;
  }
  for (std::uint32_t others = cell.readers & ~(1u << who.warp); others != 0; others &= others - 1) {
    int i = std::countr_zero(others);
    if (cell.read_clock > mine[i]) return conflict(i, 0);
  }
  return std::nullopt;
}

// The warp has read the cell since it last passed a barrier, nothing has happened to the cell since, and
// no lane of the warp wrote it that this one would have to meet.
inline bool RaceDetector::read_before(const Cell& cell, const Actor& who, bool strong) const {
  return !cell.many_clocks && (cell.readers >> who.warp & 1) != 0 &&
         cell.read_clock == clocks_[who.warp][who.warp] && cell.strong_reads == strong &&
         (cell.write_warp != who.warp || cell.write_lane == who.lane ||
          orders_[who.warp].before_all(cell.write_time));
}

// Lanes that read at different times keep the earliest: where only some of them have met in between, a
// hazard of a later read may be missed, but none is invented.
inline void RaceDetector::note_reading_lane(Cell& cell, const Actor& who) const {
  const LaneOrder& order = orders_[who.warp];
  const std::uint32_t bit = 1u << who.lane;
  if (cell.read_warp == who.warp && !order.before_all(cell.read_time) &&
      (order.since_all_met(cell.read_time) ||
       order.first_not_before(cell.read_lanes, cell.read_time, who.lane) >= 0)) {
    cell.read_lanes |= bit;
    return;
  }
  // What is a hazard with the earlier reads would also be one with this.
  cell.read_warp = static_cast<std::uint8_t>(who.warp);
  cell.read_lanes = bit;
  cell.read_time = who.now;
}

inline void RaceDetector::note_read(Cell& cell, const Actor& who, bool strong) {
  note_reading_lane(cell, who);
  cell.read_op = who.op;
  const std::uint32_t now = clocks_[who.warp][who.warp], bit = 1u << who.warp;
  // The usual case: all warps have passed the same barriers.
  const bool apart = (cell.readers & ~bit) != 0 && cell.read_clock != now;
  if (cell.many_clocks || apart) return note_read_apart(cell, who.warp, strong);
  cell.strong_reads = strong && (cell.strong_reads || cell.readers == 0);
  cell.readers |= bit;
  cell.read_clock = now;
}

void RaceDetector::note_read_apart(Cell& cell, int warp, bool strong) {
  const Clock& mine = clocks_[warp];
  const std::uint32_t bit = 1u << warp;
  cell.strong_reads &= strong;
  if (cell.many_clocks) {
    read_clocks_[cell.readers][warp] = mine[warp];
    return;
  }
  bool all_before = true;
  for (std::uint32_t rest = cell.readers; rest != 0; rest &= rest - 1) {
    all_before &= cell.read_clock <= mine[std::countr_zero(rest)];
  }
  if (all_before) {  // what races with the earlier reads would also race with this one
    cell.readers = bit;
    cell.read_clock = mine[warp];
    cell.strong_reads = strong;
    return;
  }
  Clock reads = {};
  for (std::uint32_t rest = cell.readers; rest != 0; rest &= rest - 1) {
    reads[std::countr_zero(rest)] = cell.read_clock;
  }
  reads[warp] = mine[warp];
  cell.many_clocks = true;
  cell.readers = keep_read_clocks(reads);
}

std::uint32_t RaceDetector::keep_read_clocks(const Clock& reads) {
  if (free_read_clocks_.empty()) {
    read_clocks_.push_back(reads);
    return static_cast<std::uint32_t>(read_clocks_.size() - 1);
  }
  const std::uint32_t index = free_read_clocks_.back();
  free_read_clocks_.pop_back();
  read_clocks_[index] = reads;
  return index;
}

void RaceDetector::forget_reads(Cell& cell) {
  if (cell.many_clocks) free_read_clocks_.push_back(cell.readers);
  cell.many_clocks = false;
  cell.readers = 0;
}

void RaceDetector::note_write(Cell& cell, const Actor& who, AccessKind kind) {
  const std::uint32_t now = clocks_[who.warp][who.warp];
  if (kind == AccessKind::same_write) {
    // Reads of the value may still be a hazard to the next write. Later ones are none to this write, if all
    // warps are behind the one that brought the value.
    bool known = true;
    for (const Clock& clock : clocks_) known &= cell.write_clock <= clock[cell.write_warp];
    cell.same_write |= known;
  } else {
    forget_reads(cell);
    cell.same_write = false;
  }
  cell.read_lanes = 0;
  cell.read_time = 0;
  // An atomic behind a plain write of the same lane: whoever is not behind the one is a conflict still.
  if (is_strong(kind) && !cell.strong_write && cell.write_warp == who.warp &&
      cell.write_lane == who.lane && cell.write_clock == clocks_[who.warp][who.warp] &&
      orders_[who.warp].since_all_met(cell.write_time)) {
    return;
  }
  if (kind != AccessKind::same_write) {
    cell.write_lane = static_cast<std::uint8_t>(who.lane);
    cell.write_time = who.now;
  } else if (cell.write_warp != who.warp) {
    cell.write_time = 0;  // lanes of this warp cannot tell it from what was there
  }
  cell.write_clock = now;
  cell.write_warp = static_cast<std::uint8_t>(who.warp);
  cell.write_op = who.op;
  cell.strong_write = is_strong(kind);
}

std::optional<RaceConflict> RaceDetector::touch_writing(Cell& cell, const Actor& who,
                                                        AccessKind kind) {
  if (kind != AccessKind::same_write && !behind_write(cell, who, is_strong(kind))) {
    return write_of(cell);
  }
  if (auto conflict = against_reads(cell, who, kind)) return conflict;
  note_write(cell, who, kind);
  return std::nullopt;
}

inline std::optional<RaceConflict> RaceDetector::touch(Cell& cell, const Actor& who,
                                                       AccessKind kind) {
  if (is_write(kind)) return touch_writing(cell, who, kind);
  const bool strong = is_strong(kind);
  const bool unchanged = cell.same_write && cell.write_warp != who.warp;
  if (!unchanged && !behind_write(cell, who, strong)) return write_of(cell);
  note_read(cell, who, strong);
  return std::nullopt;
}

std::array<RaceDetector::Cell, 4>& RaceDetector::split(Cell& cell) {
  if (!cell.split) {
    std::array<Cell, 4> parts;
    parts.fill(cell);
    // Each part needs clocks of its own.
    for (std::size_t i = 1; i < parts.size() && cell.many_clocks; ++i) {
      const Clock reads = read_clocks_[cell.readers];
      parts[i].readers = keep_read_clocks(reads);
    }
    cell.split = true;
    cell.readers = static_cast<std::uint32_t>(splits_.size());
    splits_.push_back(parts);
  }
  return splits_[cell.readers];
}

template <class CellAt>
std::optional<RaceConflict> RaceDetector::access(CellAt&& cell_at, std::uint64_t address,
                                                 std::uint32_t bytes, const Actor& who,
                                                 AccessKind kind, std::uint64_t place) {
  std::uint64_t end = address + bytes;
  for (std::uint64_t at = address; at < end;) {
    Cell& cell = cell_at(at);
    std::uint64_t next = std::min(end, (at | 3) + 1);
    bool whole = (at & 3) == 0 && next - at == 4;
    if (whole && !cell.split) {
      if (!is_write(kind) && read_before(cell, who, is_strong(kind))) {
        note_reading_lane(cell, who);
        cell.read_op = who.op;
        at = next;
        continue;
      }
      if (auto conflict = touch(cell, who, kind)) {
        conflict->address = at;
        return conflict;
      }
    } else {
      std::array<Cell, 4>& parts = split(cell);
      for (std::uint64_t byte = at; byte < next; ++byte) {
        if (auto conflict = touch(parts[byte & 3], who, kind)) {
          conflict->address = byte;
          return conflict;
        }
      }
    }
    at = next;
  }
  if (kind == AccessKind::strong_write) {
    orders_[who.warp].publish(who.lane, address, who.now);
    publish(who.warp, place);
  } else if (kind == AccessKind::strong_read) {
    orders_[who.warp].take_over(who.lane, address);
    take_over(who.warp, place);
  }
  return std::nullopt;
}

std::optional<RaceConflict> RaceDetector::access_shared(std::uint64_t offset, std::uint32_t bytes,
                                                        const Actor& who, AccessKind kind) {
  return access([this](std::uint64_t at) -> Cell& { return shared_[at / 4]; }, offset, bytes, who,
                kind, kSharedPlace | offset);
}

RaceDetector::Chunk& RaceDetector::chunk_of(std::uint64_t address) {
  std::uint64_t number = address / kChunkBytes;
  if (number != last_number_) {
    std::unique_ptr<Chunk>& chunk = global_[number];
    if (chunk == nullptr) chunk = std::make_unique_for_overwrite<Chunk>();
    last_number_ = number;
    last_chunk_ = chunk.get();
  }
  return *last_chunk_;
}

bool RaceDetector::writes_again(std::uint64_t address, std::uint32_t bytes, const void* value) {
  Chunk& chunk = chunk_of(address);  // accesses are aligned, so none is in two
  const std::size_t at = address % kChunkBytes;
  bool same = std::memcmp(chunk.values.data() + at, value, bytes) == 0;
  for (std::size_t i = at; i < at + bytes; ++i) same &= chunk.written[i];
  std::memcpy(chunk.values.data() + at, value, bytes);
  std::fill_n(chunk.written.data() + at, bytes, true);
  return same;
}

std::optional<RaceConflict> RaceDetector::access_global(std::uint64_t address, std::uint32_t bytes,
                                                        const Actor& who, AccessKind kind) {
  auto cell_at = [this](std::uint64_t at) -> Cell& {
    return chunk_of(at).cells[at / 4 % kChunkCells];
  };
  return access(cell_at, address, bytes, who, kind, address);
}

// ---- GlobalRaces: between CTAs -----------------------------------------------------------------

void GlobalRaces::Extremes::add(std::uint64_t key) {
  std::uint64_t seen = low.load(std::memory_order_relaxed);
  while (key < seen && !low.compare_exchange_weak(seen, key, std::memory_order_relaxed)) {
  }
  seen = high.load(std::memory_order_relaxed);
  while (key > seen && !high.compare_exchange_weak(seen, key, std::memory_order_relaxed)) {
  }
}

GlobalRaces::GlobalRaces(const AddressMap& map) {
  for (const auto& allocation : map.allocations()) {
    if (allocation->freed) continue;
    auto summary = std::make_unique<Summary>();
    summary->allocation = allocation.get();
    std::size_t chunks = (allocation->bytes + kChunkBytes - 1) / kChunkBytes;
    for (auto* kinds : {&summary->words, &summary->bytes}) {
      for (auto& list : *kinds) list = std::vector<std::atomic<Extremes*>>(chunks);
    }
    summary->stored_words = std::vector<std::atomic<Stored*>>(chunks);
    summary->stored_bytes = std::vector<std::atomic<Stored*>>(chunks);
    summaries_.push_back(std::move(summary));
  }
}

GlobalRaces::~GlobalRaces() {
  for (const auto& summary : summaries_) {
    for (auto* kinds : {&summary->words, &summary->bytes}) {
      for (auto& list : *kinds) {
        for (auto& chunk : list) delete[] chunk.load();
      }
    }
    for (auto* list : {&summary->stored_words, &summary->stored_bytes}) {
      for (auto& chunk : *list) delete[] chunk.load();
    }
  }
}

GlobalRaces::Summary* GlobalRaces::find(std::uint64_t address) {
  auto after = std::upper_bound(
      summaries_.begin(), summaries_.end(), address,
      [](std::uint64_t a, const auto& summary) { return a < summary->allocation->base; });
  return std::prev(after)->get();
}

void GlobalRaces::Stored::add(std::uint32_t value) {
  std::uint64_t seen = state_.load(std::memory_order_relaxed);
  for (;;) {
    if ((seen & kSeveral) != 0 || seen == (kOne | value)) return;
    const std::uint64_t next = seen == 0 ? kOne | value : kSeveral;
    if (state_.compare_exchange_weak(seen, next, std::memory_order_relaxed)) return;
  }
}

// Of plain writes to the byte `at` of a chunk, or to the word there.
bool GlobalRaces::Summary::one_value(std::size_t chunk, std::size_t at, bool by_byte) const {
  const Stored* by_word = stored_words[chunk].load(std::memory_order_acquire);
  const Stored* single = stored_bytes[chunk].load(std::memory_order_acquire);
  const bool in_words = by_word != nullptr && !by_word[at / 4].empty();
  const bool in_bytes = by_byte && single != nullptr && !single[at].empty();
  if (in_words && by_word[at / 4].several()) return false;
  if (in_bytes && single[at].several()) return false;
  return !in_words || !in_bytes ||
         (by_word[at / 4].value() >> (at % 4 * 8) & 0xff) == single[at].value();
}

template <class Cell>
Cell* GlobalRaces::cells(std::vector<std::atomic<Cell*>>& chunks, std::size_t chunk,
                         std::size_t count) {
  Cell* present = chunks[chunk].load(std::memory_order_acquire);
  if (present != nullptr) return present;
  auto fresh = std::make_unique<Cell[]>(count);
  if (chunks[chunk].compare_exchange_strong(present, fresh.get(), std::memory_order_acq_rel)) {
    return fresh.release();
  }
  return present;
}

void GlobalRaces::access(std::uint64_t address, std::uint32_t bytes, std::uint32_t cta,
                         std::uint32_t op, AccessKind kind, const void* value) {
  if (kind == AccessKind::same_write) kind = AccessKind::write;
  const bool stores = kind == AccessKind::write;
  const auto* from = static_cast<const std::uint8_t*>(value);
  Summary& summary = *find(address);
  std::size_t k = static_cast<std::size_t>(kind);
  std::uint64_t key = (std::uint64_t{cta} + 1) << 32 | op;
  std::uint64_t offset = address - summary.allocation->base;
  for (std::uint64_t end = offset + bytes; offset < end;) {
    std::size_t chunk = offset / kChunkBytes;
    std::size_t at = offset % kChunkBytes;
    if (offset % 4 == 0 && end - offset >= 4) {
      cells(summary.words[k], chunk, kChunkBytes / 4)[at / 4].add(key);
      if (stores) {
        std::uint32_t word;
        std::memcpy(&word, from, 4);
        from += 4;
        cells(summary.stored_words, chunk, kChunkBytes / 4)[at / 4].add(word);
      }
      offset += 4;
    } else {
      cells(summary.bytes[k], chunk, kChunkBytes)[at].add(key);
      if (stores) cells(summary.stored_bytes, chunk, kChunkBytes)[at].add(*from++);
      offset += 1;
    }
  }
}

// The accesses of one kind to one byte.
struct GlobalRaces::Merged {
  std::uint64_t low = ~std::uint64_t{0}, high = 0;
  void include(const Extremes* cells, std::size_t at) {
    if (cells == nullptr || cells[at].empty()) return;
    low = std::min(low, cells[at].low.load(std::memory_order_relaxed));
    high = std::max(high, cells[at].high.load(std::memory_order_relaxed));
  }
  bool empty() const { return high == 0; }
  static std::uint32_t cta(std::uint64_t key) { return static_cast<std::uint32_t>(key >> 32) - 1; }
  // An access by another CTA than the one of `key`, or 0.
  std::uint64_t other_than(std::uint64_t key) const {
    if (empty()) return 0;
    if (cta(low) != cta(key)) return low;
    return cta(high) != cta(key) ? high : 0;
  }
};

std::vector<GlobalRaces::Conflict> GlobalRaces::conflicts(std::size_t limit) const {
  constexpr std::size_t kRead = 0, kWrite = 1, kStrongRead = 2, kStrongWrite = 3;
  constexpr std::pair<std::size_t, std::size_t> kConflicting[] = {{kWrite, kWrite},
                                                                  {kWrite, kRead},
                                                                  {kWrite, kStrongWrite},
                                                                  {kWrite, kStrongRead},
                                                                  {kStrongWrite, kRead}};
  auto party = [](std::uint64_t key, std::size_t kind) {
    return Party{Merged::cta(key), static_cast<std::uint32_t>(key), static_cast<AccessKind>(kind)};
  };
  std::vector<Conflict> result;
  std::set<std::pair<std::uint32_t, std::uint32_t>> reported;  // pairs of ops
  for (const auto& summary : summaries_) {
    std::size_t chunks = summary->words[0].size();
    for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
      std::array<const Extremes*, 4> words, bytes;
      for (std::size_t k = 0; k < 4; ++k) {
        words[k] = summary->words[k][chunk].load(std::memory_order_acquire);
        bytes[k] = summary->bytes[k][chunk].load(std::memory_order_acquire);
      }
      if (words[kWrite] == nullptr && bytes[kWrite] == nullptr && words[kStrongWrite] == nullptr &&
          bytes[kStrongWrite] == nullptr) {
        continue;
      }
      bool by_byte = std::any_of(bytes.begin(), bytes.end(), [](auto* p) { return p != nullptr; });
      for (std::size_t at = 0; at < kChunkBytes; at += by_byte ? 1 : 4) {
        std::array<Merged, 4> merged;
        for (std::size_t k = 0; k < 4; ++k) {
          merged[k].include(words[k], at / 4);
          merged[k].include(bytes[k], at);
        }
        for (auto [a, b] : kConflicting) {
          if (merged[a].empty()) continue;
          std::uint64_t one = merged[a].low;
          std::uint64_t two = merged[b].other_than(one);
          if (two == 0) {
            one = merged[a].high;
            two = merged[b].other_than(one);
          }
          if (two == 0) continue;
          if (b == kWrite && summary->one_value(chunk, at, by_byte)) continue;
          Party first = party(one, a), second = party(two, b);
          if (!reported.insert({std::min(first.op, second.op), std::max(first.op, second.op)})
                   .second) {
            continue;
          }
          std::uint64_t address = summary->allocation->base + chunk * kChunkBytes + at;
          result.push_back({address, first, second});
          if (result.size() == limit) return result;
        }
      }
    }
  }
  return result;
}

}  // namespace sagegen::emulator
