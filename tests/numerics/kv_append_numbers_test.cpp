// What the formats of a low-bit cache lose, what special numbers come back as, and what transforms of K are
// (templates/kv_append).
#include <algorithm>
#include <array>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "tests/numerics/kv_append_call.h"

using namespace sagegen;
namespace append = sagegen::kv_append;
using append::Rope;
using append::Spec;
using test::appended;
using test::block_at;
using test::pool_bytes;
using test::random_bytes;
using test::row_at;
using Case = test::AppendCase;
using Input = test::AppendInput;

namespace {

// Tokens of one head, one after the other, with rows that are what `value` says.
struct Stored {
  Case c;
  Input input;
  std::vector<std::byte> pool;

  test::KvCodes key(std::int64_t token) {
    return test::stored_key(append::block_of(c.spec), block_at(c, pool, token, 0),
                            static_cast<int>(token % kKvBlockTokens));
  }
  test::KvCodes value(std::int64_t token) {
    return test::stored_value(append::block_of(c.spec), block_at(c, pool, token, 0),
                              static_cast<int>(token % kKvBlockTokens));
  }
  std::vector<float> k(std::int64_t token) const {
    return test::kv_values(c.spec.io, row_at(c, input.k, token));
  }
  std::vector<float> v(std::int64_t token) const {
    return test::kv_values(c.spec.io, row_at(c, input.v, token));
  }
};

Stored stored(const Spec& spec, std::int64_t tokens,
              const std::function<double(std::int64_t token, int channel)>& value) {
  Stored result{.c = {.spec = spec, .tokens = tokens, .heads = 1, .page_tokens = 16},
                .input = {},
                .pool = {}};
  for (std::int64_t token = 0; token < tokens; ++token) {
    for (int channel = 0; channel < spec.head_dim; ++channel)
      result.input.k.push_back(test::kv_bits_of(spec.io, value(token, channel)));
    result.input.places.push_back(token);
  }
  result.input.v = result.input.k;
  result.input.pages = (tokens + 15) / 16;
  result.pool =
      appended(result.c, result.input, random_bytes(pool_bytes(result.c, result.input), 1));
  return result;
}

struct Loss {
  double square = 0, of_square = 0;
  double steps = 0;  // of s: the largest, but for what z is rounded by
  double relative() const { return square / of_square; }
};

void add_loss(Loss& loss, const std::vector<double>& exact, const test::KvCodes& codes) {
  const std::vector<double> got = test::restored(codes, static_cast<int>(exact.size()));
  const double of_zero = std::abs(codes.z - *std::ranges::min_element(exact));
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double difference = got[i] - exact[i];
    loss.square += difference * difference;
    loss.of_square += exact[i] * exact[i];
    loss.steps = std::max(loss.steps, (std::abs(difference) - of_zero) / codes.s);
  }
}

std::function<double(std::int64_t, int)> normal_rows(double outlier) {
  return [outlier, random = std::mt19937_64(5), normal = std::normal_distribution<double>()](
             std::int64_t, int channel) mutable {
    return normal(random) * (channel % 32 == 7 ? outlier : 1);
  };
}

std::vector<double> as_double(const std::vector<float>& row) { return {row.begin(), row.end()}; }

// The same by a matrix, in double precision.
std::vector<double> rotated(const std::vector<float>& row) {
  std::vector<double> result(row.size());
  for (std::size_t i = 0; i < row.size(); ++i) {
    for (std::size_t j = 0; j < row.size(); ++j)
      result[i] += (std::popcount(i & j) % 2 == 0 ? 1 : -1) * static_cast<double>(row[j]);
    result[i] /= std::sqrt(static_cast<double>(row.size()));
  }
  return result;
}

}  // namespace

// The figures of 400 rows of 128 normal numbers: mean squared errors of the quantizer itself, and no more than half a step.
TEST_CASE("codes lose what uniform quantizers of so many bits lose", "[fast]") {
  struct Figure {
    int bits;
    double relative;
  };
  for (const Figure& figure : {Figure{8, 3.4e-5}, Figure{4, 9.9e-3}, Figure{2, 2.5e-1}}) {
    INFO(figure.bits << " bits");
    Stored s = stored({.k_bits = figure.bits, .v_bits = figure.bits}, 400, normal_rows(1));
    Loss k, v;
    for (std::int64_t token = 0; token < 400; ++token) {
      add_loss(k, as_double(s.k(token)), s.key(token));
      add_loss(v, as_double(s.v(token)), s.value(token));
    }
    CHECK(k.relative() == Approx(figure.relative).epsilon(0.05));
    CHECK(v.relative() == k.relative());
    // (x - z) / s of up to 255 is of three roundings of f32.
    CHECK(k.steps <= 0.5 + 0x1p-13);
    CHECK(k.steps > 0.45);
  }
}

// No more than half a step, of symmetric codes of s, of e4m3 of an eighth of the power of two below a number.
TEST_CASE("codes without zero points are the nearest ones", "[fast]") {
  for (const int bits : {2, 4, 8}) {
    INFO(bits << " bits");
    Stored s = stored({.k_bits = bits,
                       .v_bits = bits,
                       .k_codes = KvCoding::symmetric,
                       .v_codes = KvCoding::symmetric},
                      100, normal_rows(1));
    for (std::int64_t token = 0; token < 100; ++token) {
      const test::KvCodes key = s.key(token);
      CHECK(key.codes == s.value(token).codes);
      const std::vector<double> x = as_double(s.k(token)), got = test::restored(key, 128);
      double worst = 0, largest = 0, largest_got = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        worst = std::max(worst, std::abs(got[i] - x[i]));
        largest = std::max(largest, std::abs(x[i]));
        largest_got = std::max(largest_got, std::abs(got[i]));
      }
      CHECK(worst <= (0.5 + 0x1p-13) * key.s);
      CHECK(largest_got == ((1 << (bits - 1)) - 1) * key.s);
      CHECK(largest_got == Approx(largest).epsilon(0x1p-10));
    }
  }
  Loss plain;
  Stored s = stored({.k_codes = KvCoding::e4m3, .v_codes = KvCoding::e4m3}, 400, normal_rows(20));
  for (std::int64_t token = 0; token < 400; ++token) {
    const test::KvCodes key = s.key(token);
    const std::vector<double> x = as_double(s.k(token)), got = test::restored(key, 128);
    add_loss(plain, x, key);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double step =
          std::max(0x1p-3 * std::exp2(std::floor(std::log2(std::abs(x[i])))), 0x1p-9 * key.s);
      // A number that a scale carries over a power of two has twice the step.
      REQUIRE(std::abs(got[i] - x[i]) <= step * (1 + 0x1p-10));
    }
  }
  // Half a step, uniform, of numbers whose step is 2^-3 of them at most; outliers of a row cost the others nothing.
  CHECK(plain.relative() < 0x1p-6 / 12);
}

// 4 of 128 channels 20 times as large as the others: rotated, rows lose what rows of normal numbers lose.
TEST_CASE("a Hadamard matrix makes rows with outliers as good as others", "[fast]") {
  Stored plain = stored({.k_bits = 4, .v_bits = 4}, 400, normal_rows(20));
  Stored turned =
      stored({.k_bits = 4, .v_bits = 4, .rotation = Rotation::hadamard}, 400, normal_rows(20));
  Loss of_plain, of_turned;
  for (std::int64_t token = 0; token < 400; ++token) {
    add_loss(of_plain, as_double(plain.k(token)), plain.key(token));
    add_loss(of_turned, rotated(turned.k(token)), turned.key(token));
    CHECK(turned.value(token).codes == plain.value(token).codes);  // V is not rotated
  }
  CHECK(of_turned.of_square == Approx(of_plain.of_square).epsilon(1e-9));  // norms stay
  CHECK(of_plain.relative() > 5 * of_turned.relative());
  Stored in_two = stored({.k_bits = 2, .v_bits = 2}, 400, normal_rows(20));
  Loss of_two;
  for (std::int64_t token = 0; token < 400; ++token)
    add_loss(of_two, as_double(in_two.k(token)), in_two.key(token));
  CHECK(of_two.relative() > 1);  // such keys are none
}

TEST_CASE("what rows of special numbers come back as", "[fast]") {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const int bits : {2, 4, 8}) {
    const auto value_of = [&](const std::function<double(int)>& row, DType io = DType::f16) {
      Stored s = stored({.head_dim = 64, .io = io, .k_bits = bits, .v_bits = bits}, 1,
                        [&](std::int64_t, int channel) { return row(channel); });
      const test::KvCodes codes = s.value(0);
      CHECK(s.key(0).codes == codes.codes);
      return test::restored(codes, 64);
    };
    const auto all = [](const std::vector<double>& row, double value) {
      return std::ranges::all_of(row, [&](double x) { return x == value; });
    };
    CHECK(all(value_of([](int) { return 0.0; }), 0));
    CHECK(all(value_of([](int) { return 1.25; }), 1.25));
    CHECK(all(value_of([](int) { return -3e-5; }), -0x1.f7p-16));  // as f16 has it
    CHECK(all(value_of([](int) { return std::nan(""); }), 0));
    CHECK(all(value_of([](int) { return kInfinity; }), 65504));
    CHECK(all(value_of([](int) { return -1e30; }, DType::bf16), -65504));
    // One of a row that is none leaves the others as they are.
    const std::vector<double> with_nan = value_of([](int c) {
      return c == 9 ? std::nan("") : c % 2 == 0 ? -1.0 : 1.0;
    });
    for (std::size_t c = 0; c < 64; ++c) {
      // The ends are codes: as far away as all of them by a scale that is rounded up.
      const double limit = c == 9 ? 1.001 / ((1 << bits) - 1) : 0x1p-9;
      CHECK(std::abs(with_nan[c] - (c == 9 ? 0 : c % 2 == 0 ? -1 : 1)) <= limit);
    }
    const std::vector<double> with_infinity =
        value_of([](int c) { return c == 9 ? kInfinity : 0.0; });
    CHECK(with_infinity[9] == Approx(65504).epsilon(0.001));
    CHECK(with_infinity[10] == 0);
    // All above 0: the zero point is one of them.
    const std::vector<double> above = value_of([](int c) { return 16 + c / 64.0; });
    for (std::size_t c = 0; c < 64; ++c)
      CHECK(std::abs(above[c] - (16 + static_cast<double>(c) / 64)) <=
            0.5 / ((1 << bits) - 1) * 1.001);
    // Steps that f16 does not have: nothing is farther away than the row is wide.
    for (const double width : {1e-8, 1e-7, 1e-6, 1e-5}) {
      const std::vector<double> narrow =
          value_of([&](int c) { return c % 2 == 0 ? 0.0 : width; }, DType::bf16);
      const double wide =
          test::kv_values(DType::bf16, std::array{test::kv_bits_of(DType::bf16, width)})[0];
      const double limit = std::min(wide, 0x1p-24 * ((1 << bits) - 1));
      for (std::size_t c = 0; c < 64; ++c)
        CHECK(std::abs(narrow[c] - (c % 2 == 0 ? 0 : wide)) <= limit * 1.001);
    }
  }
}

// Against double precision; stored in 16 bits, nothing else is between.
TEST_CASE("keys are embedded, smoothed and rotated in this order", "[fast]") {
  for (const Rope rope : {Rope::neox, Rope::interleaved}) {
    Case c{.spec = {.head_dim = 128,
                    .k_bits = 16,
                    .v_bits = 16,
                    .rope = rope,
                    .smooth_k = true,
                    .rotation = Rotation::hadamard},
           .tokens = 8,
           .heads = 2,
           .rotary = 64};
    Input input = test::append_input(c, 11);
    auto random = normal_rows(1);
    for (std::uint16_t& bits : input.k) bits = test::kv_bits_of(DType::f16, random(0, 0));
    std::vector<std::byte> pool = appended(c, input, random_bytes(pool_bytes(c, input), 1));
    for (std::int64_t token = 0; token < c.tokens; ++token) {
      const std::int64_t at = input.places[static_cast<std::size_t>(token)];
      for (std::int64_t head = 0; at >= 0 && head < 2; ++head) {
        const std::vector<float> k =
            test::kv_values(DType::f16, row_at(c, input.k, token * 2 + head));
        std::vector<float> expected = k;
        for (std::size_t i = 0; i < 32; ++i) {
          const auto row =
              static_cast<std::size_t>(input.positions[static_cast<std::size_t>(token)]);
          const double cos = input.cos[row * 32 + i], sin = input.sin[row * 32 + i];
          const std::size_t a = rope == Rope::neox ? i : 2 * i,
                            b = rope == Rope::neox ? i + 32 : 2 * i + 1;
          expected[a] = static_cast<float>(k[a] * cos - k[b] * sin);
          expected[b] = static_cast<float>(k[b] * cos + k[a] * sin);
        }
        for (std::size_t i = 0; i < 128; ++i)
          expected[i] -= input.mean[static_cast<std::size_t>(head) * 128 + i];
        const std::vector<double> turned = rotated(expected);
        const KvBlock block = append::block_of(c.spec);
        const std::span<const std::byte> bytes = block_at(c, pool, at, head);
        for (int i = 0; i < 128; ++i) {
          const auto byte = [&](int b) {
            return std::to_integer<unsigned>(bytes[static_cast<std::size_t>(
                block.k_byte(static_cast<int>(at % 16), 2 * i + b))]);
          };
          const double got = test::kv_values(
              DType::f16, std::array{static_cast<std::uint16_t>(byte(0) | byte(1) << 8)})[0];
          CHECK(std::abs(got - turned[static_cast<std::size_t>(i)]) <=
                0x1p-11 * std::abs(got) + 1e-5);
        }
      }
    }
  }
}

// A call with two pools that have no byte in common: what is equal behind it is what it wrote.
TEST_CASE("a token of a layer takes the bytes that its format is to have", "[fast]") {
  struct Row {
    int k, v, bytes;
  };
  for (const Row& row : {Row{16, 16, 4096}, Row{8, 8, 2112}, Row{8, 4, 1600}, Row{4, 8, 1600},
                         Row{4, 4, 1088}, Row{4, 2, 832}, Row{2, 2, 576}}) {
    Case c{.spec = {.k_bits = row.k, .v_bits = row.v}, .tokens = 3, .heads = 8};
    Input input = test::append_input(c, 3);
    input.places = {5, 17, 18};
    const std::size_t bytes = pool_bytes(c, input);
    const std::vector<std::byte> low = appended(c, input, std::vector(bytes, std::byte{0x5A})),
                                 high = appended(c, input, std::vector(bytes, std::byte{0xA5}));
    std::int64_t equal = 0;
    for (std::size_t i = 0; i < bytes; ++i) equal += low[i] == high[i] ? 1 : 0;
    INFO("K" << row.k << "V" << row.v);
    CHECK(equal == 3 * row.bytes);
    CHECK(equal == 3 * 8 * kv_token_bytes(c.format()));
  }
}
