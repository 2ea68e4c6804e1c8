#include "runtime/emulator/exec/races.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>

namespace sagegen::emulator {

// ---- RaceDetector: inside a CTA ------------------------------------------------------------------

RaceDetector::RaceDetector(int warps, std::size_t shared_bytes)
    : clocks_(warps, Clock{}), shared_((shared_bytes + 3) / 4) {
  for (int w = 0; w < warps; ++w) clocks_[w][w] = 1;
}

void RaceDetector::barrier_arrive(int warp, int barrier) {
  Clock& clock = clocks_[warp];
  for (int i = 0; i < kMaxWarps; ++i) {
    barriers_[barrier][i] = std::max(barriers_[barrier][i], clock[i]);
  }
  ++clock[warp];  // what the warp does from here on is not covered by this arrival
}

void RaceDetector::barrier_release(int barrier, std::uint32_t warps) {
  for (; warps != 0; warps &= warps - 1) {
    Clock& clock = clocks_[std::countr_zero(warps)];
    for (int i = 0; i < kMaxWarps; ++i) clock[i] = std::max(clock[i], barriers_[barrier][i]);
  }
  barriers_[barrier] = {};
}

std::optional<RaceConflict> RaceDetector::against_write(const Cell& cell, int warp,
                                                        bool strong) const {
  bool ordered = cell.write_clock == 0 || cell.write_warp == warp ||
                 cell.write_clock <= clocks_[warp][cell.write_warp];
  if (ordered || (strong && cell.strong_write)) return std::nullopt;
  return RaceConflict{cell.write_warp, cell.write_op,
                      cell.strong_write ? AccessKind::strong_write : AccessKind::write, 0};
}

std::optional<RaceConflict> RaceDetector::against_reads(const Cell& cell, int warp,
                                                        bool strong) const {
  if (strong && cell.strong_reads) return std::nullopt;
  const Clock& mine = clocks_[warp];
  AccessKind kind = cell.strong_reads ? AccessKind::strong_read : AccessKind::read;
  if (cell.many_clocks) {
    const Clock& reads = read_clocks_[cell.readers];
    for (int i = 0; i < static_cast<int>(clocks_.size()); ++i) {
      if (i != warp && reads[i] > mine[i]) return RaceConflict{i, cell.read_op, kind, 0};
    }
    return std::nullopt;
  }
  for (std::uint32_t others = cell.readers & ~(1u << warp); others != 0; others &= others - 1) {
    int i = std::countr_zero(others);
    if (cell.read_clock > mine[i]) return RaceConflict{i, cell.read_op, kind, 0};
  }
  return std::nullopt;
}

// The warp has read the cell since it last passed a barrier, and nothing has happened to it since.
inline bool RaceDetector::read_before(const Cell& cell, int warp, bool strong) const {
  return !cell.many_clocks && (cell.readers >> warp & 1) != 0 &&
         cell.read_clock == clocks_[warp][warp] && cell.strong_reads == strong;
}

void RaceDetector::note_read(Cell& cell, int warp, std::uint32_t op, bool strong) {
  const Clock& mine = clocks_[warp];
  std::uint32_t bit = 1u << warp;
  cell.read_op = op;
  if (cell.many_clocks) {
    cell.strong_reads &= strong;
    read_clocks_[cell.readers][warp] = mine[warp];
    return;
  }
  if (cell.readers == 0) cell.strong_reads = true;
  cell.strong_reads &= strong;
  if (cell.readers == 0 || cell.readers == bit) {
    cell.readers = bit;
    cell.read_clock = mine[warp];
    return;
  }
  if (cell.read_clock == mine[warp]) {  // the usual case: all warps have passed the same barriers
    cell.readers |= bit;
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
  cell.readers = static_cast<std::uint32_t>(read_clocks_.size());
  read_clocks_.push_back(reads);
}

std::optional<RaceConflict> RaceDetector::touch(Cell& cell, int warp, std::uint32_t op,
                                                AccessKind kind) {
  bool strong = is_strong(kind);
  if (!is_write(kind)) {
    if (auto conflict = against_write(cell, warp, strong)) return conflict;
    note_read(cell, warp, op, strong);
    return std::nullopt;
  }
  if (kind != AccessKind::same_write) {
    if (auto conflict = against_write(cell, warp, strong)) return conflict;
  }
  if (auto conflict = against_reads(cell, warp, strong)) return conflict;
  cell.write_clock = clocks_[warp][warp];
  cell.write_warp = static_cast<std::uint8_t>(warp);
  cell.write_op = op;
  cell.strong_write = strong;
  cell.readers = 0;
  cell.many_clocks = false;
  return std::nullopt;
}

std::array<RaceDetector::Cell, 4>& RaceDetector::split(Cell& cell) {
  if (!cell.split) {
    std::array<Cell, 4> parts;
    parts.fill(cell);
    // Each part needs clocks of its own.
    for (Cell& part : parts) {
      if (!part.many_clocks) continue;
      read_clocks_.push_back(read_clocks_[cell.readers]);
      part.readers = static_cast<std::uint32_t>(read_clocks_.size() - 1);
    }
    cell.split = true;
    cell.readers = static_cast<std::uint32_t>(splits_.size());
    splits_.push_back(parts);
  }
  return splits_[cell.readers];
}

template <class CellAt>
std::optional<RaceConflict> RaceDetector::access(CellAt&& cell_at, std::uint64_t address,
                                                 std::uint32_t bytes, int warp, std::uint32_t op,
                                                 AccessKind kind) {
  std::uint64_t end = address + bytes;
  for (std::uint64_t at = address; at < end;) {
    Cell& cell = cell_at(at);
    std::uint64_t next = std::min(end, (at | 3) + 1);
    bool whole = (at & 3) == 0 && next - at == 4;
    if (whole && !cell.split) {
      if (!is_write(kind) && read_before(cell, warp, is_strong(kind))) {
        at = next;
        continue;
      }
      if (auto conflict = touch(cell, warp, op, kind)) {
        conflict->address = at;
        return conflict;
      }
    } else {
      std::array<Cell, 4>& parts = split(cell);
      for (std::uint64_t byte = at; byte < next; ++byte) {
        if (auto conflict = touch(parts[byte & 3], warp, op, kind)) {
          conflict->address = byte;
          return conflict;
        }
      }
    }
    at = next;
  }
  return std::nullopt;
}

std::optional<RaceConflict> RaceDetector::access_shared(std::uint64_t offset, std::uint32_t bytes,
                                                        int warp, std::uint32_t op,
                                                        AccessKind kind) {
  return access([this](std::uint64_t at) -> Cell& { return shared_[at / 4]; }, offset, bytes, warp,
                op, kind);
}

std::optional<RaceConflict> RaceDetector::access_global(std::uint64_t address, std::uint32_t bytes,
                                                        int warp, std::uint32_t op,
                                                        AccessKind kind) {
  auto cell_at = [this](std::uint64_t at) -> Cell& {
    std::uint64_t chunk = at / (kChunkCells * 4);
    if (chunk != last_chunk_) {
      std::unique_ptr<Cell[]>& cells = global_[chunk];
      if (cells == nullptr) cells = std::make_unique<Cell[]>(kChunkCells);
      last_chunk_ = chunk;
      last_cells_ = cells.get();
    }
    return last_cells_[at / 4 % kChunkCells];
  };
  return access(cell_at, address, bytes, warp, op, kind);
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
