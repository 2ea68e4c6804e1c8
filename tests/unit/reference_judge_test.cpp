// The judge of single rows: what a right kernel may do passes, and each planted error is refused, however
// few rows it touches. A right kernel is stood in for by the model with its output rounded, and by the
// model of inputs that f32 arithmetic cannot tell from the given ones.
#include <algorithm>
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "tools/reference/judge.h"
#include "tools/reference/rounding.h"

using namespace sagegen::reference;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr DeviceArithmetic kAda{.sum_bits = 13, .two_level = true};
constexpr DeviceArithmetic kOthers{.sum_bits = 23, .two_level = false};
constexpr DeviceArithmetic kHalfSums{.sum_bits = 23, .two_level = true, .half_roundings = 1};

QuantModel fp8(IoType io = IoType::f16) { return {.output = io}; }

QuantModel fp16(IoType io = IoType::f16) {
  return {.pv = QuantModel::Pv::f16,
          .v_scaled = io == IoType::bf16,
          .v_max = 1024.0,
          .p_max = 1.0,
          .output = io};
}

// Inputs and what a right kernel makes of them.
struct Scene {
  Inputs in;
  QuantModel quant;
  DeviceArithmetic arithmetic;
  Output model;  // unrounded, of all rows
  Output right;

  Scene(Inputs inputs, const QuantModel& q, const DeviceArithmetic& a)
      : in(std::move(inputs)),
        quant(q),
        arithmetic(a),
        model(unrounded_model(in, q, all_rows(in))) {
    right = rounded(model);
  }
  Output rounded(Output out) const {
    for (double& x : out.o) x = round_ieee(x, format_of(quant.output));
    for (double& x : out.lse) x = round_ieee(x, kF32);
    return out;
  }
  RowVerdict verdict(const Output& got) const {
    const RowNumbers rows = all_rows(in);
    return judge_rows(rows, model, allowance(in, quant, arithmetic, rows), got);
  }
  Impossible impossible(const Output& got) const {
    return check_every_row(in, quant, arithmetic, got);
  }
  double* row(Output& out, std::int64_t head, std::int64_t token) const {
    return out.o.data() + (head * in.q.tokens + token) * in.q.channels;
  }
};

Inputs inputs_of(const std::string& distribution, const Shape& shape, std::uint64_t seed = 1,
                 IoType io = IoType::f16) {
  return generate(distribution, shape, seed, io);
}

constexpr Shape kShape{.q_heads = 2, .kv_heads = 1, .q_len = 130, .kv_len = 200, .head_dim = 64};

Scene scene_of(const std::string& distribution, bool e4m3, const Shape& shape = kShape) {
  return {inputs_of(distribution, shape), e4m3 ? fp8() : fp16(), e4m3 ? kAda : kOthers};
}

// One query direction; key 0 scores `gap` (natural logarithm) above all others; V is constant.
Inputs two_weights(std::int64_t keys, double gap, float v) {
  Inputs in;
  in.q = Tensor(1, 1, 64, 64);
  in.k = in.v = Tensor(1, 1, keys, 64);
  for (std::int64_t n = 0; n < 64; ++n) in.q.row(0, 0, n)[0] = 1;
  in.k.row(0, 0, 0)[0] = static_cast<float>(gap * 8);
  std::fill(in.v.data.begin(), in.v.data.end(), v);
  for (Tensor* t : {&in.q, &in.k, &in.v}) round_to(IoType::f16, *t);
  return in;
}

}  // namespace

TEST_CASE("chosen rows are computed as they are among all") {
  Inputs in = inputs_of(
      "normal",
      {.batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 77, .kv_len = 90, .head_dim = 40});
  const RowNumbers rows = {0, 3, 76, 77, 150, 7 * 77 + 5, 8 * 77 - 1};
  for (const bool causal : {false, true}) {
    in.causal = causal;
    in.causal_offset = 13;
    const Output some = attention(in, rows), all = take_rows(attention(in), rows);
    CHECK(some.o == all.o);
    CHECK(some.lse == all.lse);
    const Output some_model = unrounded_model(in, fp8(), rows);
    const Output all_model = take_rows(unrounded_model(in, fp8(), all_rows(in)), rows);
    CHECK(some_model.o == all_model.o);
    CHECK(some_model.lse == all_model.lse);
    const Allowance some_bounds = allowance(in, fp8(), kAda, rows);
    const Allowance all_bounds = allowance(in, fp8(), kAda, all_rows(in));
    CHECK(some_bounds.o == take_rows({all_bounds.o, all_bounds.lse}, rows).o);
    CHECK(some_bounds.lse == take_rows({all_bounds.o, all_bounds.lse}, rows).lse);
  }
  std::atomic<std::int64_t> done = 0;
  const Progress count = [&](std::int64_t more) { done += more; };
  attention(in, rows, 2, count);
  CHECK(done == 7);
  unrounded_model(in, fp8(), rows, 2, count);
  allowance(in, fp8(), kAda, rows, 2, count);
  CHECK(done == 21);

  CHECK_THROWS_WITH(attention(in, {3, 3}), Catch::Contains("row 3 after row 3 of 616"));
  CHECK_THROWS_AS(unrounded_model(in, fp8(), {616}), std::invalid_argument);
  CHECK_THROWS_AS(allowance(in, fp8(), kAda, {-1}), std::invalid_argument);
}

TEST_CASE("the sample has the edges of every head, random rows, and the size asked for") {
  const Inputs in = inputs_of(
      "normal",
      {.batch = 2, .q_heads = 3, .kv_heads = 1, .q_len = 1000, .kv_len = 1, .head_dim = 8});
  const RowNumbers rows = sample_rows(in, 120, 128, 1);
  CHECK(rows.size() == 120);
  CHECK(std::is_sorted(rows.begin(), rows.end()));
  CHECK(std::adjacent_find(rows.begin(), rows.end()) == rows.end());
  for (std::int64_t head = 0; head < 6; ++head) {
    for (const std::int64_t edge : {0, 127, 128, 895, 896, 999})
      CHECK(std::binary_search(rows.begin(), rows.end(), head * 1000 + edge));
  }
  CHECK(rows == sample_rows(in, 120, 128, 1));
  const RowNumbers other = sample_rows(in, 120, 128, 2);
  CHECK(rows != other);
  RowNumbers both;
  std::set_intersection(rows.begin(), rows.end(), other.begin(), other.end(),
                        std::back_inserter(both));
  CHECK(both.size() < 60);  // 36 edges, and few of the rest

  CHECK(sample_rows(in, 6000, 128, 1) == all_rows(in));
  CHECK(sample_rows(in, 5999, 128, 1).size() == 5999);
  const RowNumbers few = sample_rows(in, 4, 128, 1);  // fewer than heads
  CHECK(few.size() == 4);
  CHECK(std::adjacent_find(few.begin(), few.end(), [](std::int64_t a, std::int64_t b) {
          return a / 1000 == b / 1000;
        }) == few.end());
}

TEST_CASE("the model itself, rounded, and nearly the same inputs pass everywhere") {
  for (const Distribution& d : distributions()) {
    for (const bool e4m3 : {true, false}) {
      for (const int offset : {1000, 0, -30}) {  // the last: rows that see no key
        INFO(d.name << (e4m3 ? ", e4m3" : ", f16") << ", causal offset " << offset);
        Inputs in = inputs_of(d.name, kShape);
        in.causal = true;
        in.causal_offset = offset;
        const Scene scene(in, e4m3 ? fp8() : fp16(), e4m3 ? kAda : kOthers);
        const RowVerdict itself = scene.verdict(scene.right);
        CHECK(itself.met());
        CHECK(itself.worst_o.of_bound <= 1);
        CHECK(scene.impossible(scene.right).none());
        // Scores a few roundings off.
        Inputs near = in;
        near.softmax_scale = (1 + 4 * 0x1p-24) / 8;
        const Output other = scene.rounded(unrounded_model(near, scene.quant, all_rows(near)));
        CHECK(scene.verdict(other).met());
      }
    }
  }
}

TEST_CASE("each planted error is refused, in one row of 260") {
  for (const char* distribution : {"normal", "k_bias", "outlier", "sink", "v_offset"}) {
    for (const bool e4m3 : {true, false}) {
      INFO(distribution << (e4m3 ? ", e4m3" : ", f16"));
      const Scene scene = scene_of(distribution, e4m3);
      const std::int64_t channels = scene.in.q.channels;
      const auto refused = [&](const auto& edit) {
        Output wrong = scene.right;
        edit(wrong);
        const RowVerdict verdict = scene.verdict(wrong);
        return std::pair(verdict.rows_beyond, verdict.lse_beyond);
      };
      using Counts = std::pair<std::int64_t, std::int64_t>;
      CHECK(refused([&](Output& out) { std::fill_n(scene.row(out, 1, 77), channels, 0.0); }) ==
            Counts{1, 0});
      CHECK(refused([&](Output& out) { scene.row(out, 1, 129)[63] = kInfinity; }) == Counts{1, 0});
      CHECK(refused([&](Output& out) { scene.row(out, 0, 0)[0] = std::nan(""); }) == Counts{1, 0});
      CHECK(refused([&](Output& out) { out.lse[200] *= std::numbers::log2e; }) == Counts{0, 1});
      CHECK(refused([&](Output& out) { out.lse[200] = kInfinity; }) == Counts{0, 1});
      CHECK(refused([&](Output& out) {
              std::swap_ranges(scene.row(out, 0, 9), scene.row(out, 0, 10), scene.row(out, 1, 9));
            }) == Counts{2, 0});
      // A tile of 64 rows scaled by little more than what e4m3 costs: most of them by themselves.
      const Counts scaled = refused([&](Output& out) {
        for (double* x = scene.row(out, 0, 64); x != scene.row(out, 0, 128); ++x) *x *= 1.1;
      });
      CHECK(scaled.first >= 45);
    }
  }
}

// With many keys O is small beside what single codes could do to it if they all pulled the same way.
TEST_CASE("many keys: each planted error is refused, in whichever row it is") {
  struct Long {
    const char* distribution;
    std::int64_t keys;
  };
  for (const auto& [distribution, keys] : {Long{"normal", 16384}, Long{"k_bias", 2048}}) {
    for (const bool e4m3 : {true, false}) {
      const Shape shape{.q_heads = 2, .kv_heads = 2, .q_len = 32, .kv_len = keys, .head_dim = 64};
      const Scene scene = scene_of(distribution, e4m3, shape);
      const RowNumbers rows = all_rows(scene.in);
      const Allowance bounds = allowance(scene.in, scene.quant, scene.arithmetic, rows);
      CHECK(judge_rows(rows, scene.model, bounds, scene.right).met());
      // Scores a few roundings off: codes of P at an edge fall to the other side.
      Inputs near = scene.in;
      near.softmax_scale = (1 + 4 * 0x1p-24) / 8;
      const Output other = scene.rounded(unrounded_model(near, scene.quant, rows));
      CHECK(judge_rows(rows, scene.model, bounds, other).met());

      const auto row_of = [](Output& out, std::int64_t row) { return out.o.data() + row * 64; };
      const auto refused = [&](std::int64_t row, const auto& edit) {
        Output wrong = scene.right, right = scene.right;
        edit(row_of(wrong, row), row_of(right, row), right, wrong);
        return !judge_rows(rows, scene.model, bounds, wrong).met();
      };
      for (std::int64_t row = 0; row < 64; ++row) {
        INFO(distribution << (e4m3 ? ", e4m3" : ", f16") << ", row " << row);
        const auto copy_of = [&](std::int64_t from) {
          return [&row_of, from](double* o, double*, Output& right, Output&) {
            std::copy_n(row_of(right, from), 64, o);
          };
        };
        CHECK(refused(row, [](double* o, double*, Output&, Output&) { std::fill_n(o, 64, 0.0); }));
        CHECK(refused(row, [](double* o, double*, Output&, Output&) {
          for (int c = 0; c < 64; ++c) o[c] = -o[c];
        }));
        CHECK(refused(row, copy_of(row / 32 * 32 + (row + 1) % 32)));  // the next row
        CHECK(refused(row, copy_of((row + 32) % 64)));                 // the other head
        CHECK(refused(row, [&](double*, double*, Output&, Output& wrong) {
          wrong.lse[static_cast<std::size_t>(row)] += 0.1;
        }));
      }
    }
  }
}

// Q less the mean of 128 rows: what a kernel may get wrong with the mean, its scores, or where they enter the sums.
TEST_CASE("a smoothed Q: nearly the same inputs pass, scores of another mean or of none do not") {
  for (const int bits : {8, 4}) {
    for (const char* distribution : {"normal", "k_bias", "outlier", "sink"}) {
      const Shape shape{.q_heads = 2, .kv_heads = 1, .q_len = 300, .kv_len = 200, .head_dim = 64};
      Inputs in = inputs_of(distribution, shape);
      for (std::size_t i = 0; i < in.q.data.size(); ++i)  // so that means are worth something
        in.q.data[i] += static_cast<float>(i % 5) / 4 - static_cast<float>(i / 64 % 300 / 128);
      round_to(IoType::f16, in.q);
      QuantModel quant = fp16();
      quant.qk_bits = bits;
      quant.smooth_q = true;
      const Scene scene(in, quant, kOthers);
      INFO(bits << " bits, " << distribution);
      CHECK(scene.verdict(scene.right).met());
      const auto refused_rows = [&](const Inputs& other, const QuantModel& model) {
        const Output got = scene.rounded(unrounded_model(other, model, all_rows(other)));
        const RowVerdict verdict = scene.verdict(got);
        return std::max(verdict.rows_beyond, verdict.rows_apart);
      };
      // Means, and all that follows, a rounding of f32 off.
      for (const double factor : {1 - 0x1p-23, 1 + 0x1p-23}) {
        Inputs near = in;
        near.softmax_scale = factor / 8;
        CHECK(refused_rows(near, quant) == 0);
        near = in;
        for (float& q : near.q.data) q = static_cast<float>(q * factor);
        CHECK(refused_rows(near, quant) == 0);
      }
      // No smoothing, as if the codes were all there is, is another result altogether.
      QuantModel other = quant;
      other.smooth_q = false;
      CHECK(refused_rows(in, other) > (bits == 4 ? 500 : 20));
      // Rows of the second mean start from the scores of the third.
      Inputs moved = in;
      for (std::int64_t head = 0; head < 2; ++head) {
        std::vector<double> shift(64, 0.0);
        for (std::int64_t n = 128; n < 300; ++n) {
          for (std::size_t c = 0; c < 64; ++c)
            shift[c] += in.q.row(0, head, n)[c] * (n < 256 ? -1.0 / 128 : 1.0 / 44);
        }
        for (std::int64_t n = 128; n < 256; ++n)
          for (std::size_t c = 0; c < 64; ++c)
            moved.q.row(0, head, n)[c] += static_cast<float>(shift[c]);
      }
      CHECK(refused_rows(moved, quant) >= 200);
    }
  }
}

// Where keys are few different ones, codes of P on an edge fall the same way in hundreds of them: no random
// walk. Queries with values half way between two codes, which a kernel may decide as it likes.
// Q and K of 16 bits, with the P V that goes with them.
TEST_CASE("unquantized Q and K: nearly the same inputs pass, wrong scores do not") {
  for (const IoType io : {IoType::f16, IoType::bf16}) {
    for (const bool e4m3 : {true, false}) {
      for (const char* distribution : {"normal", "k_bias", "outlier", "sink", "peaked"}) {
        INFO(distribution << (e4m3 ? ", e4m3" : "") << (io == IoType::f16 ? ", f16" : ", bf16"));
        QuantModel quant = e4m3 ? fp8(io) : fp16(io);
        quant.qk_bits = 16;
        quant.smooth_k = false;
        if (!e4m3) {
          quant.v_scaled = false;
          quant.v_max = 1;
          quant.pv = io == IoType::f16 ? QuantModel::Pv::f16 : QuantModel::Pv::bf16;
        }
        const Scene scene(inputs_of(distribution, kShape, 1, io), quant, e4m3 ? kAda : kOthers);
        const RowVerdict itself = scene.verdict(scene.right);
        CHECK(itself.met());
        CHECK(itself.worst_o.of_bound <= 1);
        CHECK(scene.impossible(scene.right).none());
        const auto with_scale = [&](double factor) {
          Inputs other = scene.in;
          other.softmax_scale = factor / 8;
          return scene.verdict(scene.rounded(unrounded_model(other, quant, all_rows(other))));
        };
        CHECK(with_scale(1 + 4 * 0x1p-24).met());
        CHECK(with_scale(1 - 4 * 0x1p-24).met());
        // The LSE sees a wrong scale first: it is the score of the largest weight, nearly.
        const RowVerdict wrong = with_scale(1.01);
        CHECK(wrong.lse_beyond > 100);
        // A channel that no product has.
        Inputs without = scene.in;
        for (std::int64_t n = 0; n < without.k.tokens; ++n) without.k.row(0, 0, n)[5] = 0;
        CHECK_FALSE(
            scene.verdict(scene.rounded(unrounded_model(without, quant, all_rows(without)))).met());
      }
    }
  }
}

TEST_CASE("many keys that are alike: what a right kernel may decide otherwise passes") {
  std::mt19937_64 random(1);
  const auto uniform = [&] { return static_cast<float>(random() >> 40) * 0x1p-23f - 1; };
  for (int i = 0; i < 16; ++i) {
    const std::int64_t kinds = 2 + i % 6, keys = i % 2 == 0 ? 1000 : 2048;
    const float amplitude = 0.05f * std::exp2(static_cast<float>(i % 6));
    Inputs in;
    in.q = Tensor(1, 1, 16, 64);
    in.k = in.v = Tensor(1, 1, keys, 64);
    for (std::int64_t n = 0; n < 16; ++n) {
      float* q = in.q.row(0, 0, n);
      for (int c = 1; c < 64; ++c)
        q[c] = (std::floor(uniform() * 100) + (uniform() < -0.6f ? 0.5f : 0.0f)) / 64;
      q[0] = 127.0f / 64;  // a code is 1 / 64
    }
    Tensor k(1, 1, kinds, 64), v(1, 1, kinds, 64);
    for (float& x : k.data) x = amplitude * uniform();
    for (float& x : v.data) x = uniform();
    for (std::int64_t n = 0; n < keys; ++n) {
      const auto kind = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(kinds));
      std::copy_n(k.row(0, 0, kind), 64, in.k.row(0, 0, n));
      std::copy_n(v.row(0, 0, kind), 64, in.v.row(0, 0, n));
    }
    for (Tensor* t : {&in.q, &in.k, &in.v}) round_to(IoType::f16, *t);
    for (const bool e4m3 : {true, false}) {
      const Scene scene(in, e4m3 ? fp8() : fp16(), e4m3 ? kAda : kOthers);
      for (const int direction : {-1, 0, 1}) {
        INFO(i << (e4m3 ? ", e4m3, " : ", f16, ") << direction);
        Inputs near = in;
        for (std::int64_t n = 0; n < 16; ++n) {
          for (int c = 1; c < 64; ++c) {
            float& q = near.q.row(0, 0, n)[c];
            const bool up = direction == 0 ? uniform() < 0 : direction > 0;
            q = std::nextafter(q, up ? 10.0f : -10.0f);
          }
        }
        const Output other = unrounded_model(near, scene.quant, all_rows(near));
        CHECK(scene.verdict(scene.rounded(other)).met());
      }
    }
  }
}

TEST_CASE("single weights, codes and channels that go wrong are refused") {
  const Scene scene = scene_of("normal", false);
  const auto refused = [&](const auto& edit) {
    Inputs in = scene.in;
    edit(in);
    return scene.verdict(scene.rounded(unrounded_model(in, scene.quant, all_rows(in)))).rows_beyond;
  };
  CHECK(refused([](Inputs&) {}) == 0);
  // One key of 200 left out, or taken twice as a neighbour's; one element of V.
  CHECK(refused([](Inputs& in) { std::fill_n(in.v.row(0, 0, 50), 64, 0.0f); }) > 200);
  CHECK(refused([](Inputs& in) { std::copy_n(in.k.row(0, 0, 51), 64, in.k.row(0, 0, 50)); }) > 200);
  CHECK(refused([](Inputs& in) { in.v.row(0, 0, 199)[7] += 0.5f; }) > 120);
  // A mask that is off by one.
  CHECK(refused([](Inputs& in) {
          in.causal = true;
          in.causal_offset = 198 - 129;
        }) > 250);
}

TEST_CASE("bounds are as narrow as the formats") {
  // What a bound allows of the row's size, in the middle and nearly everywhere.
  const auto share = [](const Scene& scene, double part) {
    const Allowance bounds = allowance(scene.in, scene.quant, scene.arithmetic, all_rows(scene.in));
    const std::size_t channels = static_cast<std::size_t>(scene.in.q.channels);
    std::vector<double> shares;
    for (std::size_t r = 0; r < bounds.lse.size(); ++r) {
      double bound = 0, size = 0;
      for (std::size_t c = 0; c < channels; ++c) {
        bound += bounds.o[r * channels + c];
        size += std::fabs(scene.model.o[r * channels + c]);
      }
      shares.push_back(bound / size);
    }
    std::sort(shares.begin(), shares.end());
    return shares[static_cast<std::size_t>(part * static_cast<double>(shares.size() - 1))];
  };
  CHECK(share(scene_of("normal", false), 0.5) < 0.015);
  CHECK(share(scene_of("normal", true), 0.5) < 0.08);
  CHECK(share(scene_of("normal", true), 0.95) < 0.3);
  CHECK(share(scene_of("v_offset", true), 0.5) < 0.015);
  CHECK(share(scene_of("outlier", false), 0.95) < 0.06);
}

TEST_CASE("bounds by hand: one key, and keys that all have the same weight") {
  Inputs in = inputs_of("normal", {.q_len = 3, .kv_len = 1, .head_dim = 64});
  // One key: its weight is 1, so O is V to half a step of f16 and the last roundings in f32.
  const Allowance one = allowance(in, fp16(), kOthers, all_rows(in));
  for (std::int64_t c = 0; c < 64; ++c) {
    const double v = std::fabs(in.v.row(0, 0, 0)[c]);
    const double half_step = std::ldexp(0.5, std::max(std::ilogb(v), -14) - 10);
    CHECK(one.o[static_cast<std::size_t>(c)] >= half_step);
    CHECK(one.o[static_cast<std::size_t>(c)] <= 2 * half_step + 0x1p-10 * v);
  }
  // A query of zeros: weights are exact; on Ada, 18 terms cut 2^-13 below the largest per 16 keys.
  in = inputs_of("normal", {.q_len = 1, .kv_len = 64, .head_dim = 64});
  std::fill(in.q.data.begin(), in.q.data.end(), 0.0f);
  std::fill(in.v.data.begin(), in.v.data.end(), 1.0f);
  const Allowance equal = allowance(in, fp8(), kAda, all_rows(in));
  // Sums after 16, 32, 48, 64 keys, of P V and of P, each cut: 2 * (16 + 32 + 48 + 64) / 64.
  const double cut = 18 * 0x1p-13 * 2 * (16 + 32 + 48 + 64) / 64;
  CHECK(equal.o[0] == Approx(cut + 0x1p-11).epsilon(0.02));
  CHECK(equal.lse[0] == Approx(cut / 2).epsilon(0.02));
  // Q and K of ones, and their sums after 16, 32, 48, 64 channels: the LSE is the score and log(1), up to ten f32
  // roundings of the score, and logarithm and exponentials. The bound takes the score twice, as the maximum and as
  // what the tile is scaled by.
  {
    Inputs ones = inputs_of("normal", {.q_len = 1, .kv_len = 1, .head_dim = 64});
    std::fill(ones.q.data.begin(), ones.q.data.end(), 1.0f);
    std::fill(ones.k.data.begin(), ones.k.data.end(), 1.0f);
    QuantModel none = fp16();
    none.qk_bits = 16;
    none.smooth_k = false;
    const double score = 64.0 / 8, of_sums = 18 * 0x1p-23 * (16 + 32 + 48 + 64) / 8;
    const Allowance bound = allowance(ones, none, kOthers, all_rows(ones));
    CHECK(bound.lse[0] >= of_sums + 10 * 0x1p-24 * score);
    const double of_maximum = 0x1p-22 * (score + 16), rounded_score = 10 * 0x1p-24 * score;
    CHECK(bound.lse[0] <= 2 * of_sums + 3 * rounded_score + of_maximum + 0x1p-18);
  }
  // The same in f16: sums after 8, 16, ... keys, each to 2^-11.
  QuantModel quant = fp16();
  quant.v_scaled = true;
  quant.v_max = 1;
  quant.p_max = 512;
  const Allowance half = allowance(in, quant, kHalfSums, all_rows(in));
  const double rounded = 0x1p-11 * 2 * (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8) / 8;
  CHECK(half.o[0] == Approx(rounded + 0x1p-11).epsilon(0.02));
  CHECK(half.lse[0] == Approx(rounded / 2).epsilon(0.02));
}

// A kernel that sums in f16 stands in for itself: the model's weights, summed so after every 8 keys.
TEST_CASE("sums of f16: what they round passes, what they would lose at their end does not") {
  const Inputs in = two_weights(64, 0, 1.0f);
  QuantModel quant = fp16();
  quant.v_scaled = true;
  quant.v_max = 1;
  quant.p_max = 512;
  const Scene scene(in, quant, kHalfSums);
  const auto verdict_of = [&](double sum, double of_p) {
    Output out = scene.right;
    for (double& o : out.o) o = round_ieee(sum / of_p, kF16);
    return scene.verdict(out).met();
  };
  CHECK(verdict_of(64, 64));
  CHECK(verdict_of(64 * (1 + 4.5 * 0x1p-11), 64 * (1 - 4.5 * 0x1p-11)));
  CHECK_FALSE(verdict_of(64 * (1 + 10 * 0x1p-11), 64 * (1 - 10 * 0x1p-11)));
  CHECK_FALSE(verdict_of(kInfinity, 64));
  CHECK_FALSE(verdict_of(63, 64));
  // Without such sums nothing of it passes.
  const Scene of_f32(in, quant, {.sum_bits = 23, .two_level = true});
  Output out = of_f32.right;
  for (double& o : out.o) o = round_ieee(1 + 4 * 0x1p-11, kF16);
  CHECK_FALSE(of_f32.verdict(out).met());
  CHECK(scene.verdict(out).met());
  CHECK_FALSE(of_f32.impossible(out).none());
  CHECK(scene.impossible(out).none());
}

TEST_CASE("V at the end of its format, weights that round up: garbage is refused all the same") {
  const Inputs in = two_weights(64, std::log(448 / 17.2), 64000);
  for (const bool e4m3 : {true, false}) {
    const Scene scene(in, e4m3 ? fp8() : fp16(), e4m3 ? kAda : kOthers);
    CHECK(scene.verdict(scene.right).met());
    CHECK(scene.impossible(scene.right).none());
    for (const double garbage :
         {kInfinity, -kInfinity, std::nan(""), 0.0, 1.0, -64000.0, 60000.0}) {
      INFO(garbage);
      Output wrong = scene.right;
      std::fill(wrong.o.begin(), wrong.o.end(), garbage);
      CHECK(scene.verdict(wrong).rows_beyond == 64);
      CHECK(scene.impossible(wrong).non_finite + scene.impossible(wrong).outside_range == 64 * 64);
    }
  }
  // A model that is not finite, or a bound that is none, lets nothing pass either.
  const auto passes = [](double model, double bound) {
    return judge_rows({0}, {.o = {model}, .lse = {1}},
                      {.o = {bound}, .lse = {1}, .distance = {bound}, .codes = {0}},
                      {.o = {1}, .lse = {1}})
        .met();
  };
  CHECK_FALSE(passes(kInfinity, 1));
  CHECK_FALSE(passes(2, kInfinity));
  CHECK_FALSE(passes(2, std::nan("")));
  CHECK_FALSE(passes(std::nan(""), 1));
  CHECK_FALSE(passes(1.5, 0.49));
  CHECK(passes(1.5, 0.5));
}

TEST_CASE("every row: ranges of V, masked rows, and what is not finite") {
  Inputs in = inputs_of("normal", kShape);
  in.causal = true;
  in.causal_offset = -3;
  const Scene scene(in, fp16(), kOthers);
  CHECK(scene.impossible(scene.right).none());
  const auto wrong = [&](std::int64_t head, std::int64_t token, std::int64_t channel,
                         double value) {
    Output out = scene.right;
    scene.row(out, head, token)[channel] = value;
    return scene.impossible(out);
  };
  // Row 4 sees keys 0 and 1: a mean lies between them, to f16's step.
  const double a = in.v.row(0, 0, 0)[5], b = in.v.row(0, 0, 1)[5];
  const double low = std::min(a, b), high = std::max(a, b);
  CHECK(wrong(1, 4, 5, low).none());
  CHECK(wrong(1, 4, 5, high).none());
  const Impossible above = wrong(1, 4, 5, high + 0.01);
  CHECK(above.outside_range == 1);
  CHECK((above.first->row == 134 && above.first->channel == 5));
  CHECK(above.first->got == high + 0.01);
  CHECK(wrong(1, 4, 5, low - 0.01).outside_range == 1);
  CHECK(wrong(1, 100, 5, high + 0.01).outside_range == 0);  // sees more
  CHECK(wrong(0, 2, 0, 1e-7).masked == 1);
  CHECK(wrong(0, 129, 63, std::nan("")).non_finite == 1);
  CHECK(wrong(0, 129, 63, -kInfinity).non_finite == 1);
  Output out = scene.right;
  out.lse[2] = -100;  // masked
  out.lse[3] = -kInfinity;
  out.lse[200] = std::nan("");
  const Impossible lse = scene.impossible(out);
  CHECK((lse.masked == 1 && lse.non_finite == 2 && lse.outside_range == 0));
  // A channel too small for a scale is 0 in the formats, and so is O.
  Inputs tiny = inputs_of("normal", kShape, 1, IoType::bf16);
  for (std::int64_t n = 0; n < kShape.kv_len; ++n) tiny.v.row(0, 0, n)[5] = 0x1p-101f;
  const Scene small(tiny, fp16(IoType::bf16), kOthers);
  CHECK(small.right.o[5] == 0);
  CHECK(small.verdict(small.right).met());
  CHECK(small.impossible(small.right).none());
  // In e4m3 the range is that of the codes: 1/16 beyond V, at most.
  const Scene coarse(in, fp8(), kAda);
  Output at_edge = coarse.right;
  coarse.row(at_edge, 1, 4)[5] = high + std::fabs(high) / 16 * 1.5 + 0.05;
  CHECK(coarse.impossible(at_edge).outside_range == 1);
}

TEST_CASE("scores from tiny to huge, one key and many, pass and stay bounded") {
  for (const double scale : {1e-44, 1e-6, 1.0, 10.0, 1e3, 3e4, 1e6, 1e12, 1e25}) {
    for (const bool e4m3 : {true, false}) {
      for (const std::int64_t keys : {1, 3, 200}) {
        INFO(scale << (e4m3 ? ", e4m3, " : ", f16, ") << keys);
        Inputs in = inputs_of("normal", {.q_len = 20, .kv_len = keys, .head_dim = 64}, 5);
        in.softmax_scale = scale;
        const Scene scene(in, e4m3 ? fp8() : fp16(), e4m3 ? kAda : kOthers);
        CHECK(scene.verdict(scene.right).met());
        const Allowance bounds = allowance(in, scene.quant, scene.arithmetic, all_rows(in));
        for (const double bound : bounds.o) REQUIRE((bound > 0 && bound < 10));
        Output wrong = scene.right;
        std::fill_n(scene.row(wrong, 0, 7), 64, 100.0);
        CHECK(scene.verdict(wrong).rows_beyond == 1);
      }
    }
  }
}

TEST_CASE("the worst row is the planted one, wherever it lies") {
  const RowNumbers rows{3, 4, 9, 20};
  const Output exact{.o = {1, -1, 100, 100, 2, 2, 0, 0}, .lse = {}};
  const auto worst = [&](std::size_t at, double value) {
    Output got = exact;
    got.o[0] += 0.1;  // row 3: 0.05 of its size
    got.o[at] = value;
    return worst_row(rows, exact, got);
  };
  CHECK(worst(4, 1.6).row == 9);
  CHECK(worst(4, 1.6).relative_l1 == Approx(0.1));
  CHECK(worst(2, 109).row == 3);  // the largest difference, and a small part of its row
  CHECK(worst(2, 109).relative_l1 == Approx(0.05));
  CHECK(worst(7, 1e-9).row == 20);  // where 0 belongs
  CHECK(worst(7, 1e-9).relative_l1 == kInfinity);
  for (const std::size_t at : {0U, 5U, 7U}) {
    const RowError nan = worst(at, std::nan(""));
    CHECK(nan.row == rows[at / 2]);
    CHECK(std::isnan(nan.relative_l1));
  }
  CHECK(worst_row(rows, exact, exact).relative_l1 == 0);
  CHECK(worst_row({}, {}, {}).relative_l1 == 0);
}
