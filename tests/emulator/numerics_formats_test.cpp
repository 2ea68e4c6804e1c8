// Conversions against tables of all values, and the special functions against 80-bit evaluations.
#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "runtime/emulator/numerics/mma_kernels.h"
#include "runtime/emulator/numerics/numerics.h"

namespace sagegen::test {
namespace {

using namespace emulator;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::uint32_t bits(float value) { return std::bit_cast<std::uint32_t>(value); }
float from_bits(std::uint32_t word) { return std::bit_cast<float>(word); }

// A small format by its definition: value of every code, in the order of the non-negative codes.
struct Format {
  const char* name;
  int exponent_bits, fraction_bits;
  bool has_infinity;
  std::uint32_t nan_code;
  bool saturates;
  std::function<float(std::uint32_t)> expand;
  std::function<std::uint32_t(float)> round;

  int width() const { return 1 + exponent_bits + fraction_bits; }
  std::uint32_t largest() const {  // code of the largest finite value
    const std::uint32_t ones = ((1u << exponent_bits) - 1u) << fraction_bits;
    return has_infinity ? ones - 1 : (ones | ((1u << fraction_bits) - 1u)) - 1;
  }
  double value(std::uint32_t code) const {
    const int field = static_cast<int>(code >> fraction_bits);
    const double fraction = static_cast<double>(code & ((1u << fraction_bits) - 1u));
    const int bias = (1 << (exponent_bits - 1)) - 1;
    return field == 0 ? std::ldexp(fraction, 1 - bias - fraction_bits)
                      : std::ldexp(fraction + std::ldexp(1.0, fraction_bits),
                                   field - bias - fraction_bits);
  }
};

std::vector<Format> formats() {
  return {
      {"f16", 5, 10, true, 0x7fff, false,
       [](std::uint32_t c) { return f16_to_f32(static_cast<std::uint16_t>(c)); },
       [](float x) { return std::uint32_t{f32_to_f16(x)}; }},
      {"bf16", 8, 7, true, 0x7fff, false,
       [](std::uint32_t c) { return bf16_to_f32(static_cast<std::uint16_t>(c)); },
       [](float x) { return std::uint32_t{f32_to_bf16(x)}; }},
      {"e4m3", 4, 3, false, 0x7f, true,
       [](std::uint32_t c) { return e4m3_to_f32(static_cast<std::uint8_t>(c)); },
       [](float x) { return std::uint32_t{f32_to_e4m3_satfinite(x)}; }},
      {"e5m2", 5, 2, true, 0x7f, true,
       [](std::uint32_t c) { return e5m2_to_f32(static_cast<std::uint8_t>(c)); },
       [](float x) { return std::uint32_t{f32_to_e5m2_satfinite(x)}; }},
  };
}

// The code nearest to x by search among all values; an equal distance goes to the even code.
std::uint32_t nearest_code(const Format& format, const std::vector<double>& values, float x) {
  const std::uint32_t sign = std::signbit(x) ? 1u << (format.width() - 1) : 0u;
  const double magnitude = std::fabs(static_cast<double>(x));
  const std::uint32_t largest = format.largest();
  // What rounding would give if the format went on: one more value after the largest.
  const double next = 2 * values[largest] - values[largest - 1];
  std::uint32_t code = 0;
  if (std::isinf(x) || magnitude >= next) {
    code = largest + 1;
  } else {
    const auto above = std::upper_bound(values.begin(), values.end(), magnitude);
    const auto low = static_cast<std::uint32_t>(above - values.begin()) - 1;
    const double high = low == largest ? next : values[low + 1];
    const double down = magnitude - values[low];
    const double up = high - magnitude;
    code = up < down || (up == down && low % 2 == 1) ? low + 1 : low;
  }
  if (format.saturates) {
    code = std::min(code, largest);
  }
  return sign | code;
}

TEST_CASE("every code of every format has its value and comes back") {
  for (const Format& format : formats()) {
    INFO(format.name);
    const std::uint32_t sign = 1u << (format.width() - 1);
    int wrong = 0;
    for (std::uint32_t code = 0; code < sign; ++code) {
      for (const std::uint32_t signed_code : {code, code | sign}) {
        const float x = format.expand(signed_code);
        if (code <= format.largest()) {
          const double value = format.value(code);
          wrong += x == (signed_code == code ? value : -value) ? 0 : 1;
          wrong += std::signbit(x) == (signed_code != code) ? 0 : 1;
          wrong += format.round(x) == signed_code ? 0 : 1;
        } else if (format.has_infinity && code == format.largest() + 1) {
          wrong += x == (signed_code == code ? kInfinity : -kInfinity) ? 0 : 1;
          wrong += (format.round(x) & (sign - 1)) == (format.saturates ? format.largest() : code)
                       ? 0
                       : 1;
        } else {
          wrong += bits(x) == 0x7fffffffu ? 0 : 1;
          wrong += format.round(x) == format.nan_code ? 0 : 1;
        }
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("rounding goes to the nearest code and ties to the even one") {
  std::mt19937 random(3);
  for (const Format& format : formats()) {
    INFO(format.name);
    std::vector<double> values;
    for (std::uint32_t code = 0; code <= format.largest(); ++code) {
      values.push_back(format.value(code));
    }
    std::vector<float> inputs = {
        0.0f,   kInfinity, 65504.0f, 65519.996f, 65520.0f, 65536.0f,      447.99997f, 448.0f,
        464.0f, 465.0f,    480.0f,   57344.0f,   61440.0f, 3.4028235e38f, 1e-45f,     1e-38f};
    for (std::size_t i = 0; i + 1 < values.size(); ++i) {  // each boundary and its neighbours
      const auto middle = static_cast<float>((values[i] + values[i + 1]) / 2);
      inputs.insert(inputs.end(),
                    {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, kInfinity)});
    }
    for (int i = 0; i < 300000; ++i) {
      inputs.push_back(from_bits(static_cast<std::uint32_t>(random()) & 0x7fffffffu));
    }
    int wrong = 0;
    for (const float x : inputs) {
      if (std::isnan(x)) {
        continue;
      }
      for (const float each : {x, -x}) {
        wrong += format.round(each) == nearest_code(format, values, each) ? 0 : 1;
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("e4m3 of all f16 values, as cvt.rn.satfinite.e4m3x2.f16x2 gives it") {
  // By the recipe on the f16's own fields: exponent and 10 fraction bits cut to 3, or to the quantum 2^-9.
  int wrong = 0;
  for (std::uint32_t code = 0; code < 0x10000; ++code) {
    const std::uint32_t sign = (code >> 8) & 0x80u;
    const int field = static_cast<int>((code >> 10) & 31u);
    const std::uint32_t fraction = code & 0x3ffu;
    std::uint32_t expected = 0;
    if (field == 31 && fraction != 0) {
      expected = 0x7f;
    } else {
      // In units of 2^-24, the f16 quantum: exact integers.
      const std::uint64_t units =
          field == 0 ? fraction : static_cast<std::uint64_t>(fraction + 1024) << (field - 1);
      const int exponent = field - 15;
      const int quantum =
          exponent >= -6 ? exponent - 3 + 24 : -9 + 24;  // log2 of the step, in units
      std::uint64_t steps = units >> quantum;
      const std::uint64_t rest = units - (steps << quantum);
      const std::uint64_t half = std::uint64_t{1} << (quantum - 1);
      steps += rest > half || (rest == half && steps % 2 == 1) ? 1 : 0;
      const std::uint64_t magnitude = steps << quantum;  // units
      if (magnitude > std::uint64_t{448} << 24) {
        expected = sign | 0x7e;
      } else if (magnitude < std::uint64_t{1} << (24 - 6)) {
        expected = sign | static_cast<std::uint32_t>(magnitude >> 15);
      } else {
        const int top = 63 - std::countl_zero(magnitude);
        expected = sign | static_cast<std::uint32_t>((top - 24 + 7) << 3) |
                   static_cast<std::uint32_t>((magnitude >> (top - 3)) & 7u);
      }
    }
    const float x = f16_to_f32(static_cast<std::uint16_t>(code));
    wrong += f32_to_e4m3_satfinite(x) == expected ? 0 : 1;
  }
  CHECK(wrong == 0);
}

TEST_CASE("NaN becomes canonical, subnormals flush to signed zero") {
  CHECK(bits(canonical_nan(from_bits(0xffc00001u))) == 0x7fffffffu);
  CHECK(bits(canonical_nan(from_bits(0x7f800001u))) == 0x7fffffffu);
  CHECK(bits(canonical_nan(-kInfinity)) == bits(-kInfinity));
  CHECK(bits(canonical_nan(1.5f)) == bits(1.5f));
  CHECK(bits(flush_denormal(from_bits(0x807fffffu))) == 0x80000000u);
  CHECK(bits(flush_denormal(from_bits(0x00000001u))) == 0);
  CHECK(bits(flush_denormal(from_bits(0x00800000u))) == 0x00800000u);
  CHECK(bits(flush_denormal(-kInfinity)) == bits(-kInfinity));
}

// |y - exact| <= |neighbour - exact| for both neighbours of y.
bool is_nearest_float(float y, long double exact) {
  const long double distance = std::fabs(y - exact);
  for (const float direction : {-kInfinity, kInfinity}) {
    const float neighbour = std::nextafter(y, direction);
    if (std::isfinite(neighbour) && std::fabs(neighbour - exact) < distance) {
      return false;
    }
  }
  return true;
}

TEST_CASE("ex2 is the nearest float to 2^x") {
  std::mt19937 random(5);
  int wrong = 0;
  for (int i = 0; i < 400000; ++i) {
    // Half of the inputs in [-1, 0], where softmax lives, the others over the whole range.
    const double unit = static_cast<double>(random()) / 4294967296.0;
    const auto x = static_cast<float>(i % 2 == 0 ? -unit : unit * 280 - 151);
    const long double exact = std::exp2(static_cast<long double>(x));
    const float y = ex2_approx(x, false);
    if (exact > 0x1.ffffffp127L) {
      wrong += y == kInfinity ? 0 : 1;
    } else {
      wrong += is_nearest_float(y, exact) ? 0 : 1;
    }
    const float flushed = ex2_approx(x, true);
    wrong += flushed == (y < 0x1p-126f ? 0.0f : y) ? 0 : 1;
  }
  CHECK(wrong == 0);
  for (int n = -149; n < 128; ++n) {
    CHECK(ex2_approx(static_cast<float>(n), false) == std::ldexp(1.0f, n));
  }
  CHECK(bits(ex2_approx(-kInfinity, true)) == 0);
  CHECK(ex2_approx(kInfinity, true) == kInfinity);
  CHECK(ex2_approx(128.0f, true) == kInfinity);
  CHECK(ex2_approx(std::nextafter(128.0f, 0.0f), true) < kInfinity);
  CHECK(ex2_approx(0.0f, true) == 1.0f);
  CHECK(ex2_approx(-0.0f, true) == 1.0f);
  CHECK(ex2_approx(from_bits(0x807fffffu), true) == 1.0f);
  CHECK(ex2_approx(from_bits(0x007fffffu), false) == 1.0f);
  CHECK(bits(ex2_approx(-127.0f, true)) == 0);
  CHECK(bits(ex2_approx(-127.0f, false)) == 0x00400000u);
  CHECK(ex2_approx(-1e30f, false) == 0.0f);
  CHECK(bits(ex2_approx(from_bits(0xffc12345u), false)) == 0x7fffffffu);
}

TEST_CASE("ex2 of a warp is ex2 of each lane, on every instruction set") {
  std::mt19937 random(15);
  const float edges[] = {0.0f,
                         -0.0f,
                         1.0f,
                         -1.0f,
                         0.5f,
                         127.5f,
                         128.0f,
                         129.5f,
                         -125.5f,
                         -126.0f,
                         -126.5f,
                         -149.0f,
                         -149.5f,
                         -150.0f,
                         -150.5f,
                         -1e30f,
                         1e30f,
                         1e-30f,
                         kInfinity,
                         -kInfinity,
                         from_bits(1),
                         from_bits(0x80000001u),
                         from_bits(0x7fc00000u),
                         from_bits(0xff800001u)};
  for (const auto host : {tile::Host::portable, tile::Host::avx2, tile::Host::avx512}) {
    const tile::Kernels* kernels = tile::kernels_for(host);
    if (kernels == nullptr) {
      continue;
    }
    int wrong = 0;
    for (int repeat = 0; repeat < 4000; ++repeat) {
      std::uint32_t x[32], y[32];
      for (std::uint32_t& word : x) {
        float lane = 0;
        const double unit = static_cast<double>(random()) / 4294967296.0;
        switch (repeat % 4) {
          case 0:
            lane = static_cast<float>(-unit);
            break;
          case 1:
            lane = static_cast<float>(unit * 280 - 151);
            break;
          case 2:
            lane = from_bits(static_cast<std::uint32_t>(random()));
            break;
          default:
            lane = edges[random() % std::size(edges)];
            break;
        }
        word = bits(lane);
      }
      const bool ftz = repeat % 8 < 4;
      kernels->ex2(x, y, 32, ftz);
      for (int lane = 0; lane < 32; ++lane) {
        wrong += y[lane] == bits(ex2_approx(from_bits(x[lane]), ftz)) ? 0 : 1;
      }
      if (repeat % 2 == 0) {  // in place
        kernels->ex2(x, x, 32, ftz);
        wrong += std::memcmp(x, y, sizeof(x)) == 0 ? 0 : 1;
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("lg2, rcp, rsqrt and sqrt are nearest, and their edges") {
  std::mt19937 random(9);
  int wrong = 0;
  for (int i = 0; i < 400000; ++i) {
    std::uint32_t word = static_cast<std::uint32_t>(random()) & 0x7fffffffu;
    if (i % 4 == 0) {  // near 1, where lg2 cancels
      word = 0x3f800000u + (word & 0x1ffffu) - 0x10000u;
    }
    const float x = from_bits(word);
    if (!std::isfinite(x) || x == 0.0f) {
      continue;
    }
    const auto wide = static_cast<long double>(x);
    wrong += is_nearest_float(lg2_approx(x, false), std::log2(wide)) ? 0 : 1;
    wrong += is_nearest_float(rsqrt_approx(x, false), 1.0L / std::sqrt(wide)) ? 0 : 1;
    wrong += is_nearest_float(sqrt_approx(x, false), std::sqrt(wide)) ? 0 : 1;
    for (const float each : {x, -x}) {
      const float y = rcp_approx(each, false);
      wrong += std::isinf(y) ? (std::fabs(1.0L / each) < 0x1.ffffffp127L ? 1 : 0)
                             : (is_nearest_float(y, 1.0L / static_cast<long double>(each)) ? 0 : 1);
      wrong += std::signbit(y) == std::signbit(each) ? 0 : 1;
    }
  }
  CHECK(wrong == 0);
  for (int n = -149; n < 128; ++n) {
    CHECK(lg2_approx(std::ldexp(1.0f, n), false) == static_cast<float>(n));
  }
  const float subnormal = from_bits(0x00400000u);
  for (const auto function : {lg2_approx, rcp_approx, rsqrt_approx, sqrt_approx}) {
    CHECK(bits(function(from_bits(0x7fc00000u), true)) == 0x7fffffffu);
  }
  for (const auto function : {lg2_approx, rsqrt_approx, sqrt_approx}) {
    CHECK(bits(function(-1.0f, true)) == 0x7fffffffu);
    CHECK(bits(function(-kInfinity, true)) == 0x7fffffffu);
  }
  CHECK(lg2_approx(0.0f, true) == -kInfinity);
  CHECK(lg2_approx(-0.0f, true) == -kInfinity);
  CHECK(lg2_approx(subnormal, true) == -kInfinity);
  CHECK(lg2_approx(subnormal, false) == -127.0f);
  CHECK(lg2_approx(kInfinity, true) == kInfinity);
  CHECK(bits(lg2_approx(1.0f, true)) == 0);
  CHECK(rcp_approx(-0.0f, true) == -kInfinity);
  CHECK(rcp_approx(subnormal, true) == kInfinity);
  CHECK(rcp_approx(subnormal, false) == 0x1p127f);
  CHECK(bits(rcp_approx(-kInfinity, true)) == 0x80000000u);
  CHECK(bits(rcp_approx(-0x1p127f, true)) == 0x80000000u);
  CHECK(rcp_approx(0x1p127f, false) == 0x1p-127f);
  CHECK(rsqrt_approx(0.0f, true) == kInfinity);
  CHECK(rsqrt_approx(-0.0f, true) == -kInfinity);
  CHECK(rsqrt_approx(-subnormal, true) == -kInfinity);
  CHECK(bits(rsqrt_approx(kInfinity, true)) == 0);
  CHECK(bits(sqrt_approx(-0.0f, true)) == 0x80000000u);
  CHECK(bits(sqrt_approx(subnormal, true)) == 0);
  CHECK(sqrt_approx(kInfinity, true) == kInfinity);
}

}  // namespace
}  // namespace sagegen::test
