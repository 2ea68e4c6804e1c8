// Arithmetic on f16 and bf16, single and packed in pairs.

#include "runtime/emulator/exec/half.h"

#include "runtime/emulator/exec/forms.h"
#include "runtime/emulator/exec/lanes.h"

namespace sagegen::emulator {
namespace {

enum Flags : unsigned { kPlain = 0, kFtz = 1, kSat = 2, kRelu = 4 };

template <class Half>
u16 flush_half(u16 bits) {
  constexpr u16 kExponent = std::is_same_v<Half, HalfF16> ? 0x7c00 : 0x7f80;
  return (bits & kExponent) == 0 ? bits & 0x8000 : bits;
}

template <class Half, unsigned kFlags>
double load(u16 bits) {
  return Half::load((kFlags & kFtz) != 0 ? flush_half<Half>(bits) : bits);
}

template <class Half, unsigned kFlags>
u16 store(double value) {
  if ((kFlags & kSat) != 0) value = value > 0.0 ? std::min(value, 1.0) : 0.0;
  u16 bits = Half::store(value);
  if ((kFlags & kFtz) != 0) bits = flush_half<Half>(bits);
  bool negative = (bits & 0x8000) != 0;
  if ((kFlags & kRelu) != 0 && negative) bits = 0;  // NaNs are canonical, hence positive
  return bits;
}

template <class Half, unsigned kFlags, auto F>
u16 apply2(u16 a, u16 b) {
  return store<Half, kFlags>(F(load<Half, kFlags>(a), load<Half, kFlags>(b)));
}
template <class Half, unsigned kFlags>
u16 apply_fma(u16 a, u16 b, u16 c) {
  return store<Half, kFlags>(
      fma_to_odd(load<Half, kFlags>(a), load<Half, kFlags>(b), load<Half, kFlags>(c)));
}

// As for f32: the number wins over a NaN, or with .NaN the NaN; -0 is below +0.
template <class Half, unsigned kFlags, bool kMaximum, bool kNan>
u16 extremum(u16 a, u16 b) {
  if ((kFlags & kFtz) != 0) {
    a = flush_half<Half>(a);
    b = flush_half<Half>(b);
  }
  double x = Half::load(a), y = Half::load(b);
  bool a_nan = x != x, b_nan = y != y;
  if ((kNan && (a_nan || b_nan)) || (a_nan && b_nan)) return 0x7fff;
  if (a_nan) return b;
  if (b_nan) return a;
  bool a_below = x < y || (x == y && std::signbit(x));
  return a_below != kMaximum ? a : b;
}

// The same function on both halves of a register.
template <auto F>
constexpr auto kHalves1 =
    [](u32 a) -> u32 { return F(static_cast<u16>(a)) | u32{F(static_cast<u16>(a >> 16))} << 16; };
template <auto F>
constexpr auto kHalves2 = [](u32 a, u32 b) -> u32 {
  return F(static_cast<u16>(a), static_cast<u16>(b)) |
         u32{F(static_cast<u16>(a >> 16), static_cast<u16>(b >> 16))} << 16;
};
template <auto F>
constexpr auto kHalves3 = [](u32 a, u32 b, u32 c) -> u32 {
  return F(static_cast<u16>(a), static_cast<u16>(b), static_cast<u16>(c)) |
         u32{F(static_cast<u16>(a >> 16), static_cast<u16>(b >> 16), static_cast<u16>(c >> 16))}
             << 16;
};
template <auto F>
constexpr auto kSingle1 = [](u16 a) -> u16 { return F(a); };
template <auto F>
constexpr auto kSingle2 = [](u16 a, u16 b) -> u16 { return F(a, b); };
template <auto F>
constexpr auto kSingle3 = [](u16 a, u16 b, u16 c) -> u16 { return F(a, b, c); };

// Enters prefix + type and prefix + type + "x2".
class HalfForms {
 public:
  HalfForms(FormTable& table, std::string type) : table_(table), type_(std::move(type)) {}
  template <auto F>
  void unary(const std::string& prefix) {
    table_.add((prefix + type_).c_str(), "hH", each_lane<kSingle1<F>>);
    table_.add((prefix + type_ + "x2").c_str(), "wW", each_lane<kHalves1<F>>);
  }
  template <auto F>
  void binary(const std::string& prefix) {
    table_.add((prefix + type_).c_str(), "hHH", each_lane<kSingle2<F>>);
    table_.add((prefix + type_ + "x2").c_str(), "wWW", each_lane<kHalves2<F>>);
  }
  template <auto F>
  void ternary(const std::string& prefix) {
    table_.add((prefix + type_).c_str(), "hHHH", each_lane<kSingle3<F>>);
    table_.add((prefix + type_ + "x2").c_str(), "wWWW", each_lane<kHalves3<F>>);
  }

 private:
  FormTable& table_;
  std::string type_;
};

constexpr auto kSum = [](double a, double b) { return a + b; };
constexpr auto kDifference = [](double a, double b) { return a - b; };
constexpr auto kProduct = [](double a, double b) { return a * b; };

template <class Half, unsigned kFlags>
void add_arithmetic(HalfForms forms, const std::string& modifiers) {
  forms.binary<apply2<Half, kFlags, kSum>>("add{|.rn}" + modifiers + ".");
  forms.binary<apply2<Half, kFlags, kDifference>>("sub{|.rn}" + modifiers + ".");
  forms.binary<apply2<Half, kFlags, kProduct>>("mul{|.rn}" + modifiers + ".");
  forms.ternary<apply_fma<Half, kFlags>>("fma.rn" + modifiers + ".");
}

template <class Half, unsigned kFlags>
void add_extrema(HalfForms forms, const std::string& modifiers) {
  forms.binary<extremum<Half, kFlags, false, false>>("min" + modifiers + ".");
  forms.binary<extremum<Half, kFlags, true, false>>("max" + modifiers + ".");
  forms.binary<extremum<Half, kFlags, false, true>>("min" + modifiers + ".NaN.");
  forms.binary<extremum<Half, kFlags, true, true>>("max" + modifiers + ".NaN.");
}

u16 negate_half(u16 a) { return a ^ 0x8000; }
u16 absolute_half(u16 a) { return a & 0x7fff; }
u16 ex2_f16(u16 a) { return f32_to_f16(ex2_approx(f16_to_f32(a), false)); }
// .ftz: subnormal inputs and results are flushed.
u16 ex2_bf16(u16 a) {
  return flush_half<HalfBf16>(f32_to_bf16(ex2_approx(bf16_to_f32(flush_half<HalfBf16>(a)), true)));
}

template <class Half>
u16 tanh_half(u16 a) {
  return Half::store(std::tanh(Half::load(a)));
}

// ---- comparisons ---------------------------------------------------------------------------------

// The lanes in which F holds for the halves that begin at a bit.
template <class Half, unsigned kFlags, auto F>
u32 lanes_that_hold(Warp& w, const Op& op, u32 mask, int bit) {
  u32 lanes = 0;
  for_lanes(mask, [&](int lane) {
    auto half = [&](int operand) {
      return load<Half, kFlags>(static_cast<u16>(row32(w, op.r[operand])[lane] >> bit));
    };
    lanes |= static_cast<u32>(F(half(2), half(3))) << lane;
  });
  return lanes;
}
template <class Half, unsigned kFlags, auto F>
void compare_half(Warp& w, const Op& op, u32 mask) {
  set_compared(w, op, mask, lanes_that_hold<Half, kFlags, F>(w, op, mask, 0));
}
// p|q are the results of the lower and the upper halves.
template <class Half, unsigned kFlags, auto F>
void compare_halves(Warp& w, const Op& op, u32 mask) {
  u32 low = lanes_that_hold<Half, kFlags, F>(w, op, mask, 0);
  u32 high = lanes_that_hold<Half, kFlags, F>(w, op, mask, 16);
  if (op.imm != kBoolNone) {
    u32 c = predicate_operand(w, op, 4);
    low = op.imm == kBoolAnd ? low & c : op.imm == kBoolOr ? low | c : low ^ c;
    high = op.imm == kBoolAnd ? high & c : op.imm == kBoolOr ? high | c : high ^ c;
  }
  set_predicate(w, op.r[1], high, mask);
  set_predicate(w, op.r[0], low, mask);
}

template <auto F>
void add_compare(FormTable& t, const char* name) {
  t.add_setp(name, "f16", "qHH", compare_half<HalfF16, kPlain, F>);
  t.add_setp(name, "ftz.f16", "qHH", compare_half<HalfF16, kFtz, F>);
  t.add_setp(name, "bf16", "qHH", compare_half<HalfBf16, kPlain, F>);
  t.add_setp(name, "f16x2", "qWW", compare_halves<HalfF16, kPlain, F>);
  t.add_setp(name, "ftz.f16x2", "qWW", compare_halves<HalfF16, kFtz, F>);
  t.add_setp(name, "bf16x2", "qWW", compare_halves<HalfBf16, kPlain, F>);
}

void register_half_compares(FormTable& t) {
  constexpr auto eq = [](double a, double b) { return a == b; };
  constexpr auto neu = [](double a, double b) { return !(a == b); };
  constexpr auto ne = [](double a, double b) { return a < b || a > b; };
  constexpr auto equ = [](double a, double b) { return !(a < b || a > b); };
  constexpr auto lt = [](double a, double b) { return a < b; };
  constexpr auto le = [](double a, double b) { return a <= b; };
  constexpr auto gt = [](double a, double b) { return a > b; };
  constexpr auto ge = [](double a, double b) { return a >= b; };
  constexpr auto ltu = [](double a, double b) { return !(a >= b); };
  constexpr auto leu = [](double a, double b) { return !(a > b); };
  constexpr auto gtu = [](double a, double b) { return !(a <= b); };
  constexpr auto geu = [](double a, double b) { return !(a < b); };
  constexpr auto num = [](double a, double b) { return a == a && b == b; };
  constexpr auto nan = [](double a, double b) { return a != a || b != b; };
  add_compare<eq>(t, "eq");
  add_compare<ne>(t, "ne");
  add_compare<lt>(t, "lt");
  add_compare<le>(t, "le");
  add_compare<gt>(t, "gt");
  add_compare<ge>(t, "ge");
  add_compare<equ>(t, "equ");
  add_compare<neu>(t, "neu");
  add_compare<ltu>(t, "ltu");
  add_compare<leu>(t, "leu");
  add_compare<gtu>(t, "gtu");
  add_compare<geu>(t, "geu");
  add_compare<num>(t, "num");
  add_compare<nan>(t, "nan");
}

// ---- an f32 result of f16 or bf16 operands and an f32 (PTX ISA, mixed precision instructions) -------

template <class Half>
float widen(u16 bits) {
  return static_cast<float>(Half::load(bits));
}
template <class Half>
constexpr auto kMixedSum = [](u16 a, float c) { return canonical(widen<Half>(a) + c); };
template <class Half>
constexpr auto kMixedDifference = [](u16 a, float c) { return canonical(widen<Half>(a) - c); };
template <class Half>
constexpr auto kMixedFma =
    [](u16 a, u16 b, float c) { return canonical(std::fma(widen<Half>(a), widen<Half>(b), c)); };

template <class Half>
void add_mixed(FormTable& t, const std::string& type) {
  t.add(("add{|.rn}.f32." + type).c_str(), "wHW", each_lane<kMixedSum<Half>>);
  t.add(("sub{|.rn}.f32." + type).c_str(), "wHW", each_lane<kMixedDifference<Half>>);
  t.add(("fma.rn.f32." + type).c_str(), "wHHW", each_lane<kMixedFma<Half>>);
}

}  // namespace

void register_half(FormTable& t) {
  HalfForms f16(t, "f16"), bf16(t, "bf16");
  add_arithmetic<HalfF16, kPlain>(f16, "");
  add_arithmetic<HalfF16, kFtz>(f16, ".ftz");
  add_arithmetic<HalfF16, kSat>(f16, ".sat");
  add_arithmetic<HalfF16, kFtz | kSat>(f16, ".ftz.sat");
  add_arithmetic<HalfBf16, kPlain>(bf16, "");
  f16.ternary<apply_fma<HalfF16, kRelu>>("fma.rn.relu.");
  f16.ternary<apply_fma<HalfF16, kFtz | kRelu>>("fma.rn.ftz.relu.");
  bf16.ternary<apply_fma<HalfBf16, kRelu>>("fma.rn.relu.");
  add_extrema<HalfF16, kPlain>(f16, "");
  add_extrema<HalfF16, kFtz>(f16, ".ftz");
  add_extrema<HalfBf16, kPlain>(bf16, "");
  f16.unary<negate_half>("neg.");
  f16.unary<absolute_half>("abs.");
  bf16.unary<negate_half>("neg.");
  bf16.unary<absolute_half>("abs.");
  f16.unary<ex2_f16>("ex2.approx.");
  bf16.unary<ex2_bf16>("ex2.approx.ftz.");
  f16.unary<tanh_half<HalfF16>>("tanh.approx.");
  bf16.unary<tanh_half<HalfBf16>>("tanh.approx.");
  register_half_compares(t);
  add_mixed<HalfF16>(t, "f16");
  add_mixed<HalfBf16>(t, "bf16");
}

}  // namespace sagegen::emulator
