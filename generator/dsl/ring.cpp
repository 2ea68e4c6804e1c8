#include "sagegen/dsl/ring.h"

#include <fmt/format.h>

#include <string>
#include <utility>

#include "sagegen/error.h"

namespace sagegen::dsl {

namespace {

void require(bool condition, SourceLoc loc, const std::string& what) {
  if (!condition) throw CodegenError(fmt::format("{}:{}: ring: {}", loc.file, loc.line, what));
}

}  // namespace

Ring::Ring(KernelBuilder& k, RingOptions options, SourceLoc loc)
    : k_(k), options_(std::move(options)) {
  require(options_.stages >= 1 && source_count() >= 1, loc,
          fmt::format("{} stages and {} sources; it takes at least one of each", options_.stages,
                      source_count()));
  stage_bytes_ = static_cast<int>(offset_of(source_count()));
  stage_offset_ = k.var(k.i32(0));
  if (options_.stages == 1)
    copy(RingPart::edge, options_.first, k.pred(true), 0, 1, options_.buffers);
  for (int i = 0; i < options_.stages - 1; ++i) {
    const I32 tile = options_.first + i;
    copy(RingPart::edge, tile, i == 0 ? k.pred(true) : tile < options_.end, 0, source_count(),
         options_.buffers + std::int64_t{i} * stage_bytes_);
  }
}

void Ring::wait_for_earlier_copies() {
  k_.cp_async_wait(ahead());
  k_.barrier();
}

I32 Ring::walk(RingPart part, I32 begin, I32 end, const Body& body, SourceLoc loc) {
  return k_.for_range_until(
      begin, end, 1,
      [&](I32 index) {
        const SharedPtr stage =
            options_.stages == 1 ? options_.buffers : options_.buffers + stage_offset_.get();
        const auto compute = [&] {
          Tile tile(*this, part, index, stage);
          const Pred stop = body(tile);
          require(tile.released_ == source_count(), loc,
                  fmt::format("the body waits for {} and releases {} of {} sources", tile.waited_,
                              tile.released_, source_count()));
          return stop;
        };
        arrive(part, 0, index);
        Pred stop = k_.pred(false);
        if (options_.skipped) {
          const Var<Pred> stops = k_.var(stop);
          k_.if_else(
              options_.skipped(index), [&] { pass_by(part, index); }, [&] { stops = compute(); });
          stop = stops;
        } else {
          stop = compute();
        }
        if (options_.stages > 1) stage_offset_ = next_stage(stage_offset_);
        return stop;
      },
      loc);
}

void Ring::walk(const std::function<void(Tile&)>& body, SourceLoc loc) {
  const Body to_the_end = [&](Tile& tile) {
    body(tile);
    return k_.pred(false);
  };
  walk(RingPart::edge, options_.first, options_.end, to_the_end, loc);
}

// ---- a tile -----------------------------------------------------------------------------------------

SharedPtr Ring::Tile::wait(int source, SourceLoc loc) {
  require(source == waited_ && source == released_ && source < ring_->source_count(), loc,
          fmt::format("wait({}) after {} of {} sources were waited for and {} released", source,
                      waited_, ring_->source_count(), released_));
  if (source > 0) ring_->arrive(part_, source, index_);
  ++waited_;
  return stage_ + ring_->offset_of(source);
}

void Ring::Tile::release(int source, SourceLoc loc) {
  require(source == released_ && source < waited_, loc,
          fmt::format("release({}) after {} sources were waited for and {} released", source,
                      waited_, released_));
  ring_->leave(part_, source, index_);
  ++released_;
}

// Makes room for a source and copies what belongs there; the source of the tile has landed.
void Ring::arrive(RingPart part, int source, I32 tile) {
  if (options_.stages == 1) {
    // Beside the second source only the first one of the next tile is in flight.
    k_.cp_async_wait(source == 1 ? 1 : 0);
    k_.barrier();  // this source is visible, and nobody reads the next one of the tile before any more
    if (source + 1 == source_count()) return;
    return copy(part, tile, k_.pred(true), source + 1, source + 2, options_.buffers);
  }
  if (source > 0) return;
  const I32 ahead = tile + (options_.stages - 1);
  I32 ahead_offset = stage_offset_;
  for (int i = 1; i < options_.stages; ++i) ahead_offset = next_stage(ahead_offset);
  k_.cp_async_wait(options_.stages - 2);
  k_.barrier();  // this tile is visible, and nobody reads the previous one any more
  copy(part, ahead, exists(part, ahead), 0, source_count(), options_.buffers + ahead_offset);
}

void Ring::leave(RingPart part, int source, I32 tile) {
  if (options_.stages > 1 || source > 0) return;
  k_.barrier();  // nobody reads it any more
  const I32 next = tile + 1;
  copy(part, next, exists(part, next), 0, 1, options_.buffers);
}

// The barriers and copies of a tile that is not computed.
void Ring::pass_by(RingPart part, I32 tile) {
  for (int source = 0; source < source_count(); ++source) {
    if (source > 0) arrive(part, source, tile);
    leave(part, source, tile);
  }
}

// ---- copies -----------------------------------------------------------------------------------------

std::int64_t Ring::offset_of(int source) const {
  std::int64_t offset = 0;
  for (int i = 0; i < source; ++i) offset += options_.sources[static_cast<std::size_t>(i)].bytes;
  return offset;
}

Pred Ring::exists(RingPart part, I32 tile) const {
  return part == RingPart::inner ? k_.pred(true) : tile < options_.end;
}

void Ring::copy(RingPart part, I32 tile, Pred exists, int first_source, int end_source,
                SharedPtr stage) {
  const auto copies = [&] {
    for (int i = first_source; i < end_source; ++i) {
      options_.sources[static_cast<std::size_t>(i)].copy(part, tile, stage + offset_of(i));
    }
  };
  k_.if_(exists, [&] {
    if (!options_.skipped) return copies();
    k_.if_(!options_.skipped(tile), copies);
  });
  k_.cp_async_commit();
}

I32 Ring::next_stage(I32 offset) const {
  if (options_.stages == 2) return offset ^ stage_bytes_;
  return k_.select(offset == (options_.stages - 1) * stage_bytes_, k_.i32(0),
                   offset + stage_bytes_);
}

}  // namespace sagegen::dsl
