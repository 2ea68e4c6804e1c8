// The planner: what its model of the cache promises, errors, pruning, clusters, maps, and going on where it was stopped.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <set>

#include "sagegen/error.h"
#include "tests/tune/temporary_folder.h"
#include "tools/kv/planner/inputs.h"
#include "tools/kv/planner/planner.h"
#include "tools/kv/planner/state.h"
#include "tools/reference/rounding.h"
#include "tools/reference/tensor_file.h"
#include "tools/reference/whole_file.h"

using namespace sagegen;
using namespace sagegen::kv;
using reference::Inputs, reference::Tensor, reference::IoType;

namespace {

constexpr CacheModel kPerToken{}, kKivi{.grouping = Grouping::kivi};

Pair pair(int k, int v) { return {storage_of(k), storage_of(v)}; }

std::vector<double> normal_rows(std::int64_t tokens, std::int64_t channels, std::uint64_t seed) {
  const Tensor drawn =
      reference::generate("normal", {.q_len = tokens, .head_dim = channels}, seed, IoType::f16).q;
  return {drawn.data.begin(), drawn.data.end()};
}

double rel_mse(std::span<const double> exact, std::span<const double> got) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    error += std::pow(exact[i] - got[i], 2);
    norm += exact[i] * exact[i];
  }
  return error / norm;
}

// 128 channels, 4 of them twenty times as large, 400 tokens.
std::vector<double> outlier_rows() {
  std::vector<double> rows = normal_rows(400, 128, 3);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i % 128 % 37 == 5) rows[i] *= 20;  // 5, 42, 79, 116
  }
  return rows;
}

// A decoder's layers are expensive to draw, and all tests want the same.
const std::vector<Inputs>& decoder() {
  static const std::vector<Inputs> layers =
      decoder_inputs({.layers = 8, .q_heads = 4, .kv_heads = 2, .head_dim = 64, .tokens = 96}, 1);
  return layers;
}

std::vector<Inputs> minilm() {
  const std::string path = SAGEGEN_SOURCE_DIR "/tests/data/minilm_layers.safetensors";
  std::vector<Inputs> layers;
  for (const std::string& prefix : recorded_layers(path))
    layers.push_back(reference::load_qkv({path}, prefix).inputs);
  REQUIRE(layers.size() == 6);
  return layers;
}

std::vector<LayerErrors> errors_of(const std::vector<Inputs>& layers,
                                   const MeasureOptions& options) {
  PlannerState state({}, "");
  return measure_layers(
      static_cast<int>(layers.size()), [&](int i) { return layers[static_cast<std::size_t>(i)]; },
      options, state);
}

const std::vector<LayerErrors>& decoder_errors() {
  static const std::vector<LayerErrors> errors = errors_of(decoder(), {.queries = 32});
  return errors;
}

// A mean of e_o^2 over layers, from the definition.
double rms(const std::vector<LayerErrors>& layers, const Map& map) {
  double sum = 0;
  for (std::size_t i = 0; i < layers.size(); ++i)
    sum += std::pow(layers[i].relative(map.layers[i][0]), 2);
  return std::sqrt(sum / static_cast<double>(layers.size()));
}

double bits_of_map(const Map& map) {
  double sum = 0, count = 0;
  for (const Layer& layer : map.layers) {
    for (const Pair& each : layer) {
      sum += each.k.bits + each.v.bits;
      count += 2;
    }
  }
  return sum / count;
}

// Written anew and simply: one query at a time, all weights in a vector; quantized by `quantize` of a group.
double quantized(double x, double least, double largest, int bits) {
  const auto f16 = [](double value) { return reference::round_ieee(value, reference::kF16); };
  const double z = f16(least),
               s = f16((largest - z) * (1 + std::ldexp(1, -11)) / ((1 << bits) - 1));
  if (s == 0) return z;
  return s * std::clamp(std::nearbyint((x - z) / s), 0.0, std::ldexp(1, bits) - 1) + z;
}

using Rows = std::vector<std::vector<double>>;
Rows rows_of(const Tensor& t, std::int64_t head) {
  Rows rows;
  for (std::int64_t n = 0; n < t.tokens; ++n)
    rows.emplace_back(t.row(0, head, n), t.row(0, head, n) + t.channels);
  return rows;
}
void quantize_rows(Rows& rows, std::size_t count, std::size_t group, int bits) {
  for (std::size_t t = 0; t < count && bits < 16; ++t) {
    for (std::size_t begin = 0; begin < rows[t].size(); begin += group) {
      const auto first = rows[t].begin() + static_cast<std::ptrdiff_t>(begin);
      const auto [least, largest] =
          std::minmax_element(first, first + static_cast<std::ptrdiff_t>(group));
      const double low = *least, high = *largest;
      for (std::size_t c = begin; c < begin + group; ++c)
        rows[t][c] = quantized(rows[t][c], low, high, bits);
    }
  }
}
Rows transposed(const Rows& rows) {
  Rows out(rows.empty() ? 0 : rows[0].size(), std::vector<double>(rows.size()));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t j = 0; j < rows[i].size(); ++j) out[j][i] = rows[i][j];
  }
  return out;
}

// Attention of the query at `position` to the first `visible` tokens.
std::vector<double> attended(const std::vector<double>& q, const Rows& k, const Rows& v,
                             std::size_t visible) {
  std::vector<double> weights, o(v[0].size());
  double sum = 0;
  for (std::size_t t = 0; t < visible; ++t) {
    const double score = std::inner_product(q.begin(), q.end(), k[t].begin(), 0.0);
    weights.push_back(std::exp(score / std::sqrt(static_cast<double>(q.size()))));
    sum += weights.back();
  }
  for (std::size_t t = 0; t < visible; ++t) {
    for (std::size_t c = 0; c < o.size(); ++c) o[c] += weights[t] / sum * v[t][c];
  }
  return o;
}

double tiny_error(const Inputs& in, const Pair& bits, bool kivi) {
  double error = 0, norm = 0;
  for (std::int64_t head = 0; head < in.q.heads; ++head) {
    const Rows q = rows_of(in.q, head);
    const std::int64_t kv_head = head / (in.q.heads / in.k.heads);
    for (std::size_t i = 0; i < q.size(); ++i) {
      const std::size_t visible = in.causal ? i + 1 : static_cast<std::size_t>(in.k.tokens);
      Rows k = rows_of(in.k, kv_head), v = rows_of(in.v, kv_head);
      const std::vector<double> exact = attended(q[i], k, v, visible);
      if (kivi) {
        Rows channels = transposed(k);
        for (std::vector<double>& channel : channels) {
          const std::vector<double> tail(
              channel.begin() + static_cast<std::ptrdiff_t>(visible / 32 * 32), channel.end());
          channel.resize(visible / 32 * 32);
          Rows one = {channel};
          quantize_rows(one, 1, 32, bits.k.bits);
          channel = one[0];
          channel.insert(channel.end(), tail.begin(), tail.end());
        }
        k = transposed(channels);
        quantize_rows(v, visible > 32 ? visible - 32 : 0, 32, bits.v.bits);
      } else {
        quantize_rows(k, k.size(), k[0].size(), bits.k.bits);
        quantize_rows(v, v.size(), v[0].size(), bits.v.bits);
      }
      const std::vector<double> got = attended(q[i], k, v, visible);
      for (std::size_t c = 0; c < exact.size(); ++c) {
        error += std::pow(exact[c] - got[c], 2);
        norm += exact[c] * exact[c];
      }
    }
  }
  return std::sqrt(error / norm);
}

std::vector<Pair> nine_pairs() {
  std::vector<Pair> pairs;
  for (const int k : {2, 4, 8}) {
    for (const int v : {2, 4, 8}) pairs.push_back(pair(k, v));
  }
  return pairs;
}

}  // namespace

// ---- the cache ------------------------------------------------------------------------------------

TEST_CASE("relative mean square errors of normal groups are those of a uniform quantizer") {
  // Expected: 400 groups of N(0, 1); a group of g has a range of about 4.1 (g = 32) or 5.4 (g = 128) deviations, and a
  // step s costs s^2 / 12.
  struct Row {
    int bits;
    double of_32, of_128;
  };
  for (const Row row : {Row{8, 2.1e-5, 3.4e-5}, Row{4, 6.1e-3, 9.9e-3}, Row{2, 1.5e-1, 2.5e-1}}) {
    INFO(row.bits << " bits");
    const std::vector<double> rows = normal_rows(400, 128, 1);
    CHECK(rel_mse(rows, stored_keys(rows, 128, row.bits, kPerToken)) ==
          Approx(row.of_128).epsilon(0.1));
    CHECK(rel_mse(rows, stored_values(rows, 128, row.bits, kKivi)) ==
          Approx(row.of_32).epsilon(0.1));
  }
}

TEST_CASE("no value is off by more than half a step, and the rounding of f16") {
  for (const double offset : {0.0, 5.0, -1000.0}) {
    std::vector<double> rows = normal_rows(64, 128, 2);
    for (double& x : rows) x += offset;
    for (const int bits : {2, 4, 8}) {
      const std::vector<double> got = stored_values(rows, 128, bits, kPerToken);
      for (std::size_t begin = 0; begin < rows.size(); begin += 128) {
        const auto [least, largest] =
            std::minmax_element(rows.begin() + static_cast<std::ptrdiff_t>(begin),
                                rows.begin() + static_cast<std::ptrdiff_t>(begin) + 128);
        const Grid grid = grid_of(*least, *largest, bits);
        const double of_zero = std::max(std::fabs(grid.zero) * 0x1p-11, 0x1p-25);
        for (std::size_t i = begin; i < begin + 128; ++i)
          REQUIRE(std::fabs(rows[i] - got[i]) <= grid.scale / 2 + of_zero);
      }
    }
  }
}

TEST_CASE("groups of equal values, of zeros and of the tiniest values have codes 0") {
  for (const double value : {0.0, 3.5, -2.0}) {
    const std::vector<double> rows(128, value);
    CHECK(stored_values(rows, 128, 2, kPerToken) == rows);
    CHECK(grid_of(value, value, 2).code(value) == 0);
  }
  const Grid tiny = grid_of(0, 0x1p-24, 8);  // the step underflows
  CHECK(tiny.scale == 0);
  CHECK(tiny.code(0x1p-24) == 0);
  // 4 (1 + 2^-11) / 3 is 1.33398, and f16 about there has multiples of 2^-10.
  const Grid grid = grid_of(-1, 3, 2);
  CHECK(grid.zero == -1);
  CHECK(grid.scale == 1366 * 0x1p-10);
  CHECK(grid.code(-1) == 0);
  CHECK(grid.code(3) == 3);
  CHECK(grid.value(2) == 2 * 1366 * 0x1p-10 - 1);
}

TEST_CASE(
    "a Hadamard matrix gains five times and more on outlier keys, and groups of channels need "
    "none") {
  const std::vector<double> rows = outlier_rows();
  struct Row {
    int bits;
    double per_token, rotated, kivi;
  };
  for (const Row row : {Row{8, 1.9e-4, 2.3e-5, 2.0e-5}, Row{4, 5.4e-2, 6.6e-3, 6.0e-3},
                        Row{2, 1.43, 1.7e-1, 1.5e-1}}) {
    const double plain = rel_mse(rows, stored_keys(rows, 128, row.bits, kPerToken));
    const double rotated = rel_mse(rows, stored_keys(rows, 128, row.bits, {.hadamard = true}));
    CAPTURE(row.bits, plain, rotated);
    CHECK(plain >= 5 * rotated);
    CHECK(plain == Approx(row.per_token).epsilon(0.25));
    CHECK(rotated == Approx(row.rotated).epsilon(0.25));
    CHECK(rel_mse(rows, stored_keys(rows, 128, row.bits, kKivi)) == Approx(row.kivi).epsilon(0.25));
  }
}

TEST_CASE("the window of a KIVI cache: what is codes with 0, 1, R, R + 1 and 2 R tokens") {
  struct Row {
    std::int64_t tokens, keys, values;
  };
  for (const Row row : {Row{0, 0, 0}, Row{1, 0, 0}, Row{31, 0, 0}, Row{32, 32, 0}, Row{33, 32, 1},
                        Row{63, 32, 31}, Row{64, 64, 32}, Row{100, 96, 68}}) {
    INFO(row.tokens << " tokens");
    CHECK(quantized_keys(row.tokens, kKivi) == row.keys);
    CHECK(quantized_values(row.tokens, kKivi) == row.values);
    CHECK(quantized_keys(row.tokens, kPerToken) == row.tokens);
    CHECK(quantized_values(row.tokens, kPerToken) == row.tokens);
    const std::vector<double> rows = normal_rows(std::max<std::int64_t>(row.tokens, 1), 64, 4);
    const std::span<const double> tokens =
        std::span(rows).first(static_cast<std::size_t>(row.tokens * 64));
    const std::vector<double> got = stored_keys(tokens, 64, 2, kKivi);
    REQUIRE(got.size() == tokens.size());
    for (std::int64_t t = 0; t < row.tokens; ++t) {
      const auto first = static_cast<std::ptrdiff_t>(t * 64);
      const bool as_it_came =
          std::equal(got.begin() + first, got.begin() + first + 64, tokens.begin() + first);
      CHECK(as_it_came == (t >= row.keys));
    }
  }
}

TEST_CASE("every group of keys lies in one channel, whatever the number of tokens") {
  for (const std::int64_t tokens : {33, 45, 95, 97}) {
    const std::vector<double> rows = normal_rows(tokens, 64, 5);
    std::vector<double> wild = rows;
    for (std::int64_t t = 0; t < tokens; ++t) wild[static_cast<std::size_t>(t * 64 + 17)] *= 1000;
    const std::vector<double> got = stored_keys(rows, 64, 4, kKivi),
                              of_wild = stored_keys(wild, 64, 4, kKivi);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (i % 64 != 17) REQUIRE(got[i] == of_wild[i]);
    }
  }
}

TEST_CASE("new tokens change no group that is codes already") {
  for (const CacheModel& model :
       {kKivi,
        CacheModel{.grouping = Grouping::kivi, .group = 32, .residual = 64, .hadamard = true}}) {
    const std::vector<double> rows = normal_rows(200, 64, 6);
    std::vector<double> before;
    std::int64_t codes = 0;
    for (std::int64_t tokens = 1; tokens <= 200; ++tokens) {
      const std::vector<double> now =
          stored_keys(std::span(rows).first(static_cast<std::size_t>(tokens * 64)), 64, 2, model);
      REQUIRE(std::equal(before.begin(), before.begin() + codes * 64, now.begin()));
      codes = quantized_keys(tokens, model);
      before = now;
    }
    CHECK(codes == 192);
  }
}

TEST_CASE("what a cache takes per token of 8 heads of 128 channels") {
  const auto bytes = [](int k, int v, const CacheModel& model) {
    return token_bits(pair(k, v), 128, model);
  };
  CHECK(bytes(16, 16, kPerToken) == 4096);  // of 8 heads, a byte for each of the bits of one
  CHECK(bytes(8, 8, kPerToken) == 2112);
  CHECK(bytes(8, 4, kPerToken) == 1600);
  CHECK(bytes(4, 4, kPerToken) == 1088);
  CHECK(bytes(4, 2, kPerToken) == 832);
  CHECK(bytes(2, 2, kPerToken) == 576);
  CHECK(bytes(4, 4, kKivi) == 1280);
  CHECK(cache_bytes(pair(4, 4), 128, 1000, kPerToken) == 1000 * 1088 / 8);
  // 992 keys and 968 values are codes of 80 bytes, the others are 256 bytes.
  CHECK(cache_bytes(pair(4, 4), 128, 1000, kKivi) == (992 + 968) * 80 + (8 + 32) * 256);
}

TEST_CASE("caches and bits that there are not are refused by name") {
  const auto refused = [](const CacheModel& model, const std::string& why) {
    CHECK_THROWS_WITH(validate(model), Catch::Contains(why));
  };
  refused({.grouping = Grouping::kivi, .group = 48, .residual = 48}, "groups of 48 is refused");
  refused({.grouping = Grouping::kivi, .residual = 40}, "a window of 40 tokens is refused");
  refused({.grouping = Grouping::kivi, .residual = 0}, "a window of 0 tokens is refused");
  CHECK_THROWS_WITH(storage_of(3), Catch::Contains("codes of 3 bits are refused"));
  CHECK_THROWS_WITH(bits_of(kFloat8), Catch::Contains("float8 or float4 is refused"));
}

// ---- errors ---------------------------------------------------------------------------------------

TEST_CASE("errors are those of a model written anew") {
  const reference::Shape shape{
      .q_heads = 4, .kv_heads = 2, .q_len = 75, .kv_len = 75, .head_dim = 64};
  for (const bool causal : {false, true}) {
    Inputs in = reference::generate("outlier", shape, 7, IoType::f16);
    in.causal = causal;
    for (const bool kivi : {false, true}) {
      const LayerErrors errors =
          measure_layer(in, {.cache = kivi ? kKivi : kPerToken, .queries = 0});
      for (const Pair& bits : {pair(2, 8), pair(8, 2), pair(4, 4), pair(16, 2), pair(2, 16)}) {
        CAPTURE(causal, kivi, to_string(bits));
        CHECK(errors.relative(bits) == Approx(tiny_error(in, bits, kivi)).epsilon(1e-9));
      }
      CHECK(errors.relative(pair(16, 16)) == 0);
    }
  }
}

TEST_CASE("errors of heads add up to the layer's, and do not depend on threads") {
  const LayerErrors errors = measure_layer(decoder()[1], {.queries = 0});
  double squared = 0, alone = 0;
  REQUIRE(errors.heads.size() == 2);
  for (std::size_t head = 0; head < 2; ++head) {
    squared += errors.squared_share(head, pair(2, 4));
    alone += errors.heads[head].error[0][1];
  }
  CHECK(std::sqrt(squared) == Approx(errors.relative(pair(2, 4))).epsilon(1e-14));
  CHECK(alone / (errors.heads[0].exact + errors.heads[1].exact) == Approx(squared).epsilon(1e-14));
  for (const CacheModel& cache : {kPerToken, kKivi}) {
    const LayerErrors one = measure_layer(decoder()[1], {.cache = cache, .threads = 1}),
                      three = measure_layer(decoder()[1], {.cache = cache, .threads = 3});
    for (std::size_t head = 0; head < 2; ++head) {
      CHECK(one.heads[head].exact == three.heads[head].exact);
      CHECK(one.heads[head].error == three.heads[head].error);
    }
  }
}

TEST_CASE("a sample of rows tells about what all of them do") {
  const LayerErrors all = measure_layer(decoder()[4], {.queries = 0}),
                    some = measure_layer(decoder()[4], {.queries = 24});
  for (const Pair& bits : {pair(4, 4), pair(8, 2), pair(2, 8)})
    CHECK(some.relative(bits) == Approx(all.relative(bits)).epsilon(0.2));
}

TEST_CASE(
    "peaked attention with outlier keys wants bits for K, flat attention with outliers of V wants "
    "them for V") {
  const reference::Shape shape{
      .q_heads = 4, .kv_heads = 2, .q_len = 128, .kv_len = 128, .head_dim = 128};
  Inputs peaked = reference::generate("normal", shape, 8, IoType::f16);
  for (float& x : peaked.q.data) x *= 3;
  Inputs flat = peaked;
  for (std::size_t i = 0; i < peaked.k.data.size(); ++i) {
    if (i % 128 % 37 == 5) peaked.k.data[i] *= 20;
  }
  for (float& x : flat.q.data) x *= 0.02f;
  for (std::size_t i = 0; i < flat.v.data.size(); ++i) {
    if (i % 128 % 37 == 5) flat.v.data[i] *= 20;
  }
  for (const bool causal : {false, true}) {
    peaked.causal = flat.causal = causal;
    const LayerErrors of_peaked = measure_layer(peaked, {}), of_flat = measure_layer(flat, {});
    CAPTURE(causal, of_peaked.relative(pair(8, 4)), of_peaked.relative(pair(4, 8)),
            of_flat.relative(pair(8, 4)), of_flat.relative(pair(4, 8)));
    CHECK(of_peaked.relative(pair(8, 4)) < of_peaked.relative(pair(4, 8)));
    CHECK(of_flat.relative(pair(8, 4)) > of_flat.relative(pair(4, 8)));
  }
}

TEST_CASE(
    "rotation and smoothing of K lower the errors of K that outliers make, and change nothing at "
    "16 bits") {
  const Inputs& layer = decoder()[2];
  const LayerErrors plain = measure_layer(layer, {}),
                    rotated = measure_layer(layer, {.cache = {.hadamard = true}}),
                    smooth = measure_layer(layer, {.cache = {.smooth_k = true}}),
                    both = measure_layer(layer, {.cache = {.smooth_k = true, .hadamard = true}});
  CHECK(rotated.relative(pair(4, 16)) < plain.relative(pair(4, 16)));
  CHECK(smooth.relative(pair(4, 16)) < plain.relative(pair(4, 16)) / 2);
  CHECK(both.relative(pair(4, 16)) < plain.relative(pair(4, 16)) / 2);
  for (const LayerErrors& each : {rotated, smooth, both})
    CHECK(each.heads[0].error[3] == plain.heads[0].error[3]);
}

TEST_CASE("inputs of which no error can be told are refused") {
  const reference::Shape shape{.q_len = 4, .kv_len = 4, .head_dim = 64};
  Inputs in = reference::generate("normal", shape, 1, IoType::f16);
  Inputs bad = in;
  bad.k.data[7] = NAN;
  CHECK_THROWS_WITH(measure_layer(bad, {}), Catch::Contains("not finite"));
  bad = in;
  std::ranges::fill(bad.v.data, 0.0f);
  CHECK_THROWS_WITH(measure_layer(bad, {}), Catch::Contains("all zeros"));
  bad = reference::generate("normal", {.q_len = 4, .kv_len = 4, .head_dim = 64, .value_dim = 32}, 1,
                            IoType::f16);
  CHECK_THROWS_WITH(measure_layer(bad, {}), Catch::Contains("64 channels with values of 32"));
  CHECK_THROWS_WITH(measure_layer(in, {.cache = {.grouping = Grouping::kivi, .residual = 7}}),
                    Catch::Contains("window of 7"));
}

// ---- pruning, clusters, search ----------------------------------------------------------------------

TEST_CASE("of a layer those pairs stay that no other beats in bits and error") {
  const std::vector<int> bits = {4, 6, 8, 6, 8, 10, 12, 16};
  const std::vector<double> errors = {1.0, 0.5, 0.4, 0.6, 0.4, 0.7, 0.1, 0.1};
  CHECK(pruned(bits, errors) == std::vector<std::size_t>{0, 1, 2, 6});
}

TEST_CASE("clusters are a partition, of equal lists and errors within the ratio") {
  std::vector<std::vector<std::size_t>> lists;
  std::vector<std::vector<double>> errors;
  for (int i = 0; i < 40; ++i) {
    lists.push_back(i % 3 == 0 ? std::vector<std::size_t>{0, 2} : std::vector<std::size_t>{0, 1});
    errors.push_back(
        {std::exp(0.1 * (i * 7 % 40)), std::exp(0.05 * (i * 11 % 40)), std::exp(0.02 * i)});
  }
  for (const double similar : {1.0, 1.2, 2.0, 1000.0}) {
    INFO("similar " << similar);
    const auto groups = clustered(lists, errors, similar);
    std::set<std::size_t> all;
    std::size_t members = 0;
    for (const auto& group : groups) {
      CHECK(std::ranges::is_sorted(group));
      members += group.size();
      all.insert(group.begin(), group.end());
      for (const std::size_t a : group) {
        for (const std::size_t b : group) {
          CHECK(lists[a] == lists[b]);
          for (const std::size_t each : lists[a])
            CHECK(errors[a][each] <= errors[b][each] * similar * (1 + 1e-12));
        }
      }
    }
    CHECK(members == 40);
    CHECK(all.size() == 40);
    if (similar == 1) CHECK(groups.size() == 40);
    if (similar == 1000) CHECK(groups.size() == 2);
  }
  // What lies together comes together, and no chain of neighbours makes one group of a long way.
  const std::vector<std::vector<std::size_t>> same(6, {0});
  CHECK(clustered(same, {{1}, {10}, {1.05}, {11}, {1.2}, {1.4}}, 1.22) ==
        std::vector<std::vector<std::size_t>>{{0, 2}, {1, 3}, {4, 5}});
}

TEST_CASE(
    "the front of a decoder's plan is that of all maps of its clusters, and the unclustered one of "
    "all maps") {
  const PlanOptions options{.protect = 0, .similar = 1};
  const std::vector<Pair> pairs = nine_pairs();
  for (const std::vector<LayerErrors>& layers :
       {std::vector<LayerErrors>(decoder_errors().begin(), decoder_errors().begin() + 6),
        errors_of(minilm(), {.queries = 25})}) {
    const Plan found = plan(layers, options);
    CHECK(found.search == "dynamic programming");
    // All 9^6 maps.
    std::map<double, double> least;
    std::vector<std::vector<double>> squared;
    for (const LayerErrors& layer : layers) {
      squared.emplace_back();
      for (const Pair& each : pairs) squared.back().push_back(std::pow(layer.relative(each), 2));
    }
    for (int code = 0; code < 531441; ++code) {
      int rest = code;
      double bits = 0, sum = 0;
      for (std::size_t layer = 0; layer < 6; ++layer, rest /= 9) {
        const auto at = static_cast<std::size_t>(rest % 9);
        bits += pairs[at].k.bits + pairs[at].v.bits;
        sum += squared[layer][at];
      }
      const auto [place, is_new] = least.emplace(bits / 12, std::sqrt(sum / 6));
      if (!is_new) place->second = std::min(place->second, std::sqrt(sum / 6));
    }
    double before = std::numeric_limits<double>::infinity();
    std::erase_if(least, [&](const auto& each) {
      const bool beaten = each.second >= before * (1 - 1e-13);
      before = std::min(before, each.second);
      return beaten;
    });
    REQUIRE(found.front.size() == least.size());
    REQUIRE(found.unclustered.size() == least.size());
    auto expected = least.begin();
    for (std::size_t i = 0; i < least.size(); ++i, ++expected) {
      CHECK(found.front[i].nominal_bits == Approx(expected->first).epsilon(1e-12));
      CHECK(found.front[i].error == Approx(expected->second).epsilon(1e-9));
      CHECK(found.unclustered[i].error == Approx(expected->second).epsilon(1e-9));
      CHECK(found.front[i].error == Approx(rms(layers, found.front[i].map)).epsilon(1e-9));
      CHECK(found.front[i].nominal_bits == bits_of_map(found.front[i].map));
    }
  }
}

TEST_CASE(
    "maps of one pair for all layers are there to compare, and none beats the front of all maps") {
  const std::vector<LayerErrors>& layers = decoder_errors();
  const Plan found = plan(layers, {.protect = 0, .similar = 1}), guarded = plan(layers, {});
  REQUIRE(found.uniform.size() >= 3);
  REQUIRE(guarded.uniform.size() == found.uniform.size());
  for (std::size_t i = 0; i < found.uniform.size(); ++i) {
    const PlannedMap& each = found.uniform[i];
    CHECK(each.map.layers == std::vector<Layer>(8, each.map.layers[0]));
    CHECK(each.error == Approx(rms(layers, each.map)).epsilon(1e-12));
    CHECK(each.map == guarded.uniform[i].map);
    CHECK(std::ranges::any_of(found.front, [&](const PlannedMap& other) {
      return other.nominal_bits <= each.nominal_bits && other.error <= each.error * (1 + 1e-12);
    }));
  }
}

TEST_CASE("layers of a cluster have one pair, and clusters cost what the unclustered front tells") {
  const std::vector<LayerErrors>& layers = decoder_errors();
  const Plan found = plan(layers, {.similar = 2});
  std::vector<int> times(layers.size());
  std::size_t free = 0;
  for (const Cluster& cluster : found.clusters) {
    free += cluster.is_protected ? 0 : 1;
    for (const Unit& unit : cluster.units) {
      ++times[static_cast<std::size_t>(unit.layer)];
      CHECK(cluster.is_protected == (unit.layer < 2 || unit.layer >= 6));
      for (const PlannedMap& each : found.front) {
        const auto of = [&](int layer) { return each.map.layers[static_cast<std::size_t>(layer)]; };
        CHECK(of(unit.layer) == of(cluster.units[0].layer));
        if (cluster.is_protected) CHECK(of(unit.layer) == Layer{pair(8, 8)});
      }
    }
  }
  CHECK(times == std::vector<int>(layers.size(), 1));
  CHECK(free < 4);
  for (const PlannedMap& each : found.front) {
    double least = std::numeric_limits<double>::infinity();
    for (const PlannedMap& other : found.unclustered) {
      if (other.nominal_bits <= each.nominal_bits + 1e-12) least = std::min(least, other.error);
    }
    CHECK(each.error >= least * (1 - 1e-12));
  }
}

TEST_CASE("the front is that of all pairs of the clusters, whose layers all count") {
  // Four layers that are alike, and two that are not.
  std::vector<LayerErrors> layers;
  for (const double of_keys : {1.0, 1.2, 0.9, 1.1, 30.0, 200.0}) {
    HeadErrors head{.exact = 1};
    for (std::size_t k = 0; k < kCodeBitsCount; ++k) {
      for (std::size_t v = 0; v < kCodeBitsCount; ++v)
        head.error[k][v] = of_keys * std::pow(16, -kCodeBits[k]) + 2 * std::pow(16, -kCodeBits[v]);
    }
    layers.push_back({.head_dim = 64, .heads = {head}});
  }
  const Plan found = plan(layers, {.protect = 0, .similar = 1.5});
  REQUIRE(found.clusters.size() == 3);
  REQUIRE(found.clusters[0].units == std::vector<Unit>{{0}, {1}, {2}, {3}});
  std::vector<Variable> clusters;
  for (const Cluster& cluster : found.clusters)
    clusters.push_back({.costs = std::vector<std::int64_t>(cluster.pairs.size()), .errors = {}});
  std::vector<Solution> all;
  exhaustive_front(clusters, [&](std::span<const int> choices) {
    Map map{std::vector<Layer>(layers.size())};
    for (std::size_t i = 0; i < choices.size(); ++i) {
      const Cluster& cluster = found.clusters[i];
      for (const Unit& unit : cluster.units)
        map.layers[static_cast<std::size_t>(unit.layer)] = {
            cluster.pairs[static_cast<std::size_t>(choices[i])]};
    }
    all.push_back({.choices = {choices.begin(), choices.end()},
                   .cost = std::llround(bits_of_map(map) * 12),
                   .error = rms(layers, map)});
    return 0.0;
  });
  const std::vector<Solution> expected = non_dominated(all);
  REQUIRE(found.front.size() == expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(std::llround(found.front[i].nominal_bits * 12) == expected[i].cost);
    CHECK(found.front[i].error == Approx(expected[i].error).epsilon(1e-12));
  }
}

TEST_CASE("caps are met by the best map of the front, in nominal and in effective bits") {
  for (const BitMeasure bits : {BitMeasure::nominal, BitMeasure::effective}) {
    const PlanOptions options{.bits = bits, .protect = 0, .similar = 1};
    const Plan found = plan(decoder_errors(), options);
    const auto bits_of_best = [&](const PlannedMap& map) {
      return bits == BitMeasure::nominal ? map.nominal_bits : map.effective_bits;
    };
    for (std::size_t i = 1; i < found.front.size(); ++i) {
      CHECK(bits_of_best(found.front[i]) > bits_of_best(found.front[i - 1]));
      CHECK(found.front[i].error < found.front[i - 1].error);
    }
    for (const double cap : {3.0, 4.0, 4.7, 6.0, 9.0}) {
      const PlannedMap& best = best_under(found, cap, options);
      CHECK(bits_of_best(best) <= cap);
      for (const PlannedMap& each : found.front)
        CHECK((bits_of_best(each) > cap || each.error >= best.error));
    }
    CHECK(&best_under(found, bits_of_best(found.front[3]), options) == &found.front[3]);
  }
  const PlanOptions options{};
  CHECK_THROWS_WITH(
      best_under(plan(decoder_errors(), options), 4, options),
      Catch::Contains("a cap of 4 bits is refused: the fewest nominal bits of any map are 5, with "
                      "the first and the last 2 layers at 8 bits; raise the cap or protect fewer"));
}

TEST_CASE("effective bits, bytes of a step, and pairs of more bits than 8") {
  const PlanOptions options{.code_bits = {16}, .protect = 0, .context = 1000};
  const Plan exact = plan(decoder_errors(), options);
  REQUIRE(exact.front.size() == 1);
  CHECK(exact.front[0].error == 0);
  CHECK(exact.front[0].nominal_bits == 16);
  CHECK(exact.front[0].effective_bits == 16);
  CHECK(exact.front[0].step_bytes ==
        8 * 2 * 1000 * 64 * 4);  // layers, heads, tokens, channels, K and V of f16
  PlanOptions four = options;
  four.code_bits = {4};
  const Plan codes = plan(decoder_errors(), four);
  CHECK(codes.front[0].effective_bits == 4.5);  // and 32 bits for 64 channels
  CHECK(codes.front[0].step_bytes == 8 * 2 * 1000 * 72);
  four.protect = 2;  // KV8, which is none of the pairs to choose from
  CHECK(plan(decoder_errors(), four).front[0].nominal_bits == 6);
}

TEST_CASE("a choice for each head is no worse than one for each layer") {
  const Plan layers = plan(decoder_errors(), {.protect = 0, .similar = 1}),
             heads = plan(decoder_errors(), {.protect = 0, .per_head = true, .similar = 1});
  CHECK(heads.front[0].map.layers[0].size() == 2);
  CHECK(heads.clusters.size() == 16);
  std::size_t better = 0;
  for (const PlannedMap& each : layers.front) {
    const auto same = std::ranges::find_if(
        heads.front, [&](const PlannedMap& map) { return map.nominal_bits == each.nominal_bits; });
    if (same == heads.front.end()) continue;
    CHECK(same->error <= each.error * (1 + 1e-12));
    better += same->error < 0.999 * each.error;
  }
  CHECK(better > 0);
}

TEST_CASE(
    "a metric is asked for all maps where they are few, and NSGA-II finds its front where they are "
    "not") {
  // Twice what e_o says, and more where neighbouring layers differ in K: it does not add up.
  const std::vector<LayerErrors>& layers = decoder_errors();
  int asked = 0;
  const Metric metric = [&](const Map& map) {
    ++asked;
    double error = 2 * rms(layers, map);
    for (std::size_t i = 1; i < map.layers.size(); ++i)
      error *= map.layers[i][0].k == map.layers[i - 1][0].k ? 1 : 1.3;
    return error;
  };
  PlanOptions options{.protect = 3, .similar = 1, .metric = metric};
  const Plan all = plan(layers, options);
  CHECK(all.search == "all " + std::to_string(asked) + " maps");
  CHECK(asked == static_cast<int>(all.clusters[3].pairs.size() * all.clusters[4].pairs.size()));
  for (const PlannedMap& each : all.front) CHECK(each.error == metric(each.map));
  CHECK(all.unclustered.empty());
  CHECK(all.uniform.empty());

  options.protect = 1;
  options.exhaustive = 1'000'000;
  const Plan exact = plan(layers, options);
  options.exhaustive = 10;
  options.genetic = {.population = 32, .evaluations = 3000};
  asked = 0;
  const Plan sampled = plan(layers, options), again = plan(layers, options);
  CHECK(sampled.search == "NSGA-II, at most 3000 maps");
  CHECK(asked <= 6000);
  for (const PlannedMap& each : sampled.front) {
    // None is below the exact front, and few are above it.
    double least = std::numeric_limits<double>::infinity();
    for (const PlannedMap& best : exact.front) {
      if (best.nominal_bits <= each.nominal_bits) least = std::min(least, best.error);
    }
    CHECK(each.error >= least);
    CHECK(each.error <= 1.1 * least);
  }
  REQUIRE(sampled.front.size() == again.front.size());
  for (std::size_t i = 0; i < again.front.size(); ++i)
    CHECK(sampled.front[i].map == again.front[i].map);
}

TEST_CASE("plans that cannot be made are refused by name") {
  const auto refused = [](const PlanOptions& options, const std::string& why) {
    CHECK_THROWS_WITH(plan(decoder_errors(), options), Catch::Contains(why));
  };
  CHECK_THROWS_WITH(plan({}, {}), Catch::Contains("no layer"));
  refused({.code_bits = {}}, "no number of bits");
  refused({.code_bits = {4, 5}}, "codes of 5 bits");
  refused({.protect = -1}, "-1 protected layers");
  refused({.similar = 0.5}, "a ratio of 0.5");
  refused({.similar = NAN}, "a ratio of nan");
  refused({.context = 0}, "a context of 0 tokens");
  std::vector<LayerErrors> layers = decoder_errors();
  layers[3].heads.pop_back();
  CHECK_THROWS_WITH(plan(layers, {}),
                    Catch::Contains("layer 3 has 1 KV heads of head_dim 64 and layer 0 has 2"));
}

// ---- going on -------------------------------------------------------------------------------------

TEST_CASE(
    "a plan that was stopped measures no layer and no map twice, and ends with the same bytes") {
  const tests::TemporaryFolder folder;
  const MeasureOptions options{.queries = 8};
  const auto load = [](int layer) { return decoder()[static_cast<std::size_t>(layer)]; };
  const auto run = [&](const std::filesystem::path& file, int stop_after) {
    std::vector<bool> measured;
    PlannerState state(file, subject_of(options));
    try {
      measure_layers(8, load, options, state, [&](LayerProgress progress) {
        CHECK(progress.count == 8);
        CHECK(progress.done == static_cast<int>(measured.size()) + 1);
        measured.push_back(progress.measured);
        if (progress.done == stop_after) throw std::runtime_error("stopped");
      });
    } catch (const std::runtime_error& error) {
      CHECK(error.what() == std::string("stopped"));
    }
    return measured;
  };
  const std::filesystem::path file = folder.path() / "state.json",
                              whole = folder.path() / "whole.json";
  CHECK(run(file, 3) == std::vector(3, true));
  CHECK(run(file, 5) == std::vector{false, false, false, true, true});
  CHECK(run(file, 0) == std::vector{false, false, false, false, false, true, true, true});
  CHECK(run(file, 0) == std::vector(8, false));
  CHECK(run(whole, 0) == std::vector(8, true));
  CHECK(reference::read_whole_file(file) == reference::read_whole_file(whole));

  // What was read is what was measured, to the last bit.
  PlannerState state(file, subject_of(options));
  const LayerErrors* read = state.layer(4, digest_of(load(4)));
  REQUIRE(read);
  const LayerErrors again = measure_layer(load(4), options);
  CHECK(read->head_dim == 64);
  REQUIRE(read->heads.size() == 2);
  for (std::size_t head = 0; head < 2; ++head) {
    CHECK(read->heads[head].exact == again.heads[head].exact);
    CHECK(read->heads[head].error == again.heads[head].error);
  }

  int asked = 0;
  const Metric metric = [&](const Map& map) {
    ++asked;
    return asked == 2 ? std::numeric_limits<double>::infinity() : rms(decoder_errors(), map);
  };
  PlanOptions with_metric{.protect = 3, .similar = 1, .metric = remembered(metric, state)};
  const Plan first = plan(decoder_errors(), with_metric);
  const int maps = asked;
  PlannerState later(file, subject_of(options));
  with_metric.metric = remembered(metric, later);
  const Plan second = plan(decoder_errors(), with_metric);
  CHECK(asked == maps);
  REQUIRE(first.front.size() == second.front.size());
  for (std::size_t i = 0; i < first.front.size(); ++i) {
    CHECK(first.front[i].map == second.front[i].map);
    CHECK(first.front[i].error == second.front[i].error);
  }
}

TEST_CASE("states of other plans, other inputs and other files are refused") {
  const tests::TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "state.json";
  const MeasureOptions options{.queries = 4};
  {
    PlannerState state(file, subject_of(options));
    measure_layers(
        1, [](int) { return decoder()[0]; }, options, state);
  }
  const auto refused = [&](const MeasureOptions& other, const Inputs& inputs,
                           const std::string& why) {
    const auto go_on = [&] {
      PlannerState state(file, subject_of(other));
      measure_layers(
          1, [&](int) { return inputs; }, other, state);
    };
    CHECK_THROWS_WITH(go_on(),
                      Catch::Contains(why) && Catch::Contains("remove it, or name another file"));
  };
  refused(
      {.cache = kKivi, .queries = 4}, decoder()[0],
      "another plan, 'per_token queries=4', and this one is 'kivi group=32 residual=32 queries=4'");
  Inputs changed = decoder()[0];
  changed.v.data[5] += 1;
  refused(options, changed, "layer 0 was measured with inputs of digest");
  changed = decoder()[0];
  changed.causal = false;
  refused(options, changed, "layer 0 was measured with inputs of digest");
  const std::string good = reference::read_whole_file(file);
  for (const std::string& text : {std::string(), std::string("[]"), std::string("{}"),
                                  good.substr(0, good.size() / 2), std::string(10'000, '[')}) {
    reference::write_whole_file(file, text);
    refused(options, decoder()[0], "no state of `sagegen kv plan`");
  }
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    reference::write_whole_file(file, text);
  };
  with("\"version\": 2", "\"version\": 1");
  refused(options, decoder()[0], "another version");
  for (const char* name : {"\"exact\"", "\"layers\"", "\"head_dim\"", "\"metrics\""}) {
    with(name, "\"other\"");
    refused(options, decoder()[0], "is damaged");
  }
  for (const char* name : {"\"exact\": ", "\"head_dim\": "}) {  // numbers that no layer has
    with(name, name + std::string("-"));
    refused(options, decoder()[0], "is damaged");
    with(name, name + std::string("99999999"));
    if (name[1] == 'h') refused(options, decoder()[0], "is damaged");
  }
}

// Values that are all far from 0, which the padding of a block is full of.
TEST_CASE("padding is no part of what a token's codes range over") {
  for (const int channels : {32, 64, 80, 96, 128, 192}) {
    std::vector<double> rows;
    for (int i = 0; i < 3 * channels; ++i) rows.push_back(5 + 0.1 * std::sin(1.7 * i));
    const std::vector<double> v = stored_values(rows, channels, 8, {});
    const std::vector<double> k = stored_keys(rows, channels, 8, {});
    const double most = 0.2 / 255 / 2 * (1 + 0x1p-9) + 5 * 0x1p-11;  // half a step, and z in f16
    for (std::size_t i = 0; i < rows.size(); ++i) {
      INFO(channels << " channels, element " << i);
      REQUIRE(std::abs(v[i] - rows[i]) <= most);
      REQUIRE(std::abs(k[i] - rows[i]) <= most);
    }
  }
}

TEST_CASE("maps in words") {
  const Map map{{{pair(8, 8)}, {pair(4, 2), pair(16, 4)}}};
  CHECK(map_text(map) == "KV8 K4V2,K16V4");
}

TEST_CASE("plans of one seed are the same, and the layers of a decoder are as their shape says") {
  const DecoderShape shape{.layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 64, .tokens = 40};
  const std::vector<Inputs> a = decoder_inputs(shape, 5), b = decoder_inputs(shape, 5),
                            c = decoder_inputs(shape, 6);
  REQUIRE(a.size() == 2);
  CHECK(digest_of(a[1]) == digest_of(b[1]));
  CHECK(digest_of(a[1]) != digest_of(c[1]));
  for (const Inputs& layer : a) {
    CHECK(layer.causal);
    CHECK(layer.q.heads == 4);
    CHECK(layer.k.heads == 2);
    CHECK(layer.v.tokens == 40);
    double outliers = 0, others = 0;  // largest magnitudes
    for (std::size_t i = 0; i < layer.k.data.size(); ++i) {
      const std::size_t channel = i % 64;
      double& most = channel >= 28 && channel < 32 ? outliers : others;
      if (channel < 60) most = std::max<double>(most, std::fabs(layer.k.data[i]));
    }
    CHECK(outliers > 10);
    CHECK(others < 7);
  }
  CHECK_THROWS_WITH(decoder_inputs({.q_heads = 3, .kv_heads = 2}, 1),
                    Catch::Contains("3 query heads"));
}

TEST_CASE("the layers of a file are found by their numbers, and gaps are refused") {
  const tests::TemporaryFolder folder;
  const std::string path = (folder.path() / "layers.safetensors").string();
  const auto layers_of = [&](const std::vector<std::string>& prefixes) {
    reference::TensorFile file;
    for (const std::string& prefix : prefixes) {
      for (const char* name : {".q", ".k", ".v"})
        file.tensors.push_back(
            {.name = prefix + name, .type = IoType::f16, .shape = {1}, .data = {1}});
    }
    reference::write_safetensors(path, file);
    return recorded_layers(path);
  };
  std::vector<std::string> twelve;
  for (const int layer : {3, 10, 1, 11, 0, 2, 9, 8, 7, 6, 5, 4})
    twelve.push_back("m2.layers." + std::to_string(layer) + ".attn");
  const std::vector<std::string> found = layers_of(twelve);
  REQUIRE(found.size() == 12);
  for (std::size_t i = 0; i < 12; ++i)
    CHECK(found[i] == "m2.layers." + std::to_string(i) + ".attn");
  const auto refused = [&](const std::vector<std::string>& prefixes, const std::string& why) {
    CHECK_THROWS_WITH(layers_of(prefixes), Catch::StartsWith(path + ": ") && Catch::Contains(why));
  };
  refused({}, "there are no layers");
  refused({"layer0", "layer2", "layer5"}, "layer 1 is missing, and layer 5 is there");
  refused({"layer1"}, "layer 0 is missing");
  refused({"layer0", "attention"}, "'attention' has no number");
  refused({"layer0", "block0"}, "'layer0' and 'block0' are both layer 0");
  refused({"layer0", "layer99999999999999999999"}, "layer 1 is missing");
}
