#include "sagegen/dsl/reduce.h"

#include <bit>
#include <cstdint>
#include <limits>

namespace sagegen::dsl {
namespace {

constexpr int kLanes = 32;

// Over groups of 2, 4, ... `lanes` lanes.
template <typename T, typename Combine>
T butterfly(KernelBuilder& k, T value, int lanes, const Combine& combine) {
  for (int mask = lanes / 2; mask > 0; mask /= 2)
    value = combine(value, k.shuffle_xor(value, mask));
  return value;
}

// warp: over the lanes of a warp. combine: of two values. identity: what changes nothing.
template <typename T, typename Warp, typename Combine>
T over_block(KernelBuilder& k, T value, T identity, const Warp& warp, const Combine& combine) {
  const T of_warp = warp(value);
  const int warps = k.threads() / kLanes;
  if (warps == 1) return of_warp;
  const SharedPtr scratch = k.shared(4 * warps, 4);
  const I32 lane = k.lane_idx();
  k.if_(lane == 0, [&] { k.store(scratch + k.warp_idx() * 4, of_warp); });
  k.barrier();  // all warps have stored
  const Var<T> part = k.var(identity);
  k.if_(lane < warps, [&] { part = k.load<T>(scratch + lane * 4); });
  k.barrier();  // the scratch may be used again
  const auto lanes = static_cast<int>(std::bit_ceil(static_cast<unsigned>(warps)));
  // Groups of `lanes` lanes hold the same only in the first: the others take it from there.
  const T total = butterfly(k, part.get(), lanes, combine);
  return lanes == kLanes ? total : k.shuffle(total, k.i32(0));
}

}  // namespace

F32 warp_sum(KernelBuilder& k, F32 value, SourceLoc loc) {
  const Caller caller(k, loc);
  return butterfly(k, value, kLanes, [](F32 a, F32 b) { return a + b; });
}

F32 warp_max(KernelBuilder& k, F32 value, SourceLoc loc) {
  const Caller caller(k, loc);
  return butterfly(k, value, kLanes, [&](F32 a, F32 b) { return k.max(a, b); });
}

F32 quad_max(KernelBuilder& k, F32 value, SourceLoc loc) {
  const Caller caller(k, loc);
  for (const int mask : {1, 2}) value = k.max(value, k.shuffle_xor(value, mask));
  return value;
}

F32 block_sum(KernelBuilder& k, F32 value, SourceLoc loc) {
  const Caller caller(k, loc);
  return over_block(
      k, value, k.f32(0.0f), [&](F32 x) { return warp_sum(k, x); },
      [](F32 a, F32 b) { return a + b; });
}

F32 block_max(KernelBuilder& k, F32 value, SourceLoc loc) {
  const Caller caller(k, loc);
  return over_block(
      k, value, k.f32(-std::numeric_limits<float>::infinity()),
      [&](F32 x) { return warp_max(k, x); }, [&](F32 a, F32 b) { return k.max(a, b); });
}

I32 block_sum(KernelBuilder& k, I32 value, SourceLoc loc) {
  const Caller caller(k, loc);
  return over_block(
      k, value, k.i32(0), [&](I32 x) { return k.warp_sum(x); }, [](I32 a, I32 b) { return a + b; });
}

I32 block_max(KernelBuilder& k, I32 value, SourceLoc loc) {
  const Caller caller(k, loc);
  return over_block(
      k, value, k.i32(std::numeric_limits<std::int32_t>::min()),
      [&](I32 x) { return k.warp_max(x); }, [&](I32 a, I32 b) { return k.max(a, b); });
}

}  // namespace sagegen::dsl
