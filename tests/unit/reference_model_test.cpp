// The model of the quantization: against a slow model written from the fragment layout, in cases
// where the formats are exact, at the edges, and against published costs.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "tools/reference/quantize.h"
#include "tools/reference/reference.h"
#include "tools/reference/rounding.h"

using namespace sagegen::reference;

namespace {

QuantModel f16_pv() {
  QuantModel m;
  m.pv = QuantModel::Pv::f16;
  m.v_scaled = false;
  m.p_max = 1.0;
  return m;
}

Inputs random_inputs(std::int64_t q_len, std::int64_t kv_len, std::int64_t channels,
                     unsigned seed) {
  Inputs in;
  in.q = Tensor(1, 2, q_len, channels);
  in.k = Tensor(1, 1, kv_len, channels);
  in.v = in.k;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.5f, 1.0f);
  for (Tensor* t : {&in.q, &in.k, &in.v}) {
    for (float& x : t->data) x = normal(random);
    round_to(IoType::f16, *t);
  }
  return in;
}

// Nearest e4m3 by trying all 256, ties to even bits.
double slow_e4m3(double x) {
  double best = 0.0, distance = std::numeric_limits<double>::infinity();
  bool best_even = true;
  for (unsigned bits = 0; bits < 256; ++bits) {
    const double value = e4m3_value(static_cast<std::uint8_t>(bits));
    if (std::isnan(value)) continue;
    const double d = std::fabs(value - x);
    if (d < distance || (d == distance && bits % 2 == 0 && !best_even)) {
      best = value;
      distance = d;
      best_even = bits % 2 == 0;
    }
  }
  return best;
}

// Largest |x| among the elements of Q or K that one lane of the attention kernel sees in its group.
// mma.m16n8k32: a lane holds the scores of rows lane / 4 and lane / 4 + 8 of each 16 rows of Q and
// of columns 2 (lane mod 4) and 2 (lane mod 4) + 1 of each 8 keys.
enum class Side { q, k };
double lane_amax(const Tensor& t, const std::vector<double>& mean, std::int64_t head,
                 std::int64_t row, std::int64_t group, Side side) {
  std::int64_t owner = -1;
  for (std::int64_t lane = 0; lane < 32 && owner < 0; ++lane) {
    const std::int64_t at = row % group;
    const bool owns = side == Side::q ? at % 16 == lane / 4 || at % 16 == lane / 4 + 8
                                      : at % 8 == 2 * (lane % 4) || at % 8 == 2 * (lane % 4) + 1;
    if (owns) owner = lane;
  }
  double amax = 0;
  for (std::int64_t r = row / group * group; r < std::min(row / group * group + group, t.tokens);
       ++r) {
    const std::int64_t at = r % group;
    const bool same = side == Side::q ? at % 16 == owner / 4 || at % 16 == owner / 4 + 8
                                      : at % 8 / 2 == owner % 4;
    for (std::int64_t c = 0; same && c < t.channels; ++c) {
      amax = std::max(amax, std::fabs(t.row(0, head, r)[c] - mean[static_cast<std::size_t>(c)]));
    }
  }
  return amax;
}

// INT8 per thread, smooth K, FP8: one output row at a time.
std::vector<double> slow_model_row(const Inputs& in, std::int64_t head, std::int64_t i) {
  const std::int64_t d = in.q.channels, keys = in.k.tokens, tile = 64;
  const std::vector<double> no_mean(static_cast<std::size_t>(d), 0.0);
  std::vector<double> mean = no_mean, v_amax = no_mean;
  for (std::int64_t j = 0; j < keys; ++j) {
    for (std::int64_t c = 0; c < d; ++c) {
      mean[static_cast<std::size_t>(c)] += in.k.row(0, 0, j)[c] / static_cast<double>(keys);
      double& top = v_amax[static_cast<std::size_t>(c)];
      top = std::max(top, std::fabs(static_cast<double>(in.v.row(0, 0, j)[c])));
    }
  }
  const double q_scale = lane_amax(in.q, no_mean, head, i, 32, Side::q) / 127;
  std::vector<double> scores;
  for (std::int64_t j = 0; j < keys; ++j) {
    if (in.causal && j > i + in.causal_offset) break;
    const double k_scale = lane_amax(in.k, mean, 0, j, 64, Side::k) / 127;
    double dot = 0;
    for (std::int64_t c = 0; c < d; ++c) {
      const double q = std::nearbyint(in.q.row(0, head, i)[c] / q_scale);
      const double k =
          std::nearbyint((in.k.row(0, 0, j)[c] - mean[static_cast<std::size_t>(c)]) / k_scale);
      dot += q * k;
    }
    scores.push_back(dot * q_scale * k_scale / std::sqrt(static_cast<double>(d)));
  }
  const auto count = static_cast<std::int64_t>(scores.size());
  const double final_max = *std::max_element(scores.begin(), scores.end());
  double running = -std::numeric_limits<double>::infinity(), sum = 0;
  std::vector<double> row(static_cast<std::size_t>(d), 0.0);
  for (std::int64_t begin = 0; begin < count; begin += tile) {
    const std::int64_t end = std::min(begin + tile, count);
    for (std::int64_t j = begin; j < end; ++j)
      running = std::max(running, scores[static_cast<std::size_t>(j)]);
    for (std::int64_t j = begin; j < end; ++j) {
      const double p = std::exp(scores[static_cast<std::size_t>(j)] - running);
      const double rescale = std::exp(running - final_max);
      const double p_code = slow_e4m3(p * 448);
      sum += p_code / 448 * rescale;
      for (std::int64_t c = 0; c < d; ++c) {
        const double v_scale = v_amax[static_cast<std::size_t>(c)] / 448;
        row[static_cast<std::size_t>(c)] +=
            p_code / 448 * rescale * slow_e4m3(in.v.row(0, 0, j)[c] / v_scale) * v_scale;
      }
    }
  }
  for (double& x : row) x /= sum;
  return row;
}

}  // namespace

TEST_CASE("the model agrees with a slow one written from the fragment layout") {
  for (const bool causal : {false, true}) {
    Inputs in = random_inputs(41, 150, 24, 4);
    in.causal = causal;
    in.causal_offset = 100;
    QuantModel m;
    m.output = IoType::f32;
    const Output got = model(in, m);
    for (std::int64_t head = 0; head < 2; ++head) {
      for (std::int64_t i = 0; i < 41; ++i) {
        const std::vector<double> want = slow_model_row(in, head, i);
        for (std::size_t c = 0; c < 24; ++c) {
          const double o = got.o[static_cast<std::size_t>((head * 41 + i) * 24) + c];
          REQUIRE(o == Approx(want[c]).epsilon(1e-6).margin(1e-7));
        }
      }
    }
  }
}

TEST_CASE("where the formats are exact the model is attention") {
  // Whole numbers with 127 (7) in every row: scales of 1/8, codes exact. P and V exact, output f32.
  for (const int bits : {8, 4}) {
    Inputs in = random_inputs(40, 100, 16, 6);
    const int limit = bits == 8 ? 127 : 7;
    std::mt19937 random(2);
    for (Tensor* t : {&in.q, &in.k}) {
      for (std::size_t i = 0; i < t->data.size(); ++i) {
        const int code = i % 16 == 0 ? limit : static_cast<int>(random() % (2 * limit + 1)) - limit;
        t->data[i] = static_cast<float>(code) / 8;
      }
    }
    in.softmax_scale = bits == 8 ? 1e-3 : 0.2;
    QuantModel m;
    m.qk_bits = bits;
    m.pv = QuantModel::Pv::exact;
    m.smooth_k = false;
    m.output = IoType::f32;
    for (const auto scales : {QuantModel::Scales::per_thread, QuantModel::Scales::per_block,
                              QuantModel::Scales::per_token, QuantModel::Scales::per_tensor}) {
      m.scales = scales;
      const Output want = attention(in), got = model(in, m);
      CHECK(compare(want.o, got.o).max_abs < 3e-7);
      for (std::size_t i = 0; i < want.lse.size(); ++i)
        REQUIRE(got.lse[i] == Approx(want.lse[i]).epsilon(1e-12));
    }
  }
}

TEST_CASE("Q and K that have no codes are what they are") {
  const Inputs in = random_inputs(40, 100, 16, 6);
  QuantModel m{.qk_bits = 16, .smooth_k = false, .pv = QuantModel::Pv::exact};
  m.output = IoType::f32;
  const Output want = attention(in), got = model(in, m);
  CHECK(compare(want.o, got.o).max_abs < 3e-7);
  for (std::size_t i = 0; i < want.lse.size(); ++i)
    REQUIRE(got.lse[i] == Approx(want.lse[i]).epsilon(1e-12));
  // What is left is the rounding of P: 8 significant bits, or 11.
  m.v_scaled = false;
  m.p_max = 1;
  m.pv = QuantModel::Pv::bf16;
  const double bf16 = compare(want.o, model(in, m).o).relative_l1;
  m.pv = QuantModel::Pv::f16;
  const double f16 = compare(want.o, model(in, m).o).relative_l1;
  CHECK(bf16 > 4 * f16);
  CHECK(bf16 < 0x1p-8);
  CHECK(f16 > 0);
}

TEST_CASE("smoothing removes an offset of K exactly and corrects the LSE") {
  // Keys in pairs k, -k have mean 0, and 50 is a whole number of steps: the smoothed codes are
  // those of the keys without the offset.
  Inputs plain = random_inputs(30, 64, 16, 12);
  for (std::int64_t j = 0; j < 64; j += 2) {
    for (std::int64_t c = 0; c < 16; ++c) {
      const float x = std::round(plain.k.row(0, 0, j)[c] * 16) / 16;
      plain.k.row(0, 0, j)[c] = x;
      plain.k.row(0, 0, j + 1)[c] = -x;
    }
  }
  Inputs moved = plain;
  for (std::size_t i = 0; i < moved.k.data.size(); ++i)
    moved.k.data[i] += i % 16 < 8 ? 50.0f : -50.0f;
  QuantModel m;
  const Output a = model(plain, m), b = model(moved, m);
  CHECK(a.o == b.o);
  const Output exact = attention(moved);
  for (std::size_t i = 0; i < b.lse.size(); ++i)
    CHECK(b.lse[i] == Approx(exact.lse[i]).margin(0.05));
  m = f16_pv();
  const Metrics smooth = compare(exact.o, model(moved, m).o);
  m.smooth_k = false;
  CHECK(compare(exact.o, model(moved, m).o).relative_l1 > 5 * smooth.relative_l1);
}

TEST_CASE("a smoothed Q gives the scores of deviations, and of means to whole units") {
  // Written out for one head: deviations of each run of 128 rows, their lanes' scales, dS = mean . (k - mean of k).
  for (const int bits : {8, 4}) {
    Inputs in = random_inputs(150, 70, 24, 21);
    QuantModel m = f16_pv();
    m.qk_bits = bits;
    m.smooth_q = true;
    m.pv = QuantModel::Pv::exact;
    m.output = IoType::f32;
    const double limit = bits == 4 ? 7 : 127;
    const Output got = model(in, m);
    std::vector<double> k_mean(24, 0.0);
    for (std::int64_t j = 0; j < 70; ++j)
      for (std::size_t c = 0; c < 24; ++c) k_mean[c] += in.k.row(0, 0, j)[c] / 70.0;
    for (const std::int64_t i : {0, 77, 127, 128, 149}) {
      const std::int64_t first = i / 128 * 128, last = std::min<std::int64_t>(first + 128, 150);
      std::vector<double> mean(24, 0.0);
      double size = 0;
      for (std::int64_t n = first; n < last; ++n)
        for (std::size_t c = 0; c < 24; ++c)
          mean[c] += in.q.row(0, 1, n)[c] / static_cast<double>(last - first);
      for (const double x : mean) size += std::fabs(x);
      double q_amax = limit * limit / (0.98 * 4194304 - limit * limit * 24) * size;
      for (std::int64_t n = i / 32 * 32; n < std::min<std::int64_t>(i / 32 * 32 + 32, 150); ++n) {
        if (n % 8 != i % 8) continue;
        for (std::size_t c = 0; c < 24; ++c)
          q_amax = std::max(q_amax, std::fabs(in.q.row(0, 1, n)[c] - mean[c]));
      }
      const double q_scale = q_amax / limit;
      double sum = 0;
      std::vector<double> o(24, 0.0);
      for (std::int64_t j = 0; j < 70; ++j) {
        const double k_scale = lane_amax(in.k, k_mean, 0, j, 64, Side::k) / limit;
        double dot = 0, start = 0;
        for (std::size_t c = 0; c < 24; ++c) {
          const double k = in.k.row(0, 0, j)[c] - k_mean[c];
          dot += std::nearbyint((in.q.row(0, 1, i)[c] - mean[c]) / q_scale) *
                 std::nearbyint(k / k_scale);
          start += mean[c] * k;
        }
        dot += std::nearbyint(start / (q_scale * k_scale));
        const double p = std::exp(dot * q_scale * k_scale / std::sqrt(24.0));
        sum += p;
        for (std::size_t c = 0; c < 24; ++c) o[c] += p * in.v.row(0, 0, j)[c];
      }
      for (std::size_t c = 0; c < 24; ++c) {
        INFO(bits << " bits, row " << i << ", channel " << c);
        REQUIRE(got.o[static_cast<std::size_t>((150 + i) * 24) + c] ==
                Approx(o[c] / sum).epsilon(1e-6).margin(1e-6));
      }
    }
  }
}

// Products are what they were; a row of one channel is spread over its block, and a row that has the same in all is one.
TEST_CASE("a rotation leaves products as they are") {
  std::mt19937 random(5);
  std::normal_distribution<double> normal;
  for (const auto& [channels, block] : {std::pair{64, 64}, {72, 8}, {96, 32}, {100, 4}, {7, 1}}) {
    INFO(channels << " channels");
    CHECK(rotation_block(channels) == block);
    const auto width = static_cast<std::size_t>(channels), size = static_cast<std::size_t>(block);
    std::vector<double> rows(4 * width, 0.0);
    for (std::size_t i = 0; i < 2 * width; ++i) rows[i] = normal(random);
    rows[2 * width] = 3;
    std::fill_n(rows.begin() + static_cast<std::ptrdiff_t>(3 * width), size, 2.0);
    const std::vector<double> out = rotated(rows, channels);
    for (std::size_t a = 0; a < 4; ++a) {
      for (std::size_t b = 0; b < 4; ++b) {
        double before = 0, after = 0;
        for (std::size_t c = 0; c < width; ++c) {
          before += rows[a * width + c] * rows[b * width + c];
          after += out[a * width + c] * out[b * width + c];
        }
        CHECK(after == Approx(before).margin(1e-9));
      }
    }
    const double root = std::sqrt(static_cast<double>(block));
    for (std::size_t c = 0; c < width; ++c) {
      CHECK(out[2 * width + c] == Approx(c < size ? 3 / root : 0).margin(1e-12));
      CHECK(out[3 * width + c] == Approx(c == 0 ? 2 * root : 0).margin(1e-12));
    }
  }
}

// Of one head whose tokens are those of all heads that share K and V, by turns.
TEST_CASE("rows of packed heads share scales and means as tokens of one head do") {
  constexpr std::int64_t kHeads = 3, kTokens = 50, kChannels = 32;
  Inputs in = random_inputs(kTokens, 70, kChannels, 5);
  in.q = Tensor(2, 2 * kHeads, kTokens, kChannels);
  in.k = Tensor(2, 2, 70, kChannels);
  in.v = in.k;
  std::mt19937 random(6);
  std::normal_distribution<float> normal(0.5f, 1.0f);
  for (Tensor* t : {&in.q, &in.k, &in.v}) {
    for (float& x : t->data) x = normal(random);
    round_to(IoType::f16, *t);
  }
  Inputs as_one = in;
  as_one.q = Tensor(2, 2, kTokens * kHeads, kChannels);
  const auto row_as_one = [&](std::int64_t head, std::int64_t token) {
    return token * kHeads + head % kHeads;
  };
  const auto each_row = [&](const auto& visit) {
    for (std::int64_t b = 0; b < 2; ++b) {
      for (std::int64_t h = 0; h < 2 * kHeads; ++h) {
        for (std::int64_t n = 0; n < kTokens; ++n) visit(b, h, n);
      }
    }
  };
  each_row([&](std::int64_t b, std::int64_t h, std::int64_t n) {
    std::copy_n(in.q.row(b, h, n), kChannels, as_one.q.row(b, h / kHeads, row_as_one(h, n)));
  });
  for (const auto scales : {QuantModel::Scales::per_thread, QuantModel::Scales::per_block,
                            QuantModel::Scales::per_token, QuantModel::Scales::per_tensor}) {
    for (const bool smooth_q : {false, true}) {
      QuantModel m = f16_pv();
      m.qk_bits = 4;
      m.scales = scales;
      m.q_group = 16;
      m.smooth_q = smooth_q;
      const Output expected = model(as_one, m);
      const Output apart = model(in, m);
      m.packed_heads = true;
      const Output got = model(in, m);
      std::size_t row = 0, wrong = 0;
      each_row([&](std::int64_t b, std::int64_t h, std::int64_t n) {
        const auto at =
            static_cast<std::size_t>((b * 2 + h / kHeads) * kTokens * kHeads + row_as_one(h, n));
        wrong += got.lse[row] != expected.lse[at];
        for (std::size_t c = 0; c < kChannels; ++c)
          wrong += got.o[row * kChannels + c] != expected.o[at * kChannels + c];
        ++row;
      });
      CHECK(wrong == 0);
      const bool shared = scales != QuantModel::Scales::per_token || smooth_q;
      CHECK((got.o != apart.o) == shared);
    }
  }
}

TEST_CASE("P is rounded against the running maximum of its own tile") {
  // Two tiles; the second holds the larger score. Rounded against the final maximum, the p of the
  // first tile would be 2^-9.6 * 448, a coarse value of e4m3; against its own maximum it is exact.
  Inputs in;
  in.q = Tensor(1, 1, 1, 8);
  in.k = Tensor(1, 1, 128, 8);
  in.v = in.k;
  in.softmax_scale = std::log(2.0);
  in.q.data[0] = 127;
  for (std::int64_t j = 0; j < 128; ++j) {
    in.k.row(0, 0, j)[0] = j < 64 ? 0.0f : 9.6f / 127;
    in.v.row(0, 0, j)[0] = j < 64 ? 448.0f : 0.0f;
  }
  QuantModel m;
  m.smooth_k = false;
  m.output = IoType::f32;
  const double exact = attention(in).o[0];
  CHECK(model(in, m).o[0] == Approx(exact).epsilon(1e-6));
  m.tile_keys = 128;
  CHECK(std::fabs(model(in, m).o[0] / exact - 1.0) > 0.005);
}

TEST_CASE("a maximum stays while no score is above it by more than its slack") {
  // Two tiles; the scores of the second are 5.3 octaves higher. Against its own maximum its P is 1, against that of the
  // first one a number that f16 has not.
  Inputs in;
  in.q = Tensor(1, 1, 1, 8);
  in.k = Tensor(1, 1, 128, 8);
  in.v = in.k;
  in.softmax_scale = std::log(2.0);
  in.q.data[0] = 127;
  constexpr double kOctaves = 5.3;
  for (std::int64_t j = 64; j < 128; ++j) in.k.row(0, 0, j)[0] = static_cast<float>(kOctaves / 127);
  for (std::int64_t j = 0; j < 64; ++j) in.v.row(0, 0, j)[0] = 1;
  QuantModel m;
  m.smooth_k = m.v_scaled = false;
  m.pv = QuantModel::Pv::f16;
  m.p_max = 1;
  m.output = IoType::f32;
  const double octaves = static_cast<double>(static_cast<float>(kOctaves / 127)) * 127;
  const double p = std::exp2(octaves), rounded = round_ieee(p, format_of(IoType::f16));
  REQUIRE(std::fabs(rounded / p - 1) > 1e-5);
  const auto close_to = [](double x) { return Approx(x).epsilon(1e-7); };
  CHECK(model(in, m).o[0] == close_to(1 / (1 + p)));
  m.maximum_slack = 5;
  CHECK(model(in, m).o[0] == close_to(1 / (1 + p)));
  m.maximum_slack = 6;
  CHECK(model(in, m).o[0] == close_to(1 / (1 + rounded)));
  CHECK(model(in, m).lse[0] == close_to(std::log(64 * (1 + rounded))));
}

TEST_CASE("zero channels, zero rows and masked rows give no NaN") {
  Inputs in = generate("zero_parts",
                       {.q_heads = 2, .kv_heads = 1, .q_len = 90, .kv_len = 70, .head_dim = 64}, 3,
                       IoType::f16);
  for (const bool causal : {false, true}) {
    in.causal = causal;
    in.causal_offset = -10;
    for (const int bits : {8, 4}) {
      QuantModel m;
      m.qk_bits = bits;
      const Output out = model(in, m);
      CHECK(compare(out.o, out.o).non_finite == 0);
      for (std::size_t i = 0; i < out.o.size(); i += 4)
        REQUIRE(out.o[i] == 0.0);  // zero channels of V
      for (std::size_t i = 0; i < 10; ++i) CHECK(std::isinf(out.lse[i]) == causal);
    }
  }
  std::fill(in.k.data.begin(), in.k.data.end(), 0.0f);
  std::fill(in.v.data.begin(), in.v.data.end(), 0.0f);
  for (const double x : model(in, {}).o) REQUIRE(x == 0.0);
}

TEST_CASE("the output is on the grid of its dtype") {
  const Inputs in = random_inputs(20, 40, 16, 13);
  QuantModel m;
  for (const IoType type : {IoType::f16, IoType::bf16, IoType::f32}) {
    m.output = type;
    for (const double x : model(in, m).o) REQUIRE(round_ieee(x, format_of(type)) == x);
  }
}

TEST_CASE("codes of the output are on the grid of their rows, or saturate") {
  QuantModel m;
  m.output_codes = QuantModel::OutputCodes::s8;
  std::vector<double> o{1, -0.5, 0.004, -0.003, 0, 0, 0, 0};
  round_output(m, o, 4);
  CHECK(o[0] == 1);
  CHECK(std::fabs(o[1] * 127 + 64) < 1e-12);  // -63.5, to even
  CHECK(std::fabs(o[2] * 127 - 1) < 1e-12);
  CHECK(o[3] == 0);
  CHECK(std::all_of(o.begin() + 4, o.end(), [](double x) { return x == 0; }));
  m.output_codes = QuantModel::OutputCodes::e4m3;
  m.output_factor = 2;
  o = {300, -300, 1.06, 0x1p-13, 0};
  round_output(m, o, 5);
  CHECK(o == std::vector<double>{224, -224, 1, 0, 0});
}

TEST_CASE("bad models are refused") {
  const Inputs in = random_inputs(8, 8, 8, 1);
  CHECK_THROWS_WITH(model(in, {.qk_bits = 5}), Catch::Contains("qk_bits is 5"));
  CHECK_THROWS_WITH(model(in, {.qk_bits = 16}), Catch::Contains("smooth_k is for codes"));
  CHECK_THROWS_WITH(model(in, {.q_group = 12}), Catch::Contains("q_group 12"));
  CHECK_THROWS_WITH(model(in, {.tile_keys = 0}), Catch::Contains("tile_keys is 0"));
  CHECK_THROWS_AS(model(in, {.v_max = 0.0}), std::invalid_argument);
  CHECK_THROWS_WITH(model(in, {.smooth_k = false, .smooth_q = true}), Catch::Contains("smooth_k"));
}

// ---- what the formats cost ----------------------------------------------------------------------

namespace {

// One generated set and its exact result.
class Priced {
 public:
  Priced(const std::string& name, std::int64_t head_dim)
      : in_(generate(name, {.q_len = 1024, .kv_len = 1024, .head_dim = head_dim}, 1, IoType::f16)),
        exact_(attention(in_)) {}
  Metrics int8_fp8() const { return run({}); }
  Metrics int8_f16() const { return run(f16_pv()); }
  Metrics int8_fp8_rough() const { return run({.smooth_k = false}); }
  Metrics int4_f16() const { return int4(f16_pv()); }
  Metrics int4_f16_rough() const {
    QuantModel m = f16_pv();
    m.smooth_k = false;
    return int4(m);
  }

 private:
  Metrics run(const QuantModel& m) const { return compare(exact_.o, model(in_, m).o); }
  Metrics int4(QuantModel m) const {
    m.qk_bits = 4;
    return run(m);
  }
  Inputs in_;
  Output exact_;
};

}  // namespace

TEST_CASE("the costs of the formats are the published ones", "[costs]") {
  // Relative L1 at L = 1024, d = 64 from an independent simulation of the same formats. Its seeds
  // differ, so figures agree to about a tenth. It sums P before rounding, which costs .0020 on v_offset in
  // FP8: there .0015 is this model's own figure, since a rounded sum lets an offset of V pass whole.
  struct Row {
    const char* name;
    double int8_f16, int8_fp8, int4_f16;
  };
  for (const Row& row :
       {Row{"normal", .0102, .0364, .1855}, Row{"k_bias", .0107, .0378, .1974},
        Row{"peaked", .0207, .0352, .3712}, Row{"v_offset", .0002, .0015, .0040}}) {
    INFO(row.name);
    const Priced priced(row.name, 64);
    CHECK(priced.int8_f16().relative_l1 == Approx(row.int8_f16).epsilon(0.12).margin(1e-4));
    CHECK(priced.int8_fp8().relative_l1 == Approx(row.int8_fp8).epsilon(0.12));
    CHECK(priced.int4_f16().relative_l1 == Approx(row.int4_f16).epsilon(0.12));
  }
}

TEST_CASE("smoothing brings K biased by 10 standard deviations back to unbiased K", "[costs]") {
  for (const std::int64_t head_dim : {64, 128}) {
    const Priced normal("normal", head_dim), biased("k_bias", head_dim);
    const double unbiased = normal.int8_fp8().relative_l1;
    CHECK(biased.int8_fp8().relative_l1 == Approx(unbiased).epsilon(0.04));
    CHECK(biased.int8_fp8_rough().relative_l1 > 1.7 * unbiased);
    CHECK(biased.int8_f16().relative_l1 == Approx(normal.int8_f16().relative_l1).epsilon(0.08));
    CHECK(biased.int4_f16().cosine_similarity > 0.97);
    CHECK(biased.int4_f16_rough().cosine_similarity < 0.7);
  }
}

TEST_CASE("INT8 and FP8 meet the paper's figures on data built like the paper's", "[costs]") {
  // A kernel may cost 1.05 of the model plus 5e-4; the bound leaves room for that below 0.019.
  for (const std::int64_t head_dim : {64, 128}) {
    for (const std::int64_t length : {300, 600}) {
      for (const std::uint64_t seed : {1, 2, 3, 4}) {
        Inputs in = generate(
            "outlier",
            {.q_heads = 2, .kv_heads = 1, .q_len = length, .kv_len = length, .head_dim = head_dim},
            seed, IoType::f16);
        in.causal = seed % 2 == 0;
        const Metrics m = compare(attention(in).o, model(in, {}).o);
        INFO("d " << head_dim << " L " << length << " seed " << seed);
        CHECK(m.cosine_similarity >= 0.9997);
        CHECK(m.relative_l1 <= (0.019 - 5e-4) / 1.05);
      }
    }
  }
}
