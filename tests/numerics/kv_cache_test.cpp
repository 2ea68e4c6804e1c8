// A KV cache as an engine uses it: kv_append writes a prompt and then token after token, decode attends to all of it. Against
// attention in double precision over keys and values as they were, and as their format leaves them.
#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "sagegen/emit.h"
#include "sagegen/runtime/emulator.h"
#include "templates/decode/plan.h"
#include "templates/kv_append/plan.h"
#include "tools/reference/rounding.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;

namespace {

using Rows = std::vector<std::vector<double>>;  // [token or query head, channel]

struct Engine {
  KvFormat format;
  Rotation rotation = Rotation::none;
  int kv_heads = 2, group = 4;
  std::vector<int> prompts;  // tokens of each sequence
  int steps = 2;             // of decoding, a token of each sequence
  int splits = 1;
  rt::EmulatorProfile profile = rt::EmulatorProfile::sm_89;
  double key_outlier = 1;  // how much larger every 32nd channel of K is

  Target target() const { return {profile == rt::EmulatorProfile::sm_80 ? 80 : 89}; }
};

const Artifact& artifact_of(const Kernel& kernel) {
  static std::map<std::string, Artifact> artifacts;
  const auto found = artifacts.find(kernel.key());
  if (found != artifacts.end()) return found->second;
  return artifacts.emplace(kernel.key(), emit(kernel)).first->second;
}

double rounded(double x) { return ref::round_ieee(x, ref::kF16); }

// What the format makes of a row (templates/kv_append/spec.h), in double precision.
std::vector<double> stored(std::vector<double> x, int bits, KvCoding coding) {
  if (coding != KvCoding::asymmetric) {
    double amax = 0;
    for (const double value : x) amax = std::max(amax, std::abs(value));
    const double most = coding == KvCoding::e4m3 ? 448 : (1 << (bits - 1)) - 1;
    const double scale = rounded(amax * (1 + 0x1p-11) / most);
    for (double& value : x) {
      // Numbers half way between two codes are many, as zero is one: in f32, lest they go the other way.
      const float inverse = static_cast<float>(1 / scale);
      const double steps = std::clamp<double>(static_cast<float>(value) * inverse, -most, most);
      value = scale * (coding == KvCoding::e4m3 ? ref::round_satfinite(steps, ref::kE4m3)
                                                : std::nearbyint(steps));
    }
    return x;
  }
  if (bits == 16) {
    for (double& value : x) value = rounded(value);
    return x;
  }
  const auto [least, most] = std::minmax_element(x.begin(), x.end());
  const double largest = (1 << bits) - 1, zero = rounded(*least);
  const double scale = rounded((*most - zero) * (1 + 0x1p-11) / largest);
  for (double& value : x) {
    const double code = scale == 0 ? 0 : std::nearbyint((value - zero) / scale);
    value = zero + scale * std::clamp(code, 0.0, largest);
  }
  return x;
}

std::vector<double> rotated(const std::vector<double>& x) {
  std::vector<double> result(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    for (std::size_t j = 0; j < x.size(); ++j)
      result[i] += std::popcount(i & j) % 2 == 0 ? x[j] : -x[j];
    result[i] /= std::sqrt(static_cast<double>(x.size()));
  }
  return result;
}

std::vector<double> attention(const std::vector<double>& q, const Rows& k, const Rows& v) {
  std::vector<double> scores, o(q.size());
  for (const auto& row : k) {
    scores.push_back(std::inner_product(q.begin(), q.end(), row.begin(), 0.0) /
                     std::sqrt(static_cast<double>(q.size())));
  }
  const double most = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - most);
  for (std::size_t i = 0; i < v.size(); ++i) {
    for (std::size_t d = 0; d < o.size(); ++d) o[d] += scores[i] / sum * v[i][d];
  }
  return o;
}

template <typename T>
rt::Buffer buffer_of(const rt::Device& device, const std::vector<T>& values) {
  rt::Buffer buffer(device, values.size() * sizeof(T));
  buffer.upload(std::as_bytes(std::span(values)));
  return buffer;
}

struct Errors {
  double format = 0;             // of attention over what is stored, against exact
  double kernels = 0;            // of O, against exact
  double of_each_other = 0;      // of O against attention over what is stored
  std::vector<std::uint16_t> o;  // of all steps
};

Errors errors_of(const Engine& engine) {
  const KvFormat& format = engine.format;
  const int dim = format.head_dim, heads = engine.kv_heads, group = engine.group;
  const auto batch = engine.prompts.size();
  const KvStrides strides = kv_strides(format, heads);
  auto emulator = rt::make_emulator({});
  const rt::Device device(emulator, static_cast<rt::DeviceOrdinal>(engine.profile));
  const kv_append::Plan append(device,
                               Kernel(kv_append::family(),
                                      {.head_dim = dim,
                                       .k_bits = format.k_bits,
                                       .v_bits = format.v_bits,
                                       .k_codes = format.k_codes,
                                       .v_codes = format.v_codes,
                                       .rotation = engine.rotation,
                                       .addressing = kv_append::Addressing::pages},
                                      engine.target()),
                               artifact_of);
  const Kernel usual(decode::family(),
                     {.head_dim = dim,
                      .k_bits = format.k_bits,
                      .v_bits = format.v_bits,
                      .k_codes = format.k_codes,
                      .v_codes = format.v_codes,
                      .rotation = engine.rotation},
                     engine.target());
  decode::Schedule schedule = usual.view(decode::family()).schedule;
  if (format.page_tokens % schedule.tile != 0) schedule.lookups = decode::tile_blocks(schedule);
  const decode::Plan decode(
      device,
      Kernel(decode::family(), usual.view(decode::family()).spec, schedule, engine.target()),
      artifact_of);

  // Pages of the sequences in any order, and bytes that no append wrote are NaN.
  const int longest =
      *std::max_element(engine.prompts.begin(), engine.prompts.end()) + engine.steps;
  const int max_pages = (longest + format.page_tokens - 1) / format.page_tokens;
  const auto pages = static_cast<std::int64_t>(batch) * max_pages;
  std::vector<std::int32_t> table(static_cast<std::size_t>(pages));
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937_64(5));
  const rt::Buffer table_on_device = buffer_of(device, table);
  rt::Buffer pool(device, static_cast<std::size_t>(pages * strides.page));
  pool.fill(0xFF);

  std::mt19937_64 random(11);
  std::normal_distribution<double> normal;
  std::vector<int> lengths(batch, 0);
  // By sequence and KV head: as they were, and as they are stored.
  std::vector<std::vector<Rows>> k(batch, std::vector<Rows>(static_cast<std::size_t>(heads))),
      v = k, k_stored = k, v_stored = k;
  Errors errors;
  double exact_square = 0, format_square = 0, kernel_square = 0, other_square = 0;
  for (int step = 0; step <= engine.steps; ++step) {
    // New tokens of all sequences, one behind the other: [token, KV head, channel].
    std::vector<std::uint16_t> new_k, new_v;
    std::vector<std::int32_t> append_indptr{0}, page_indptr{0}, page_indices, last_page_len;
    for (std::size_t b = 0; b < batch; ++b) {
      const int count = step == 0 ? engine.prompts[b] : 1;
      for (int token = 0; token < count; ++token) {
        for (std::size_t h = 0; h < static_cast<std::size_t>(heads); ++h) {
          std::vector<double> key, value;
          for (int d = 0; d < dim; ++d) {
            key.push_back(rounded(normal(random) * (d % 32 == 5 ? engine.key_outlier : 1)));
            value.push_back(rounded(normal(random) + 0.2));
            new_k.push_back(ref::f16_bits(key.back()));
            new_v.push_back(ref::f16_bits(value.back()));
          }
          k[b][h].push_back(key);
          v[b][h].push_back(value);
          const bool turned = engine.rotation != Rotation::none;
          k_stored[b][h].push_back(
              stored(turned ? rotated(key) : key, format.k_bits, format.k_codes));
          v_stored[b][h].push_back(stored(value, format.v_bits, format.v_codes));
        }
      }
      lengths[b] += count;
      const int of_sequence = (lengths[b] + format.page_tokens - 1) / format.page_tokens;
      const auto first = table.begin() + static_cast<std::ptrdiff_t>(b) * max_pages;
      page_indices.insert(page_indices.end(), first, first + of_sequence);
      append_indptr.push_back(append_indptr.back() + count);
      page_indptr.push_back(page_indptr.back() + of_sequence);
      last_page_len.push_back(lengths[b] - (of_sequence - 1) * format.page_tokens);
    }
    const std::int64_t tokens = append_indptr.back();
    const rt::Buffer k_rows = buffer_of(device, new_k), v_rows = buffer_of(device, new_v),
                     starts = buffer_of(device, append_indptr),
                     page_starts = buffer_of(device, page_indptr),
                     indices = buffer_of(device, page_indices),
                     last = buffer_of(device, last_page_len);
    append.run({.tokens = tokens, .kv_heads = heads},
               {.k = rt::nhd(k_rows.data(), heads, tokens, dim),
                .v = rt::nhd(v_rows.data(), heads, tokens, dim),
                .pool = {.data = pool.data(),
                         .pages = pages,
                         .page_tokens = format.page_tokens,
                         .layout = format.layout},
                .pages = {.sequences = static_cast<std::int64_t>(batch),
                          .append_indptr = starts.data(),
                          .page_indptr = page_starts.data(),
                          .page_indices = indices.data(),
                          .last_page_len = last.data(),
                          .page_entries = static_cast<std::int64_t>(page_indices.size())}},
               nullptr);
    if (step == 0) {
      device.synchronize();
      continue;
    }

    Rows q;  // [sequence and query head]
    std::vector<std::uint16_t> q_bits;
    for (std::size_t row = 0; row < batch * static_cast<std::size_t>(heads * group); ++row) {
      std::vector<double> one;
      for (int d = 0; d < dim; ++d) {
        one.push_back(rounded(normal(random) / (d % 32 == 5 ? engine.key_outlier : 1)));
        q_bits.push_back(ref::f16_bits(one.back()));
      }
      q.push_back(one);
    }
    const rt::Buffer q_rows = buffer_of(device, q_bits), lens = buffer_of(device, lengths);
    rt::Buffer o_rows(device, 2 * q_bits.size());
    const decode::Shape shape{.batch = static_cast<std::int64_t>(batch),
                              .q_heads = heads * group,
                              .kv_heads = heads,
                              .page_tokens = format.page_tokens,
                              .max_pages = max_pages,
                              .splits = engine.splits};
    rt::Buffer workspace(device, decode.workspace_bytes(shape));
    decode.run(shape,
               {.q = rt::hnd(q_rows.data(), heads * group, 1, dim),
                .pool = pool.data(),
                .strides = strides,
                .pool_pages = pages,
                .page_table = table_on_device.data(),
                .lengths = lens.data(),
                .o = rt::hnd(o_rows.data(), heads * group, 1, dim)},
               workspace.data(), workspace.bytes(), nullptr);
    device.synchronize();
    std::vector<std::uint16_t> o(q_bits.size());
    o_rows.download(std::as_writable_bytes(std::span(o)));
    errors.o.insert(errors.o.end(), o.begin(), o.end());
    for (std::size_t row = 0; row < q.size(); ++row) {
      const std::size_t b = row / static_cast<std::size_t>(heads * group);
      const std::size_t h = row / static_cast<std::size_t>(group) % static_cast<std::size_t>(heads);
      const std::vector<double> exact = attention(q[row], k[b][h], v[b][h]);
      const std::vector<double> modelled =
          attention(engine.rotation == Rotation::none ? q[row] : rotated(q[row]), k_stored[b][h],
                    v_stored[b][h]);
      for (std::size_t d = 0; d < exact.size(); ++d) {
        const double got = ref::f16_value(o[row * exact.size() + d]);
        exact_square += exact[d] * exact[d];
        format_square += std::pow(modelled[d] - exact[d], 2);
        kernel_square += std::pow(got - exact[d], 2);
        other_square += std::pow(got - modelled[d], 2);
      }
    }
  }
  for (const rt::Finding& finding : emulator->findings())
    FAIL_CHECK(finding.check << ": " << finding.message << ", PTX line " << finding.ptx_line);
  errors.format = std::sqrt(format_square / exact_square);
  errors.kernels = std::sqrt(kernel_square / exact_square);
  errors.of_each_other = std::sqrt(other_square / exact_square);
  return errors;
}

std::string text(const Engine& engine) {
  return fmt::format("{}, {}, splits {}", to_string(engine.format), to_string(engine.rotation),
                     engine.splits);
}

}  // namespace

// O of 16 bits and P of 11 cost some 3e-4; Q of 8 bits beside keys of 4 and 2 bits some 1/300 of a score.
TEST_CASE("what kv_append writes is what decode reads", "[fast]") {
  for (const int k_bits : {2, 4, 8, 16}) {
    for (const int v_bits : {2, 4, 8, 16}) {
      Engine engine{.format = {.k_bits = k_bits, .v_bits = v_bits, .page_tokens = 48},
                    .prompts = {70, 33, 1}};
      if (v_bits == 4) engine.format.layout = KvPageLayout::nhd;
      if (v_bits == 8) engine.splits = 3;
      if (k_bits == 8) engine.format.head_dim = 64;
      INFO(text(engine));
      const Errors errors = errors_of(engine);
      INFO("format " << errors.format << ", kernels " << errors.kernels << ", of each other "
                     << errors.of_each_other);
      CHECK(errors.of_each_other < (k_bits < 8 ? 6e-3 : 5e-4));
      if (k_bits < 16 || v_bits < 16) CHECK(errors.kernels < 1.02 * errors.format);
    }
  }
}

TEST_CASE("KV caches of 8 bits cost what their format costs", "[fast]") {
  for (const rt::EmulatorProfile profile :
       {rt::EmulatorProfile::sm_80, rt::EmulatorProfile::sm_89, rt::EmulatorProfile::sm_90,
        rt::EmulatorProfile::sm_120}) {
    const Errors errors =
        errors_of({.format = {}, .prompts = {150, 61}, .steps = 1, .profile = profile});
    INFO("format " << errors.format << ", kernels " << errors.kernels);
    CHECK(errors.kernels < 1.02 * errors.format);
  }
}

TEST_CASE("KV caches of codes without zero points cost what their format costs", "[fast]") {
  for (const rt::EmulatorProfile profile :
       {rt::EmulatorProfile::sm_80, rt::EmulatorProfile::sm_89, rt::EmulatorProfile::sm_120}) {
    for (const KvCoding coding : {KvCoding::symmetric, KvCoding::e4m3}) {
      for (const int v_bits : {4, 8}) {
        if (v_bits == 4 && profile != rt::EmulatorProfile::sm_80) continue;
        const bool floats = coding == KvCoding::e4m3 && v_bits == 8;
        const Errors errors =
            errors_of({.format = {.v_bits = v_bits,
                                  .k_codes = coding,
                                  .v_codes = floats ? KvCoding::e4m3 : KvCoding::symmetric},
                       .prompts = {90, 61},
                       .steps = 1,
                       .profile = profile});
        INFO(to_string(coding) << ", V of " << v_bits << " bits: format " << errors.format
                               << ", kernels " << errors.kernels);
        CHECK(errors.of_each_other < 5e-4);
        CHECK(errors.kernels < 1.02 * errors.format);
      }
    }
  }
}

TEST_CASE("rotated keys with outliers cost less", "[fast]") {
  Engine engine{.format = {.k_bits = 4, .v_bits = 16}, .prompts = {150}, .key_outlier = 20};
  const Errors plain = errors_of(engine);
  engine.rotation = Rotation::hadamard;
  const Errors turned = errors_of(engine);
  INFO("plain " << plain.kernels << ", rotated " << turned.kernels);
  CHECK(turned.of_each_other < 2e-2);
  CHECK(turned.kernels < plain.kernels);
}

// Tiles, pages and splits of a long context; a call has no memory but the cache and what the splits come to.
TEST_CASE("a context of 64k tokens", "[fast]") {
  const Errors errors =
      errors_of({.format = {.head_dim = 64, .k_bits = 4, .v_bits = 4, .page_tokens = 528},
                 .kv_heads = 1,
                 .group = 2,
                 .prompts = {65536},
                 .steps = 1,
                 .splits = 16});
  INFO("format " << errors.format << ", kernels " << errors.kernels);
  CHECK(errors.kernels < 1.02 * errors.format);
}

TEST_CASE("O has the same bits whatever pages a cache has", "[fast]") {
  const auto of = [](int page_tokens, KvPageLayout layout) {
    return errors_of(
               {.format = {.k_bits = 4, .v_bits = 2, .page_tokens = page_tokens, .layout = layout},
                .prompts = {70, 33},
                .splits = 2})
        .o;
  };
  const std::vector<std::uint16_t> usual = of(64, KvPageLayout::hnd);
  CHECK(of(64, KvPageLayout::nhd) == usual);
  CHECK(of(16, KvPageLayout::hnd) == usual);
  CHECK(of(48, KvPageLayout::nhd) == usual);
  CHECK(of(528, KvPageLayout::hnd) == usual);
}
