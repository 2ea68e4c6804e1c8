// Integer and bit instructions, moves and selections as lane loops. See lanes.h.
#pragma once

#include "runtime/emulator/exec/lanes.h"

namespace sagegen::emulator {
namespace {

constexpr auto kMin = []<class T>(T a, T b) -> T { return a < b ? a : b; };
constexpr auto kMax = []<class T>(T a, T b) -> T { return a > b ? a : b; };
constexpr auto kAnd = []<class T>(T a, T b) -> T { return a & b; };
constexpr auto kOr = []<class T>(T a, T b) -> T { return a | b; };
constexpr auto kXor = []<class T>(T a, T b) -> T { return a ^ b; };
constexpr auto kNot = []<class T>(T a) -> T { return ~a; };
constexpr auto kLogicalNot = []<class T>(T a) -> T { return a == 0 ? 1 : 0; };
constexpr auto kAbs = []<class T>(T a) -> T {
  using U = std::make_unsigned_t<T>;
  return a < 0 ? static_cast<T>(U{0} - static_cast<U>(a)) : a;
};
// Arithmetic that wraps is unsigned.
constexpr auto kAdd = []<class U>(U a, U b) -> U { return a + b; };
constexpr auto kSub = []<class U>(U a, U b) -> U { return a - b; };
constexpr auto kMul = []<class U>(U a, U b) -> U { return u64{a} * b; };
constexpr auto kMad = []<class U>(U a, U b, U c) -> U { return u64{a} * b + c; };
constexpr auto kNeg = []<class U>(U a) -> U { return U{0} - a; };
constexpr auto kMulHiS16 = [](s16 a, s16 b) -> s16 { return (s32{a} * b) >> 16; };
constexpr auto kMulHiU16 = [](u16 a, u16 b) -> u16 { return (u32{a} * b) >> 16; };
constexpr auto kMulHiS32 = [](s32 a, s32 b) -> s32 { return (s64{a} * b) >> 32; };
constexpr auto kMulHiU32 = [](u32 a, u32 b) -> u32 { return (u64{a} * b) >> 32; };
constexpr auto kMadHiS32 = [](s32 a, s32 b, u32 c) -> u32 {
  return static_cast<u32>((s64{a} * b) >> 32) + c;
};
constexpr auto kMadHiU32 = [](u32 a, u32 b, u32 c) -> u32 {
  return static_cast<u32>((u64{a} * b) >> 32) + c;
};
constexpr auto kMinRelu = [](s32 a, s32 b) -> s32 {
  s32 m = a < b ? a : b;
  return m < 0 ? 0 : m;
};
constexpr auto kMaxRelu = [](s32 a, s32 b) -> s32 {
  s32 m = a > b ? a : b;
  return m < 0 ? 0 : m;
};

// Shifts by the width or more give 0, or copies of the sign.
constexpr auto kShl16 = [](u16 a, u32 n) -> u16 { return n > 15 ? 0 : u32{a} << n; };
constexpr auto kShl32 = [](u32 a, u32 n) -> u32 { return n > 31 ? 0 : a << n; };
constexpr auto kShl64 = [](u64 a, u32 n) -> u64 { return n > 63 ? 0 : a << n; };
constexpr auto kShrU16 = [](u16 a, u32 n) -> u16 { return n > 15 ? 0 : a >> n; };
constexpr auto kShrU32 = [](u32 a, u32 n) -> u32 { return n > 31 ? 0 : a >> n; };
constexpr auto kShrU64 = [](u64 a, u32 n) -> u64 { return n > 63 ? 0 : a >> n; };
constexpr auto kShrS16 = [](s16 a, u32 n) -> s16 { return a >> (n > 15 ? 15 : n); };
constexpr auto kShrS32 = [](s32 a, u32 n) -> s32 { return a >> (n > 31 ? 31 : n); };
constexpr auto kShrS64 = [](s64 a, u32 n) -> s64 { return a >> (n > 63 ? 63 : n); };

constexpr auto kFunnelLeftWrap = [](u32 a, u32 b, u32 n) -> u32 {
  return ((u64{b} << 32 | a) << (n & 31)) >> 32;
};
constexpr auto kFunnelRightWrap = [](u32 a, u32 b, u32 n) -> u32 {
  return (u64{b} << 32 | a) >> (n & 31);
};
constexpr auto kFunnelLeftClamp = [](u32 a, u32 b, u32 n) -> u32 {
  return ((u64{b} << 32 | a) << (n > 32 ? 32 : n)) >> 32;
};
constexpr auto kFunnelRightClamp = [](u32 a, u32 b, u32 n) -> u32 {
  return (u64{b} << 32 | a) >> (n > 32 ? 32 : n);
};

constexpr auto kAddSat = [](s32 a, s32 b) -> s32 {
  s64 sum = s64{a} + b;
  return sum > 0x7fff'ffffLL ? 0x7fff'ffff : sum < -0x8000'0000LL ? -0x7fff'ffff - 1 : sum;
};
constexpr auto kSubSat = [](s32 a, s32 b) -> s32 {
  s64 sum = s64{a} - b;
  return sum > 0x7fff'ffffLL ? 0x7fff'ffff : sum < -0x8000'0000LL ? -0x7fff'ffff - 1 : sum;
};

void register_integer_arithmetic(FormTable& t) {
  t.add("add{.s16|.u16}", "hHH", each_lane_of<kAdd, u16>);
  t.add("add{.s32|.u32}", "wWW", each_lane_of<kAdd, u32>);
  t.add("add{.s64|.u64}", "dDD", each_lane_of<kAdd, u64>);
  t.add("add.sat.s32", "wWW", each_lane<kAddSat>);
  t.add("sub{.s16|.u16}", "hHH", each_lane_of<kSub, u16>);
  t.add("sub{.s32|.u32}", "wWW", each_lane_of<kSub, u32>);
  t.add("sub{.s64|.u64}", "dDD", each_lane_of<kSub, u64>);
  t.add("sub.sat.s32", "wWW", each_lane<kSubSat>);

  t.add("mul.lo{.s16|.u16}", "hHH", each_lane_of<kMul, u16>);
  t.add("mul.lo{.s32|.u32}", "wWW", each_lane_of<kMul, u32>);
  t.add("mul.lo{.s64|.u64}", "dDD", each_lane_of<kMul, u64>);
  t.add("mad.lo{.s16|.u16}", "hHHH", each_lane_of<kMad, u16>);
  t.add("mad.lo{.s32|.u32}", "wWWW", each_lane_of<kMad, u32>);
  t.add("mad.lo{.s64|.u64}", "dDDD", each_lane_of<kMad, u64>);
  t.add("mul.hi.s16", "hHH", each_lane<kMulHiS16>);
  t.add("mul.hi.u16", "hHH", each_lane<kMulHiU16>);
  t.add("mul.hi.s32", "wWW", each_lane<kMulHiS32>);
  t.add("mul.hi.u32", "wWW", each_lane<kMulHiU32>);
  t.add("mad.hi.s32", "wWWW", each_lane<kMadHiS32>);
  t.add("mad.hi.u32", "wWWW", each_lane<kMadHiU32>);
  t.add("mul.wide.s16", "wHH", each_lane<[](s16 a, s16 b) -> s32 { return s32{a} * b; }>);
  t.add("mul.wide.u16", "wHH", each_lane<[](u16 a, u16 b) -> u32 { return u32{a} * b; }>);
  t.add("mul.wide.s32", "dWW", each_lane<[](s32 a, s32 b) -> s64 { return s64{a} * b; }>);
  t.add("mul.wide.u32", "dWW", each_lane<[](u32 a, u32 b) -> u64 { return u64{a} * b; }>);
  t.add("mad.wide.s16", "wHHW",
        each_lane<[](s16 a, s16 b, u32 c) -> u32 { return static_cast<u32>(s32{a} * b) + c; }>);
  t.add("mad.wide.u16", "wHHW",
        each_lane<[](u16 a, u16 b, u32 c) -> u32 { return u32{a} * b + c; }>);
  t.add("mad.wide.s32", "dWWD",
        each_lane<[](s32 a, s32 b, u64 c) -> u64 { return static_cast<u64>(s64{a} * b) + c; }>);
  t.add("mad.wide.u32", "dWWD",
        each_lane<[](u32 a, u32 b, u64 c) -> u64 { return u64{a} * b + c; }>);

  t.add("min.s16", "hHH", each_lane_of<kMin, s16>);
  t.add("min.u16", "hHH", each_lane_of<kMin, u16>);
  t.add("min.s32", "wWW", each_lane_of<kMin, s32>);
  t.add("min.u32", "wWW", each_lane_of<kMin, u32>);
  t.add("min.s64", "dDD", each_lane_of<kMin, s64>);
  t.add("min.u64", "dDD", each_lane_of<kMin, u64>);
  t.add("max.s16", "hHH", each_lane_of<kMax, s16>);
  t.add("max.u16", "hHH", each_lane_of<kMax, u16>);
  t.add("max.s32", "wWW", each_lane_of<kMax, s32>);
  t.add("max.u32", "wWW", each_lane_of<kMax, u32>);
  t.add("max.s64", "dDD", each_lane_of<kMax, s64>);
  t.add("max.u64", "dDD", each_lane_of<kMax, u64>);
  t.add("min.relu.s32", "wWW", each_lane<kMinRelu>);
  t.add("max.relu.s32", "wWW", each_lane<kMaxRelu>);
  t.add("abs.s16", "hH", each_lane_of<kAbs, s16>);
  t.add("abs.s32", "wW", each_lane_of<kAbs, s32>);
  t.add("abs.s64", "dD", each_lane_of<kAbs, s64>);
  t.add("neg.s16", "hH", each_lane_of<kNeg, u16>);
  t.add("neg.s32", "wW", each_lane_of<kNeg, u32>);
  t.add("neg.s64", "dD", each_lane_of<kNeg, u64>);
}

constexpr auto kSelect32 = [](u32 a, u32 b, s32 c) { return c >= 0 ? a : b; };
constexpr auto kSelect64 = [](u64 a, u64 b, s32 c) { return c >= 0 ? a : b; };
constexpr auto kSelectFloat = [](u32 a, u32 b, float c) { return c >= 0.0f ? a : b; };
constexpr auto kSelectFlushed = [](u32 a, u32 b, float c) { return flush(c) >= 0.0f ? a : b; };

void register_bits(FormTable& t) {
  t.add("and.b16", "hHH", each_lane_of<kAnd, u32>);
  t.add("and.b32", "wWW", each_lane_of<kAnd, u32>);
  t.add("and.b64", "dDD", each_lane_of<kAnd, u64>);
  t.add("or.b16", "hHH", each_lane_of<kOr, u32>);
  t.add("or.b32", "wWW", each_lane_of<kOr, u32>);
  t.add("or.b64", "dDD", each_lane_of<kOr, u64>);
  t.add("xor.b16", "hHH", each_lane_of<kXor, u32>);
  t.add("xor.b32", "wWW", each_lane_of<kXor, u32>);
  t.add("xor.b64", "dDD", each_lane_of<kXor, u64>);
  t.add("not.b16", "hH", each_lane_of<kNot, u16>);
  t.add("not.b32", "wW", each_lane_of<kNot, u32>);
  t.add("not.b64", "dD", each_lane_of<kNot, u64>);
  t.add("cnot.b16", "hH", each_lane_of<kLogicalNot, u16>);
  t.add("cnot.b32", "wW", each_lane_of<kLogicalNot, u32>);
  t.add("cnot.b64", "dD", each_lane_of<kLogicalNot, u64>);

  t.add("shl.b16", "hHW", each_lane<kShl16>);
  t.add("shl.b32", "wWW", each_lane<kShl32>);
  t.add("shl.b64", "dDW", each_lane<kShl64>);
  t.add("shr{.u16|.b16}", "hHW", each_lane<kShrU16>);
  t.add("shr{.u32|.b32}", "wWW", each_lane<kShrU32>);
  t.add("shr{.u64|.b64}", "dDW", each_lane<kShrU64>);
  t.add("shr.s16", "hHW", each_lane<kShrS16>);
  t.add("shr.s32", "wWW", each_lane<kShrS32>);
  t.add("shr.s64", "dDW", each_lane<kShrS64>);
  t.add("shf.l.wrap.b32", "wWWW", each_lane<kFunnelLeftWrap>);
  t.add("shf.r.wrap.b32", "wWWW", each_lane<kFunnelRightWrap>);
  t.add("shf.l.clamp.b32", "wWWW", each_lane<kFunnelLeftClamp>);
  t.add("shf.r.clamp.b32", "wWWW", each_lane<kFunnelRightClamp>);

  t.add("mov{.b16|.u16|.s16|.f16|.bf16}", "hH", each_lane<[](u32 a) { return a; }>);
  t.add("mov{.b32|.u32|.s32|.f32}", "wW", each_lane<[](u32 a) { return a; }>);
  t.add("mov{.b64|.u64|.s64|.f64}", "dD", each_lane<[](u64 a) { return a; }>);
  // A register that nobody wrote holds more than 16 bits.
  t.add("mov.b32", "w{HH}",
        each_lane<[](u32 low, u32 high) -> u32 { return (low & 0xffff) | high << 16; }>);
  t.add("mov.b64", "d{WW}",
        each_lane<[](u32 low, u32 high) -> u64 { return low | u64{high} << 32; }>);

  t.add("selp{.b16|.u16|.s16|.f16|.bf16}", "hHHP", &select_lanes<u32>);
  t.add("selp{.b32|.u32|.s32|.f32}", "wWWP", &select_lanes<u32>);
  t.add("selp{.b64|.u64|.s64|.f64}", "dDDP", &select_lanes<u64>);
  t.add("slct{.b32|.u32|.s32|.f32}.s32", "wWWW", each_lane<kSelect32>);
  t.add("slct{.b64|.u64|.s64|.f64}.s32", "dDDW", each_lane<kSelect64>);
  t.add("slct{.b32|.u32|.s32|.f32}.f32", "wWWW", each_lane<kSelectFloat>);
  t.add("slct{.b32|.u32|.s32|.f32}.ftz.f32", "wWWW", each_lane<kSelectFlushed>);
}

}  // namespace
}  // namespace sagegen::emulator
