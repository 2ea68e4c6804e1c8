// Floating-point instructions against references that go through exact or wider arithmetic and round
// by definition.

#include <catch2/catch.hpp>

#include <cfenv>
#include <cmath>
#include <limits>

#include "tests/emulator/float_reference.h"

namespace sagegen::emulator::test {
TEST_CASE("f32 add, sub, mul in every rounding, with ftz and sat") {
  struct Operation {
    const char* name;
    char symbol;
  };
  for (Operation o : {Operation{"add", '+'}, Operation{"sub", '-'}, Operation{"mul", '*'}}) {
    std::vector<Rounding> roundings(std::begin(kRoundings), std::end(kRoundings));
    roundings.push_back({"", Mode::nearest});
    for (const Rounding& r : roundings) {
      for (int variant = 0; variant < 4; ++variant) {
        bool ftz = variant % 2 == 1, sat = variant >= 2;
        std::string text = std::string(o.name) + r.name + (ftz ? ".ftz" : "") +
                           (sat ? ".sat" : "") + ".f32 %w0, %w1, %w2;";
        check_instruction(
            {.text = text,
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
    for (const char* op : {"fma", "mad"}) {
      for (const Rounding& r : kRoundings) {
        check_instruction(
            {.text = std::string(op) + r.name + f + ".f32 %w0, %w1, %w2, %w3;",
             .expected =
                 [&](u64 a, u64 b, u64 c, u64) {
                   float x = in(a), y = in(b), z = in(c);
                   Quad exact = exact_sum(static_cast<Quad>(x) * static_cast<Quad>(y), z);
                   bool zero = sum_zero_negative(std::signbit(x) != std::signbit(y) ? -0.0f : 0.0f,
                                                 z, r.mode == Mode::down);
                   return out(store(kF32, exact, r.mode, zero));
                 },
             .interesting = floats32()});
      }
    }
    std::vector<u64> divisors = floats32();
    for (float x : {0x1p126f, 0x1.000002p126f, 0x1p127f, -0x1.8p127f}) {
      divisors.push_back(bits_of(x));
    }
    for (const char* kind : {".rn", ".full", ".approx", ".rz", ".rm", ".rp"}) {
      Mode mode = Mode::nearest;
      for (const Rounding& r : kRoundings) {
        if (std::string(r.name) == kind) mode = r.mode;
      }
      const bool approx = std::string(kind) == ".approx";
      check_instruction({.text = std::string("div") + kind + f + ".f32 %w0, %w1, %w2;",
                         .expected =
                             [&](u64 a, u64 b, u64, u64) {
                               float x = in(a), y = in(b);
                               bool negative = std::signbit(x) != std::signbit(y);
                               // PTX ISA, div: for 2^126 < |b| < 2^128 an infinity gives NaN, others 0.
                               if (approx && std::isfinite(y) && std::fabs(y) > 0x1p126f) {
                                 return std::isfinite(x) ? u64{negative} << 31 : u64{0x7fffffff};
                               }
                               // Quotients of 24-bit numbers are never closer to a tie than 2^-50 relative.
                               Quad exact = static_cast<Quad>(x) / static_cast<Quad>(y);
                               return out(store(kF32, exact, mode, negative));
                             },
                         .interesting = divisors});
    }
    for (const Rounding& r : kRoundings) {
      check_instruction({.text = std::string("rcp") + r.name + f + ".f32 %w0, %w1;",
                         .expected =
                             [&](u64 a, u64, u64, u64) {
                               float x = in(a);
                               return out(store(kF32, static_cast<Quad>(1) / static_cast<Quad>(x),
                                                r.mode, std::signbit(x)));
                             },
                         .interesting = floats32()});
    }
    check_instruction({.text = "sqrt.rn" + f + ".f32 %w0, %w1;",
                       .expected =
                           [&](u64 a, u64, u64, u64) {
                             float x = in(a);
                             if (x == 0.0f) return u64{bits_of(x)};
                             long double root = std::sqrt(
                                 static_cast<long double>(x));  // 64 bits: no double rounding
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
      bool negative =
          maximum ? std::signbit(a) && std::signbit(b) : std::signbit(a) || std::signbit(b);
      return negative ? 0x80000000 : 0;
    }
    return static_cast<u32>((maximum ? a > b : a < b) ? ab : bb);
  };
  for (bool maximum : {false, true}) {
    std::string op = maximum ? "max" : "min";
    check_instruction(
        {.text = op + ".f32 %w0, %w1, %w2;",
         .expected = [&](u64 a, u64 b, u64, u64) { return number(a, b, maximum, false); },
         .interesting = floats32()});
    check_instruction(
        {.text = op + ".NaN.f32 %w0, %w1, %w2;",
         .expected = [&](u64 a, u64 b, u64, u64) { return number(a, b, maximum, true); },
         .interesting = floats32()});
    check_instruction(
        {.text = op + ".ftz.f32 %w0, %w1, %w2;",
         .expected = [&](u64 a, u64 b, u64,
                         u64) { return number(flush_bits(a), flush_bits(b), maximum, false); },
         .interesting = floats32()});
    check_instruction(
        {.text = op + ".f32 %w0, %w1, %w2, %w3;",
         .expected = [&](u64 a, u64 b, u64 c,
                         u64) { return number(number(a, b, maximum, false), c, maximum, false); },
         .interesting = floats32()});
  }
}

TEST_CASE("signs, tests and comparisons of floats") {
  check_instruction({.text = "abs.f32 %w0, %w1;",
                     .expected = [](u64 a, u64, u64, u64) { return a & 0x7fffffff; },
                     .interesting = floats32()});
  check_instruction({.text = "neg.f32 %w0, %w1;",
                     .expected = [](u64 a, u64, u64, u64) { return (a ^ 0x80000000) & 0xffffffff; },
                     .interesting = floats32()});
  check_instruction(
      {.text = "neg.ftz.f32 %w0, %w1;",
       .expected = [](u64 a, u64, u64, u64) { return u64{flush_bits(a) ^ 0x80000000}; },
       .interesting = floats32()});
  check_instruction(
      {.text = "copysign.f32 %w0, %w1, %w2;",
       .expected = [](u64 a, u64 b, u64, u64) { return (a & 0x80000000) | (b & 0x7fffffff); },
       .interesting = floats32()});
  check_instruction(
      {.text = "testp.subnormal.f32 %p0, %w1;",
       .expected = [](u64 a, u64, u64,
                      u64) { return u64{std::fpclassify(as_float(a)) == FP_SUBNORMAL}; },
       .interesting = floats32()});
  check_instruction({.text = "testp.notanumber.f64 %p0, %d1;",
                     .expected = [](u64 a, u64, u64, u64) { return u64{std::isnan(as_double(a))}; },
                     .interesting = floats64()});
  struct Compare {
    const char* name;
    bool ordered_result, nan_result;
    int relation;  // bit 0: less, bit 1: equal, bit 2: greater
  };
  for (Compare c :
       {Compare{"eq", true, false, 2}, Compare{"ne", true, false, 5}, Compare{"lt", true, false, 1},
        Compare{"le", true, false, 3}, Compare{"gt", true, false, 4}, Compare{"ge", true, false, 6},
        Compare{"equ", true, true, 2}, Compare{"neu", true, true, 5}, Compare{"ltu", true, true, 1},
        Compare{"leu", true, true, 3}, Compare{"gtu", true, true, 4}, Compare{"geu", true, true, 6},
        Compare{"num", true, false, 7}, Compare{"nan", false, true, 0}}) {
    auto holds = [&](double a, double b) -> u64 {
      if (std::isnan(a) || std::isnan(b)) return c.nan_result;
      return (a < b ? c.relation & 1 : a == b ? c.relation >> 1 & 1 : c.relation >> 2 & 1) != 0;
    };
    std::string name = std::string("setp.") + c.name;
    check_instruction(
        {.text = name + ".f32 %p0, %w1, %w2;",
         .expected = [&](u64 a, u64 b, u64, u64) { return holds(as_float(a), as_float(b)); },
         .interesting = floats32()});
    check_instruction(
        {.text = name + ".ftz.f32 %p0, %w1, %w2;",
         .expected = [&](u64 a, u64 b, u64,
                         u64) { return holds(flush(as_float(a)), flush(as_float(b))); },
         .interesting = floats32()});
    check_instruction({.text = name + ".and.f64 %p0, %d1, %d2, %p3;",
                       .expected = [&](u64 a, u64 b, u64 p,
                                       u64) { return holds(as_double(a), as_double(b)) & p & 1; },
                       .interesting = floats64()});
    check_instruction(
        {.text = name + ".f16 %p0, %h1, %h2;",
         .expected = [&](u64 a, u64 b, u64, u64) { return holds(half_value(a), half_value(b)); },
         .interesting = halves()});
    check_instruction(
        {.text = name + ".bf16 %p0, %h1, %h2;",
         .expected = [&](u64 a, u64 b, u64, u64) { return holds(bhalf_value(a), bhalf_value(b)); },
         .interesting = bhalves()});
  }
}

TEST_CASE("f64 arithmetic is the host's, with canonical NaNs") {
  auto canonical = [](double x) { return std::isnan(x) ? u64{0x7fffffffffffffff} : bits_of(x); };
  auto check = [&](const std::string& text, auto f) {
    check_instruction(
        {.text = text,
         .expected = [&](u64 a, u64 b, u64 c,
                         u64) { return canonical(f(as_double(a), as_double(b), as_double(c))); },
         .interesting = floats64()});
  };
  check("add.rn.f64 %d0, %d1, %d2;", [](double a, double b, double) { return a + b; });
  check("sub.rn.f64 %d0, %d1, %d2;", [](double a, double b, double) { return a - b; });
  check("mul.rn.f64 %d0, %d1, %d2;", [](double a, double b, double) { return a * b; });
  check("div.rn.f64 %d0, %d1, %d2;", [](double a, double b, double) { return a / b; });
  check("fma.rn.f64 %d0, %d1, %d2, %d3;",
        [](double a, double b, double c) { return std::fma(a, b, c); });
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
  check_instruction(
      {.text = "add.rn.f32x2 %d0, %d1, %d2;",
       .expected = [&](u64 a, u64 b, u64, u64) { return pair(low(a) + low(b), high(a) + high(b)); },
       .interesting = values});
  check_instruction(
      {.text = "mul.rn.f32x2 %d0, %d1, %d2;",
       .expected = [&](u64 a, u64 b, u64, u64) { return pair(low(a) * low(b), high(a) * high(b)); },
       .interesting = values});
  check_instruction({.text = "fma.rn.f32x2 %d0, %d1, %d2, %d3;",
                     .expected =
                         [&](u64 a, u64 b, u64 c, u64) {
                           return pair(std::fma(low(a), low(b), low(c)),
                                       std::fma(high(a), high(b), high(c)));
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
  for (const Kind& k :
       {Kind{"f16", &kF16, half_value, halves()}, Kind{"bf16", &kBf16, bhalf_value, bhalves()}}) {
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
      return store(*k.format, exact, Mode::nearest,
                   product_sign == std::signbit(z) && product_sign);
    };
    check_instruction({.text = "add.rn" + type + " %h0, %h1, %h2;",
                       .expected = [&](u64 a, u64 b, u64, u64) { return sum(a, b); },
                       .interesting = k.values});
    check_instruction({.text = "mul.rn" + type + " %h0, %h1, %h2;",
                       .expected = [&](u64 a, u64 b, u64, u64) { return product(a, b); },
                       .interesting = k.values});
    check_instruction({.text = "fma.rn" + type + " %h0, %h1, %h2, %h3;",
                       .expected = [&](u64 a, u64 b, u64 c, u64) { return fused(a, b, c); },
                       .interesting = k.values});
    check_instruction({.text = "fma.rn" + type + "x2 %w0, %w1, %w2, %w3;",
                       .expected = [&](u64 a, u64 b, u64 c, u64) {
                         return fused(a, b, c) | fused(a >> 16, b >> 16, c >> 16) << 16;
                       }});
    check_instruction({.text = "fma.rn.relu" + type + "x2 %w0, %w1, %w2, %w3;",
                       .expected = [&](u64 a, u64 b, u64 c, u64) {
                         auto relu = [](u64 x) { return (x & 0x8000) != 0 ? 0 : x; };
                         return relu(fused(a, b, c)) | relu(fused(a >> 16, b >> 16, c >> 16)) << 16;
                       }});
    check_instruction(
        {.text = "sub.rn" + type + "x2 %w0, %w1, %w2;", .expected = [&](u64 a, u64 b, u64, u64) {
           return sum(a & 0xffff, (b ^ 0x8000) & 0xffff) |
                  sum(a >> 16 & 0xffff, (b >> 16 ^ 0x8000) & 0xffff) << 16;
         }});
    check_instruction(
        {.text = "max" + type + "x2 %w0, %w1, %w2;", .expected = [&](u64 a, u64 b, u64, u64) {
           auto one = [&](u64 x, u64 y) -> u64 {
             x &= 0xffff, y &= 0xffff;
             double p = k.load(x), q = k.load(y);
             if (std::isnan(p) && std::isnan(q)) return 0x7fff;
             if (std::isnan(p)) return y;
             if (std::isnan(q)) return x;
             if (p == 0 && q == 0) return x & y;  // +0 is above -0
             return p > q ? x : y;
           };
           return one(a, b) | one(a >> 16, b >> 16) << 16;
         }});
    check_instruction({.text = "neg" + type + "x2 %w0, %w1;", .expected = [](u64 a, u64, u64, u64) {
                         return (a ^ 0x80008000) & 0xffffffff;
                       }});
  }
  auto flush_half = [](u64 x) { return (x & 0x7c00) == 0 ? x & 0x8000 : x & 0xffff; };
  check_instruction({.text = "mul.rn.ftz.f16 %h0, %h1, %h2;",
                     .expected =
                         [&](u64 a, u64 b, u64, u64) {
                           double x = half_value(flush_half(a)), y = half_value(flush_half(b));
                           return flush_half(
                               store(kF16, static_cast<Quad>(x) * static_cast<Quad>(y),
                                     Mode::nearest, std::signbit(x) != std::signbit(y)));
                         },
                     .interesting = halves()});
}

// PTX ISA, mixed precision instructions: an f32 result of f16 or bf16 operands and an f32 as the last.
TEST_CASE("f32 add, sub and fma of f16 and bf16 operands round once, to f32") {
  struct Kind {
    const char* type;
    double (*load)(u64);
    std::vector<u64> values;
  };
  for (Kind k : {Kind{"f16", half_value, halves()}, Kind{"bf16", bhalf_value, bhalves()}}) {
    INFO(k.type);
    for (u64 bits : floats32()) k.values.push_back(bits);
    const auto sum = [](Quad x, double z, bool x_negative) {
      return store(kF32, exact_sum(x, z), Mode::nearest, x_negative && std::signbit(z));
    };
    for (const char* rounding : {"", ".rn"}) {
      for (bool subtract : {false, true}) {
        check_instruction({.text = std::string(subtract ? "sub" : "add") + rounding + ".f32." +
                                   k.type + " %w0, %h1, %w2;",
                           .expected =
                               [&](u64 a, u64 b, u64, u64) {
                                 const double x = k.load(a), z = value_of(kF32, b);
                                 return sum(x, subtract ? -z : z, std::signbit(x));
                               },
                           .interesting = k.values});
      }
    }
    check_instruction({.text = std::string("fma.rn.f32.") + k.type + " %w0, %h1, %h2, %w3;",
                       .expected =
                           [&](u64 a, u64 b, u64 c, u64) {
                             const double x = k.load(a), y = k.load(b);
                             return sum(static_cast<Quad>(x) * static_cast<Quad>(y),
                                        value_of(kF32, c), std::signbit(x) != std::signbit(y));
                           },
                       .interesting = k.values});
  }
}

TEST_CASE("special functions are what numerics.h says") {
  struct Special {
    const char* name;
    float (*f)(float, bool);
  };
  for (Special s :
       {Special{"ex2", ex2_approx}, Special{"lg2", lg2_approx}, Special{"rcp", rcp_approx},
        Special{"rsqrt", rsqrt_approx}, Special{"sqrt", sqrt_approx}}) {
    for (bool ftz : {false, true}) {
      check_instruction(
          {.text = std::string(s.name) + ".approx" + (ftz ? ".ftz" : "") + ".f32 %w0, %w1;",
           .expected =
               [&](u64 a, u64, u64, u64) {
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

}  // namespace sagegen::emulator::test
