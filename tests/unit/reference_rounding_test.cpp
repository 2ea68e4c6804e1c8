// Rounding of doubles to the storage formats, against tables of every value that a format has.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "tools/reference/rounding.h"

using namespace sagegen::reference;

namespace {

// The non-negative finite values of a format in ascending order, which is the order of their bits.
template <typename Decode>
std::vector<double> ladder(const Decode& decode, unsigned sign_bit) {
  std::vector<double> values;
  for (unsigned bits = 0; bits < sign_bit; ++bits) {
    const double value = decode(bits);
    if (std::isfinite(value)) values.push_back(value);
  }
  return values;
}

// Nearest value by search; on a tie the one with even bits. Beyond the last step: nullptr semantics
// are the caller's.
double nearest_on_ladder(const std::vector<double>& values, double x) {
  const double magnitude = std::fabs(x);
  const auto above = std::lower_bound(values.begin(), values.end(), magnitude);
  if (above == values.begin()) return std::copysign(*above, x);
  if (above == values.end()) return std::copysign(values.back(), x);
  const auto below = above - 1;
  const double down = magnitude - *below, up = *above - magnitude;
  const bool below_is_even = (below - values.begin()) % 2 == 0;
  return std::copysign(down < up || (down == up && below_is_even) ? *below : *above, x);
}

const std::vector<double>& f16_ladder() {
  static const auto values =
      ladder([](unsigned b) { return f16_value(static_cast<std::uint16_t>(b)); }, 0x8000u);
  return values;
}
const std::vector<double>& bf16_ladder() {
  static const auto values =
      ladder([](unsigned b) { return bf16_value(static_cast<std::uint16_t>(b)); }, 0x8000u);
  return values;
}
const std::vector<double>& e4m3_ladder() {
  static const auto values =
      ladder([](unsigned b) { return e4m3_value(static_cast<std::uint8_t>(b)); }, 0x80u);
  return values;
}

// Every value, every midpoint between neighbours, and the doubles next to each midpoint.
void check_every_step(const std::vector<double>& values, Format format) {
  std::int64_t wrong = 0;
  const auto expect = [&](double x, double want) {
    for (const double sign : {1.0, -1.0}) {
      const double ieee = round_ieee(sign * x, format), sat = round_satfinite(sign * x, format);
      wrong += ieee != sign * want || sat != sign * want || std::signbit(ieee) != (sign < 0);
    }
  };
  for (std::size_t i = 0; i < values.size(); ++i) {
    expect(values[i], values[i]);
    if (i + 1 == values.size()) break;
    const double middle = (values[i] + values[i + 1]) / 2;
    expect(middle, values[i % 2 == 0 ? i : i + 1]);
    expect(std::nextafter(middle, 0.0), values[i]);
    expect(std::nextafter(middle, 1e300), values[i + 1]);
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("known encodings") {
  CHECK(f16_bits(1.0) == 0x3C00);
  CHECK(f16_bits(-2.0) == 0xC000);
  CHECK(f16_bits(65504.0) == 0x7BFF);
  CHECK(f16_bits(0x1p-24) == 0x0001);
  CHECK(f16_bits(0x1p-14) == 0x0400);
  CHECK(bf16_bits(1.0) == 0x3F80);
  CHECK(bf16_bits(-0.0) == 0x8000);
  CHECK(bf16_bits(0x1p-133) == 0x0001);
  CHECK(e4m3_bits(1.0) == 0x38);
  CHECK(e4m3_bits(448.0) == 0x7E);
  CHECK(e4m3_bits(-0x1p-9) == 0x81);
  CHECK(e4m3_bits(0x1p-6) == 0x08);
  CHECK(std::isnan(e4m3_value(0x7F)));
  CHECK(std::isnan(e4m3_value(0xFF)));
  CHECK(f16_value(0x7C00) == INFINITY);
  CHECK(bf16_value(0xFF80) == -INFINITY);
  CHECK(std::isnan(f16_value(0x7C01)));
}

TEST_CASE("every bit pattern survives decoding and encoding") {
  for (unsigned bits = 0; bits < 0x10000u; ++bits) {
    const auto b = static_cast<std::uint16_t>(bits);
    if (!std::isnan(f16_value(b))) REQUIRE(f16_bits(f16_value(b)) == b);
    if (!std::isnan(bf16_value(b))) REQUIRE(bf16_bits(bf16_value(b)) == b);
  }
  for (unsigned bits = 0; bits < 0x100u; ++bits) {
    const auto b = static_cast<std::uint8_t>(bits);
    if (!std::isnan(e4m3_value(b))) REQUIRE(e4m3_bits(e4m3_value(b)) == b);
  }
}

TEST_CASE("the ladders have the sizes that the formats define") {
  CHECK(f16_ladder().size() == 31u * 1024u);
  CHECK(bf16_ladder().size() == 255u * 128u);
  CHECK(e4m3_ladder().size() == 127u);
  CHECK(std::is_sorted(f16_ladder().begin(), f16_ladder().end()));
  CHECK(std::is_sorted(bf16_ladder().begin(), bf16_ladder().end()));
  CHECK(std::is_sorted(e4m3_ladder().begin(), e4m3_ladder().end()));
}

TEST_CASE("every value, midpoint and neighbour of a midpoint rounds to nearest even") {
  check_every_step(f16_ladder(), kF16);
  check_every_step(bf16_ladder(), kBf16);
  check_every_step(e4m3_ladder(), kE4m3);
}

TEST_CASE("random doubles of all sizes round to the nearest step") {
  std::mt19937_64 random(7);
  for (int i = 0; i < 200000; ++i) {
    const double mantissa = 1.0 + static_cast<double>(random() >> 12) * 0x1p-52;
    const double x =
        std::ldexp(random() & 1 ? mantissa : -mantissa, static_cast<int>(random() % 60) - 30);
    if (std::fabs(x) < 65504.0) REQUIRE(round_ieee(x, kF16) == nearest_on_ladder(f16_ladder(), x));
    REQUIRE(round_ieee(x, kBf16) == nearest_on_ladder(bf16_ladder(), x));
    REQUIRE(round_satfinite(x, kE4m3) == nearest_on_ladder(e4m3_ladder(), x));
    REQUIRE(round_ieee(x, kF32) == static_cast<double>(static_cast<float>(x)));
  }
}

TEST_CASE("overflow, infinity and NaN") {
  CHECK(round_ieee(65519.99, kF16) == 65504.0);
  CHECK(round_ieee(65520.0, kF16) ==
        INFINITY);  // the tie rounds to the even step, which is not there
  CHECK(round_ieee(-65520.0, kF16) == -INFINITY);
  CHECK(round_ieee(0x1.FFp127, kBf16) == INFINITY);
  CHECK(round_ieee(0x1.FEFFFFp127, kBf16) == 0x1.FEp127);
  CHECK(round_satfinite(1e300, kE4m3) == 448.0);
  CHECK(round_satfinite(464.0, kE4m3) == 448.0);
  CHECK(round_satfinite(-INFINITY, kE4m3) == -448.0);
  CHECK(round_ieee(1.7e308, kF16) == INFINITY);
  CHECK(round_ieee(-1.7e308, kF32) == -INFINITY);
  CHECK(std::isnan(round_satfinite(NAN, kE4m3)));
  CHECK(std::isnan(round_ieee(NAN, kF16)));
  CHECK(round_ieee(5e-324, kBf16) == 0.0);
  CHECK(std::signbit(round_ieee(-5e-324, kF16)));
}
