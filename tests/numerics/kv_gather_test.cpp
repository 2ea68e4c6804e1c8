// kv_gather gives back what blocks hold, whose bytes a model writes that shares nothing with the kernel (kv_append_model.h).
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
#include "templates/kv_gather/plan.h"
#include "tests/numerics/kv_append_model.h"
#include "tools/reference/rounding.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;

namespace {

struct GatherCase {
  kv_gather::Spec spec = {};
  std::int64_t heads = 2;
  int page_tokens = 16;
  KvPageLayout layout = KvPageLayout::hnd;
  std::vector<int> lengths{19, 0, 3, 70};
  std::int64_t gap = 0;     // elements behind each row of K
  int wanted = 1000;        // tokens of a sequence
  bool as_longest = false;  // says so as the most that one has, not on the device
  rt::EmulatorProfile profile = rt::EmulatorProfile::sm_89;
};

constexpr std::uint16_t kUntouched = 0x7E5A;  // a NaN of f16 that nothing makes

const Artifact& artifact_of(const Kernel& kernel) {
  static std::map<std::string, Artifact> artifacts;
  const auto found = artifacts.find(kernel.key());
  if (found != artifacts.end()) return found->second;
  return artifacts.emplace(kernel.key(), emit(kernel)).first->second;
}

template <typename T>
rt::Buffer upload(const rt::Device& device, const std::vector<T>& values) {
  rt::Buffer buffer(device, values.size() * sizeof(T));
  buffer.upload(std::as_bytes(std::span(values)));
  return buffer;
}

// Codes by channel of one group of tokens: any codes, scales and zero points. Places are those of KvBlock, which the unit test of
// formats judges.
struct Group {
  std::vector<double> s, z;
};
double store_half(std::span<std::byte> block, int at, double value) {
  const std::uint16_t bits = test::kv_bits_of(DType::f16, value);
  block[static_cast<std::size_t>(at)] = static_cast<std::byte>(bits & 0xFF);
  block[static_cast<std::size_t>(at) + 1] = static_cast<std::byte>(bits >> 8);
  return test::kv_values(DType::f16, std::vector{bits})[0];
}
Group store_group(const KvBlock& block, std::span<std::byte> first, std::span<std::byte> second,
                  std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  Group group;
  for (int channel = 0; channel < block.channels; ++channel) {
    const double outlier = channel % 31 == 3 ? 2000 : 1;
    group.s.push_back(
        store_half(first, block.k_channel(channel), outlier * std::abs(normal(random))));
    group.z.push_back(store_half(second, block.k_channel(channel), outlier * normal(random)));
  }
  return group;
}
std::vector<double> store_key(const KvBlock& block, std::span<std::byte> bytes, int token,
                              const Group& group, int head_dim, std::mt19937_64& random) {
  std::vector<double> row;
  for (int channel = 0; channel < block.channels; ++channel) {
    const auto c = static_cast<std::size_t>(channel);
    const int code = static_cast<int>(random() % (1u << block.k_bits)),
              bit = channel * block.k_bits;
    std::byte& byte = bytes[static_cast<std::size_t>(block.k_byte(token, bit / 8))];
    const auto mask = static_cast<std::byte>(((1 << block.k_bits) - 1) << bit % 8);
    byte = (byte & ~mask) | static_cast<std::byte>(code << bit % 8);
    if (channel < head_dim) row.push_back(group.s[c] * code + group.z[c]);
  }
  return row;
}

// In double precision: what Hadamard's matrix makes of each block of channels.
std::vector<double> rotated(const std::vector<double>& x) {
  const std::size_t block = x.size() & -x.size();
  std::vector<double> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    for (std::size_t j = i / block * block; j < i / block * block + block; ++j)
      y[i] += std::popcount((i ^ j) < block ? i % block & j % block : 0) % 2 == 0 ? x[j] : -x[j];
    y[i] /= std::sqrt(static_cast<double>(block));
  }
  return y;
}

// Numbers of a row: of one that nothing rotates exactly as they are promised, else what may be off of them.
void check_row(const GatherCase& c, std::span<const std::uint16_t> got,
               const std::vector<double>& expected, double largest, bool exact) {
  const std::vector<float> numbers = test::kv_values(c.spec.io, got);
  const double rounding = c.spec.io == DType::f16 ? 0x1p-11 : 0x1p-8;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double want =
        c.spec.io == DType::f16 ? std::clamp(expected[i], -65504.0, 65504.0) : expected[i];
    CAPTURE(i, numbers[i], want);
    if (exact) {
      REQUIRE(got[i] == test::kv_bits_of(c.spec.io, static_cast<float>(want)));
    } else {
      REQUIRE(std::abs(numbers[i] - want) <=
              rounding * std::abs(want) + 0x1p-20 * largest + 0x1p-25);
    }
  }
}

void check(const GatherCase& c, std::uint64_t seed = 1) {
  const kv_gather::Spec& spec = c.spec;
  const Kernel kernel(kv_gather::family(), spec,
                      Target{.sm = c.profile == rt::EmulatorProfile::sm_80 ? 80 : 89});
  CAPTURE(kernel.key(), c.page_tokens, to_string(c.layout), c.gap);
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  const KvFormat format{.head_dim = spec.head_dim,
                        .io = spec.io,
                        .k_bits = spec.k_bits,
                        .v_bits = spec.v_bits,
                        .k_codes = spec.k_codes,
                        .v_codes = spec.v_codes,
                        .page_tokens = c.page_tokens,
                        .layout = c.layout};
  const KvBlock block(format);
  const KvStrides strides = kv_strides(format, static_cast<int>(c.heads));
  const int longest = *std::ranges::max_element(c.lengths);
  const int max_pages = (longest + c.page_tokens - 1) / c.page_tokens;
  const auto batch = static_cast<std::int64_t>(c.lengths.size());
  const std::int64_t pages = batch * max_pages + 1;
  std::vector<std::int32_t> table(static_cast<std::size_t>(batch * max_pages));
  std::iota(table.begin(), table.end(), 1);
  std::ranges::shuffle(table, random);

  // What is behind the last token of a sequence is anything: codes and scales of all ones.
  std::vector<std::byte> pool(static_cast<std::size_t>(pages * strides.page), std::byte{0xFF});
  const auto width = static_cast<std::size_t>(spec.head_dim);
  std::vector<float> mean(static_cast<std::size_t>(c.heads) * width);
  for (float& x : mean) x = static_cast<float>(normal(random));
  kv_append::Spec append{.head_dim = spec.head_dim,
                         .io = spec.io,
                         .k_bits = spec.k_bits,
                         .v_bits = spec.v_bits,
                         .k_codes = spec.k_codes,
                         .v_codes = spec.v_codes};  // as the bytes come to be is not the question
  struct Expected {
    std::vector<double> k, v;
    double largest = 0;
  };
  std::vector<Expected> expected;  // [row, head]
  std::vector<std::int32_t> indptr{0};
  for (std::size_t b = 0; b < c.lengths.size(); ++b) {
    std::vector<Group> groups(static_cast<std::size_t>(c.heads));
    for (int token = 0; token < c.lengths[b]; ++token) {
      for (std::int64_t head = 0; head < c.heads; ++head) {
        std::vector<std::uint16_t> k, v;
        for (std::size_t d = 0; d < width; ++d) {
          k.push_back(test::kv_bits_of(spec.io, normal(random) * (d % 31 == 3 ? 20 : 1)));
          v.push_back(test::kv_bits_of(
              spec.io, token % 5 == 4 ? 65504.0 * (d % 2 == 0 ? 1 : -1) : 3 + normal(random)));
        }
        const auto page = table[b * static_cast<std::size_t>(max_pages) +
                                static_cast<std::size_t>(token / c.page_tokens)];
        const std::int64_t at =
            page * strides.page + head * strides.head + token % c.page_tokens / 16 * strides.block;
        const std::span bytes(pool.data() + at, static_cast<std::size_t>(block.bytes()));
        test::store_token(append, bytes, token % 16, k, v, {}, {});
        const auto numbers = [&](const std::vector<std::uint16_t>& row, int bits, bool of_k) {
          if (kv_quantized(bits)) {
            const test::KvCodes codes = of_k ? test::stored_key(block, bytes, token % 16)
                                             : test::stored_value(block, bytes, token % 16);
            return test::restored(codes, spec.head_dim);
          }
          const std::vector<float> values = test::kv_values(spec.io, row);
          return std::vector<double>(values.begin(), values.end());
        };
        std::vector<double> key;
        if (spec.k_codes == KvCoding::channel) {
          Group& group = groups[static_cast<std::size_t>(head)];
          if (token % 32 == 0) {
            const std::span next(pool.data() + at + strides.block, bytes.size());
            group = store_group(block, bytes, next, random);
          }
          key = store_key(block, bytes, token % 16, group, spec.head_dim, random);
        } else {
          key = numbers(k, spec.k_bits, true);
        }
        Expected row{.k = key, .v = numbers(v, spec.v_bits, false)};
        if (spec.rotation == Rotation::hadamard) row.k = rotated(row.k);
        for (std::size_t d = 0; d < width; ++d) {
          if (spec.smooth_k) row.k[d] += mean[static_cast<std::size_t>(head) * width + d];
          row.largest = std::max(row.largest, std::abs(row.k[d]));
        }
        expected.push_back(row);
      }
    }
    indptr.push_back(indptr.back() + c.lengths[b]);
  }

  const rt::Device device(rt::make_emulator({}), static_cast<rt::DeviceOrdinal>(c.profile));
  const kv_gather::Plan plan(device, kernel, artifact_of);
  const std::int64_t rows = indptr.back() + 5, k_token = c.heads * spec.head_dim + c.gap;
  const std::int64_t v_token = c.heads * spec.head_dim;
  const rt::Buffer pages_of_sequences = upload(device, table), starts = upload(device, indptr),
                   cache = upload(device, pool), means = upload(device, mean),
                   wanted = upload(device, std::vector(c.lengths.size(), c.wanted));
  const rt::Buffer k =
      upload(device, std::vector(static_cast<std::size_t>(rows * k_token), kUntouched));
  const rt::Buffer v =
      upload(device, std::vector(static_cast<std::size_t>(rows * v_token), kUntouched));
  const auto view = [&](const rt::Buffer& data, std::int64_t token) {
    rt::TensorView tensor = rt::nhd(data.data(), c.heads, rows, spec.head_dim);
    tensor.stride_token = token;
    return tensor;
  };
  plan.run({.batch = batch,
            .kv_heads = c.heads,
            .rows = rows,
            .longest = c.as_longest ? c.wanted : longest,
            .page_tokens = c.page_tokens,
            .max_pages = max_pages},
           {.pool = cache.data(),
            .strides = strides,
            .pool_pages = pages,
            .page_table = pages_of_sequences.data(),
            .indptr = starts.data(),
            .lengths = c.wanted < longest && !c.as_longest ? wanted.data() : 0,
            .k = view(k, k_token),
            .v = view(v, v_token),
            .k_mean = spec.smooth_k ? means.data() : 0},
           {});
  device.synchronize();
  const auto download = [](const rt::Buffer& buffer, std::int64_t count) {
    std::vector<std::uint16_t> values(static_cast<std::size_t>(count));
    buffer.download(std::as_writable_bytes(std::span(values)));
    return values;
  };
  const auto got_k = download(k, rows * k_token), got_v = download(v, rows * v_token);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t head = 0; head < c.heads; ++head) {
      CAPTURE(row, head);
      const auto of = [&](const std::vector<std::uint16_t>& all, std::int64_t token) {
        return std::span(all).subspan(
            static_cast<std::size_t>(row * token) + static_cast<std::size_t>(head) * width, width);
      };
      const auto first = *std::prev(std::ranges::upper_bound(indptr, row));
      if (row >= indptr.back() || row - first >= c.wanted) {
        for (const std::uint16_t bits : of(got_k, k_token)) REQUIRE(bits == kUntouched);
        for (const std::uint16_t bits : of(got_v, v_token)) REQUIRE(bits == kUntouched);
        continue;
      }
      const Expected& want = expected[static_cast<std::size_t>(row * c.heads + head)];
      check_row(c, of(got_k, k_token), want.k, want.largest, !kv_gather::transforms_k(spec));
      check_row(c, of(got_v, v_token), want.v, 0, true);
    }
    for (std::int64_t i = v_token; i < k_token; ++i)
      REQUIRE(got_k[static_cast<std::size_t>(row * k_token + i)] == kUntouched);
  }
}

}  // namespace

TEST_CASE("rows are what the codes of a block stand for, of all pairs of bits", "[fast]") {
  int turn = 0;
  for (const int k_bits : {2, 4, 8, 16}) {
    for (const int v_bits : {2, 4, 8, 16}) {
      check({.spec = {.io = turn % 2 == 0 ? DType::f16 : DType::bf16,
                      .k_bits = k_bits,
                      .v_bits = v_bits},
             .page_tokens = turn % 3 == 0 ? 48 : 16,
             .layout = turn % 2 == 0 ? KvPageLayout::hnd : KvPageLayout::nhd,
             .gap = turn % 4 == 0 ? 8 : 0,
             .profile = turn % 2 == 0 ? rt::EmulatorProfile::sm_89 : rt::EmulatorProfile::sm_80});
      ++turn;
    }
  }
}

TEST_CASE("rows are what codes without zero points stand for", "[fast]") {
  for (const KvCoding k : {KvCoding::asymmetric, KvCoding::symmetric, KvCoding::e4m3}) {
    for (const KvCoding v : {KvCoding::asymmetric, KvCoding::symmetric, KvCoding::e4m3}) {
      check({.spec = {.k_codes = k, .v_codes = v}});
      if (k == KvCoding::e4m3 || v == KvCoding::e4m3) continue;
      check({.spec = {.k_bits = 4, .v_bits = 2, .k_codes = k, .v_codes = v}});
    }
  }
  check({.spec = {.v_bits = 16, .k_codes = KvCoding::e4m3, .rotation = Rotation::hadamard}});
  check({.spec = {.k_bits = 16, .v_codes = KvCoding::symmetric}});
}

TEST_CASE("rows are what codes by channel stand for, with the parameters of their group",
          "[fast]") {
  constexpr KvCoding kChannel = KvCoding::channel;
  int turn = 0;
  for (const int k_bits : {2, 4}) {
    for (const int head_dim : {64, 80, 128, 256}) {
      check({.spec = {.head_dim = head_dim,
                      .io = turn % 2 == 0 ? DType::f16 : DType::bf16,
                      .k_bits = k_bits,
                      .v_bits = std::vector{2, 16, 4, 8}[static_cast<std::size_t>(turn % 4)],
                      .k_codes = kChannel},
             .page_tokens = std::vector{32, 64, 544}[static_cast<std::size_t>(turn % 3)],
             .layout = turn % 2 == 0 ? KvPageLayout::nhd : KvPageLayout::hnd,
             .lengths = {19, 0, 3, 70, 64}});
      ++turn;
    }
  }
  check({.spec = {.k_bits = 4,
                  .v_bits = 4,
                  .k_codes = kChannel,
                  .v_codes = KvCoding::symmetric,
                  .smooth_k = true,
                  .rotation = Rotation::hadamard},
         .page_tokens = 32});
  CHECK_THROWS_WITH(check({.spec = {.k_bits = 4, .k_codes = kChannel}, .page_tokens = 48}),
                    Catch::Matchers::Contains("whole groups of 32 tokens"));
}

TEST_CASE("heads of all sizes have their rows, and no channel behind them", "[fast]") {
  for (const int head_dim : {8, 40, 64, 80, 96, 192, 256}) {
    check({.spec = {.head_dim = head_dim, .k_bits = 4, .v_bits = 2}, .lengths = {17, 33}});
    check({.spec = {.head_dim = head_dim, .k_bits = 16, .v_bits = 8}, .lengths = {17, 33}});
    check(
        {.spec = {.head_dim = head_dim, .k_bits = 2, .v_bits = 16, .rotation = Rotation::hadamard},
         .lengths = {17, 33}});
  }
}

TEST_CASE("what was done to K is undone", "[fast]") {
  for (const int k_bits : {2, 4, 8, 16}) {
    for (const DType io : {DType::f16, DType::bf16}) {
      check({.spec = {.io = io, .k_bits = k_bits, .v_bits = 4, .smooth_k = true}});
      check({.spec = {.io = io, .k_bits = k_bits, .rotation = Rotation::hadamard}});
      check({.spec = {.io = io,
                      .k_bits = k_bits,
                      .v_bits = 16,
                      .smooth_k = true,
                      .rotation = Rotation::hadamard},
             .heads = 3,
             .page_tokens = 528});
    }
  }
}

TEST_CASE("of sequences the first tokens alone", "[fast]") {
  for (const int wanted : {0, 16, 21}) check({.spec = {.k_bits = 4}, .wanted = wanted});
  for (const int most : {1, 21}) check({.spec = {}, .wanted = most, .as_longest = true});
}

TEST_CASE("arguments of kv_gather that are not possible are refused by name", "[fast]") {
  const rt::Device device(rt::make_emulator({}), 0);
  const kv_gather::Plan plan(device, Kernel(kv_gather::family(), {}, Target{.sm = 80}),
                             artifact_of);
  const rt::Buffer memory(device, 1 << 20);
  const kv_gather::Shape shape{.rows = 64, .longest = 64, .page_tokens = 64};
  const KvStrides strides = kv_strides({}, 1);
  const rt::DevicePtr pool = memory.data(), table = pool + (1 << 17), starts = table + 256,
                      k = pool + (1 << 18), v = pool + (1 << 19);
  const kv_gather::Arguments good{.pool = pool,
                                  .strides = strides,
                                  .page_table = table,
                                  .indptr = starts,
                                  .k = rt::nhd(k, 1, 64, 128),
                                  .v = rt::nhd(v, 1, 64, 128)};
  const auto refusal = [&](kv_gather::Shape s, kv_gather::Arguments a) {
    try {
      plan.run(s, a, {});
    } catch (const rt::ArgumentError& error) {
      return std::string(error.what());
    }
    return std::string("taken");
  };
  const auto with = [&](auto change) {
    kv_gather::Shape s = shape;
    kv_gather::Arguments a = good;
    change(s, a);
    return refusal(s, a);
  };
  using Catch::Matchers::Contains;
  CHECK_THAT(with([](auto& s, auto&) { s.page_tokens = 24; }), Contains("whole blocks of 16"));
  CHECK_THAT(with([](auto& s, auto&) { s.rows = 0; }), Contains("rows"));
  CHECK_THAT(with([](auto&, auto& a) { a.k_mean = a.pool; }), Contains("no smooth_k"));
  CHECK_THAT(with([](auto&, auto& a) { a.pool_pages = 0; }), Contains("pool_pages is 0"));
  CHECK_THAT(with([](auto&, auto& a) { a.pool = 0; }), Contains("pool"));
  CHECK_THAT(with([](auto&, auto& a) { a.indptr = 0; }), Contains("indptr"));
  CHECK_THAT(with([](auto&, auto& a) { a.strides.block = 16; }),
             Contains("kv_gather: pool.strides.block is 16 bytes"));
  CHECK_THAT(with([](auto&, auto& a) { a.k.data = a.pool; }), Contains("overlap"));
  CHECK_THAT(with([](auto&, auto& a) { a.v.stride_token = 129; }), Contains("v"));
}
