// Generated inputs: the same bits everywhere, and the statistics that their descriptions state.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>

#include "tools/reference/reference.h"
#include "tools/reference/rounding.h"

using namespace sagegen::reference;

namespace {

constexpr Shape kLong{.q_heads = 2, .kv_heads = 2, .q_len = 2048, .kv_len = 2048, .head_dim = 64};

struct Moments {
  double mean = 0, deviation = 0, kurtosis = 0;
};

template <typename Keep>
Moments moments(const Tensor& t, const Keep& keep) {
  double n = 0, sum = 0, square = 0, fourth = 0;
  for (std::size_t i = 0; i < t.data.size(); ++i) {
    const auto channel = static_cast<std::int64_t>(i) % t.channels;
    const auto token = static_cast<std::int64_t>(i) / t.channels % t.tokens;
    if (!keep(token, channel)) continue;
    n += 1;
    sum += t.data[i];
  }
  Moments m{.mean = sum / n};
  for (std::size_t i = 0; i < t.data.size(); ++i) {
    const auto channel = static_cast<std::int64_t>(i) % t.channels;
    const auto token = static_cast<std::int64_t>(i) / t.channels % t.tokens;
    if (!keep(token, channel)) continue;
    const double x = t.data[i] - m.mean;
    square += x * x;
    fourth += x * x * x * x;
  }
  m.deviation = std::sqrt(square / n);
  m.kurtosis = fourth / n / (m.deviation * m.deviation * m.deviation * m.deviation);
  return m;
}
Moments moments(const Tensor& t) {
  return moments(t, [](std::int64_t, std::int64_t) { return true; });
}
double channel_mean(const Tensor& t, std::int64_t head, std::int64_t channel) {
  double sum = 0;
  for (std::int64_t n = 0; n < t.tokens; ++n) sum += t.row(0, head, n)[channel];
  return sum / static_cast<double>(t.tokens);
}

// FNV-1a over the f16 bits of Q, K, V.
std::uint64_t digest(const Inputs& in) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  for (const Tensor* t : {&in.q, &in.k, &in.v}) {
    for (const float x : t->data) {
      const unsigned bits = f16_bits(x);
      for (const unsigned byte : {bits & 0xFFu, bits >> 8}) hash = (hash ^ byte) * 0x100000001B3u;
    }
  }
  return hash;
}

}  // namespace

TEST_CASE("the same name, shape and seed give the same bits on every machine") {
  const std::map<std::string, std::uint64_t> recorded = {
      {"normal", 0x1A3824A294B7529Du},      {"k_bias", 0x9B2E77D574BE2F8Au},
      {"outlier", 0xE3894AB56FFFD5D6u},     {"sink", 0xFFD1BFC702E80967u},
      {"v_offset", 0x625280B03C1367B3u},    {"peaked", 0x89DCA195B99B7ED8u},
      {"fa3_outlier", 0x1E7C4FBD4E1B24A2u}, {"zero_parts", 0xEFD21C7505F5B337u}};
  for (const Distribution& d : distributions()) {
    const Inputs in = generate(
        d.name,
        {.batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 33, .kv_len = 65, .head_dim = 64}, 42,
        IoType::f16);
    INFO(d.name);
    REQUIRE(recorded.count(d.name) == 1);
    CHECK(digest(in) == recorded.at(d.name));
  }
}

TEST_CASE("seeds and tensors are independent") {
  const Shape shape{.q_len = 500, .kv_len = 500, .head_dim = 64};
  const Inputs a = generate("normal", shape, 1, IoType::f32),
               b = generate("normal", shape, 2, IoType::f32);
  const auto correlation = [](const Tensor& x, const Tensor& y) {
    double dot = 0;
    for (std::size_t i = 0; i < x.data.size(); ++i)
      dot += static_cast<double>(x.data[i]) * y.data[i];
    return dot / static_cast<double>(x.data.size());
  };
  const double bound = 5 / std::sqrt(500.0 * 64);  // five standard errors
  CHECK(std::fabs(correlation(a.q, b.q)) < bound);
  CHECK(std::fabs(correlation(a.q, a.k)) < bound);
  CHECK(std::fabs(correlation(a.k, a.v)) < bound);
  CHECK(std::fabs(correlation(a.v, b.k)) < bound);
}

TEST_CASE("every distribution has the shape asked for and values of the dtype") {
  for (const Distribution& d : distributions()) {
    INFO(d.name);
    CHECK(d.description.size() >= 16);
    for (const IoType io : {IoType::f16, IoType::bf16}) {
      const Inputs in = generate(
          d.name,
          {.batch = 2, .q_heads = 6, .kv_heads = 3, .q_len = 1, .kv_len = 9, .head_dim = 80}, 7,
          io);
      CHECK(in.q.data.size() == 2u * 6 * 80);
      CHECK(in.k.data.size() == 2u * 3 * 9 * 80);
      CHECK(in.v.data.size() == in.k.data.size());
      for (const Tensor* t : {&in.q, &in.k, &in.v}) {
        for (const float x : t->data) REQUIRE(round_ieee(x, format_of(io)) == x);
      }
    }
  }
}

TEST_CASE("normal: mean 0, deviation 1, kurtosis 3, tails") {
  const Inputs in = generate("normal", kLong, 3, IoType::f32);
  for (const Tensor* t : {&in.q, &in.k, &in.v}) {
    const Moments m = moments(*t);  // 262144 values: standard errors 0.002, 0.0014, 0.01
    CHECK(std::fabs(m.mean) < 0.01);
    CHECK(m.deviation == Approx(1.0).margin(0.007));
    CHECK(m.kurtosis == Approx(3.0).margin(0.06));
    const auto beyond =
        std::count_if(t->data.begin(), t->data.end(), [](float x) { return std::fabs(x) > 3; });
    CHECK(static_cast<double>(beyond) / 262144.0 == Approx(0.0027).margin(0.0006));
  }
}

TEST_CASE("k_bias: only K differs from normal, by channel offsets of deviation 10") {
  const Inputs in = generate("k_bias", kLong, 3, IoType::f32),
               normal = generate("normal", kLong, 3, IoType::f32);
  CHECK(in.q.data == normal.q.data);
  CHECK(in.v.data == normal.v.data);
  double square = 0;
  for (std::int64_t h = 0; h < 2; ++h) {
    for (std::int64_t c = 0; c < 64; ++c) square += std::pow(channel_mean(in.k, h, c), 2);
  }
  CHECK(std::sqrt(square / 128) == Approx(10.0).margin(2.0));
  CHECK(channel_mean(in.k, 0, 5) != Approx(channel_mean(in.k, 1, 5)).margin(0.5));
}

TEST_CASE("outlier: one channel in ten of Q and K, every channel of V by 2") {
  const Inputs in = generate(
      "outlier", {.q_heads = 20, .kv_heads = 20, .q_len = 1000, .kv_len = 1000, .head_dim = 64}, 3,
      IoType::f32);
  for (const auto& [tensor, deviation] : {std::pair{&in.q, 6.0}, std::pair{&in.k, 10.0}}) {
    double square = 0;
    for (std::int64_t h = 0; h < 20; ++h) {
      int moved = 0;
      for (std::int64_t c = 0; c < 64; ++c) {
        const double mean = channel_mean(*tensor, h, c);
        moved += std::fabs(mean) > 0.16;  // five standard errors
        square += mean * mean;
      }
      CHECK(moved >= 4);  // six are drawn; an offset may happen to be small
      CHECK(moved <= 6);
    }
    CHECK(std::sqrt(square / 120) == Approx(deviation).epsilon(0.2));
  }
  int up = 0;
  for (std::int64_t h = 0; h < 20; ++h) {
    for (std::int64_t c = 0; c < 64; ++c) {
      const double mean = channel_mean(in.v, h, c);
      CHECK(std::fabs(mean) == Approx(2.0).margin(0.16));
      up += mean > 0;
    }
  }
  CHECK(std::abs(up - 640) < 90);
}

TEST_CASE("sink: the first key takes half of the weight or more") {
  Inputs in =
      generate("sink", {.q_heads = 4, .kv_heads = 2, .q_len = 512, .kv_len = 1024, .head_dim = 128},
               3, IoType::f16);
  for (std::int64_t h = 0; h < 2; ++h) {
    double square = 0;
    for (std::int64_t c = 0; c < 128; ++c) square += std::pow(in.v.row(0, h, 0)[c], 2);
    CHECK(std::sqrt(square / 128) < 0.08);
  }
  // With a first value of 1 and all others 0, the output is the weight of the first key.
  std::fill(in.v.data.begin(), in.v.data.end(), 0.0f);
  for (std::int64_t h = 0; h < 2; ++h) in.v.row(0, h, 0)[0] = 1.0f;
  const Output out = attention(in);
  double sum = 0;
  for (std::size_t i = 0; i < out.o.size(); i += 128) sum += out.o[i];
  CHECK(sum / (4 * 512) > 0.5);
  CHECK(sum / (4 * 512) < 0.75);
}

TEST_CASE("v_offset and peaked change one tensor each") {
  const Inputs normal = generate("normal", kLong, 3, IoType::f32);
  const Inputs offset = generate("v_offset", kLong, 3, IoType::f32);
  CHECK(offset.k.data == normal.k.data);
  CHECK(moments(offset.v).mean == Approx(2.0).margin(0.01));
  CHECK(moments(offset.v).deviation == Approx(1.0).margin(0.01));
  const Inputs peaked = generate("peaked", kLong, 3, IoType::f32);
  CHECK(peaked.v.data == normal.v.data);
  CHECK(moments(peaked.q).deviation == Approx(3.0).margin(0.03));
}

TEST_CASE("fa3_outlier: one value in a thousand has deviation 10") {
  const Inputs in = generate("fa3_outlier", kLong, 3, IoType::f32);
  const Inputs normal = generate("normal", kLong, 3, IoType::f32);
  for (const auto& [tensor, plain] :
       {std::pair{&in.q, &normal.q}, std::pair{&in.k, &normal.k}, std::pair{&in.v, &normal.v}}) {
    double count = 0, square = 0;
    for (std::size_t i = 0; i < tensor->data.size(); ++i) {
      const double added = tensor->data[i] - plain->data[i];
      count += added != 0;
      square += added * added;
    }
    CHECK(count == Approx(262).margin(80));  // five standard deviations
    CHECK(std::sqrt(square / count) == Approx(10.0).epsilon(0.25));
  }
}

TEST_CASE("zero_parts: zero channels of V, rows of K, rows of Q that share a scale") {
  const Inputs in =
      generate("zero_parts", {.q_len = 70, .kv_len = 70, .head_dim = 64}, 3, IoType::f16);
  for (std::int64_t n = 0; n < 70; ++n) {
    const auto zeros = [](const float* row) { return std::count(row, row + 64, 0.0f); };
    CHECK((zeros(in.q.row(0, 0, n)) == 64) == (n % 8 == 3));
    CHECK((zeros(in.k.row(0, 0, n)) == 64) == (n % 5 == 0));
    for (std::int64_t c = 0; c < 64; ++c) CHECK((in.v.row(0, 0, n)[c] == 0.0f) == (c % 4 == 0));
  }
}

TEST_CASE("unknown names and impossible shapes are refused") {
  CHECK_THROWS_WITH(generate("gauss", {}, 1, IoType::f16),
                    Catch::Contains("'gauss'") && Catch::Contains("normal, k_bias, outlier"));
  CHECK_THROWS_WITH(generate("normal", {.q_heads = 3, .kv_heads = 2}, 1, IoType::f16),
                    Catch::Contains("3 query heads, 2 key heads"));
  CHECK_THROWS_AS(generate("normal", {.head_dim = 0}, 1, IoType::f16), std::invalid_argument);
  CHECK_THROWS_AS(generate("normal", {.kv_len = -1}, 1, IoType::f16), std::invalid_argument);
}
