// Lane loops that the compiler vectorizes: one instruction, 32 lanes, no branches per lane.
//
// This header and lanes_forms.h are compiled three times, in lanes_baseline.cpp, lanes_avx2.cpp and
// lanes_avx512.cpp, for different host processors. Everything in them has internal linkage, on purpose:
// a function compiled for a newer processor must never be merged with its twin for an older one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "runtime/emulator/exec/forms.h"
#include "runtime/emulator/exec/warp.h"

namespace sagegen::emulator {
namespace {

using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;

// How a value of type T lies in a lane of a row: 16-bit values are zero-extended to 32.
template <class T>
struct LaneOf {
  using Row = std::conditional_t<sizeof(T) == 8, u64, u32>;
  [[gnu::always_inline]] static inline T load(Row bits) {
    if constexpr (std::is_integral_v<T>) {
      return static_cast<T>(bits);
    } else {
      return __builtin_bit_cast(T, bits);
    }
  }
  [[gnu::always_inline]] static inline Row store(T value) {
    if constexpr (std::is_integral_v<T>) {
      return static_cast<std::make_unsigned_t<T>>(value);
    } else {
      return __builtin_bit_cast(Row, value);
    }
  }
};

template <class T>
[[gnu::always_inline]] static inline typename LaneOf<T>::Row* lane_row(const Warp& w,
                                                                       std::uint16_t row) {
  return reinterpret_cast<typename LaneOf<T>::Row*>(row32(w, row));
}

template <auto F, class Signature>
struct LaneLoop;

template <auto F, class C, class R, class... A>
struct LaneLoop<F, R (C::*)(A...) const> {
  // d = F(a, ...) in the lanes of the mask. Rows are the same or disjoint, so lanes are independent.
  [[gnu::always_inline]] static inline void assign(u32 mask, typename LaneOf<R>::Row* d,
                                                   const typename LaneOf<A>::Row*... a) {
    if (mask == kFullMask) {
#pragma GCC ivdep
      for (int i = 0; i < kLanes; ++i) d[i] = LaneOf<R>::store(F(LaneOf<A>::load(a[i])...));
    } else {
#pragma GCC ivdep
      for (int i = 0; i < kLanes; ++i) {
        d[i] = (mask >> i & 1) != 0 ? LaneOf<R>::store(F(LaneOf<A>::load(a[i])...)) : d[i];
      }
    }
  }
  template <std::size_t... I>
  [[gnu::always_inline]] static inline void expand(const Warp& w, const Op& op, u32 mask,
                                                   std::index_sequence<I...>) {
    assign(mask, lane_row<R>(w, op.r[0]), lane_row<A>(w, op.r[1 + I])...);
  }
  static void run(Warp& w, const Op& op, u32 mask) {
    expand(w, op, mask, std::index_sequence_for<A...>{});
  }

  // The lanes for which the predicate F holds.
  [[gnu::always_inline]] static inline u32 collect(const typename LaneOf<A>::Row*... a) {
    u32 lanes = 0;
#pragma GCC ivdep
    for (int i = 0; i < kLanes; ++i) lanes |= (F(LaneOf<A>::load(a[i])...) ? u32{1} : u32{0}) << i;
    return lanes;
  }
};

// The handler of a lambda without captures: d, a, ... in the order of its arguments.
template <auto F>
constexpr Handler each_lane = &LaneLoop<F, decltype(&decltype(F)::operator())>::run;

// The same for a lambda that is a template over its operands' type.
template <auto F, class T>
constexpr Handler each_lane_of = &LaneLoop<F, decltype(&decltype(F)::template operator()<T>)>::run;

// setp p|q, a, b{, c}: operands p, q, a, b, c; Op::imm is the boolean operation. `holds`: in which lanes the
// comparison does.
inline void set_compared(Warp& w, const Op& op, u32 mask, u32 holds) {
  u32 p = holds, q = ~holds;
  if (op.imm != kBoolNone) {
    u32 c = predicate_operand(w, op, 4);
    p = op.imm == kBoolAnd ? p & c : op.imm == kBoolOr ? p | c : p ^ c;
    q = op.imm == kBoolAnd ? q & c : op.imm == kBoolOr ? q | c : q ^ c;
  }
  set_predicate(w, op.r[1], q, mask);
  set_predicate(w, op.r[0], p, mask);
}
template <auto F, class T>
void compare_lanes(Warp& w, const Op& op, u32 mask) {
  using Loop = LaneLoop<F, decltype(&decltype(F)::template operator()<T>)>;
  set_compared(w, op, mask, Loop::collect(lane_row<T>(w, op.r[2]), lane_row<T>(w, op.r[3])));
}

// selp d, a, b, p
template <class T>
void select_lanes(Warp& w, const Op& op, u32 mask) {
  auto* d = lane_row<T>(w, op.r[0]);
  const auto* a = lane_row<T>(w, op.r[1]);
  const auto* b = lane_row<T>(w, op.r[2]);
  u32 p = predicate_operand(w, op, 3);
  if (mask == kFullMask) {
#pragma GCC ivdep
    for (int i = 0; i < kLanes; ++i) d[i] = (p >> i & 1) != 0 ? a[i] : b[i];
  } else {
#pragma GCC ivdep
    for (int i = 0; i < kLanes; ++i) {
      auto chosen = (p >> i & 1) != 0 ? a[i] : b[i];
      d[i] = (mask >> i & 1) != 0 ? chosen : d[i];
    }
  }
}

// shfl.sync d|p, a, b, c, members when the whole warp takes part and, with checks, all is defined.
template <Shuffle kMode, ShuffleChecks kChecks>
void shuffle_warp(Warp& w, const Op& op, u32 mask) {
  const u32* members = row32(w, op.r[5]);
  u32 missing = ~mask;
  for (int i = 0; i < kLanes; ++i) missing |= ~members[i];
  if constexpr (kChecks == ShuffleChecks::on) {
    for (int i = 2; i < 6; ++i) missing |= ~defined_row(w, op.r[i]);
  }
  if (missing != 0) return careful_shuffle(kMode, kChecks)(w, op, mask);
  w.last_chance = nullptr;
  if constexpr (kChecks == ShuffleChecks::on) order_lanes(w, kFullMask);
  const u32* a = row32(w, op.r[2]);
  const u32* b = row32(w, op.r[3]);
  const u32* c = row32(w, op.r[4]);
  alignas(64) u32 result[kLanes];
  u32 valid = 0;
#pragma GCC ivdep
  for (int lane = 0; lane < kLanes; ++lane) {
    s32 segment = static_cast<s32>(c[lane] >> 8 & 31), clamp = static_cast<s32>(c[lane] & 31);
    s32 distance = static_cast<s32>(b[lane] & 31);
    s32 min_lane = lane & segment, max_lane = min_lane | (clamp & ~segment);
    s32 source = kMode == Shuffle::up     ? lane - distance
                 : kMode == Shuffle::down ? lane + distance
                 : kMode == Shuffle::bfly ? lane ^ distance
                                          : min_lane | (distance & ~segment);
    bool in_range = kMode == Shuffle::up ? source >= max_lane : source <= max_lane;
    valid |= (in_range ? u32{1} : u32{0}) << lane;
    result[lane] = a[in_range ? source & 31 : lane];
  }
  u32* d = row32(w, op.r[0]);
  for (int lane = 0; lane < kLanes; ++lane) d[lane] = result[lane];
  w.predicates[op.r[1]] = valid;
  if constexpr (kChecks == ShuffleChecks::on) {
    set_defined_row(w, op.r[0], kFullMask, kFullMask);
    set_defined_predicate(w, op.r[1], kFullMask, kFullMask);
  }
}

// ---- f32 helpers -------------------------------------------------------------------------------

[[gnu::always_inline]] static inline u32 bits_of(float x) { return __builtin_bit_cast(u32, x); }
[[gnu::always_inline]] static inline float float_of(u32 x) { return __builtin_bit_cast(float, x); }

// Every NaN result is 0x7fffffff.
[[gnu::always_inline]] static inline float canonical(float x) {
  return x == x ? x : float_of(0x7fff'ffff);
}
[[gnu::always_inline]] static inline double canonical(double x) {
  return x == x ? x : __builtin_bit_cast(double, u64{0x7fff'ffff'ffff'ffff});
}
// Subnormals become zero of the same sign.
[[gnu::always_inline]] static inline float flush(float x) {
  u32 bits = bits_of(x);
  return (bits & 0x7f80'0000) == 0 ? float_of(bits & 0x8000'0000) : x;
}
// Into [0, 1]; a NaN becomes +0, as does -0.
[[gnu::always_inline]] static inline float saturate(float x) {
  return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f;
}

template <bool kFtz, bool kSat>
[[gnu::always_inline]] static inline float finish(float x) {
  if constexpr (kFtz) x = flush(x);
  if constexpr (kSat) x = saturate(x);
  return kSat ? x : canonical(x);
}
template <bool kFtz>
[[gnu::always_inline]] static inline float input(float x) {
  return kFtz ? flush(x) : x;
}

// The number wins over a NaN, and -0 is below +0. Equal operands differ at most in the sign of zero.
[[gnu::always_inline]] static inline float min_number(float a, float b) {
  float tie = float_of(bits_of(a) | bits_of(b));
  float r = a < b ? a : (b < a ? b : tie);
  r = a == a ? r : b;
  return b == b ? r : a;
}
[[gnu::always_inline]] static inline float max_number(float a, float b) {
  float tie = float_of(bits_of(a) & bits_of(b));
  float r = a > b ? a : (b > a ? b : tie);
  r = a == a ? r : b;
  return b == b ? r : a;
}
[[gnu::always_inline]] static inline float min_nan(float a, float b) {
  float r = min_number(a, b);
  r = a == a ? r : a;
  return b == b ? r : b;
}
[[gnu::always_inline]] static inline float max_nan(float a, float b) {
  float r = max_number(a, b);
  r = a == a ? r : a;
  return b == b ? r : b;
}

}  // namespace
}  // namespace sagegen::emulator
