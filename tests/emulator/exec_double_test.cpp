// Doubles in every rounding, and the approximations of sin, cos, tanh and of roots and reciprocals of f64.

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <cmath>

#include "tests/emulator/float_reference.h"

namespace sagegen::emulator::test {
namespace {

constexpr Format kF64 = {52, -1022, 1023, 64};
constexpr Format kUpperHalf = {20, -1022, 1023, 32};  // of an f64

double flush_wide(double x) { return std::fabs(x) < 0x1p-1022 ? std::copysign(0.0, x) : x; }

}  // namespace

TEST_CASE("f64 arithmetic in every rounding") {
  for (const Rounding& r : kRoundings) {
    auto check = [&](const std::string& text, auto exact, auto zero_sign) {
      check_instruction({.text = fmt::format(fmt::runtime(text), r.name),
                         .expected =
                             [&](u64 ab, u64 bb, u64 cb, u64) {
                               const double a = as_double(ab), b = as_double(bb), c = as_double(cb);
                               return store(kF64, exact(a, b, c), r.mode, zero_sign(a, b, c));
                             },
                         .interesting = floats64()});
    };
    const bool down = r.mode == Mode::down;
    auto sign_of_sum = [down](double a, double b) {
      return std::signbit(a) == std::signbit(b) ? std::signbit(a) : down;
    };
    auto product_sign = [](double a, double b) { return std::signbit(a) != std::signbit(b); };
    check(
        "add{}.f64 %d0, %d1, %d2;", [](Quad a, Quad b, Quad) { return exact_sum(a, b); },
        [&](double a, double b, double) { return sign_of_sum(a, b); });
    check(
        "sub{}.f64 %d0, %d1, %d2;", [](Quad a, Quad b, Quad) { return exact_sum(a, -b); },
        [&](double a, double b, double) { return sign_of_sum(a, -b); });
    check(
        "mul{}.f64 %d0, %d1, %d2;", [](Quad a, Quad b, Quad) { return a * b; },
        [&](double a, double b, double) { return product_sign(a, b); });
    check(
        "div{}.f64 %d0, %d1, %d2;", [](Quad a, Quad b, Quad) { return a / b; },
        [&](double a, double b, double) { return product_sign(a, b); });
    check(
        "rcp{}.f64 %d0, %d1;", [](Quad a, Quad, Quad) { return 1 / a; },
        [](double a, double, double) { return std::signbit(a); });
    for (const char* op : {"fma", "mad"}) {
      check(
          std::string(op) + "{}.f64 %d0, %d1, %d2, %d3;",
          [](Quad a, Quad b, Quad c) { return exact_sum(a * b, c); },
          [&](double a, double b, double c) {
            return sign_of_sum(product_sign(a, b) ? -0.0 : 0.0, c);
          });
    }
    // The root's neighbour on the wanted side, by squaring exactly.
    check_instruction({.text = std::string("sqrt") + r.name + ".f64 %d0, %d1;",
                       .expected =
                           [&](u64 ab, u64, u64, u64) {
                             const double a = as_double(ab);
                             double root = std::sqrt(a);
                             if (std::isnan(root)) return u64{0x7fffffffffffffff};
                             if (root == 0 || std::isinf(root)) return bits_of(root);
                             const Quad square = static_cast<Quad>(root) * static_cast<Quad>(root);
                             if (r.mode == Mode::up && square < a)
                               root = std::nextafter(root, INFINITY);
                             if ((r.mode == Mode::down || r.mode == Mode::zero) && square > a) {
                               root = std::nextafter(root, 0.0);
                             }
                             return bits_of(root);
                           },
                       .interesting = floats64()});
  }
}

TEST_CASE("sin, cos and tanh are the nearest f32 of the exact value") {
  auto check = [](const std::string& name, long double (*f)(long double), bool ftz) {
    std::vector<u64> values = floats32();
    for (float x : {1.0f, 3.1415927f, -6.2831855f, 100.0f, 314.15927f, 1e-3f, 9.5f, -20.0f}) {
      values.push_back(bits_of(x));
    }
    const bool odd = name != "cos";
    check_instruction({.text = name + ".approx" + (ftz ? ".ftz" : "") + ".f32 %w0, %w1;",
                       .expected =
                           [&](u64 a, u64, u64, u64) {
                             const float x = ftz ? flush(as_float(a)) : as_float(a);
                             if (std::isnan(x)) return u64{0x7fffffff};
                             const bool negative = odd && std::signbit(x);
                             const u64 bits =
                                 store(kF32, static_cast<Quad>(f(x)), Mode::nearest, negative);
                             return ftz ? u64{flush_bits(bits)} : bits;
                           },
                       .interesting = values});
  };
  for (const bool ftz : {false, true}) {
    check(
        "sin", [](long double x) { return std::sin(x); }, ftz);
    check(
        "cos", [](long double x) { return std::cos(x); }, ftz);
  }
  check(
      "tanh", [](long double x) { return std::tanh(x); }, false);
  auto half = [](const Format& f, double x, u64 bits) {
    return store(f, static_cast<Quad>(std::tanh(static_cast<long double>(x))), Mode::nearest,
                 (bits & 0x8000) != 0);
  };
  check_instruction({.text = "tanh.approx.f16 %h0, %h1;",
                     .expected = [&](u64 a, u64, u64, u64) { return half(kF16, half_value(a), a); },
                     .interesting = halves()});
  check_instruction({.text = "tanh.approx.bf16x2 %w0, %w1;", .expected = [&](u64 a, u64, u64, u64) {
                       return half(kBf16, bhalf_value(a & 0xffff), a) |
                              half(kBf16, bhalf_value(a >> 16 & 0xffff), a >> 16) << 16;
                     }});
}

TEST_CASE("approximate reciprocals and roots of f64") {
  auto upper = [](u64 bits) { return as_double(bits & 0xffffffff00000000); };
  auto result = [](Quad exact, bool negative) {
    if (exact != exact) return u64{0x7fffffff00000000};
    const u64 bits = store(kUpperHalf, exact, Mode::nearest, negative) << 32;
    return bits_of(flush_wide(as_double(bits)));
  };
  check_instruction({.text = "rcp.approx.ftz.f64 %d0, %d1;",
                     .expected =
                         [&](u64 a, u64, u64, u64) {
                           const double x = flush_wide(upper(a));
                           return result(Quad{1} / x, std::signbit(x));
                         },
                     .interesting = floats64()});

  // 1 / sqrt(x) in 113 bits: one Newton step from 64.
  auto inverse_root = [](double x) {
    Quad y = 1.0L / std::sqrt(static_cast<long double>(x));
    return y * (Quad{1.5} - Quad{0.5} * x * y * y);
  };
  std::vector<u64> inputs = floats64();
  std::mt19937_64 random(7);
  while (inputs.size() < 1024) inputs.push_back(random());
  const std::vector<u64> precise = run_wide("rsqrt.approx.f64 %d0, %d1;", inputs);
  const std::vector<u64> gross = run_wide("rsqrt.approx.ftz.f64 %d0, %d1;", inputs);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    INFO(fmt::format("{:#x}: {:#x}, {:#x}", inputs[i], precise[i], gross[i]));
    const double x = as_double(inputs[i]);
    if (std::isnan(x) || (x < 0 && x != 0)) {
      CHECK(precise[i] == 0x7fffffffffffffff);
    } else if (x == 0) {
      CHECK(precise[i] == bits_of(std::copysign(INFINITY, x)));
    } else if (std::isinf(x)) {
      CHECK(precise[i] == 0);
    } else {  // at most one unit of the last place off
      const u64 nearest = store(kF64, inverse_root(x));
      CHECK(precise[i] + 1 - nearest <= 2);
    }
    const double y = flush_wide(upper(inputs[i]));
    if (std::isnan(y) || y < 0) {
      CHECK(gross[i] == 0x7fffffff00000000);
    } else if (y == 0) {
      CHECK(gross[i] == bits_of(std::copysign(INFINITY, y)));
    } else if (std::isinf(y)) {
      CHECK(gross[i] == 0);
    } else {
      const u64 nearest = store(kUpperHalf, inverse_root(y)) << 32;
      CHECK(gross[i] + (u64{1} << 32) - nearest <= u64{2} << 32);
      CHECK((gross[i] & 0xffffffff) == 0);
    }
  }
}

}  // namespace sagegen::emulator::test
