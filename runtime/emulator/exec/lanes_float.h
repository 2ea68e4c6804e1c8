// f32, f32x2 and f64 instructions and all comparisons but those of halves, as lane loops. See lanes.h.
#pragma once

#include "runtime/emulator/exec/lanes.h"

namespace sagegen::emulator {
namespace {

// ---- comparisons -------------------------------------------------------------------------------

template <auto F>
void add_integer_compare(FormTable& t, const char* name, const char* unsigned_name) {
  t.add_setp(name, "s16", "qHH", &compare_lanes<F, s16>);
  t.add_setp(name, "s32", "qWW", &compare_lanes<F, s32>);
  t.add_setp(name, "s64", "qDD", &compare_lanes<F, s64>);
  for (const char* each : {name, unsigned_name}) {
    if (each == nullptr) continue;
    t.add_setp(each, "u16", "qHH", &compare_lanes<F, u16>);
    t.add_setp(each, "u32", "qWW", &compare_lanes<F, u32>);
    t.add_setp(each, "u64", "qDD", &compare_lanes<F, u64>);
  }
}

template <auto F>
void add_bit_compare(FormTable& t, const char* name) {
  t.add_setp(name, "b16", "qHH", &compare_lanes<F, u16>);
  t.add_setp(name, "b32", "qWW", &compare_lanes<F, u32>);
  t.add_setp(name, "b64", "qDD", &compare_lanes<F, u64>);
}

template <auto F>
constexpr auto kFlushed = []<class T>(T a, T b) { return F(flush(a), flush(b)); };

template <auto F>
void add_float_compare(FormTable& t, const char* name) {
  t.add_setp(name, "f32", "qWW", &compare_lanes<F, float>);
  t.add_setp(name, "ftz.f32", "qWW", &compare_lanes<kFlushed<F>, float>);
  t.add_setp(name, "f64", "qDD", &compare_lanes<F, double>);
}

void register_compares(FormTable& t) {
  constexpr auto eq = []<class T>(T a, T b) { return a == b; };
  constexpr auto ne = []<class T>(T a, T b) { return a != b; };
  constexpr auto lt = []<class T>(T a, T b) { return a < b; };
  constexpr auto le = []<class T>(T a, T b) { return a <= b; };
  constexpr auto gt = []<class T>(T a, T b) { return a > b; };
  constexpr auto ge = []<class T>(T a, T b) { return a >= b; };
  add_integer_compare<eq>(t, "eq", nullptr);
  add_integer_compare<ne>(t, "ne", nullptr);
  add_integer_compare<lt>(t, "lt", "lo");
  add_integer_compare<le>(t, "le", "ls");
  add_integer_compare<gt>(t, "gt", "hi");
  add_integer_compare<ge>(t, "ge", "hs");
  add_bit_compare<eq>(t, "eq");
  add_bit_compare<ne>(t, "ne");

  // Ordered: false if an operand is NaN; with u: true.
  constexpr auto less_or_greater = []<class T>(T a, T b) { return a < b || a > b; };
  constexpr auto equ = []<class T>(T a, T b) { return !(a < b || a > b); };
  constexpr auto ltu = []<class T>(T a, T b) { return !(a >= b); };
  constexpr auto leu = []<class T>(T a, T b) { return !(a > b); };
  constexpr auto gtu = []<class T>(T a, T b) { return !(a <= b); };
  constexpr auto geu = []<class T>(T a, T b) { return !(a < b); };
  constexpr auto num = []<class T>(T a, T b) { return a == a && b == b; };
  constexpr auto nan = []<class T>(T a, T b) { return a != a || b != b; };
  add_float_compare<eq>(t, "eq");
  add_float_compare<less_or_greater>(t, "ne");
  add_float_compare<lt>(t, "lt");
  add_float_compare<le>(t, "le");
  add_float_compare<gt>(t, "gt");
  add_float_compare<ge>(t, "ge");
  add_float_compare<equ>(t, "equ");
  add_float_compare<ne>(t, "neu");
  add_float_compare<ltu>(t, "ltu");
  add_float_compare<leu>(t, "leu");
  add_float_compare<gtu>(t, "gtu");
  add_float_compare<geu>(t, "geu");
  add_float_compare<num>(t, "num");
  add_float_compare<nan>(t, "nan");
}

// ---- floating point ----------------------------------------------------------------------------

template <auto F, bool kFtz, bool kSat>
constexpr auto kRounded2 =
    [](float a, float b) { return finish<kFtz, kSat>(F(input<kFtz>(a), input<kFtz>(b))); };
template <auto F>
void add_f32_binary(FormTable& t, const char* plain, const char* ftz, const char* sat,
                    const char* ftz_sat) {
  t.add(plain, "wWW", each_lane<kRounded2<F, false, false>>);
  t.add(ftz, "wWW", each_lane<kRounded2<F, true, false>>);
  if (sat != nullptr) t.add(sat, "wWW", each_lane<kRounded2<F, false, true>>);
  if (ftz_sat != nullptr) t.add(ftz_sat, "wWW", each_lane<kRounded2<F, true, true>>);
}

template <bool kFtz, bool kSat>
constexpr auto kFma = [](float a, float b, float c) {
  return finish<kFtz, kSat>(__builtin_fmaf(input<kFtz>(a), input<kFtz>(b), input<kFtz>(c)));
};

// div.approx is a * (1 / b) with a reciprocal that has no subnormals: above 2^126 it is a zero of b's
// sign (PTX ISA, #floating-point-instructions-div). div.full scales its operands and has no such range.
constexpr auto kDivideApprox = [](float a, float b) {
  constexpr u32 kLargest = 0x7e80'0000, kInfinity = 0x7f80'0000;
  u32 magnitude = bits_of(b) & 0x7fff'ffff;
  bool vanishes = magnitude > kLargest && magnitude < kInfinity;
  return vanishes ? a * float_of(bits_of(b) & 0x8000'0000) : a / b;
};

// f32x2: two floats in a 64-bit register.
template <auto F, bool kFtz>
constexpr auto kPair2 = [](u64 a, u64 b) -> u64 {
  float low =
      F(input<kFtz>(float_of(static_cast<u32>(a))), input<kFtz>(float_of(static_cast<u32>(b))));
  float high = F(input<kFtz>(float_of(a >> 32)), input<kFtz>(float_of(b >> 32)));
  return bits_of(finish<kFtz, false>(low)) | u64{bits_of(finish<kFtz, false>(high))} << 32;
};
template <bool kFtz>
constexpr auto kPairFma = [](u64 a, u64 b, u64 c) -> u64 {
  float low = kFma<kFtz, false>(float_of(static_cast<u32>(a)), float_of(static_cast<u32>(b)),
                                float_of(static_cast<u32>(c)));
  float high = kFma<kFtz, false>(float_of(a >> 32), float_of(b >> 32), float_of(c >> 32));
  return bits_of(low) | u64{bits_of(high)} << 32;
};

// min/max.xorsign.abs: of the magnitudes, with the product of the signs.
template <auto F>
constexpr auto kXorSign = [](float a, float b) {
  u32 sign = (bits_of(a) ^ bits_of(b)) & 0x8000'0000;
  float r = F(float_of(bits_of(a) & 0x7fff'ffff), float_of(bits_of(b) & 0x7fff'ffff));
  return float_of(bits_of(r) | sign);
};

void register_floats(FormTable& t) {
  constexpr auto add = []<class T>(T a, T b) { return a + b; };
  constexpr auto sub = []<class T>(T a, T b) { return a - b; };
  constexpr auto mul = []<class T>(T a, T b) { return a * b; };
  constexpr auto div = [](float a, float b) { return a / b; };
  add_f32_binary<add>(t, "add{|.rn}.f32", "add{|.rn}.ftz.f32", "add{|.rn}.sat.f32",
                      "add{|.rn}.ftz.sat.f32");
  add_f32_binary<sub>(t, "sub{|.rn}.f32", "sub{|.rn}.ftz.f32", "sub{|.rn}.sat.f32",
                      "sub{|.rn}.ftz.sat.f32");
  add_f32_binary<mul>(t, "mul{|.rn}.f32", "mul{|.rn}.ftz.f32", "mul{|.rn}.sat.f32",
                      "mul{|.rn}.ftz.sat.f32");
  // div.approx and div.full have an error bound of 2 ulp; the correctly rounded quotient is within it.
  add_f32_binary<div>(t, "div{.rn|.full}.f32", "div{.rn|.full}.ftz.f32", nullptr, nullptr);
  add_f32_binary<kDivideApprox>(t, "div.approx.f32", "div.approx.ftz.f32", nullptr, nullptr);
  t.add("fma.rn.f32", "wWWW", each_lane<kFma<false, false>>);
  t.add("fma.rn.ftz.f32", "wWWW", each_lane<kFma<true, false>>);
  t.add("fma.rn.sat.f32", "wWWW", each_lane<kFma<false, true>>);
  t.add("fma.rn.ftz.sat.f32", "wWWW", each_lane<kFma<true, true>>);
  t.add("mad.rn.f32", "wWWW", each_lane<kFma<false, false>>);
  t.add("mad.rn.ftz.f32", "wWWW", each_lane<kFma<true, false>>);
  t.add("mad.rn.sat.f32", "wWWW", each_lane<kFma<false, true>>);
  t.add("mad.rn.ftz.sat.f32", "wWWW", each_lane<kFma<true, true>>);
  t.add("add{|.rn}.f32x2", "dDD", each_lane<kPair2<add, false>>);
  t.add("add{|.rn}.ftz.f32x2", "dDD", each_lane<kPair2<add, true>>);
  t.add("sub{|.rn}.f32x2", "dDD", each_lane<kPair2<sub, false>>);
  t.add("sub{|.rn}.ftz.f32x2", "dDD", each_lane<kPair2<sub, true>>);
  t.add("mul{|.rn}.f32x2", "dDD", each_lane<kPair2<mul, false>>);
  t.add("mul{|.rn}.ftz.f32x2", "dDD", each_lane<kPair2<mul, true>>);
  t.add("fma.rn.f32x2", "dDDD", each_lane<kPairFma<false>>);
  t.add("fma.rn.ftz.f32x2", "dDDD", each_lane<kPairFma<true>>);

  add_f32_binary<min_number>(t, "min.f32", "min.ftz.f32", nullptr, nullptr);
  add_f32_binary<max_number>(t, "max.f32", "max.ftz.f32", nullptr, nullptr);
  add_f32_binary<min_nan>(t, "min.NaN.f32", "min.ftz.NaN.f32", nullptr, nullptr);
  add_f32_binary<max_nan>(t, "max.NaN.f32", "max.ftz.NaN.f32", nullptr, nullptr);
  add_f32_binary<kXorSign<min_number>>(t, "min.xorsign.abs.f32", "min.ftz.xorsign.abs.f32", nullptr,
                                       nullptr);
  add_f32_binary<kXorSign<max_number>>(t, "max.xorsign.abs.f32", "max.ftz.xorsign.abs.f32", nullptr,
                                       nullptr);
  add_f32_binary<kXorSign<min_nan>>(t, "min.NaN.xorsign.abs.f32", "min.ftz.NaN.xorsign.abs.f32",
                                    nullptr, nullptr);
  add_f32_binary<kXorSign<max_nan>>(t, "max.NaN.xorsign.abs.f32", "max.ftz.NaN.xorsign.abs.f32",
                                    nullptr, nullptr);
  t.add("min.f32", "wWWW", each_lane<[](float a, float b, float c) {
          return canonical(min_number(min_number(a, b), c));
        }>);
  t.add("max.f32", "wWWW", each_lane<[](float a, float b, float c) {
          return canonical(max_number(max_number(a, b), c));
        }>);
  t.add("abs.f32", "wW", each_lane<[](u32 a) { return a & 0x7fff'ffff; }>);
  t.add("abs.ftz.f32", "wW",
        each_lane<[](float a) { return float_of(bits_of(flush(a)) & 0x7fff'ffff); }>);
  t.add("neg.f32", "wW", each_lane<[](u32 a) { return a ^ 0x8000'0000; }>);
  t.add("neg.ftz.f32", "wW",
        each_lane<[](float a) { return float_of(bits_of(flush(a)) ^ 0x8000'0000); }>);
  t.add("copysign.f32", "wWW",
        each_lane<[](u32 a, u32 b) { return (a & 0x8000'0000) | (b & 0x7fff'ffff); }>);
  t.add("copysign.f64", "dDD", each_lane<[](u64 a, u64 b) {
          return (a & 0x8000'0000'0000'0000) | (b & 0x7fff'ffff'ffff'ffff);
        }>);

  t.add("add{|.rn}.f64", "dDD", each_lane<[](double a, double b) { return canonical(a + b); }>);
  t.add("sub{|.rn}.f64", "dDD", each_lane<[](double a, double b) { return canonical(a - b); }>);
  t.add("mul{|.rn}.f64", "dDD", each_lane<[](double a, double b) { return canonical(a * b); }>);
  t.add("div.rn.f64", "dDD", each_lane<[](double a, double b) { return canonical(a / b); }>);
  t.add("{fma|mad}.rn.f64", "dDDD",
        each_lane<[](double a, double b, double c) { return canonical(__builtin_fma(a, b, c)); }>);
  t.add("abs.f64", "dD", each_lane<[](u64 a) { return a & 0x7fff'ffff'ffff'ffff; }>);
  t.add("neg.f64", "dD", each_lane<[](u64 a) { return a ^ 0x8000'0000'0000'0000; }>);

  t.add("cvt.u64.u32", "dW", each_lane<[](u32 a) -> u64 { return a; }>);
  t.add("cvt.s64.s32", "dW", each_lane<[](s32 a) -> s64 { return a; }>);
  t.add("cvt{.u32.u64|.s32.s64}", "wD",
        each_lane<[](u64 a) -> u32 { return static_cast<u32>(a); }>);
  t.add("cvt.u16.u32", "hW", each_lane<[](u32 a) -> u16 { return static_cast<u16>(a); }>);
  t.add("cvt.u32.u16", "wH", each_lane<[](u16 a) -> u32 { return a; }>);
  t.add("cvt.s32.s16", "wH", each_lane<[](s16 a) -> s32 { return a; }>);
  t.add("cvt.rn.f32.s32", "wW", each_lane<[](s32 a) { return static_cast<float>(a); }>);
  t.add("cvt.rn.f32.u32", "wW", each_lane<[](u32 a) { return static_cast<float>(a); }>);
}

}  // namespace
}  // namespace sagegen::emulator
