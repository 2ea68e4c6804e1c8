#include "runtime/emulator/exec/cta_races.h"

#include <algorithm>

namespace sagegen::emulator {
namespace {

void raise(WarpClocks& clocks, const WarpClocks& to) {
  for (std::size_t i = 0; i < clocks.size(); ++i) clocks[i] = std::max(clocks[i], to[i]);
}

void raise(Ends& ends, const Ends& to) {
  for (const auto& [cta, clocks] : to) raise(ends[cta], clocks);
}

void join(History& history, const History& other) {
  if (other == nullptr || history == other) return;
  if (history == nullptr) {
    history = other;
    return;
  }
  auto both = std::make_shared<Ends>(*history);
  raise(*both, *other);
  history = std::move(both);
}

using Access = CtaRaces::Access;

// `first` is over before anything that a warp of CTA `cta` does now.
bool ordered(const Access& first, AccessKind kind, std::uint32_t cta, const Knowledge& known) {
  if (first.cta == Access::kNobody || first.cta == cta) return true;  // RaceDetector does one CTA
  if (known.over == nullptr) return false;
  const auto end = known.over->find(first.cta);
  if (end == known.over->end()) return false;
  // The access that publishes comes behind its fence, but belongs to what is published.
  return is_strong(kind) || first.clock <= end->second[first.warp];
}

}  // namespace

void Knowledge::join(const Knowledge& other) {
  raise(fenced, other.fenced);
  emulator::join(taken, other.taken);
  emulator::join(over, other.over);
}

void Knowledge::fence(const WarpClocks& now) {
  raise(fenced, now);
  emulator::join(over, taken);
  taken = nullptr;
}

void CtaRaces::publish(History& at, std::uint32_t cta, const Knowledge& known) {
  auto ends = at != nullptr ? std::make_shared<Ends>(*at) : std::make_shared<Ends>();
  if (known.over != nullptr) raise(*ends, *known.over);
  raise((*ends)[cta], known.fenced);
  at = std::move(ends);
}

void CtaRaces::touch(Cell& cell, std::uint64_t address, const Access& access, AccessKind kind,
                     const Knowledge& known) {
  const auto against = [&](const Access& before, AccessKind what) {
    if (is_strong(what) && is_strong(kind)) return;
    if (ordered(before, what, access.cta, known) || conflicts_.size() == kMaxConflicts) return;
    if (!reported_.emplace(std::min(before.op, access.op), std::max(before.op, access.op)).second)
      return;
    conflicts_.push_back({address, {before.cta, before.op, what}, {access.cta, access.op, kind}});
  };
  if (kind != AccessKind::same_write) against(cell.write, AccessKind::write);
  against(cell.strong_write, AccessKind::strong_write);
  if (is_write(kind)) {
    against(cell.first_read, AccessKind::read);
    against(cell.last_read, AccessKind::read);
    against(cell.strong_read, AccessKind::strong_read);
  }
  switch (kind) {
    case AccessKind::write:
    case AccessKind::same_write:
      cell = {.write = access,
              .strong_write = {},
              .strong_read = {},
              .first_read = {},
              .last_read = {}};
      return;
    case AccessKind::strong_write:
      cell.strong_write = access;
      return;
    case AccessKind::strong_read:
      cell.strong_read = access;
      return;
    case AccessKind::read:
      const bool replaces = ordered(cell.first_read, AccessKind::read, access.cta, known);
      (replaces ? cell.first_read : cell.last_read) = access;
  }
}

void CtaRaces::access(std::uint64_t address, std::uint32_t bytes, const Access& access,
                      AccessKind kind, Knowledge& known) {
  for (std::uint64_t at = address, end = address + bytes; at < end;) {
    std::unique_ptr<Chunk>& chunk = chunks_[at / kChunkBytes];
    if (chunk == nullptr) chunk = std::make_unique<Chunk>();
    const auto word = static_cast<std::uint32_t>(at % kChunkBytes / 4);
    const std::uint64_t next = std::min(end, (at | 3) + 1);
    auto parts = chunk->split.find(word);
    if (next - at < 4 && parts == chunk->split.end()) {
      parts = chunk->split.emplace(word, std::array<Cell, 4>{}).first;
      parts->second.fill(chunk->words[word]);
    }
    if (parts == chunk->split.end()) {
      touch(chunk->words[word], at, access, kind, known);
    } else {
      for (std::uint64_t byte = at; byte < next; ++byte)
        touch(parts->second[byte & 3], byte, access, kind, known);
    }
    at = next;
  }
  if (kind == AccessKind::strong_write && known.fenced != WarpClocks{}) {
    publish(published_[address], access.cta, known);
  } else if (kind == AccessKind::strong_read) {
    const auto place = published_.find(address);
    if (place != published_.end()) join(known.taken, place->second);
  }
}

}  // namespace sagegen::emulator
