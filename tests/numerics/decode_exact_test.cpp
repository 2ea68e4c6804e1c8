// KvCache with sinks and a window: the first and the last tokens of a sequence count in 16 bits, those between them as codes,
// however the sequence has grown. Against attention in double precision over tokens of which each is the one or the other;
// codes are those of a quantizer written here.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "sagegen/error.h"
#include "sagegen/kv_cache.h"
#include "tests/numerics/kv_support.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;
using Catch::Matchers::Contains;
using test::artifact_of;
using test::bytes_of;
using test::Machine;
using test::numbers;
using test::upload;

namespace {

constexpr int kHeads = 2;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

double f16(double x) { return ref::round_ieee(x, ref::kF16); }

// Numbers of a row, as codes of so many bits with a scale and a zero point of f16 stand for them (kv_append/spec.h).
std::vector<double> as_codes(std::vector<double> row, int bits) {
  if (bits == 16) return row;
  const auto [least, most] = std::ranges::minmax_element(row);
  const double steps = (1 << bits) - 1, zero = f16(*least);
  const double scale = f16(std::max(*most - zero, 0.0) * (1 + 0x1p-11) / steps);
  for (double& x : row) {
    const double code =
        scale > 0 ? std::clamp(std::nearbyint((x - zero) / scale), 0.0, steps) : 0.0;
    x = zero + scale * code;
  }
  return row;
}

// By Sylvester's matrix, of a power of two of channels: it is its own inverse.
std::vector<double> rotated(std::vector<double> row) {
  for (std::size_t half = 1; half < row.size(); half *= 2) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      if ((i & half) != 0) continue;
      const double x = row[i], y = row[i + half];
      row[i] = x + y;
      row[i + half] = x - y;
    }
  }
  for (double& x : row) x /= std::sqrt(static_cast<double>(row.size()));
  return row;
}

struct Case {
  std::string pair;
  KvExact exact;
  int head_dim = 64, group = 4, q_len = 1, page_tokens = 32;
  bool smooth = false;
  Rotation rotation = Rotation::none;

  int q_heads() const { return kHeads * group; }
};

// Sequences side by side, each with the tokens that it has so far.
class Batch {
 public:
  Batch(const Machine& machine, const Case& of, std::vector<int> most)
      : device_(machine.device),
        case_(of),
        cache_(machine.device,
               {.kv_heads = kHeads,
                .q_heads = of.q_heads(),
                .q_len = of.q_len,
                .smooth_k = of.smooth,
                .rotation = of.rotation,
                .causal = true,
                .sinks = static_cast<int>(of.exact.sinks),
                .window = static_cast<int>(of.exact.window),
                .unit = static_cast<int>(of.exact.unit),
                .taken_back = static_cast<int>(of.exact.taken_back)},
               kv_layers(of.pair, {.head_dim = of.head_dim, .page_tokens = of.page_tokens}),
               artifact_of),
        lengths_(most.size(), 0),
        columns_((*std::ranges::max_element(most) + of.page_tokens - 1) / of.page_tokens),
        pages_(columns_ * static_cast<int>(most.size())),
        blocks_(of.exact.blocks() * static_cast<int>(most.size())),
        pool_(device_, static_cast<std::size_t>(cache_.pool_bytes(0, pages_))),
        exact_pool_(device_, static_cast<std::size_t>(cache_.exact_pool_bytes(0, blocks_))),
        table_(shuffled(pages_)),
        exact_table_(shuffled(blocks_)) {
    pool_.fill(0xFF);
    exact_pool_.fill(0xFF);
    for (std::size_t b = 0; b < most.size(); ++b) {
      const auto count =
          static_cast<std::size_t>(most[b]) * kHeads * static_cast<std::size_t>(of.head_dim);
      k_.push_back(numbers(count, 10 * b + 1));
      v_.push_back(numbers(count, 10 * b + 2));
    }
    const auto queries = static_cast<std::size_t>(of.q_heads() * of.q_len * of.head_dim);
    q_ = numbers(most.size() * queries, 77);
    mean_.resize(static_cast<std::size_t>(kHeads * of.head_dim));
    for (std::size_t i = 0; i < mean_.size(); ++i) mean_[i] = static_cast<float>(i % 7) / 4 - 1;
  }

  int length(std::size_t b) const { return lengths_[b]; }
  const KvCache& cache() const { return cache_; }

  void append(std::size_t b, int count) {
    if (count == 0) return;
    const int first = lengths_[b], last = first + count;
    std::vector<std::int64_t> slots, exact_slots;
    for (int t = first; t < last; ++t) {
      slots.push_back(std::int64_t{table_[b * static_cast<std::size_t>(columns_) +
                                          static_cast<std::size_t>(t / case_.page_tokens)]} *
                          case_.page_tokens +
                      t % case_.page_tokens);
      const std::int64_t place = case_.exact.place(t, last);
      exact_slots.push_back(
          place < 0 ? -1
                    : std::int64_t{exact_table_[b * static_cast<std::size_t>(case_.exact.blocks()) +
                                                static_cast<std::size_t>(place / 16)]} *
                              16 +
                          place % 16);
    }
    const rt::Buffer k = upload(device_, k_[b]), v = upload(device_, v_[b]),
                     at = upload(device_, slots), exact_at = upload(device_, exact_slots),
                     mean = upload(device_, mean_);
    const auto skipped = static_cast<rt::DevicePtr>(2 * first * kHeads * case_.head_dim);
    const int all = static_cast<int>(k_[b].size()) / (kHeads * case_.head_dim);
    const kv_append::Arguments arguments{
        .k = rt::nhd(k.data() + skipped, kHeads, all, case_.head_dim),
        .v = rt::nhd(v.data() + skipped, kHeads, all, case_.head_dim),
        .slots = at.data(),
        .k_mean = mean.data(),
        .exact = {.data = exact_pool_.data(), .blocks = blocks_, .slots = exact_at.data()}};
    cache_.append(0, {.data = pool_.data(), .pages = pages_}, count, arguments, nullptr);
    device_.synchronize();
    lengths_[b] = last;
  }
  // Drafts that were rejected: their tokens come again.
  void take_back(std::size_t b, int count) { lengths_[b] -= count; }

  struct Result {
    std::vector<double> o, lse;
    std::vector<std::byte> bits;
  };
  Result decode(std::int64_t splits) const {
    std::vector<std::int32_t> q_lens;
    for (const int length : lengths_) q_lens.push_back(std::min(length, case_.q_len));
    const rt::Buffer q = upload(device_, q_), table = upload(device_, table_),
                     exact_table = upload(device_, exact_table_),
                     lengths = upload(device_, lengths_), own = upload(device_, q_lens);
    rt::Buffer o(device_, q.bytes()),
        lse(device_, 2 * q.bytes() / static_cast<std::size_t>(case_.head_dim));
    const sagegen::decode::Shape shape{.batch = static_cast<std::int64_t>(lengths_.size()),
                                       .q_len = case_.q_len,
                                       .max_pages = columns_,
                                       .splits = splits};
    rt::Buffer workspace(device_, cache_.workspace_bytes(0, shape));
    cache_.decode(
        0, {.data = pool_.data(), .pages = pages_}, shape,
        {.q = rt::hnd(q.data(), case_.q_heads(), case_.q_len, case_.head_dim),
         .page_table = table.data(),
         .lengths = lengths.data(),
         .q_lens = own.data(),
         .exact = {.pool = exact_pool_.data(), .pool_blocks = blocks_, .table = exact_table.data()},
         .o = rt::hnd(o.data(), case_.q_heads(), case_.q_len, case_.head_dim),
         .lse = lse.data()},
        workspace.data(), workspace.bytes(), nullptr);
    device_.synchronize();
    Result result{.o = {}, .lse = {}, .bits = bytes_of(o)};
    std::vector<std::uint16_t> bits(result.bits.size() / 2);
    std::memcpy(bits.data(), result.bits.data(), result.bits.size());
    for (const std::uint16_t each : bits) result.o.push_back(ref::f16_value(each));
    std::vector<float> sums(lse.bytes() / 4);
    lse.download(std::as_writable_bytes(std::span(sums)));
    result.lse.assign(sums.begin(), sums.end());
    return result;
  }

  // What decode() is to give, if the tokens of `exact` are exact; without: all of them.
  Result expected(const std::optional<KvExact>& exact) const {
    Result all;
    const int d = case_.head_dim, k_bits = cache_.format(0).k_bits,
              v_bits = cache_.format(0).v_bits;
    const bool smooth = cache_.smooths(0);
    for (std::size_t b = 0; b < lengths_.size(); ++b) {
      const int length = lengths_[b], queries = std::min(length, case_.q_len);
      const auto row = [&](const std::vector<std::uint16_t>& of, int t, int head, bool is_key) {
        std::vector<double> values;
        for (int c = 0; c < d; ++c) {
          values.push_back(
              ref::f16_value(of[static_cast<std::size_t>((t * kHeads + head) * d + c)]));
          if (is_key && smooth)
            values.back() -= static_cast<double>(mean_[static_cast<std::size_t>(head * d + c)]);
        }
        return values;
      };
      for (int h = 0; h < case_.q_heads(); ++h) {
        const int head = h / case_.group;
        std::vector<std::vector<double>> k, v;
        for (int t = 0; t < length; ++t) {
          const bool is_exact = !exact || t < exact->sinks || t >= exact->codes_end(length);
          k.push_back(row(k_[b], t, head, true));
          v.push_back(row(v_[b], t, head, false));
          if (is_exact) continue;
          k.back() = case_.rotation == Rotation::none
                         ? as_codes(k.back(), k_bits)
                         : rotated(as_codes(rotated(k.back()), k_bits));
          v.back() = as_codes(v.back(), v_bits);
        }
        for (int i = 0; i < case_.q_len; ++i) {
          const std::uint16_t* q =
              &q_[((b * static_cast<std::size_t>(case_.q_heads()) + static_cast<std::size_t>(h)) *
                       static_cast<std::size_t>(case_.q_len) +
                   static_cast<std::size_t>(i)) *
                  static_cast<std::size_t>(d)];
          const int seen = i < queries ? length - queries + i + 1 : 0;
          std::vector<double> scores, o(static_cast<std::size_t>(d), 0.0);
          double most = -kInfinity, sum = 0;
          for (int t = 0; t < seen; ++t) {
            double score = 0;
            for (int c = 0; c < d; ++c)
              score += ref::f16_value(q[c]) *
                       k[static_cast<std::size_t>(t)][static_cast<std::size_t>(c)];
            scores.push_back(score / std::sqrt(static_cast<double>(d)));
            most = std::max(most, scores.back());
          }
          for (int t = 0; t < seen; ++t) {
            const double p = std::exp(scores[static_cast<std::size_t>(t)] - most);
            sum += p;
            for (std::size_t c = 0; c < o.size(); ++c)
              o[c] += p * v[static_cast<std::size_t>(t)][c];
          }
          for (double& x : o) all.o.push_back(seen == 0 ? 0.0 : x / sum);
          all.lse.push_back(seen == 0 ? -kInfinity : most + std::log(sum));
        }
      }
    }
    return all;
  }

 private:
  static std::vector<std::int32_t> shuffled(std::int64_t count) {
    std::vector<std::int32_t> numbers(static_cast<std::size_t>(count));
    std::iota(numbers.begin(), numbers.end(), 0);
    std::ranges::shuffle(numbers, std::mt19937(5));
    return numbers;
  }

  rt::Device device_;
  Case case_;
  KvCache cache_;
  std::vector<std::int32_t> lengths_;
  std::int64_t columns_, pages_, blocks_;
  rt::Buffer pool_, exact_pool_;
  std::vector<std::int32_t> table_, exact_table_;
  std::vector<std::vector<std::uint16_t>> k_, v_;
  std::vector<std::uint16_t> q_;
  std::vector<float> mean_;
};

// Of each row; the worst. Rows that see nothing are zeros in both.
double worst_error(const Batch::Result& got, const Batch::Result& expected, int head_dim) {
  double worst = 0;
  const auto d = static_cast<std::size_t>(head_dim);
  for (std::size_t row = 0; row * d < got.o.size(); ++row) {
    double error = 0, size = 0;
    for (std::size_t c = row * d; c < (row + 1) * d; ++c) {
      error += std::pow(got.o[c] - expected.o[c], 2);
      size += std::pow(expected.o[c], 2);
    }
    if (!(error >= 0)) return kInfinity;
    worst = std::max(worst, size > 0 ? std::sqrt(error / size) : error > 0 ? kInfinity : 0.0);
  }
  return worst;
}

double worst_lse(const Batch::Result& got, const Batch::Result& expected) {
  double worst = 0;
  for (std::size_t row = 0; row < got.lse.size(); ++row) {
    if (got.lse[row] == expected.lse[row]) continue;
    worst = std::max(worst, std::abs(got.lse[row] - expected.lse[row]));
    if (std::isnan(got.lse[row])) return kInfinity;
  }
  return worst;
}

// Q is rounded to 8 bits beside keys of 4 and 2 bits, to 16 or 14 beside those of 8.
struct Bounds {
  double o, lse;
};
Bounds bounds(const KvCache& cache) {
  return cache.format(0).k_bits < 8 ? Bounds{.o = 0.02, .lse = 0.01}
                                    : Bounds{.o = 0.002, .lse = 5e-4};
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      {.pair = "KV4", .exact = {.sinks = 32, .window = 64}},
      {.pair = "KV2",
       .exact = {.sinks = 64, .window = 0, .unit = 32},
       .group = 1,
       .q_len = 2,
       .page_tokens = 48},
      {.pair = "K8V4",
       .exact = {.sinks = 0, .window = 128, .unit = 64},
       .head_dim = 128,
       .group = 8,
       .page_tokens = 16},
      {.pair = "K4V2",
       .exact = {.sinks = 32, .window = 48, .unit = 32, .taken_back = 16},
       .group = 3,
       .q_len = 5,
       .page_tokens = 528},
      {.pair = "K16V4",
       .exact = {.sinks = 32, .window = 16},
       .head_dim = 80,
       .group = 1,
       .q_len = 16},
      {.pair = "K2V16",
       .exact = {.sinks = 96, .window = 32, .unit = 96},
       .group = 12,
       .page_tokens = 64},
      {.pair = "KV8",
       .exact = {.sinks = 32, .window = 32},
       .head_dim = 256,
       .group = 4,
       .smooth = true},
      {.pair = "KV4",
       .exact = {.sinks = 32, .window = 64},
       .head_dim = 128,
       .group = 5,
       .q_len = 4,
       .smooth = true,
       .rotation = Rotation::hadamard}};
  return all;
}

}  // namespace

TEST_CASE("where exact tokens lie, and which codes are read", "[fast]") {
  for (const KvExact& exact :
       {KvExact{.sinks = 32, .window = 64}, KvExact{.sinks = 0, .window = 16, .unit = 96},
        KvExact{.sinks = 64, .window = 0, .unit = 32, .taken_back = 48}}) {
    for (std::int64_t length = 0; length < 700; ++length) {
      const std::int64_t end = exact.codes_end(length);
      REQUIRE((end - exact.sinks) % exact.unit == 0);
      REQUIRE((end == exact.sinks || length - end >= exact.window));
      REQUIRE(length - end < exact.window + exact.unit);
      // Of all that are exact, now or when some have been taken back, each has a place of its own.
      const std::int64_t first =
          exact.codes_end(std::max<std::int64_t>(length - exact.taken_back, 0));
      std::vector<std::int64_t> places;
      for (std::int64_t t = 0; t < length; ++t) {
        if (t >= exact.sinks && t < first) continue;
        places.push_back(exact.place(t, length));
        REQUIRE(places.back() >= 0);
        REQUIRE(places.back() < 16 * exact.blocks());
        REQUIRE(places.back() % 16 == t % 16);
      }
      std::ranges::sort(places);
      REQUIRE(std::ranges::adjacent_find(places) == places.end());
    }
  }
}

TEST_CASE("sinks and the last tokens are exact while sequences grow, in steps and in prompts",
          "[fast]") {
  for (const Case& of : cases()) {
    INFO(of.pair << ", " << of.head_dim << " channels, group " << of.group << ", q_len "
                 << of.q_len);
    const Machine machine;
    Batch batch(machine, of, {420, 420, 33, 1, 1});
    // Of the first to its end: within the sinks, at the edges of window and unit, far behind; then step by step.
    const std::array<int, 9> grow{31, 1, 1, 63, 32, 1, 160, 100, 15};
    batch.append(1, 390);  // at once: what is left out of the ring is so from the start
    batch.append(2, 33);
    batch.append(3, 1);
    bool tells_apart = false;
    for (std::size_t step = 0; step < grow.size(); ++step) {
      batch.append(0, grow[step]);
      if (step % 2 == 1) batch.append(1, 1);
      const auto result = batch.decode(step % 3 == 0 ? 1 : 3);
      const auto expected = batch.expected(of.exact);
      INFO("after " << batch.length(0) << " tokens");
      CHECK(worst_error(result, expected, of.head_dim) <= bounds(batch.cache()).o);
      CHECK(worst_lse(result, expected) <= bounds(batch.cache()).lse);
      KvExact other = of.exact;
      other.window += 96;
      if (worst_error(batch.expected(other), expected, of.head_dim) > 2 * bounds(batch.cache()).o)
        tells_apart = true;
    }
    CHECK(tells_apart);  // another window would be seen
    for (int i = 0; i < 3 && of.exact.taken_back > 0; ++i) {
      batch.append(0, 5);
      batch.take_back(0, 4);
      CHECK(worst_error(batch.decode(2), batch.expected(of.exact), of.head_dim) <=
            bounds(batch.cache()).o);
    }
  }
}

TEST_CASE("a sequence within sinks and window is as exact as one of 16 bits", "[fast]") {
  const Machine machine;
  Case of{.pair = "KV2", .exact = {.sinks = 32, .window = 64}};
  Batch batch(machine, of, {127});
  batch.append(0, 127);  // a unit less one beside them
  CHECK(worst_error(batch.decode(1), batch.expected(std::nullopt), of.head_dim) <= 0.001);
}

TEST_CASE("bits of O depend neither on pages, nor on how a sequence has grown, nor on others",
          "[fast]") {
  const Machine machine;
  Case of{.pair = "K4V4", .exact = {.sinks = 32, .window = 64}, .q_len = 2};
  Batch usual(machine, of, {300});
  usual.append(0, 300);
  const std::vector<std::byte> bits = usual.decode(2).bits;
  of.page_tokens = 96;
  Batch in_parts(machine, of, {300, 150});
  in_parts.append(1, 150);
  for (const int part : {1, 200, 16, 1, 1, 81}) in_parts.append(0, part);
  const std::vector<std::byte> both = in_parts.decode(2).bits;
  CHECK(std::equal(bits.begin(), bits.end(), both.begin()));
}

// K and V whose codes of 8 bits are themselves: all numbers are multiples of 2^-7, the least and the largest of each row
// 255 of them apart. So it makes no difference which tokens are exact, and 16 bits of all say what masks do.
TEST_CASE("masks and changes of scores are those of positions, wherever a token lies", "[fast]") {
  constexpr int kDim = 64, kGroup = 3, kQueries = 3, kPage = 32, kMost = 320;
  constexpr KvExact kExact{.sinks = 32, .window = 48};
  const Machine machine;
  const rt::Device& device = machine.device;
  std::mt19937_64 random(3);
  const auto multiples = [&] {
    std::vector<std::uint16_t> values;
    for (int row = 0; row < kMost * kHeads; ++row) {
      for (int c = 0; c < kDim; ++c) {
        const int n = c == row % kDim         ? 0
                      : c == (row + 1) % kDim ? 255
                                              : static_cast<int>(random() % 256);
        values.push_back(ref::f16_bits((n - 128) * 0x1p-7));
      }
    }
    return values;
  };
  const rt::Buffer k = upload(device, multiples()), v = upload(device, multiples()),
                   q = upload(device, numbers(kHeads * kGroup * kQueries * kDim, 4)),
                   slopes =
                       upload(device, std::vector<float>{0.5f, 0.25f, 0.1f, 0.0f, 0.02f, 1.0f}),
                   logits = upload(device, std::vector<float>{1, -2, 3, 0, 5, -40}),
                   trees = upload(device, std::vector<std::uint32_t>{1, 3, 5});
  std::vector<std::int32_t> table(kMost / kPage),
      exact_table(static_cast<std::size_t>(kExact.blocks()));
  std::iota(table.rbegin(), table.rend(), 0);
  std::iota(exact_table.rbegin(), exact_table.rend(), 0);
  const rt::Buffer pages = upload(device, table), blocks = upload(device, exact_table);
  const auto format = [](int bits, int page) {
    return KvFormat{.head_dim = kDim, .k_bits = bits, .v_bits = bits, .page_tokens = page};
  };
  const auto strides = [&](int bits, int page) { return kv_strides(format(bits, page), kHeads); };
  const auto filled = [&](int bits, int page, std::int64_t count,
                          const std::vector<std::int64_t>& slots) {
    rt::Buffer pool(device, static_cast<std::size_t>(count * strides(bits, page).page));
    pool.fill(0xFF);
    const Kernel kernel(kv_append::family(), {.head_dim = kDim, .k_bits = bits, .v_bits = bits},
                        Target{.sm = 89});
    const rt::Buffer places = upload(device, slots);
    kv_append::Plan(device, kernel, artifact_of)
        .run({.tokens = static_cast<std::int64_t>(slots.size()), .kv_heads = kHeads},
             {.k = rt::nhd(k.data(), kHeads, kMost, kDim),
              .v = rt::nhd(v.data(), kHeads, kMost, kDim),
              .pool = {.data = pool.data(), .pages = count, .page_tokens = page},
              .slots = places.data()},
             nullptr);
    device.synchronize();
    return pool;
  };
  const std::vector<std::pair<std::string, decode::Spec>> specs{
      {"causal", {.causal = true}},
      {"tree", {.tree = true}},
      {"window", {.causal = true, .window = true}},
      {"window, sinks", {.window = true, .sinks = true}},
      {"softcap", {.softcap = true}},
      {"alibi, sinks", {.causal = true, .alibi = true, .sinks = true}}};
  for (const int length : {3, 50, 97, 210, kMost}) {
    std::vector<std::int64_t> slots, exact_slots;
    for (int t = 0; t < length; ++t) {
      slots.push_back(std::int64_t{table[static_cast<std::size_t>(t / kPage)]} * kPage + t % kPage);
      const std::int64_t place = kExact.place(t, length);
      exact_slots.push_back(
          place < 0
              ? -1
              : std::int64_t{exact_table[static_cast<std::size_t>(place / 16)]} * 16 + place % 16);
    }
    const rt::Buffer all = filled(16, kPage, kMost / kPage, slots),
                     codes = filled(8, kPage, kMost / kPage, slots),
                     exact = filled(16, 16, kExact.blocks(), exact_slots),
                     lengths = upload(device, std::vector<std::int32_t>{length});
    for (const auto& [name, masks] : specs) {
      const auto attended = [&](int bits) {
        decode::Spec spec = masks;
        spec.exact = bits < 16;
        const Kernel kernel =
            decode::usual_kernel(format(bits, kPage), kGroup * kQueries, Target{.sm = 89}, spec);
        const decode::Plan plan(device, kernel, artifact_of);
        const decode::Shape shape{.q_heads = kHeads * kGroup,
                                  .kv_heads = kHeads,
                                  .q_len = kQueries,
                                  .page_tokens = kPage,
                                  .max_pages = kMost / kPage,
                                  .splits = 2};
        rt::Buffer o(device, q.bytes()), lse(device, 4 * kHeads * kGroup * kQueries),
            workspace(device, plan.workspace_bytes(shape));
        decode::Arguments arguments{.q = rt::hnd(q.data(), kHeads * kGroup, kQueries, kDim),
                                    .pool = bits < 16 ? codes.data() : all.data(),
                                    .strides = strides(bits, kPage),
                                    .pool_pages = kMost / kPage,
                                    .page_table = pages.data(),
                                    .lengths = lengths.data(),
                                    .tree_masks = spec.tree ? trees.data() : 0,
                                    .o = rt::hnd(o.data(), kHeads * kGroup, kQueries, kDim),
                                    .lse = lse.data()};
        if (spec.exact)
          arguments.exact = {.tokens = kExact,
                             .pool = exact.data(),
                             .strides = strides(16, 16),
                             .pool_blocks = kExact.blocks(),
                             .table = blocks.data()};
        if (spec.window) arguments.mods.window = {.left = 70, .right = spec.causal ? -1 : 0};
        if (spec.softcap) arguments.mods.softcap = {.cap = 2};
        if (spec.alibi) arguments.mods.alibi = {.slopes = slopes.data()};
        if (spec.sinks) arguments.mods.sinks = {.logits = logits.data()};
        plan.run(shape, arguments, workspace.data(), workspace.bytes(), nullptr);
        device.synchronize();
        Batch::Result result;
        std::vector<std::uint16_t> bits_of(o.bytes() / 2);
        o.download(std::as_writable_bytes(std::span(bits_of)));
        for (const std::uint16_t each : bits_of) result.o.push_back(ref::f16_value(each));
        std::vector<float> sums(lse.bytes() / 4);
        lse.download(std::as_writable_bytes(std::span(sums)));
        result.lse.assign(sums.begin(), sums.end());
        return result;
      };
      const Batch::Result got = attended(8), want = attended(16);
      INFO(name << ", " << length << " tokens");
      CHECK(worst_error(got, want, kDim) <= 0.003);
      CHECK(worst_lse(got, want) <= 5e-4);
    }
  }
}

TEST_CASE("exact tokens that cannot be are refused by name", "[fast]") {
  const Machine machine;
  const auto cache = [&](const std::string& options, const std::string& layers) {
    return KvCache(machine.device, kv_cache_options_of("kv_heads=2 q_heads=2 " + options),
                   kv_layers(layers, {.head_dim = 64}), artifact_of);
  };
  CHECK_THROWS_WITH(cache("sinks=16", "KV4"),
                    Contains("sinks of 16 exact tokens is refused") && Contains("multiple of 32"));
  CHECK_THROWS_WITH(cache("window=40", "KV4"), Contains("window of 40"));
  CHECK_THROWS_WITH(cache("window=32 unit=48", "KV4"), Contains("unit of 48"));
  CHECK_THROWS_WITH(cache("window=32 addressing=pages", "KV4"), Contains("addressing=slots"));
  const KvCache some = cache("window=32", "0:KV16, 1:KV4");
  CHECK_FALSE(some.has_exact(0));
  CHECK(some.has_exact(1));
  CHECK_THROWS_WITH(some.exact_pool_bytes(0, 4),
                    Contains("layer 0 has no exact tokens") && Contains("16 bits"));
  CHECK_THROWS_WITH(cache("", "KV4").exact_format(0),
                    Contains("without the options sinks and window"));
  CHECK(some.exact_pool_bytes(1, 3) == 3 * 2 * 16 * 64 * 4);
  const Kernel both_exact(decode::family(), {.k_bits = 16, .v_bits = 16, .exact = true},
                          Target{.sm = 80});
  CHECK_THAT(both_exact.violations().front(), Contains("exact with 16 bits of K and V is refused"));

  Batch batch(machine, {.pair = "KV4", .exact = {.sinks = 32, .window = 32}}, {64});
  const rt::Buffer memory(machine.device, 1 << 16);
  const auto view = rt::hnd(memory.data(), 8, 1, 64);
  const auto refused = [&](const decode::ExactArguments& exact) {
    try {
      batch.cache().decode(0, {.data = memory.data(), .pages = 1}, {.max_pages = 1, .splits = 1},
                           {.q = view,
                            .page_table = memory.data(),
                            .lengths = memory.data(),
                            .exact = exact,
                            .o = view},
                           memory.data(), 1 << 16, nullptr);
    } catch (const rt::ArgumentError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK_THAT(refused({}), Contains("exact.pool_blocks is 0"));
  CHECK_THAT(refused({.pool_blocks = 4}), Contains("exact.pool"));
  CHECK_THAT(
      refused({.pool = memory.data(), .strides = {.page = 100, .head = 4096}, .pool_blocks = 4}),
      Contains("page of exact is 100 bytes"));
}
