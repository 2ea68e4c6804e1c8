// Mods: against the definition written down a second time, with what a right kernel may do at the
// edge of what is allowed, and with the errors that kernels with mods have.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numbers>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/largest_difference.h"
#include "tools/reference/judge.h"
#include "tools/reference/mods.h"
#include "tools/reference/rounding.h"

using namespace sagegen::reference;
using sagegen::test::largest_difference;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What the naive loop asks: a score, changed; -infinity if the key is hidden. Natural logarithms.
using Score = std::function<double(int b, int h, int i, int j, double s)>;

// One query at a time, in natural logarithms: no blocks, no lists of mods.
Output naive(const Inputs& in, const Score& score, const std::vector<double>& sinks = {}) {
  Output out;
  const auto d = static_cast<std::size_t>(in.q.channels);
  const std::int64_t group = in.q.heads / in.k.heads;
  for (int b = 0; b < in.q.batch; ++b) {
    for (int h = 0; h < in.q.heads; ++h) {
      for (int i = 0; i < in.q.tokens; ++i) {
        std::vector<double> row(d, 0.0);
        double sum = sinks.empty() ? 0 : std::exp(sinks[static_cast<std::size_t>(h)]);
        for (int j = 0; j < in.k.tokens; ++j) {
          if (in.causal && j > i + in.causal_offset) continue;
          const float *q = in.q.row(b, h, i), *k = in.k.row(b, h / group, j);
          double dot = 0;
          for (std::size_t c = 0; c < d; ++c) dot += static_cast<double>(q[c]) * k[c];
          const double p = std::exp(score(b, h, i, j, dot / std::sqrt(static_cast<double>(d))));
          sum += p;
          for (std::size_t c = 0; c < d; ++c) row[c] += p * in.v.row(b, h / group, j)[c];
        }
        for (double& x : row) x = sum > 0 ? x / sum : 0;
        out.o.insert(out.o.end(), row.begin(), row.end());
        out.lse.push_back(std::log(sum));
      }
    }
  }
  return out;
}

constexpr Shape kShape{
    .batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 67, .kv_len = 149, .head_dim = 40};

Inputs inputs_with(std::vector<ScoreMod> mods, const Shape& shape = kShape,
                   const std::string& distribution = "normal") {
  Inputs in = generate(distribution, shape, 1, IoType::f16);
  in.mods = std::move(mods);
  return in;
}

void check_naive(const Inputs& in, const Score& score, const std::vector<double>& sinks = {}) {
  const Output got = attention(in), want = naive(in, score, sinks);
  CHECK(largest_difference(got.o, want.o) < 1e-12);
  CHECK(largest_difference(got.lse, want.lse) < 1e-12);
}

std::vector<float> random_floats(std::size_t count, unsigned seed, float size) {
  std::mt19937 random(seed);
  std::vector<float> out(count);
  for (float& x : out) x = size * (static_cast<float>(random() >> 8) * 0x1p-23f - 1);
  return out;
}

std::vector<std::uint32_t> random_words(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::uint32_t> out(count);
  for (std::uint32_t& word : out) word = static_cast<std::uint32_t>(random());
  return out;
}

std::vector<std::uint8_t> random_bytes(std::size_t count, unsigned seed) {
  std::vector<std::uint8_t> out(count);
  const std::vector<std::uint32_t> words = random_words(count, seed);
  for (std::size_t i = 0; i < count; ++i)
    out[i] = words[i] % 3 == 0 ? 0 : static_cast<std::uint8_t>(1 + words[i] % 200);
  return out;
}

bool in_window(int i, int j, int left, int right, int offset) {
  return (left < 0 || j >= i + offset - left) && (right < 0 || j <= i + offset + right);
}

}  // namespace

TEST_CASE("sliding windows: each side, none, offsets, and the causal mask besides") {
  for (const auto& [left, right, offset] :
       {std::array{10, 5, 82}, std::array{-1, 5, 0}, std::array{20, -1, 100}, std::array{0, 0, 3},
        std::array{-1, -1, 0}, std::array{70, 70, -30}, std::array{3, 3, 145}}) {
    for (const bool causal : {false, true}) {
      INFO(left << ", " << right << ", " << offset << (causal ? ", causal" : ""));
      Inputs in = inputs_with({window(left, right, offset)});
      in.causal = causal;
      in.causal_offset = 82;
      check_naive(in, [l = left, r = right, o = offset](int, int, int i, int j, double s) {
        return in_window(i, j, l, r, o) ? s : -kInfinity;
      });
    }
  }
  constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
  CHECK(attention(inputs_with({window(kMost, kMost, kMost)})).o ==
        attention(inputs_with({window(0, -1, 0)})).o);
}

TEST_CASE("soft cap, sinks, ALiBi") {
  check_naive(inputs_with({soft_cap(1.5)}), [](int, int, int, int, double s) {
    return 1.5 * (1 - 2 / (std::exp(2 * s / 1.5) + 1));
  });
  const auto as_it_is = [](int, int, int, int, double s) { return s; };
  check_naive(inputs_with({sinks({1, -2, 6, -std::numeric_limits<float>::infinity()})}), as_it_is,
              {1, -2, 6, -kInfinity});
  check_naive(inputs_with({sinks({1, 2, 3, 4}), sinks({0, 9, -40, 4})}), as_it_is,
              {std::log(std::exp(1.0) + 1), std::log(std::exp(2.0) + std::exp(9.0)), 3,
               4 + std::numbers::ln2});
  const std::array slopes = {0.5f, 0.25f, 0.125f, -0.01f};
  check_naive(inputs_with({alibi({slopes.begin(), slopes.end()}, 82)}),
              [&](int, int h, int i, int j, double s) {
                const double slope = slopes[static_cast<std::size_t>(h)];
                return s - slope * std::abs(i + 82.0 - j);
              });
}

TEST_CASE("bias and boolean mask: whole, and with broadcast strides") {
  constexpr std::int64_t kQ = kShape.q_len, kK = kShape.kv_len;
  const std::array<Strides, 5> all = {Strides{4 * kQ * kK, kQ * kK, kK, 1},
                                      {0, kQ * kK, kK, 1},
                                      {0, 0, kK, 1},
                                      {0, 0, 0, 1},
                                      {4 * kQ * kK, 0, 1, kQ}};
  for (const Strides& s : all) {
    const auto size = static_cast<std::size_t>(8 * kQ * kK);
    const auto at = [&](int b, int h, int i, int j) {
      return static_cast<std::size_t>(b * s[0] + h * s[1] + i * s[2] + j * s[3]);
    };
    std::vector<float> values = random_floats(size, 1, 3);
    values[5] = -std::numeric_limits<float>::infinity();
    values[7] = std::numeric_limits<float>::lowest();  // -infinity in base 2
    check_naive(inputs_with({bias(values, s)}), [&](int b, int h, int i, int j, double score) {
      return values[at(b, h, i, j)] < -1e38f ? -kInfinity : score + values[at(b, h, i, j)];
    });
    const std::vector<std::uint8_t> bytes = random_bytes(size, 2);
    check_naive(inputs_with({mask(bytes, s)}), [&](int b, int h, int i, int j, double score) {
      return bytes[at(b, h, i, j)] != 0 ? score : -kInfinity;
    });
  }
}

TEST_CASE("block-sparse mask: tiles of 16 queries and 4 keys, more than a word of them") {
  const std::vector<std::uint32_t> words = random_words(2 * 4 * 5 * 2, 3);
  const auto bit = [&](int b, int h, int i, int j, int heads) {
    const auto row = static_cast<std::size_t>((b * heads + (heads == 1 ? 0 : h)) * 5 + i / 16);
    return words[row * 2 + static_cast<std::size_t>(j / 4 / 32)] & 1u << (j / 4 % 32);
  };
  check_naive(
      inputs_with({block_sparse(words, 16, 4, {40, 10, 2})}),
      [&](int b, int h, int i, int j, double s) { return bit(b, h, i, j, 4) ? s : -kInfinity; });
  check_naive(
      inputs_with({block_sparse(words, 16, 4, {10, 0, 2})}),
      [&](int b, int h, int i, int j, double s) { return bit(b, h, i, j, 1) ? s : -kInfinity; });
  // Rows of two heads, query by query: 9 tiles of 16 for each two.
  const std::vector<std::uint32_t> of_rows = random_words(2 * 2 * 9 * 2, 4);
  check_naive(inputs_with({block_sparse(of_rows, 16, 4, {36, 18, 2}, 2)}),
              [&](int b, int h, int i, int j, double s) {
                const int row = (b * 2 + h / 2) * 9 + (2 * i + h % 2) / 16;
                const std::uint32_t word = of_rows[static_cast<std::size_t>(row * 2 + j / 4 / 32)];
                return (word >> (j / 4 % 32) & 1) != 0 ? s : -kInfinity;
              });
}

TEST_CASE("mods compose: changes in the order of the list, hidden keys, two sinks") {
  const std::vector<float> values = random_floats(static_cast<std::size_t>(67 * 149), 4, 2);
  const std::vector<std::uint8_t> bytes = random_bytes(149, 5);
  const ScoreMod cap = soft_cap(2), add = bias(values, {0, 0, 149, 1});
  const auto value = [&](int i, int j) { return values[static_cast<std::size_t>(i * 149 + j)]; };
  const auto sees = [&](int i, int j) {
    return bytes[static_cast<std::size_t>(j)] != 0 && in_window(i, j, 30, 4, 82);
  };
  const std::vector<ScoreMod> rest = {mask(bytes, {0, 0, 0, 1}), window(30, 4, 82),
                                      sinks({1, 0, -1, 3})};
  for (const bool cap_first : {true, false}) {
    Inputs in = inputs_with(rest);
    in.mods.insert(in.mods.begin() + 1, cap_first ? cap : add);
    in.mods.push_back(cap_first ? add : cap);
    in.causal = true;
    in.causal_offset = 84;
    check_naive(in,
                [&](int, int, int i, int j, double s) {
                  if (!sees(i, j)) return -kInfinity;
                  return cap_first ? 2 * std::tanh(s / 2) + value(i, j)
                                   : 2 * std::tanh((s + value(i, j)) / 2);
                },
                {1, 0, -1, 3});
  }
}

TEST_CASE("rows that see nothing: 0 and -infinity; with a sink alone, 0 and the sink") {
  // Rows 40 to 66 have their windows behind the last key.
  for (const bool sink : {false, true}) {
    Inputs in = inputs_with({window(5, 5, 149 - 40 + 5)}, kShape, "k_bias");
    if (sink) in.mods.push_back(sinks({1, -2, 300, 0.5f}));
    const std::array logits = {1.0, -2.0, 300.0, 0.5};
    const Output exact = attention(in), quantized = unrounded_model(in, {}, all_rows(in));
    const Allowance bounds = allowance(in, {}, {}, all_rows(in));
    for (std::size_t row = 0; row < exact.lse.size(); ++row) {
      const bool empty = row % 67 >= 40;
      const double want = sink ? logits[row / 67 % 4] : -kInfinity;
      for (std::size_t c = 0; c < 40 && empty; ++c) {
        REQUIRE(exact.o[row * 40 + c] == 0);
        REQUIRE(quantized.o[row * 40 + c] == 0);
        REQUIRE(bounds.o[row * 40 + c] == 0);
      }
      if (!empty) {
        REQUIRE(exact.lse[row] >= want);
      } else if (sink) {
        REQUIRE(exact.lse[row] == Approx(want));
        REQUIRE(quantized.lse[row] == Approx(want));
        REQUIRE((bounds.lse[row] > 0 && bounds.lse[row] < 1e-3));
      } else {
        REQUIRE((exact.lse[row] == want && quantized.lse[row] == want && bounds.lse[row] == 0));
      }
    }
  }
  // All of them, by a bias.
  const Inputs in =
      inputs_with({bias({-std::numeric_limits<float>::infinity()}, {0, 0, 0, 0}), soft_cap(3)});
  // A cap after it brings the keys back: -infinity is a score like any other until the list ends.
  CHECK(attention(in).lse[0] == Approx(-3 + std::log(149.0)));
  const Inputs hidden = inputs_with({soft_cap(3), in.mods[0]});
  for (const double x : attention(hidden).o) REQUIRE(x == 0);
  for (const double x : unrounded_model(hidden, {}, all_rows(hidden)).lse) REQUIRE(x == -kInfinity);
}

TEST_CASE("mods that change nothing change nothing, and chosen rows are as among all") {
  const std::vector<std::uint8_t> ones(1, 1);
  for (const bool causal : {false, true}) {
    Inputs plain = inputs_with({});
    plain.causal = causal;
    plain.causal_offset = 20;
    Inputs same = plain;
    same.mods = {window(-1, -1, 0), mask(ones, {0, 0, 0, 0})};
    const RowNumbers rows = all_rows(plain);
    CHECK(attention(plain).o == attention(same).o);
    CHECK(attention(plain).lse == attention(same).lse);
    CHECK(unrounded_model(plain, {}, rows).o == unrounded_model(same, {}, rows).o);
    CHECK(unrounded_model(plain, {}, rows).lse == unrounded_model(same, {}, rows).lse);
    const Allowance a = allowance(plain, {}, {}, rows), b = allowance(same, {}, {}, rows);
    CHECK(a.o == b.o);
    CHECK(a.lse == b.lse);
    CHECK(a.distance == b.distance);
    CHECK(a.codes == b.codes);
  }
  const Inputs in = inputs_with(
      {window(30, 9, 60), soft_cap(4), sinks({1, 2, 3, 4}), alibi({0.1f, 0.2f, 0.3f, 0.4f}, 60)});
  const RowNumbers some = {0, 3, 66, 67, 150, 7 * 67 + 5, 8 * 67 - 1};
  CHECK(attention(in, some).o == take_rows(attention(in), some).o);
  CHECK(unrounded_model(in, {}, some).o ==
        take_rows(unrounded_model(in, {}, all_rows(in)), some).o);
  const Allowance few = allowance(in, {}, {}, some), all = allowance(in, {}, {}, all_rows(in));
  CHECK(few.o == take_rows({all.o, all.lse}, some).o);
  CHECK(few.lse == take_rows({all.o, all.lse}, some).lse);
}

TEST_CASE("mods that do not fit are refused with what they asked for") {
  const auto refused = [](ScoreMod mod, const std::string& why) {
    CHECK_THROWS_WITH(attention(inputs_with({std::move(mod)})), Catch::Contains(why));
  };
  refused(sinks({1, 2, 3}), "attention sinks: 3 values for 4 heads");
  refused(alibi({1}, 0), "ALiBi: 1 values for 4 heads");
  refused(skip_softmax({0.1f}), "skip-softmax: 1 thresholds for a batch of 2");
  CHECK_THROWS_WITH(skip_softmax({1.0f}), Catch::Contains("threshold is 1;"));
  refused(bias(std::vector<float>(67 * 149 - 1), {0, 0, 149, 1}), "ends at element 9982");
  refused(mask({1, 1}, {0, 0, 0, -1}), "boolean mask: stride -1 is negative");
  refused(block_sparse({1, 2}, 64, 64, {0, 0, 2}), "block-sparse mask: [2, 4, 2, 1]");
  CHECK_THROWS_WITH(soft_cap(0), Catch::Contains("cap is 0"));
  CHECK_THROWS_AS(soft_cap(kInfinity), std::invalid_argument);
  CHECK_THROWS_WITH(bias({std::nanf("")}, {}), Catch::Contains("value is nan"));
  CHECK_THROWS_AS(bias({3e38f}, {}), std::invalid_argument);  // infinite in base 2
  CHECK_THROWS_AS(sinks({std::numeric_limits<float>::infinity()}), std::invalid_argument);
  CHECK_THROWS_AS(alibi({std::nanf("")}, 0), std::invalid_argument);
  CHECK_THROWS_AS(block_sparse({}, 0, 64, {}), std::invalid_argument);
}

// ---- the judge ----------------------------------------------------------------------------------

namespace {

constexpr float kLog2E = std::numbers::log2e_v<float>;
constexpr Shape kJudged{.q_heads = 2, .kv_heads = 1, .q_len = 130, .kv_len = 200, .head_dim = 64};
constexpr int kOffset = 70;
constexpr double kTanh = 0x1p-11;

// The same change in the arithmetic of a kernel: f32, base 2.
template <typename Change>
ScoreMod in_f32(const Change& change) {
  ScoreMod mod;
  mod.changes = [=](const Place& p, double score) {
    const auto octaves = static_cast<float>(score * std::numbers::log2e);
    return static_cast<double>(change(p, octaves)) * std::numbers::ln2;
  };
  mod.derivative = [](const Place&, double) { return 1.0; };  // scores with K's mean, as of `right`
  return mod;
}

float tanh_of(float x, double error) {
  return static_cast<float>(std::tanh(static_cast<double>(x)) * (1 + error));
}

ScoreMod kernel_cap(float cap, double even, double odd) {
  return in_f32([=](const Place& p, float s) {
    return cap * kLog2E * tanh_of(s * (1 / (cap * kLog2E)), p.key % 2 == 0 ? even : odd);
  });
}

// A problem with mods and its judge, for one format.
struct Judge {
  Inputs in;
  QuantModel quant;
  DeviceArithmetic arithmetic;
  RowNumbers rows;
  Output model;
  Allowance bounds;

  Judge(Inputs inputs, bool e4m3)
      : in(std::move(inputs)),
        quant(e4m3 ? QuantModel{}
                   : QuantModel{.pv = QuantModel::Pv::f16, .v_scaled = false, .p_max = 1}),
        arithmetic(e4m3 ? DeviceArithmetic{.sum_bits = 13, .two_level = true}
                        : DeviceArithmetic{.sum_bits = 23, .two_level = false}),
        rows(all_rows(in)),
        model(unrounded_model(in, quant, rows)),
        bounds(allowance(in, quant, arithmetic, rows)) {}

  static Output rounded(Output out) {
    for (double& x : out.o) x = round_ieee(x, kF16);
    for (double& x : out.lse) x = round_ieee(x, kF32);
    return out;
  }
  // What a kernel with these mods makes of the inputs.
  Output with(std::vector<ScoreMod> mods) const {
    Inputs other = in;
    other.mods = std::move(mods);
    return rounded(unrounded_model(other, quant, rows));
  }
  RowVerdict verdict(const Output& got) const { return judge_rows(rows, model, bounds, got); }
  bool passes(const Output& got) const {
    return verdict(got).met() && check_every_row(in, quant, arithmetic, got).none();
  }
  std::int64_t refused(std::vector<ScoreMod> mods) const {
    const RowVerdict v = verdict(with(std::move(mods)));
    return std::max({v.rows_beyond, v.lse_beyond, v.rows_apart});
  }
};

template <typename Check>
void for_each_judge(const std::vector<ScoreMod>& mods, const Check& check) {
  for (const char* distribution : {"normal", "k_bias", "outlier", "sink"}) {
    for (const bool e4m3 : {true, false}) {
      INFO(distribution << (e4m3 ? ", e4m3" : ", f16"));
      const Judge judge(inputs_with(mods, kJudged, distribution), e4m3);
      CHECK(judge.passes(judge.with(mods)));
      check(judge);
    }
  }
}

}  // namespace

TEST_CASE("judge: windows and masks that are off by one are refused") {
  for_each_judge({window(20, 10, kOffset)}, [](const Judge& judge) {
    CHECK(judge.refused({window(21, 10, kOffset)}) > 100);
    CHECK(judge.refused({window(20, 9, kOffset)}) > 100);
    CHECK(judge.refused({window(20, 10, kOffset + 1)}) > 100);
    CHECK(judge.refused({}) > 200);
  });
  const std::vector<std::uint32_t> words = random_words(2 * 3 * 1, 7);
  for_each_judge({block_sparse(words, 64, 16, {6, 3, 1})}, [&](const Judge& judge) {
    std::vector<std::uint32_t> wrong = words;
    for (std::uint32_t& word : wrong) word ^= 16;  // one tile of each row
    CHECK(judge.refused({block_sparse(wrong, 64, 16, {6, 3, 1})}) > 100);
    CHECK(judge.refused({block_sparse(words, 64, 16, {6, 0, 1})}) > 100);
  });
  const std::vector<std::uint8_t> bytes = random_bytes(200 + 1, 8);
  for_each_judge({mask({bytes.begin(), bytes.end() - 1}, {0, 0, 0, 1})}, [&](const Judge& judge) {
    CHECK(judge.refused({mask({bytes.begin() + 1, bytes.end()}, {0, 0, 0, 1})}) > 200);
  });
}

TEST_CASE("judge: sinks that are missing, of another head, or in the wrong base are refused") {
  for_each_judge({sinks({3, 5})}, [](const Judge& judge) {
    CHECK(judge.refused({}) > 100);
    CHECK(judge.refused({sinks({5, 3})}) > 100);
    CHECK(judge.refused({sinks({3 * std::numbers::ln2_v<float>, 5 * std::numbers::ln2_v<float>})}) >
          100);
    CHECK(judge.passes(judge.with({sinks({3 * (1 + 0x1p-23f), 5 * (1 + 0x1p-23f)})})));
  });
  // A sink that decides everything: the model's LSE is it.
  for_each_judge({sinks({500, 900})}, [](const Judge& judge) {
    CHECK(judge.model.lse[0] == Approx(500));
    CHECK(judge.refused({sinks({500.1f, 900.1f})}) == 260);
  });
}

TEST_CASE("judge: a bias in f32 passes, one without log2(e) or of another head does not") {
  const std::vector<float> values = random_floats(2 * 200, 9, 4);
  const auto term = [&](const Place& p) {
    return values[static_cast<std::size_t>(p.head * 200 + p.key)];
  };
  for_each_judge({bias(values, {0, 200, 0, 1})}, [&](const Judge& judge) {
    ScoreMod right = in_f32([&](const Place& p, float s) { return std::fma(term(p), kLog2E, s); });
    right.derivative = nullptr;
    CHECK(judge.passes(judge.with({right})));
    right = in_f32([&](const Place& p, float s) { return term(p) * kLog2E + s; });
    right.derivative = nullptr;
    CHECK(judge.passes(judge.with({right})));
    std::vector<float> in_octaves = values;
    for (float& x : in_octaves) x *= std::numbers::ln2_v<float>;
    CHECK(judge.refused({bias(in_octaves, {0, 200, 0, 1})}) > 200);
    CHECK(judge.refused({bias(values, {0, 0, 0, 1})}) > 100);
    CHECK(judge.refused({}) > 200);
  });
}

TEST_CASE("judge: tiles below the threshold may be left out, others not") {
  std::vector<float> levels(200, 0);  // of keys; the second tile weighs little
  std::fill(levels.begin() + 64, levels.begin() + 128, -6.0f);
  const ScoreMod level = bias(levels, {0, 0, 0, 1});
  const auto without = [](std::int64_t tile) {
    ScoreMod mod;
    mod.hides = [=](const Place& p) { return p.key / 64 == tile; };
    return mod;
  };
  for (const bool e4m3 : {true, false}) {
    const Judge may(inputs_with({level, skip_softmax({0.2f})}, kJudged, "normal"), e4m3);
    CHECK(may.passes(may.with({level})));
    CHECK(may.passes(may.with({level, without(1)})));
    CHECK(may.refused({level, without(2)}) > 200);
    CHECK(*std::min_element(may.bounds.light.begin(), may.bounds.light.end()) > 0);
    for (const float threshold : {0.0f, 1e-5f}) {
      const Judge must(inputs_with({level, skip_softmax({threshold})}, kJudged, "normal"), e4m3);
      CHECK(*std::max_element(must.bounds.light.begin(), must.bounds.light.end()) == 0);
      if (!e4m3) CHECK(must.refused({level, without(1)}) > 200);
    }
  }
}

// Both have the roundings of f32, each its own.
TEST_CASE("judge: a sink in f32 beside scores of its size passes") {
  for (const float size : {1e3f, 1e5f}) {
    const std::vector<ScoreMod> mods = {bias({size}, {0, 0, 0, 0}), sinks({size + 3, size + 5})};
    for_each_judge(mods, [&](const Judge& judge) {
      for (const double direction : {-2.0, 0.0, 2.0}) {
        INFO(size << ", " << direction);
        ScoreMod term = in_f32([=](const Place&, float s) { return std::fma(size, kLog2E, s); });
        term.derivative = nullptr;
        ScoreMod sink = mods[1];
        sink.sink = [=](std::int64_t b, std::int64_t h) {
          return mods[1].sink(b, h) * (1 + direction * 0x1p-24);
        };
        CHECK(judge.passes(judge.with({term, sink})));
      }
      if (size < 1e4f) CHECK(judge.refused({mods[0]}) > 100);
    });
  }
}

TEST_CASE("judge: a bias in f32 of any size passes") {
  for (const float size : {100.0f, 3000.0f, 65504.0f, 1e7f}) {
    const std::vector<float> values = random_floats(200, 11, size);
    ScoreMod right = in_f32([&](const Place& p, float s) {
      return std::fma(values[static_cast<std::size_t>(p.key)], kLog2E, s);
    });
    right.derivative = nullptr;
    for_each_judge({bias(values, {0, 0, 0, 1})}, [&](const Judge& judge) {
      INFO(size);
      CHECK(judge.passes(judge.with({right})));
      CHECK(judge.refused({}) > 250);
    });
  }
}

TEST_CASE("judge: a soft cap with the device's tanh passes, one that is applied twice does not") {
  for_each_judge({soft_cap(5)}, [](const Judge& judge) {
    for (const auto& [even, odd] :
         {std::pair{kTanh, kTanh}, {-kTanh, -kTanh}, {kTanh, -kTanh}, {0.0, kTanh}, {0.0, 0.0}}) {
      INFO(even << ", " << odd);
      CHECK(judge.passes(judge.with({kernel_cap(5, even, odd)})));
    }
    CHECK(judge.refused({soft_cap(5), soft_cap(5)}) > 100);
    CHECK(judge.refused({soft_cap(5 * std::numbers::ln2)}) > 100);  // the cap in octaves
    CHECK(judge.refused({}) > 100);
    // 32 times the error, which e4m3 rounds away.
    if (judge.quant.pv == QuantModel::Pv::f16)
      CHECK(judge.refused({kernel_cap(5, 0x1p-6, 0x1p-6)}) > 50);
  });
  // The cap's error, bounded by itself.
  const Judge exact(inputs_with({soft_cap(5, 0)}, kJudged), false);
  CHECK(exact.passes(exact.with({kernel_cap(5, 0, 0)})));
  CHECK(exact.refused({kernel_cap(5, kTanh, -kTanh)}) > 0);
}

TEST_CASE("judge: ALiBi in f32 passes; another head's slope, or a place off by one, does not") {
  const std::vector<float> slopes = {0.25f, 0.0625f};
  for_each_judge({alibi(slopes, kOffset)}, [&](const Judge& judge) {
    ScoreMod right = in_f32([&](const Place& p, float s) {
      const auto distance = static_cast<float>(std::abs(p.query + kOffset - p.key));
      return std::fma(-slopes[static_cast<std::size_t>(p.head)] * kLog2E, distance, s);
    });
    right.derivative = nullptr;
    CHECK(judge.passes(judge.with({right})));
    CHECK(judge.refused({alibi({slopes[1], slopes[0]}, kOffset)}) > 200);
    CHECK(judge.refused({alibi(slopes, kOffset + 1)}) > 100);
    CHECK(judge.refused({alibi({slopes[0] * std::numbers::ln2_v<float>, slopes[1]}, kOffset)}) >
          100);
  });
}

TEST_CASE("judge: a cap or a sink that takes scores without K's mean is refused") {
  for (const bool e4m3 : {true, false}) {
    for (const ScoreMod& mod : {soft_cap(5), sinks({3, 5})}) {
      const Judge judge(inputs_with({mod}, kJudged, "k_bias"), e4m3);
      Judge wrong = judge;
      std::array<double, 64> mean{};
      for (std::int64_t j = 0; j < 200; ++j)
        for (std::size_t c = 0; c < 64; ++c) mean[c] += wrong.in.k.row(0, 0, j)[c] / 200.0;
      for (std::size_t i = 0; i < wrong.in.k.data.size(); ++i)
        wrong.in.k.data[i] -= static_cast<float>(mean[i % 64]);
      Output got = wrong.with({mod});
      for (std::size_t row = 0; row < got.lse.size(); ++row) {
        double dot = 0;
        for (std::size_t c = 0; c < 64; ++c) dot += wrong.in.q.data[row * 64 + c] * mean[c];
        got.lse[row] += dot / 8;
      }
      CHECK(judge.verdict(got).lse_beyond > 200);
      CHECK(judge.verdict(got).rows_apart > 100);
    }
  }
}

TEST_CASE("the model with mods is near exact attention where K has a mean") {
  const Shape shape{.q_heads = 2, .kv_heads = 1, .q_len = 200, .kv_len = 300, .head_dim = 64};
  for (const std::vector<ScoreMod>& mods : {std::vector{soft_cap(20)},
                                            {sinks({3, 5})},
                                            {window(50, 50, 100), alibi({0.1f, 0.2f}, 100)}}) {
    const Inputs in = inputs_with(mods, shape, "k_bias");
    const Output exact = attention(in), quantized = model(in, {});
    CHECK(compare(exact.o, quantized.o).cosine_similarity > 0.998);
    CHECK(compare(exact.lse, quantized.lse).max_abs < 0.1);
  }
}

TEST_CASE("judge: composed mods, planted in every place of the list") {
  const std::vector<std::uint8_t> bytes = random_bytes(200, 8);
  const std::vector<ScoreMod> mods = {soft_cap(6), alibi({0.05f, 0.1f}, kOffset),
                                      mask(bytes, {0, 0, 0, 1}), window(60, 30, kOffset),
                                      sinks({2, 3})};
  for_each_judge(mods, [&](const Judge& judge) {
    std::vector<ScoreMod> right = mods;
    right[0] = kernel_cap(6, 0x1p-11, -0x1p-11);
    CHECK(judge.passes(judge.with(right)));
    for (std::size_t i = 0; i < mods.size(); ++i) {
      INFO(mods[i].name << " left out");
      std::vector<ScoreMod> wrong = mods;
      wrong.erase(wrong.begin() + static_cast<std::ptrdiff_t>(i));
      CHECK(judge.refused(wrong) > 60);
    }
  });
}

TEST_CASE("every row with mods: V between the first and the last key seen, rows that see nothing") {
  std::vector<std::uint8_t> bytes(200, 1);
  std::fill(bytes.begin() + 100, bytes.begin() + 106, std::uint8_t{0});
  for (const bool sink : {false, true}) {
    std::vector<ScoreMod> mods = {window(1, 1, 73), mask(bytes, {0, 0, 0, 1})};
    if (sink) mods.push_back(sinks({1, -2}));
    const Judge judge(inputs_with(mods, kJudged), false);
    const auto impossible = [&](std::size_t row, double o, double lse) {
      Output out = Judge::rounded(judge.model);
      out.o[row * 64 + 5] = o;
      out.lse[row] = lse;
      return check_every_row(judge.in, judge.quant, judge.arithmetic, out);
    };
    // Query 27 sees key 99, query 26 keys 98 and 99; 28 to 31 nothing; 128 and 129, from key 200
    // on, neither.
    const double a = judge.in.v.row(0, 0, 98)[5], b = judge.in.v.row(0, 0, 99)[5];
    const double low = std::min({a, b, sink ? 0.0 : a}), high = std::max({a, b, sink ? 0.0 : a});
    CHECK(impossible(26, low, 1).none());
    CHECK(impossible(26, high, 1).none());
    CHECK(impossible(26, low - 0.01, 1).outside_range == 1);
    CHECK(impossible(26, high + 0.01, 1).outside_range == 1);
    CHECK(impossible(26, low, -kInfinity).non_finite == 1);
    CHECK(impossible(26, std::nan(""), 1).non_finite == 1);
    for (const std::size_t row : {28u, 31u, 129u, 130u + 29}) {
      CHECK(impossible(row, 1e-7, judge.model.lse[row]).masked == 1);
      CHECK(impossible(row, 0, judge.model.lse[row]).none());
      const Impossible other = impossible(row, 0, sink ? -kInfinity : 1.0);
      CHECK(other.masked == (sink ? 0 : 1));
      CHECK(other.non_finite == (sink ? 1 : 0));
    }
  }
}

// By hand: one key and a sink of the same logit share the weight.
TEST_CASE("bounds with mods by hand") {
  Inputs in = generate("normal", {.q_len = 1, .kv_len = 1, .head_dim = 64}, 1, IoType::f16);
  std::fill(in.q.data.begin(), in.q.data.end(), 0.0f);
  std::fill(in.v.data.begin(), in.v.data.end(), 1.0f);
  in.mods = {sinks({0})};
  const Judge half(in, false);
  CHECK(half.model.o[0] == 0.5);
  CHECK(half.model.lse[0] == Approx(std::numbers::ln2));
  // Half a step of f16 in the octave of 1/2, and of f32 a few.
  CHECK((half.bounds.o[0] > 0x1p-12 && half.bounds.o[0] < 0x1p-12 * 1.2));
  // In f32 both may be off by ten roundings of their size, and O by a quarter of ln 2 of that each.
  in.mods = {bias({1e5f}, {0, 0, 0, 0}), sinks({1e5f})};
  const double ten = 10 * 0x1p-24 * 1e5 * std::numbers::log2e;
  const double both = Judge(in, false).bounds.o[0];
  CHECK(both > std::numbers::ln2 / 4 * 2 * ten);
  CHECK(both < std::numbers::ln2 / 4 * 8 * ten);
  // Far keys of ALiBi have large scores, and roundings as large; scores of the others keep theirs.
  in.k = in.v = Tensor(1, 1, 200, 64);
  std::fill(in.v.data.begin(), in.v.data.end(), 1.0f);
  in.mods = {alibi({1e4f}, 100)};
  const Judge far(in, false);
  CHECK(far.bounds.lse[0] < 1e-4);
  // Of a bias of 1e5 that all keys have, f32 keeps 1/128.
  in.mods = {bias({1e5f}, {0, 0, 0, 0})};
  const Judge coarse(in, false);
  CHECK((coarse.bounds.lse[0] > 0x1p-7 && coarse.bounds.lse[0] < 0.5));
  // A first tile under the bias that float16 has for masks: the rest does not feel it.
  std::vector<float> padded(200, 0.0f);
  std::fill_n(padded.begin(), 64, -65504.0f);
  in.mods = {bias(padded, {0, 0, 0, 1})};
  CHECK(Judge(in, false).bounds.lse[0] < 1e-4);
  // -infinity is a score like any other for a cap behind it.
  padded[0] = -std::numeric_limits<float>::infinity();
  in.mods = {bias(padded, {0, 0, 0, 1}), soft_cap(3)};
  const Judge capped(in, false);
  CHECK(capped.model.lse[0] == Approx(std::log(136 + 64 * std::exp(-3))));
  CHECK(capped.bounds.lse[0] > 1e-5);
  CHECK(capped.bounds.lse[0] < 0.02);
}

// Smoothing takes the mean off K and off the sink: bounds are what they are without both.
TEST_CASE("bounds do not feel the mean of K, nor does a sink among them") {
  Inputs plain = generate("normal", {.q_len = 1, .kv_len = 200, .head_dim = 64}, 3, IoType::f16);
  plain.q.data[0] = 6;
  std::array<double, 64> mean{};
  for (std::size_t i = 0; i < plain.k.data.size(); ++i) mean[i % 64] += plain.k.data[i] / 200.0;
  for (std::size_t i = 0; i < plain.k.data.size(); ++i)
    plain.k.data[i] -= static_cast<float>(mean[i % 64]);
  Inputs moved = plain;
  for (std::size_t i = 0; i < moved.k.data.size(); i += 64) moved.k.data[i] += 8;
  plain.mods = {sinks({5})};
  moved.mods = {sinks({5 + 6})};  // 6 * 8 / sqrt(64)
  const Judge a(plain, false), b(moved, false);
  CHECK(b.model.lse[0] - a.model.lse[0] == Approx(6));
  CHECK(b.bounds.distance[0] == Approx(a.bounds.distance[0]).epsilon(0.3));
  CHECK(b.bounds.lse[0] == Approx(a.bounds.lse[0]).epsilon(0.3));
  Inputs without = plain;
  without.mods = {sinks({-30})};
  const Judge c(without,
                false);  // the sink is half of the sum: O is half as large, and so are errors
  CHECK(a.bounds.distance[0] < 0.8 * c.bounds.distance[0]);
}

// Values of Q half way between two codes, which a kernel may decide as it likes: all keys of a row
// move, each by as much as the cap leaves.
TEST_CASE("judge: undecided codes under a cap pass") {
  std::mt19937_64 random(1);
  const auto uniform = [&] { return static_cast<float>(random() >> 40) * 0x1p-23f - 1; };
  for (int i = 0; i < 12; ++i) {
    const std::int64_t kinds = 2 + i % 6;
    const float amplitude = 0.1f * std::exp2(static_cast<float>(i % 6));
    Inputs in;
    in.q = Tensor(1, 1, 16, 64);
    in.k = in.v = Tensor(1, 1, 1000, 64);
    for (std::int64_t n = 0; n < 16; ++n) {
      float* q = in.q.row(0, 0, n);
      for (int c = 1; c < 64; ++c)
        q[c] = (std::floor(uniform() * 100) + (uniform() < 0.0f ? 0.5f : 0.0f)) / 64;
      q[0] = 127.0f / 64;  // a code is 1 / 64
    }
    Tensor k(1, 1, kinds, 64), v(1, 1, kinds, 64);
    for (float& x : k.data) x = amplitude * uniform();
    for (float& x : v.data) x = uniform();
    for (std::int64_t n = 0; n < 1000; ++n) {
      const auto kind = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(kinds));
      std::copy_n(k.row(0, 0, kind), 64, in.k.row(0, 0, n));
      std::copy_n(v.row(0, 0, kind), 64, in.v.row(0, 0, n));
    }
    for (Tensor* t : {&in.q, &in.k, &in.v}) round_to(IoType::f16, *t);
    in.mods = {soft_cap(3, 0)};
    for (const bool e4m3 : {true, false}) {
      const Judge judge(in, e4m3);
      for (const int direction : {-1, 0, 1}) {
        INFO(i << (e4m3 ? ", e4m3, " : ", f16, ") << direction);
        Inputs other = in;
        for (std::int64_t n = 0; n < 16; ++n) {
          for (int c = 1; c < 64; ++c) {
            float& q = other.q.row(0, 0, n)[c];
            const bool up = direction == 0 ? uniform() < 0 : direction > 0;
            q = std::nextafter(q, up ? 10.0f : -10.0f);
          }
        }
        const Output near = unrounded_model(other, judge.quant, judge.rows);
        CHECK(judge.verdict(Judge::rounded(near)).met());
      }
    }
  }
}
