// Verbs that the threads of a warp or a block do together. All of them must reach the verb.
#pragma once

#include <array>

#include "sagegen/dsl/fragment.h"
#include "sagegen/dsl/memory.h"

namespace sagegen::dsl {

enum class Transpose { no, yes };

class WarpVerbs : public MemoryVerbs {
 public:
  void barrier(SourceLoc loc = SourceLoc::here());  // bar.sync 0: all threads of the block
  // One of 16 barriers, for `threads` threads of the block (whole warps): those that wait here, and those
  // that only arrive. PTX ISA, parallel synchronization: bar.sync, bar.arrive.
  void barrier(int id, int threads, SourceLoc loc = SourceLoc::here());
  void barrier_arrive(int id, int threads, SourceLoc loc = SourceLoc::here());
  void warp_barrier(SourceLoc loc = SourceLoc::here());  // bar.warp.sync: memory, among 32 lanes

  // What holds for lanes of the warp: vote.sync. ballot: bit i is lane i's.
  Pred any(Pred condition, SourceLoc loc = SourceLoc::here());
  Pred all(Pred condition, SourceLoc loc = SourceLoc::here());
  I32 ballot(Pred condition, SourceLoc loc = SourceLoc::here());

  I32 shuffle_xor(I32 value, int mask, SourceLoc loc = SourceLoc::here());
  F32 shuffle_xor(F32 value, int mask, SourceLoc loc = SourceLoc::here());
  // The value of another lane, modulo 32: shfl.sync.idx.
  I32 shuffle(I32 value, I32 lane, SourceLoc loc = SourceLoc::here());
  F32 shuffle(F32 value, I32 lane, SourceLoc loc = SourceLoc::here());
  // redux.sync over the 32 lanes; max is signed. For F32 see reduce.h.
  I32 warp_sum(I32 value, SourceLoc loc = SourceLoc::here());
  I32 warp_max(I32 value, SourceLoc loc = SourceLoc::here());
  // ldmatrix.m8n8.x4: lane l gives the address of row l % 8 of matrix l / 8.
  std::array<I32, 4> ldmatrix_x4(SharedPtr row, Transpose transpose,
                                 SourceLoc loc = SourceLoc::here());
  std::array<I32, 2> ldmatrix_x2(SharedPtr row, Transpose transpose,
                                 SourceLoc loc = SourceLoc::here());
  // a b + c. Refuses fragments of another type than the instruction's.
  MmaC mma(Mma kind, const MmaA& a, const MmaB& b, const MmaC& c,
           SourceLoc loc = SourceLoc::here());
  // In f16 accumulators, of f16 or e4m3. Those of e4m3 need PTX ISA 8.7, whatever the target's kernels do else.
  MmaHalfC mma(Mma kind, const MmaA& a, const MmaB& b, const MmaHalfC& c,
               SourceLoc loc = SourceLoc::here());
  // The one for the type of a.
  MmaC mma(const MmaA& a, const MmaB& b, const MmaC& c, SourceLoc loc = SourceLoc::here());
  // Signed times unsigned bytes; m16n8k8 of f16 in f32.
  MmaC mma(const MmaA& a, const MmaUnsignedB& b, const MmaC& c, SourceLoc loc = SourceLoc::here());
  MmaC mma_k8(const MmaShortA& a, const MmaShortB& b, const MmaC& c,
              SourceLoc loc = SourceLoc::here());

 protected:
  using MemoryVerbs::MemoryVerbs;
  ~WarpVerbs() = default;
};

}  // namespace sagegen::dsl
