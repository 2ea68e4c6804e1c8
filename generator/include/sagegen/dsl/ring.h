// A ring of buffers in shared memory: tiles stream through it while others are computed.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "sagegen/dsl/kernel_builder.h"

namespace sagegen::dsl {

// Two parts of a walk whose code differs: of the inner one it is known that every tile that it computes or
// copies exists and is whole.
enum class RingPart { inner, edge };

// What a tile consists of: several sources, in the order in which the body of the walk reads them.
struct RingSource {
  int bytes;  // of one tile
  // Copies this thread's part of a tile with cp.async; the ring commits and waits.
  std::function<void(RingPart part, I32 tile, SharedPtr to)> copy;
};

struct RingOptions {
  // 2 or more: tile i + stages - 1 is in flight while tile i is computed; one barrier per tile.
  // 1: one buffer per source, in turns. A source loads while those before it are computed, the first
  //    one of the next tile while the others are; one barrier per source and one more.
  int stages;
  I32 first, end;                   // tiles; at least one
  SharedPtr buffers;                // `stages` times what all sources need
  std::vector<RingSource> sources;  // at least one
  std::function<Pred(I32)>
      skipped;  // the same for the whole block: neither copied nor computed; or empty
};

class Ring {
 public:
  // Starts to copy the first tiles.
  Ring(KernelBuilder& k, RingOptions options, SourceLoc loc = SourceLoc::here());

  // What this thread copied before the ring began is there, for the whole block.
  void wait_for_earlier_copies();

  // A tile as the body sees it. All sources are waited for and released, in their order; a body that does
  // otherwise is refused (CodegenError).
  class Tile {
   public:
    RingPart part() const { return part_; }
    I32 index() const { return index_; }
    // Where the source lies. It is there, for all threads.
    SharedPtr wait(int source, SourceLoc loc = SourceLoc::here());
    // This thread has read it.
    void release(int source, SourceLoc loc = SourceLoc::here());

   private:
    friend class Ring;
    Tile(Ring& ring, RingPart part, I32 index, SharedPtr stage)
        : ring_(&ring), part_(part), index_(index), stage_(stage) {}
    Ring* ring_;
    RingPart part_;
    I32 index_;
    SharedPtr stage_;
    int waited_ = 0, released_ = 0;
  };
  // Walks the tiles begin .. end - 1 that follow what was walked before; ends earlier, for the warp, where the
  // body returns true, which it does for all lanes of a warp or none. Returns the tile that would have come
  // next. The body is emitted once. An inner part ends `ahead()` tiles before the last one.
  using Body = std::function<Pred(Tile&)>;
  I32 walk(RingPart part, I32 begin, I32 end, const Body& body, SourceLoc loc = SourceLoc::here());
  // All tiles, in one loop.
  void walk(const std::function<void(Tile&)>& body, SourceLoc loc = SourceLoc::here());
  int ahead() const { return std::max(1, options_.stages - 1); }  // tiles that are copied early

 private:
  int source_count() const { return static_cast<int>(options_.sources.size()); }
  std::int64_t offset_of(int source) const;
  void copy(RingPart part, I32 tile, Pred exists, int first_source, int end_source,
            SharedPtr stage);
  void pass_by(RingPart part, I32 tile);
  Pred exists(RingPart part, I32 tile) const;
  I32 next_stage(I32 offset) const;
  void arrive(RingPart part, int source, I32 tile);
  void leave(RingPart part, int source, I32 tile);

  KernelBuilder& k_;
  const RingOptions options_;
  int stage_bytes_ = 0;
  Var<I32> stage_offset_;  // of the tile that is computed
};

}  // namespace sagegen::dsl
