// Exact attention against a direct double loop, hand-worked cases and properties.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <random>
#include <stdexcept>

#include "tests/unit/largest_difference.h"
#include "tools/reference/reference.h"

using namespace sagegen::reference;
using sagegen::test::largest_difference;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Case {
  std::int64_t batch = 1, q_heads = 1, kv_heads = 1, q_len = 1, kv_len = 1, channels = 8;
  bool causal = false;
  std::int64_t offset = 0;
  double scale = 0.0;
  std::int64_t value_channels = 0;  // 0: channels
};

Inputs random_inputs(const Case& c, unsigned seed) {
  Inputs in;
  in.q = Tensor(c.batch, c.q_heads, c.q_len, c.channels);
  in.k = Tensor(c.batch, c.kv_heads, c.kv_len, c.channels);
  in.v =
      Tensor(c.batch, c.kv_heads, c.kv_len, c.value_channels != 0 ? c.value_channels : c.channels);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (Tensor* t : {&in.q, &in.k, &in.v}) {
    for (float& x : t->data) x = normal(random);
  }
  in.causal = c.causal;
  in.causal_offset = c.offset;
  in.softmax_scale = c.scale;
  return in;
}

// The definition, one query at a time: no blocks, no base 2, no shared code.
Output direct_attention(const Inputs& in) {
  Output out;
  const std::int64_t d = in.q.channels;
  const double scale = in.softmax_scale != 0 ? in.softmax_scale : 1 / std::sqrt(double(d));
  for (std::int64_t b = 0; b < in.q.batch; ++b) {
    for (std::int64_t h = 0; h < in.q.heads; ++h) {
      const std::int64_t kv_head = h / (in.q.heads / in.k.heads);
      for (std::int64_t i = 0; i < in.q.tokens; ++i) {
        std::vector<double> scores, row(static_cast<std::size_t>(in.v.channels), 0.0);
        for (std::int64_t j = 0; j < in.k.tokens; ++j) {
          if (in.causal && j > i + in.causal_offset) break;
          long double dot = 0;
          for (std::int64_t c = 0; c < d; ++c) {
            dot += static_cast<long double>(in.q.row(b, h, i)[c]) * in.k.row(b, kv_head, j)[c];
          }
          scores.push_back(static_cast<double>(dot) * scale);
        }
        double lse = -kInfinity;
        if (!scores.empty()) {
          const double top = *std::max_element(scores.begin(), scores.end());
          double sum = 0;
          for (double s : scores) sum += std::exp(s - top);
          lse = top + std::log(sum);
          for (std::size_t j = 0; j < scores.size(); ++j) {
            const double p = std::exp(scores[j] - lse);
            const float* v = in.v.row(b, kv_head, static_cast<std::int64_t>(j));
            for (std::size_t c = 0; c < row.size(); ++c) row[c] += p * v[c];
          }
        }
        out.o.insert(out.o.end(), row.begin(), row.end());
        out.lse.push_back(lse);
      }
    }
  }
  return out;
}

}  // namespace

TEST_CASE("attention agrees with the direct loop") {
  const Case cases[] = {
      {},
      {.q_len = 1, .kv_len = 300, .channels = 64},
      {.q_len = 70, .kv_len = 1, .channels = 16},
      {.batch = 2, .q_heads = 6, .kv_heads = 2, .q_len = 67, .kv_len = 129, .channels = 40},
      {.q_len = 65, .kv_len = 64, .channels = 3},
      {.q_heads = 2, .kv_heads = 1, .q_len = 100, .kv_len = 100, .channels = 32, .causal = true},
      {.q_len = 33, .kv_len = 131, .channels = 24, .causal = true, .offset = 131 - 33},
      {.q_len = 131, .kv_len = 33, .channels = 24, .causal = true, .offset = 33 - 131},
      {.q_len = 90, .kv_len = 90, .channels = 24, .causal = true, .offset = 7},
      {.q_len = 20, .kv_len = 200, .channels = 128, .scale = 1.5},
      {.q_heads = 2, .q_len = 40, .kv_len = 70, .channels = 24, .value_channels = 9},
      {.batch = 2, .kv_heads = 1, .q_len = 40, .kv_len = 70, .channels = 9, .value_channels = 40},
  };
  unsigned seed = 1;
  for (const Case& c : cases) {
    INFO("case " << seed);
    const Inputs in = random_inputs(c, seed++);
    const Output want = direct_attention(in), got = attention(in);
    CHECK(largest_difference(want.o, got.o) < 1e-13);
    CHECK(largest_difference(want.lse, got.lse) < 1e-13);
  }
}

TEST_CASE("the result does not depend on the number of threads") {
  const Inputs in = random_inputs(
      {.batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 77, .kv_len = 90, .channels = 16}, 3);
  const Output one = attention(in, 1);
  for (const int threads : {0, 2, 5}) {
    const Output many = attention(in, threads);
    CHECK(one.o == many.o);
    CHECK(one.lse == many.lse);
  }
}

TEST_CASE("hand-worked: one key, equal keys, weights 3 to 1") {
  Inputs in;
  in.q = Tensor(1, 1, 1, 2);
  in.q.data = {1, 2};
  in.softmax_scale = 1.0;

  in.k = Tensor(1, 1, 1, 2);
  in.k.data = {3, 4};
  in.v = in.k;
  in.v.data = {5, -6};
  Output out = attention(in);
  CHECK(out.o == std::vector<double>{5, -6});
  CHECK(out.lse[0] == Approx(11.0));

  in.k = Tensor(1, 1, 2, 2);
  in.k.data = {3, 4, 3, 4};
  in.v = in.k;
  in.v.data = {1, 10, 3, 20};
  out = attention(in);
  CHECK(out.o[0] == Approx(2.0));
  CHECK(out.o[1] == Approx(15.0));
  CHECK(out.lse[0] == Approx(11.0 + std::numbers::ln2));

  in.softmax_scale = std::log(3.0);  // scores ln 3 and 0
  in.k.data = {1, 0, 0, 0};
  out = attention(in);
  CHECK(out.o[0] == Approx(0.75 * 1 + 0.25 * 3));
  CHECK(out.lse[0] == Approx(std::log(4.0)));
}

TEST_CASE("a fully masked row gives 0 and -infinity") {
  Inputs in =
      random_inputs({.q_len = 80, .kv_len = 50, .channels = 8, .causal = true, .offset = -30}, 5);
  const Output out = attention(in);
  for (std::int64_t i = 0; i < 80; ++i) {
    const bool masked = i < 30;
    CHECK((out.lse[static_cast<std::size_t>(i)] == -kInfinity) == masked);
    CHECK((out.o[static_cast<std::size_t>(i * 8)] == 0.0) == masked);
  }
  in.causal_offset = std::numeric_limits<std::int64_t>::min();
  for (const double x : attention(in).o) REQUIRE(x == 0.0);
  in.causal_offset = std::numeric_limits<std::int64_t>::max();
  Inputs full = in;
  full.causal = false;
  CHECK(attention(in).o == attention(full).o);
}

TEST_CASE("large scores neither overflow nor lose the row") {
  Inputs in = random_inputs({.q_len = 4, .kv_len = 70, .channels = 16}, 8);
  for (float& x : in.q.data) x *= 1e4f;
  for (float& x : in.k.data) x *= 1e4f;
  const Output want = direct_attention(in), got = attention(in);
  CHECK(largest_difference(want.o, got.o) < 1e-6);
  CHECK(compare(want.o, got.o).non_finite == 0);
}

TEST_CASE("the order of the keys does not matter") {
  const Inputs in = random_inputs({.q_len = 40, .kv_len = 150, .channels = 16}, 9);
  Inputs reversed = in;
  for (std::int64_t j = 0; j < 150; ++j) {
    std::copy_n(in.k.row(0, 0, j), 16, reversed.k.row(0, 0, 149 - j));
    std::copy_n(in.v.row(0, 0, j), 16, reversed.v.row(0, 0, 149 - j));
  }
  const Output a = attention(in), b = attention(reversed);
  CHECK(largest_difference(a.o, b.o) < 1e-13);
  CHECK(largest_difference(a.lse, b.lse) < 1e-13);
}

TEST_CASE("a vector added to every key moves only the LSE") {
  const Inputs in = random_inputs({.q_len = 20, .kv_len = 100, .channels = 16}, 10);
  Inputs shifted = in;
  std::vector<float> shift(16);
  for (std::size_t c = 0; c < 16; ++c) shift[c] = static_cast<float>(c) - 5.0f;
  // Keys on a coarse grid, so that the sum is exact in float.
  Inputs coarse = in;
  for (float& x : coarse.k.data) x = std::round(x * 256) / 256;
  shifted = coarse;
  for (std::size_t i = 0; i < shifted.k.data.size(); ++i) shifted.k.data[i] += shift[i % 16];
  const Output a = attention(coarse), b = attention(shifted);
  CHECK(largest_difference(a.o, b.o) < 1e-12);
  for (std::int64_t i = 0; i < 20; ++i) {
    double dot = 0;
    for (std::size_t c = 0; c < 16; ++c)
      dot += static_cast<double>(in.q.row(0, 0, i)[c]) * shift[c];
    CHECK(b.lse[static_cast<std::size_t>(i)] - a.lse[static_cast<std::size_t>(i)] ==
          Approx(dot / 4.0).margin(1e-10));
  }
}

TEST_CASE("a shared key head equals repeated key heads") {
  const Inputs shared = random_inputs({.q_heads = 4, .kv_heads = 2, .q_len = 30, .kv_len = 30}, 11);
  Inputs repeated = shared;
  repeated.k = Tensor(1, 4, 30, 8);
  repeated.v = repeated.k;
  for (std::int64_t h = 0; h < 4; ++h) {
    std::copy_n(shared.k.row(0, h / 2, 0), 30 * 8, repeated.k.row(0, h, 0));
    std::copy_n(shared.v.row(0, h / 2, 0), 30 * 8, repeated.v.row(0, h, 0));
  }
  CHECK(attention(shared).o == attention(repeated).o);
}

TEST_CASE("shapes that do not fit are refused with the sizes") {
  Inputs in = random_inputs({.q_heads = 3, .kv_heads = 2}, 1);
  CHECK_THROWS_WITH(attention(in), Catch::Contains("3 heads") && Catch::Contains("2 heads"));
  in = random_inputs({.kv_len = 5}, 1);
  in.v = Tensor(1, 1, 6, 8);
  CHECK_THROWS_WITH(attention(in),
                    Catch::Contains("[1, 1, 5, 8]") && Catch::Contains("[1, 1, 6, 8]"));
  in = random_inputs({}, 1);
  in.k = in.v = Tensor(1, 1, 1, 16);
  CHECK_THROWS_AS(attention(in), std::invalid_argument);
  in = random_inputs({}, 1);
  in.q.data.pop_back();
  CHECK_THROWS_AS(attention(in), std::invalid_argument);
}

TEST_CASE("metrics: hand-worked and at the edges") {
  const Metrics m = compare({3, -4, 0}, {3, -2, 1});
  CHECK(m.cosine_similarity == Approx((9.0 + 8.0) / (5.0 * std::sqrt(14.0))));
  CHECK(m.relative_l1 == Approx(3.0 / 7.0));
  CHECK(m.rmse == Approx(std::sqrt(5.0 / 3.0)));
  CHECK(m.max_abs == 2.0);
  CHECK(m.non_finite == 0);

  const Metrics zero = compare({0, 0}, {0, 0});
  CHECK(zero.cosine_similarity == 1.0);
  CHECK(zero.relative_l1 == 0.0);
  CHECK(compare({0, 0}, {0, 1}).relative_l1 == kInfinity);

  for (const double bad : {std::nan(""), kInfinity}) {
    const Metrics broken = compare({1, 2, 3}, {1, bad, 3});
    CHECK(broken.non_finite == 1);
    CHECK_FALSE(broken.cosine_similarity >= 0.9);
    CHECK_FALSE(broken.relative_l1 <= 0.1);
    CHECK_FALSE(broken.rmse <= 0.1);
    CHECK_FALSE(broken.max_abs <= 0.1);
  }
  CHECK_THROWS_AS(compare({1}, {1, 2}), std::invalid_argument);
}
