// Verbs that touch memory: loads, stores, the block's shared memory, asynchronous copies.
#pragma once

#include <array>

#include "sagegen/dsl/arithmetic.h"

namespace sagegen::dsl {

class MemoryVerbs : public ArithmeticVerbs {
 public:
  // Addresses must be aligned to the access. T is I32 or F32 (4 bytes) or I64 (8 bytes).
  template <typename T, Space S>
  T load(Ptr<S> p, SourceLoc loc = SourceLoc::here());
  // One or two bytes, extended by zeros (u) or by the sign (s).
  template <Space S>
  I32 load_u8(Ptr<S> p, SourceLoc loc = SourceLoc::here());
  template <Space S>
  I32 load_s8(Ptr<S> p, SourceLoc loc = SourceLoc::here());
  template <Space S>
  I32 load_u16(Ptr<S> p, SourceLoc loc = SourceLoc::here());
  template <Space S>
  I32 load_s16(Ptr<S> p, SourceLoc loc = SourceLoc::here());
  template <Space S>
  std::array<I32, 2> load_v2(Ptr<S> p, SourceLoc loc = SourceLoc::here());  // 8 bytes
  template <Space S>
  std::array<I32, 4> load_v4(Ptr<S> p, SourceLoc loc = SourceLoc::here());  // 16 bytes
  template <typename T, Space S>
  void store(Ptr<S> p, T value, SourceLoc loc = SourceLoc::here());
  template <Space S>
  void store_8(Ptr<S> p, I32 value, SourceLoc loc = SourceLoc::here());  // the lowest 8 bits
  template <Space S>
  void store_16(Ptr<S> p, I32 value, SourceLoc loc = SourceLoc::here());  // the lowest 16 bits
  template <Space S>
  void store_v2(Ptr<S> p, std::array<I32, 2> value, SourceLoc loc = SourceLoc::here());
  template <Space S>
  void store_v4(Ptr<S> p, std::array<I32, 4> value, SourceLoc loc = SourceLoc::here());

  // Atomic for the device (global memory) or the block (shared memory), without an order among other
  // accesses: atom.relaxed. All give what was there before. min and max are signed. The order of the
  // sums of an F32, and so its rounding, is the hardware's.
  template <Space S>
  I32 atomic_add(Ptr<S> p, I32 value, SourceLoc loc = SourceLoc::here());
  template <Space S>
  F32 atomic_add(Ptr<S> p, F32 value, SourceLoc loc = SourceLoc::here());
  template <Space S>
  I32 atomic_min(Ptr<S> p, I32 value, SourceLoc loc = SourceLoc::here());
  template <Space S>
  I32 atomic_max(Ptr<S> p, I32 value, SourceLoc loc = SourceLoc::here());
  template <Space S>
  I32 atomic_exchange(Ptr<S> p, I32 value, SourceLoc loc = SourceLoc::here());
  // Writes `desired` where `expected` stands.
  template <Space S>
  I32 atomic_compare_exchange(Ptr<S> p, I32 expected, I32 desired,
                              SourceLoc loc = SourceLoc::here());

  // What this thread did before is done, for the whole device, before anything that it does behind it:
  // fence.acq_rel.gpu. With an atomic between them, threads of other blocks read what was written before.
  void fence(SourceLoc loc = SourceLoc::here());

  Pred is_null(GlobalPtr p, SourceLoc loc = SourceLoc::here());

  // Dynamic shared memory, carved in the order of the calls. The total must equal resources(spec).
  SharedPtr shared(int bytes, int align, SourceLoc loc = SourceLoc::here());
  int shared_bytes() const;
  // PTX ISA version, x10, that the instructions so far need: that of the target's kernels, or a newer one.
  int ptx_version() const;

  // Asynchronous copies. PTX ISA, data movement: cp.async.
  void cp_async_16(SharedPtr dst, GlobalPtr src, SourceLoc loc = SourceLoc::here());  // .cg
  // Copies only the first `valid_bytes` (0 to 16) and writes zeros behind them.
  void cp_async_16_zfill(SharedPtr dst, GlobalPtr src, I32 valid_bytes,
                         SourceLoc loc = SourceLoc::here());
  void cp_async_commit(SourceLoc loc = SourceLoc::here());
  void cp_async_wait(int pending_groups, SourceLoc loc = SourceLoc::here());

 protected:
  using ArithmeticVerbs::ArithmeticVerbs;
  ~MemoryVerbs() = default;
};

}  // namespace sagegen::dsl
