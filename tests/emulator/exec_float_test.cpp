// Floating-point instructions and conversions against references that go through exact or wider
// arithmetic and round by definition.

#include <catch2/catch.hpp>

#include <cfenv>
#include <cmath>
#include <limits>

#include "tests/emulator/exec_fixture.h"

namespace sagegen::emulator::test {
namespace {

using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;
using Quad = __float128;   // 113 bits

// A binary format by its parameters; values are compared and rounded by definition, bit by bit.
struct Format {
  int fraction_bits;
  int min_exponent;   // of normal numbers
  int max_exponent;
  int width;
};
constexpr Format kF32 = {23, -126, 127, 32};
constexpr Format kF16 = {10, -14, 15, 16};
constexpr Format kBf16 = {7, -126, 127, 16};

Quad power_of_two(int e) {
  Quad r = 1;
  for (; e > 0; --e) r *= 2;
  for (; e < 0; ++e) r /= 2;
  return r;
}

enum class Mode { nearest, zero, down, up };

u64 nan_of(const Format& f) { return (u64{1} << (f.width - 1)) - 1; }
u64 infinity_of(const Format& f) {
  return (u64{1} << (f.width - 1)) - (u64{1} << f.fraction_bits);
}

// Rounds x (finite) to the format: the two neighbours are searched, then the mode chooses.
u64 round_to(const Format& f, Quad x, Mode mode, bool zero_is_negative) {
  u64 sign_bit = u64{1} << (f.width - 1);
  if (x == 0) return zero_is_negative ? sign_bit : 0;
  bool negative = x < 0;
  Quad magnitude = negative ? -x : x;
  int exponent = f.min_exponent;
  Quad top = power_of_two(exponent + 1);
  while (magnitude >= top && exponent <= f.max_exponent) {
    ++exponent;
    top *= 2;
  }
  Quad unit = power_of_two(exponent - f.fraction_bits);
  Quad steps = magnitude / unit;   // exact: a power of two
  // The integer part, without relying on a library for Quad.
  u64 whole = static_cast<u64>(steps > static_cast<Quad>(1ull << 62) ? static_cast<Quad>(1ull << 62) : steps);
  Quad rest = steps - static_cast<Quad>(whole);
  bool up = mode == Mode::nearest ? rest > 0.5 || (rest == 0.5 && (whole & 1) != 0)
            : mode == Mode::up    ? !negative && rest > 0
            : mode == Mode::down  ? negative && rest > 0
                                  : false;
  whole += up ? 1 : 0;
  u64 bits;
  if (whole >= u64{2} << f.fraction_bits) {   // carried into the next exponent
    whole >>= 1;
    ++exponent;
  }
  if (exponent > f.max_exponent) {
    bool to_infinity = mode == Mode::nearest || (mode == Mode::up && !negative) || (mode == Mode::down && negative);
    bits = to_infinity ? infinity_of(f) : infinity_of(f) - 1;
  } else if (whole < u64{1} << f.fraction_bits) {   // subnormal: the exponent is the lowest
    bits = whole;
  } else {
    bits = (whole - (u64{1} << f.fraction_bits)) |
           static_cast<u64>(exponent - f.min_exponent + 1) << f.fraction_bits;
  }
  return bits | (negative ? sign_bit : 0);
}

// Any double or Quad, with the special cases of arithmetic results.
u64 store(const Format& f, Quad x, Mode mode = Mode::nearest, bool negative_zero = false) {
  double d = static_cast<double>(x);
  if (std::isnan(d)) return nan_of(f);
  if (x > static_cast<Quad>(std::numeric_limits<double>::max()) || std::isinf(d)) {
    if (x - x != 0) return infinity_of(f) | (x < 0 ? u64{1} << (f.width - 1) : 0);   // a true infinity
  }
  return round_to(f, x, mode, negative_zero);
}

// a + b in 113 bits, rounded to odd: the last bit says that something was lost, so that a tie or a
// directed rounding later is decided rightly.
Quad exact_sum(Quad a, Quad b) {
  Quad sum = a + b;
  Quad back = sum - a;   // Knuth's two-sum
  Quad lost = (a - (sum - back)) + (b - back);
  if (sum - sum != 0 || lost == 0 || sum == 0) return sum;
  unsigned __int128 bits;
  std::memcpy(&bits, &sum, sizeof bits);
  if ((bits & 1) == 0) bits = (lost > 0) == (sum > 0) ? bits + 1 : bits - 1;
  std::memcpy(&sum, &bits, sizeof bits);
  return sum;
}

float flush(float x) {
  return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x;
}
u32 flush_bits(u64 bits) { return bits_of(flush(as_float(bits))); }

// The sign of a zero result of a + b, a * b, by IEEE 754 (round to nearest).
bool sum_zero_negative(float a, float b, bool down) {
  if (std::signbit(a) == std::signbit(b)) return std::signbit(a);
  return down;
}

double half_value(u64 bits) { return static_cast<double>(f16_to_f32(static_cast<u16>(bits))); }
double bhalf_value(u64 bits) { return static_cast<double>(bf16_to_f32(static_cast<u16>(bits))); }

}  // namespace

TEST_CASE("f32 add, sub, mul in every rounding, with ftz and sat") {
  struct Operation {
    const char* name;
    char symbol;
  };
  struct Rounding {
    const char* name;
    Mode mode;
  };
  for (Operation o : {Operation{"add", '+'}, Operation{"sub", '-'}, Operation{"mul", '*'}}) {
    for (Rounding r : {Rounding{".rn", Mode::nearest}, Rounding{".rz", Mode::zero}, Rounding{".rm", Mode::down},
                       Rounding{".rp", Mode::up}, Rounding{"", Mode::nearest}}) {
      for (int variant = 0; variant < 3; ++variant) {
        bool ftz = variant == 1, sat = variant == 2;
        if (sat && r.mode != Mode::nearest) continue;
        std::string text = std::string(o.name) + r.name + (ftz ? ".ftz" : "") + (sat ? ".sat" : "") +
                           ".f32 %w0, %w1, %w2;";
        check_instruction({.text = text,
                           .expected =
                               [&](u64 ab, u64 bb, u64, u64) {
                                 float a = as_float(ab), b = as_float(bb);
                                 if (ftz) a = flush(a), b = flush(b);
                                 if (o.symbol == '-') b = -b;
                                 Quad exact = o.symbol == '*' ? static_cast<Quad>(a) * static_cast<Quad>(b)
                                                              : exact_sum(a, b);
                                 bool zero_sign = o.symbol == '*' ? std::signbit(a) != std::signbit(b)
                                                                  : sum_zero_negative(a, b, r.mode == Mode::down);
                                 u64 bits = store(kF32, exact, r.mode, zero_sign);
                                 if (ftz) bits = flush_bits(bits);
                                 if (sat) {
                                   float x = as_float(bits);
                                   bits = bits_of(std::isnan(x) || x <= 0 ? 0.0f : std::min(x, 1.0f));
                                 }
                                 return bits;
                               },
                           .interesting = floats32()});
      }
    }
  }
}

TEST_CASE("f32 fma, div, sqrt, rcp") {
  for (bool ftz : {false, true}) {
    std::string f = ftz ? ".ftz" : "";
    auto in = [&](u64 bits) { return ftz ? flush(as_float(bits)) : as_float(bits); };
    auto out = [&](u64 bits) { return ftz ? u64{flush_bits(bits)} : bits; };
    check_instruction({.text = "fma.rn" + f + ".f32 %w0, %w1, %w2, %w3;",
                       .expected =
                           [&](u64 a, u64 b, u64 c, u64) {
                             float x = in(a), y = in(b), z = in(c);
                             Quad exact = exact_sum(static_cast<Quad>(x) * static_cast<Quad>(y), z);
                             bool zero = sum_zero_negative(std::signbit(x) != std::signbit(y) ? -0.0f : 0.0f, z, false);
                             return out(store(kF32, exact, Mode::nearest, zero));
                           },
                       .interesting = floats32()});
    for (const char* kind : {".rn", ".full", ".approx"}) {
      check_instruction({.text = std::string("div") + kind + f + ".f32 %w0, %w1, %w2;",
                         .expected =
                             [&](u64 a, u64 b, u64, u64) {
                               float x = in(a), y = in(b);
                               bool negative = std::signbit(x) != std::signbit(y);
                               // Quotients of 24-bit numbers are never closer to a tie than 2^-50 relative.
                               Quad exact = static_cast<Quad>(x) / static_cast<Quad>(y);
                               return out(store(kF32, exact, Mode::nearest, negative));
                             },
                         .interesting = floats32()});
    }
    check_instruction({.text = "rcp.rn" + f + ".f32 %w0, %w1;",
                       .expected = [&](u64 a, u64, u64, u64) {
                         float x = in(a);
                         return out(store(kF32, static_cast<Quad>(1) / static_cast<Quad>(x), Mode::nearest, std::signbit(x)));
                       },
                       .interesting = floats32()});
    check_instruction({.text = "sqrt.rn" + f + ".f32 %w0, %w1;",
                       .expected = [&](u64 a, u64, u64, u64) {
                         float x = in(a);
                         if (x == 0.0f) return u64{bits_of(x)};
                         long double root = std::sqrt(static_cast<long double>(x));   // 64 bits: no double rounding
                         return store(kF32, static_cast<Quad>(root));
                       },
                       .interesting = floats32()});
  }
}

TEST_CASE("f32 min and max: NaN, zeros, three inputs") {
  auto number = [](u64 ab, u64 bb, bool maximum, bool nan_wins) -> u64 {
    float a = as_float(ab), b = as_float(bb);
    if (std::isnan(a) && std::isnan(b)) return 0x7fffffff;
    if (std::isnan(a) || std::isnan(b)) {
      return nan_wins ? 0x7fffffff : u64{static_cast<u32>(std::isnan(a) ? bb : ab)};
    }
    if (a == 0 && b == 0) {
      bool negative = maximum ? std::signbit(a) && std::signbit(b) : std::signbit(a) || std::signbit(b);
      return negative ? 0x80000000 : 0;
    }
    return static_cast<u32>((maximum ? a > b : a < b) ? ab : bb);
  };
  for (bool maximum : {false, true}) {
    std::string op = maximum ? "max" : "min";
    check_instruction({.text = op + ".f32 %w0, %w1, %w2;",
                       .expected = [&](u64 a, u64 b, u64, u64) { return number(a, b, maximum, false); },
                       .interesting = floats32()});
    check_instruction({.text = op + ".NaN.f32 %w0, %w1, %w2;",
                       .expected = [&](u64 a, u64 b, u64, u64) { return number(a, b, maximum, true); },
                       .interesting = floats32()});
    check_instruction({.text = op + ".ftz.f32 %w0, %w1, %w2;",
                       .expected = [&](u64 a, u64 b, u64, u64) { return number(flush_bits(a), flush_bits(b), maximum, false); },
                       .interesting = floats32()});
    check_instruction({.text = op + ".f32 %w0, %w1, %w2, %w3;",
                       .expected = [&](u64 a, u64 b, u64 c, u64) { return number(number(a, b, maximum, false), c, maximum, false); },
                       .interesting = floats32()});
  }
}

TEST_CASE("signs, tests and comparisons of floats") {
  check_instruction({.text = "abs.f32 %w0, %w1;", .expected = [](u64 a, u64, u64, u64) { return a & 0x7fffffff; }, .interesting = floats32()});
  check_instruction({.text = "neg.f32 %w0, %w1;", .expected = [](u64 a, u64, u64, u64) { return (a ^ 0x80000000) & 0xffffffff; }, .interesting = floats32()});
  check_instruction({.text = "neg.ftz.f32 %w0, %w1;", .expected = [](u64 a, u64, u64, u64) { return u64{flush_bits(a) ^ 0x80000000}; }, .interesting = floats32()});
  check_instruction({.text = "copysign.f32 %w0, %w1, %w2;",
                     .expected = [](u64 a, u64 b, u64, u64) { return (a & 0x80000000) | (b & 0x7fffffff); },
                     .interesting = floats32()});
  check_instruction({.text = "testp.subnormal.f32 %p0, %w1;",
                     .expected = [](u64 a, u64, u64, u64) { return u64{std::fpclassify(as_float(a)) == FP_SUBNORMAL}; },
                     .interesting = floats32()});
  check_instruction({.text = "testp.notanumber.f64 %p0, %d1;",
                     .expected = [](u64 a, u64, u64, u64) { return u64{std::isnan(as_double(a))}; },
                     .interesting = floats64()});
  struct Compare {
    const char* name;
    bool ordered_result, nan_result;
    int relation;   // bit 0: less, bit 1: equal, bit 2: greater
  };
  for (Compare c : {Compare{"eq", true, false, 2}, Compare{"ne", true, false, 5}, Compare{"lt", true, false, 1},
                    Compare{"le", true, false, 3}, Compare{"gt", true, false, 4}, Compare{"ge", true, false, 6},
                    Compare{"equ", true, true, 2}, Compare{"neu", true, true, 5}, Compare{"ltu", true, true, 1},
                    Compare{"leu", true, true, 3}, Compare{"gtu", true, true, 4}, Compare{"geu", true, true, 6},
                    Compare{"num", true, false, 7}, Compare{"nan", false, true, 0}}) {
    auto holds = [&](double a, double b) -> u64 {
      if (std::isnan(a) || std::isnan(b)) return c.nan_result;
      return (a < b ? c.relation & 1 : a == b ? c.relation >> 1 & 1 : c.relation >> 2 & 1) != 0;
    };
    std::string name = std::string("setp.") + c.name;
    check_instruction({.text = name + ".f32 %p0, %w1, %w2;",
                       .expected = [&](u64 a, u64 b, u64, u64) { return holds(as_float(a), as_float(b)); },
                       .interesting = floats32()});
    check_instruction({.text = name + ".ftz.f32 %p0, %w1, %w2;",
                       .expected = [&](u64 a, u64 b, u64, u64) { return holds(flush(as_float(a)), flush(as_float(b))); },
                       .interesting = floats32()});
    check_instruction({.text = name + ".and.f64 %p0, %d1, %d2, %p3;",
                       .expected = [&](u64 a, u64 b, u64 p, u64) { return holds(as_double(a), as_double(b)) & p & 1; },
                       .interesting = floats64()});
    check_instruction({.text = name + ".f16 %p0, %h1, %h2;",
                       .expected = [&](u64 a, u64 b, u64, u64) { return holds(half_value(a), half_value(b)); },
                       .interesting = halves()});
    check_instruction({.text = name + ".bf16 %p0, %h1, %h2;",
                       .expected = [&](u64 a, u64 b, u64, u64) { return holds(bhalf_value(a), bhalf_value(b)); },
                       .interesting = bhalves()});
  }
}

TEST_CASE("f64 arithmetic is the host's, with canonical NaNs") {
  auto canonical = [](double x) { return std::isnan(x) ? u64{0x7fffffffffffffff} : bits_of(x); };
  auto check = [&](const std::string& text, auto f) {
    check_instruction({.text = text,
                       .expected = [&](u64 a, u64 b, u64 c, u64) { return canonical(f(as_double(a), as_double(b), as_double(c))); },
                       .interesting = floats64()});
  };
  check("add.rn.f64 %d0, %d1, %d2;", [](double a, double b, double) { return a + b; });
  check("sub.rn.f64 %d0, %d1, %d2;", [](double a, double b, double) { return a - b; });
  check("mul.rn.f64 %d0, %d1, %d2;", [](double a, double b, double) { return a * b; });
  check("div.rn.f64 %d0, %d1, %d2;", [](double a, double b, double) { return a / b; });
  check("fma.rn.f64 %d0, %d1, %d2, %d3;", [](double a, double b, double c) { return std::fma(a, b, c); });
  check("sqrt.rn.f64 %d0, %d1;", [](double a, double, double) { return std::sqrt(a); });
  check("rcp.rn.f64 %d0, %d1;", [](double a, double, double) { return 1 / a; });
}

TEST_CASE("packed f32 pairs") {
  auto low = [](u64 x) { return as_float(x); };
  auto high = [](u64 x) { return as_float(x >> 32); };
  auto pair = [](float l, float h) {
    auto bits = [](float x) { return u64{std::isnan(x) ? 0x7fffffff : bits_of(x)}; };
    return bits(l) | bits(h) << 32;
  };
  std::vector<u64> values;
  for (u64 a : floats32()) values.push_back(a | (a * 0x9e3779b9) << 32);
  check_instruction({.text = "add.rn.f32x2 %d0, %d1, %d2;",
                     .expected = [&](u64 a, u64 b, u64, u64) { return pair(low(a) + low(b), high(a) + high(b)); },
                     .interesting = values});
  check_instruction({.text = "mul.rn.f32x2 %d0, %d1, %d2;",
                     .expected = [&](u64 a, u64 b, u64, u64) { return pair(low(a) * low(b), high(a) * high(b)); },
                     .interesting = values});
  check_instruction({.text = "fma.rn.f32x2 %d0, %d1, %d2, %d3;",
                     .expected = [&](u64 a, u64 b, u64 c, u64) {
                       return pair(std::fma(low(a), low(b), low(c)), std::fma(high(a), high(b), high(c)));
                     },
                     .interesting = values});
}

TEST_CASE("f16 and bf16 arithmetic rounds once") {
  struct Kind {
    const char* type;
    const Format* format;
    double (*load)(u64);
    std::vector<u64> values;
  };
  for (const Kind& k : {Kind{"f16", &kF16, half_value, halves()}, Kind{"bf16", &kBf16, bhalf_value, bhalves()}}) {
    std::string type = std::string(".") + k.type;
    auto sum = [&](u64 a, u64 b) {
      double x = k.load(a), y = k.load(b);
      bool zero = std::signbit(x) == std::signbit(y) && std::signbit(x);
      return store(*k.format, exact_sum(x, y), Mode::nearest, zero);
    };
    auto product = [&](u64 a, u64 b) {
      double x = k.load(a), y = k.load(b);
      return store(*k.format, static_cast<Quad>(x) * static_cast<Quad>(y), Mode::nearest,
                   std::signbit(x) != std::signbit(y));
    };
    auto fused = [&](u64 a, u64 b, u64 c) {
      double x = k.load(a), y = k.load(b), z = k.load(c);
      Quad exact = exact_sum(static_cast<Quad>(x) * static_cast<Quad>(y), z);
      bool product_sign = std::signbit(x) != std::signbit(y);
      return store(*k.format, exact, Mode::nearest, product_sign == std::signbit(z) && product_sign);
    };
    check_instruction({.text = "add.rn" + type + " %h0, %h1, %h2;",
                       .expected = [&](u64 a, u64 b, u64, u64) { return sum(a, b); }, .interesting = k.values});
    check_instruction({.text = "mul.rn" + type + " %h0, %h1, %h2;",
                       .expected = [&](u64 a, u64 b, u64, u64) { return product(a, b); }, .interesting = k.values});
    check_instruction({.text = "fma.rn" + type + " %h0, %h1, %h2, %h3;",
                       .expected = [&](u64 a, u64 b, u64 c, u64) { return fused(a, b, c); }, .interesting = k.values});
    check_instruction({.text = "fma.rn" + type + "x2 %w0, %w1, %w2, %w3;",
                       .expected = [&](u64 a, u64 b, u64 c, u64) { return fused(a, b, c) | fused(a >> 16, b >> 16, c >> 16) << 16; }});
    check_instruction({.text = "fma.rn.relu" + type + "x2 %w0, %w1, %w2, %w3;",
                       .expected = [&](u64 a, u64 b, u64 c, u64) {
                         auto relu = [](u64 x) { return (x & 0x8000) != 0 ? 0 : x; };
                         return relu(fused(a, b, c)) | relu(fused(a >> 16, b >> 16, c >> 16)) << 16;
                       }});
    check_instruction({.text = "sub.rn" + type + "x2 %w0, %w1, %w2;",
                       .expected = [&](u64 a, u64 b, u64, u64) {
                         return sum(a & 0xffff, (b ^ 0x8000) & 0xffff) | sum(a >> 16 & 0xffff, (b >> 16 ^ 0x8000) & 0xffff) << 16;
                       }});
    check_instruction({.text = "max" + type + "x2 %w0, %w1, %w2;", .expected = [&](u64 a, u64 b, u64, u64) {
                         auto one = [&](u64 x, u64 y) -> u64 {
                           x &= 0xffff, y &= 0xffff;
                           double p = k.load(x), q = k.load(y);
                           if (std::isnan(p) && std::isnan(q)) return 0x7fff;
                           if (std::isnan(p)) return y;
                           if (std::isnan(q)) return x;
                           if (p == 0 && q == 0) return x & y;   // +0 is above -0
                           return p > q ? x : y;
                         };
                         return one(a, b) | one(a >> 16, b >> 16) << 16;
                       }});
    check_instruction({.text = "neg" + type + "x2 %w0, %w1;",
                       .expected = [](u64 a, u64, u64, u64) { return (a ^ 0x80008000) & 0xffffffff; }});
  }
  auto flush_half = [](u64 x) { return (x & 0x7c00) == 0 ? x & 0x8000 : x & 0xffff; };
  check_instruction({.text = "mul.rn.ftz.f16 %h0, %h1, %h2;",
                     .expected = [&](u64 a, u64 b, u64, u64) {
                       double x = half_value(flush_half(a)), y = half_value(flush_half(b));
                       return flush_half(store(kF16, static_cast<Quad>(x) * static_cast<Quad>(y), Mode::nearest,
                                               std::signbit(x) != std::signbit(y)));
                     },
                     .interesting = halves()});
}

TEST_CASE("special functions are what numerics.h says") {
  struct Special {
    const char* name;
    float (*f)(float, bool);
  };
  for (Special s : {Special{"ex2", ex2_approx}, Special{"lg2", lg2_approx}, Special{"rcp", rcp_approx},
                    Special{"rsqrt", rsqrt_approx}, Special{"sqrt", sqrt_approx}}) {
    for (bool ftz : {false, true}) {
      check_instruction({.text = std::string(s.name) + ".approx" + (ftz ? ".ftz" : "") + ".f32 %w0, %w1;",
                         .expected = [&](u64 a, u64, u64, u64) {
                           float r = s.f(as_float(a), ftz);
                           return std::isnan(r) ? u64{0x7fffffff} : u64{bits_of(r)};
                         },
                         .interesting = floats32()});
    }
  }
  check_instruction({.text = "ex2.approx.f16x2 %w0, %w1;", .expected = [](u64 a, u64, u64, u64) {
                       auto one = [](u64 x) {
                         double v = std::exp2(half_value(x));
                         return store(kF16, static_cast<Quad>(v));
                       };
                       return one(a) | one(a >> 16) << 16;
                     }});
}

TEST_CASE("conversions between integers") {
  check_instruction({.text = "cvt.u64.u32 %d0, %w1;", .expected = [](u64 a, u64, u64, u64) { return a & 0xffffffff; }});
  check_instruction({.text = "cvt.s64.s32 %d0, %w1;", .expected = [](u64 a, u64, u64, u64) { return static_cast<u64>(s64{static_cast<s32>(a)}); }});
  check_instruction({.text = "cvt.u32.u64 %w0, %d1;", .expected = [](u64 a, u64, u64, u64) { return a & 0xffffffff; }});
  check_instruction({.text = "cvt.u16.u32 %h0, %w1;", .expected = [](u64 a, u64, u64, u64) { return a & 0xffff; }});
  check_instruction({.text = "cvt.s32.s16 %w0, %h1;", .expected = [](u64 a, u64, u64, u64) { return u64{static_cast<u32>(s32{static_cast<s16>(a)})}; }});
  check_instruction({.text = "cvt.s32.s8 %w0, %w1;", .expected = [](u64 a, u64, u64, u64) { return u64{static_cast<u32>(s32{static_cast<std::int8_t>(a)})}; }});
  check_instruction({.text = "cvt.u32.u8 %w0, %h1;", .expected = [](u64 a, u64, u64, u64) { return a & 0xff; }});
  check_instruction({.text = "cvt.u8.u32 %h0, %w1;", .expected = [](u64 a, u64, u64, u64) { return a & 0xff; }});
  check_instruction({.text = "cvt.s8.s32 %w0, %w1;", .expected = [](u64 a, u64, u64, u64) { return u64{static_cast<u32>(s32{static_cast<std::int8_t>(a)})}; }});
  check_instruction({.text = "cvt.sat.s8.s32 %w0, %w1;",
                     .expected = [](u64 a, u64, u64, u64) { return u64{static_cast<u32>(std::clamp(static_cast<s32>(a), -128, 127))}; },
                     .interesting = integers()});
  check_instruction({.text = "cvt.sat.u8.s32 %w0, %w1;",
                     .expected = [](u64 a, u64, u64, u64) { return static_cast<u64>(std::clamp(static_cast<s32>(a), 0, 255)); },
                     .interesting = integers()});
  check_instruction({.text = "cvt.sat.u32.s64 %w0, %d1;",
                     .expected = [](u64 a, u64, u64, u64) { return static_cast<u64>(std::clamp<s64>(static_cast<s64>(a), 0, 0xffffffff)); },
                     .interesting = integers()});
}

TEST_CASE("conversions between floats and integers") {
  struct Round {
    const char* name;
    double (*f)(double);
  };
  std::vector<u64> near = floats32();
  for (float x : {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 0.49999997f, 127.5f, 128.5f, -128.5f, 254.5f, 255.5f, 65535.5f}) {
    near.push_back(bits_of(x));
  }
  for (Round r : {Round{"rni", [](double x) { return std::nearbyint(x); }}, Round{"rzi", [](double x) { return std::trunc(x); }},
                  Round{"rmi", [](double x) { return std::floor(x); }}, Round{"rpi", [](double x) { return std::ceil(x); }}}) {
    struct Target {
      const char* type;
      double low, high;
      char reg;
      int bits;
    };
    for (Target t : {Target{"s32", -2147483648.0, 2147483647.0, 'w', 32}, Target{"u32", 0, 4294967295.0, 'w', 32},
                     Target{"s8", -128, 127, 'w', 32}, Target{"u8", 0, 255, 'w', 32}, Target{"s16", -32768, 32767, 'h', 16}}) {
      check_instruction({.text = std::string("cvt.") + r.name + "." + t.type + ".f32 %" + t.reg + "0, %w1;",
                         .expected =
                             [&](u64 a, u64, u64, u64) {
                               double x = as_float(a);
                               if (std::isnan(x)) return u64{0};
                               s64 value = static_cast<s64>(std::clamp(r.f(x), t.low, t.high));
                               return static_cast<u64>(value) & ((u64{1} << t.bits) - 1);
                             },
                         .interesting = near});
    }
    check_instruction({.text = std::string("cvt.") + r.name + ".f32.f32 %w0, %w1;",
                       .expected =
                           [&](u64 a, u64, u64, u64) {
                             float x = as_float(a);
                             if (std::isnan(x)) return u64{0x7fffffff};
                             return u64{bits_of(static_cast<float>(r.f(x)))};
                           },
                       .interesting = near});
    check_instruction({.text = std::string("cvt.") + r.name + ".s64.f64 %d0, %d1;",
                       .expected =
                           [&](u64 a, u64, u64, u64) {
                             double x = r.f(as_double(a));
                             if (std::isnan(x)) return u64{1} << 63;
                             if (x >= 9223372036854775808.0) return u64{0x7fffffffffffffff};
                             if (x <= -9223372036854775808.0) return u64{1} << 63;
                             return static_cast<u64>(static_cast<s64>(x));
                           },
                       .interesting = floats64()});
  }
  struct Rounding {
    const char* name;
    Mode mode;
  };
  for (Rounding r : {Rounding{"rn", Mode::nearest}, Rounding{"rz", Mode::zero}, Rounding{"rm", Mode::down}, Rounding{"rp", Mode::up}}) {
    std::string cvt = std::string("cvt.") + r.name;
    check_instruction({.text = cvt + ".f32.s32 %w0, %w1;",
                       .expected = [&](u64 a, u64, u64, u64) { return store(kF32, static_cast<Quad>(static_cast<s32>(a)), r.mode); },
                       .interesting = integers()});
    check_instruction({.text = cvt + ".f32.u64 %w0, %d1;",
                       .expected = [&](u64 a, u64, u64, u64) { return store(kF32, static_cast<Quad>(a), r.mode); },
                       .interesting = integers()});
    check_instruction({.text = cvt + ".f16.s32 %h0, %w1;",
                       .expected = [&](u64 a, u64, u64, u64) { return store(kF16, static_cast<Quad>(static_cast<s32>(a)), r.mode); },
                       .interesting = integers()});
    check_instruction({.text = cvt + ".f32.s8 %w0, %w1;",
                       .expected = [&](u64 a, u64, u64, u64) { return store(kF32, static_cast<Quad>(static_cast<std::int8_t>(a)), r.mode); },
                       .interesting = integers()});
  }
}

TEST_CASE("conversions between floats") {
  struct Rounding {
    const char* name;
    Mode mode;
  };
  for (Rounding r : {Rounding{"rn", Mode::nearest}, Rounding{"rz", Mode::zero}, Rounding{"rm", Mode::down}, Rounding{"rp", Mode::up}}) {
    std::string cvt = std::string("cvt.") + r.name;
    auto from_f32 = [&](const Format& f, u64 a) {
      float x = as_float(a);
      return store(f, static_cast<Quad>(x), r.mode, std::signbit(x));
    };
    check_instruction({.text = cvt + ".f16.f32 %h0, %w1;", .expected = [&](u64 a, u64, u64, u64) { return from_f32(kF16, a); }, .interesting = floats32()});
    check_instruction({.text = cvt + ".bf16.f32 %h0, %w1;", .expected = [&](u64 a, u64, u64, u64) { return from_f32(kBf16, a); }, .interesting = floats32()});
    check_instruction({.text = cvt + ".f32.f64 %w0, %d1;",
                       .expected = [&](u64 a, u64, u64, u64) {
                         double x = as_double(a);
                         return store(kF32, static_cast<Quad>(x), r.mode, std::signbit(x));
                       },
                       .interesting = floats64()});
  }
  check_instruction({.text = "cvt.rn.f16x2.f32 %w0, %w1, %w2;",
                     .expected = [](u64 a, u64 b, u64, u64) {
                       auto one = [](u64 x) { return store(kF16, static_cast<Quad>(as_float(x)), Mode::nearest, std::signbit(as_float(x))); };
                       return one(b) | one(a) << 16;
                     },
                     .interesting = floats32()});
  check_instruction({.text = "cvt.rn.relu.bf16x2.f32 %w0, %w1, %w2;",
                     .expected = [](u64 a, u64 b, u64, u64) {
                       auto one = [](u64 x) -> u64 {
                         float v = as_float(x);
                         if (!std::isnan(v) && std::signbit(v)) return 0;
                         return store(kBf16, static_cast<Quad>(v));
                       };
                       return one(b) | one(a) << 16;
                     },
                     .interesting = floats32()});
  check_instruction({.text = "cvt.f32.f16 %w0, %h1;",
                     .expected = [](u64 a, u64, u64, u64) {
                       float x = static_cast<float>(half_value(a));
                       return std::isnan(x) ? u64{0x7fffffff} : u64{bits_of(x)};
                     },
                     .interesting = halves()});
  check_instruction({.text = "cvt.f64.f32 %d0, %w1;", .expected = [](u64 a, u64, u64, u64) {
                       u64 bits = a & 0x007fffff & ((a & 0x7f800000) == 0x7f800000 ? 0 : ~u64{0}) | (a & 0xff800000);
                       return bits_of(static_cast<double>(as_float(bits)));   // NaNs tested elsewhere
                     },
                     .interesting = {0, 1, 0x3f800000, 0x80000001, 0x7f800000}, .random_bits = false});
  check_instruction({.text = "cvt.sat.f32.f32 %w0, %w1;",
                     .expected = [](u64 a, u64, u64, u64) {
                       float x = as_float(a);
                       return u64{bits_of(std::isnan(x) || x <= 0 ? 0.0f : std::min(x, 1.0f))};
                     },
                     .interesting = floats32()});
  check_instruction({.text = "cvt.rna.tf32.f32 %w0, %w1;",
                     .expected = [](u64 a, u64, u64, u64) -> u64 {
                       float x = as_float(a);
                       if (std::isnan(x)) return 0x7fffffff;
                       if (std::isinf(x)) return static_cast<u32>(a);
                       u64 magnitude = a & 0x7fffffff, kept = magnitude / 0x2000 * 0x2000;
                       if (magnitude - kept >= 0x1000) kept += 0x2000;
                       return kept | (a & 0x80000000);
                     },
                     .interesting = floats32()});
}

TEST_CASE("conversions to and from 8-bit floats") {
  // e4m3 by search: the nearest of all finite codes, ties to the even code.
  auto nearest = [](float (*value)(std::uint8_t), int codes, float x) -> u64 {
    if (std::isnan(x)) return 0x7f;
    float magnitude = std::fabs(x);
    int best = 0;
    for (int code = 1; code < codes; ++code) {
      double here = std::fabs(static_cast<double>(magnitude) - value(static_cast<std::uint8_t>(code)));
      double before = std::fabs(static_cast<double>(magnitude) - value(static_cast<std::uint8_t>(best)));
      if (here < before || (here == before && code % 2 == 0)) best = code;
    }
    if (magnitude > value(static_cast<std::uint8_t>(codes - 1))) best = codes - 1;   // and infinity
    return static_cast<u64>(best) | (std::signbit(x) ? 0x80 : 0);
  };
  auto e4m3 = [&](float x) { return nearest(e4m3_to_f32, 0x7f, x); };
  auto e5m2 = [&](float x) { return nearest(e5m2_to_f32, 0x7c, x); };
  std::vector<u64> values = floats32();
  for (float x : {448.0f, 449.0f, 464.0f, 480.0f, -500.0f, 0.001953125f, 0.0009765625f, 0.00097656256f, 17.0f, 18.0f, 19.0f, 57344.0f, 61440.0f}) {
    values.push_back(bits_of(x));
  }
  for (bool relu : {false, true}) {
    std::string r = relu ? ".relu" : "";
    auto in = [&](float x) { return relu && !std::isnan(x) && std::signbit(x) ? 0.0f : x; };
    check_instruction({.text = "cvt.rn.satfinite" + r + ".e4m3x2.f32 %h0, %w1, %w2;",
                       .expected = [&](u64 a, u64 b, u64, u64) { return e4m3(in(as_float(b))) | e4m3(in(as_float(a))) << 8; },
                       .interesting = values});
    check_instruction({.text = "cvt.rn.satfinite" + r + ".e5m2x2.f32 %h0, %w1, %w2;",
                       .expected = [&](u64 a, u64 b, u64, u64) { return e5m2(in(as_float(b))) | e5m2(in(as_float(a))) << 8; },
                       .interesting = values});
    check_instruction({.text = "cvt.rn.satfinite" + r + ".e4m3x2.f16x2 %h0, %w1;", .expected = [&](u64 a, u64, u64, u64) {
                         return e4m3(in(f16_to_f32(static_cast<u16>(a)))) | e4m3(in(f16_to_f32(static_cast<u16>(a >> 16)))) << 8;
                       }});
  }
  check_instruction({.text = "cvt.rn.f16x2.e4m3x2 %w0, %h1;", .expected = [](u64 a, u64, u64, u64) {
                       auto one = [](u64 x) { return store(kF16, static_cast<Quad>(e4m3_to_f32(static_cast<std::uint8_t>(x))), Mode::nearest, (x & 0x80) != 0); };
                       return one(a & 0xff) | one(a >> 8 & 0xff) << 16;
                     }});
}

}  // namespace sagegen::emulator::test
