// KvCache: layers of different formats side by side, as an engine drives them, against each format's own plans bit by bit;
// prompts in parts; pages that are shared, copied and given to others.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdint>
#include <map>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "sagegen/kv_cache.h"
#include "sagegen/runtime/graph.h"
#include "tests/numerics/kv_support.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
using test::artifact_of;
using test::bytes_of;
using test::Machine;
using test::numbers;
using test::upload;

namespace {

constexpr int kDim = 64, kHeads = 2, kGroup = 4, kTokens = 75;

// One layer with the tokens of one sequence, whose pages lie in any order.
struct Layer {
  Layer(const Machine& machine, const KvCache& of, int index)
      : device(machine.device),
        cache(of),
        layer(index),
        pages((kTokens + page_tokens() - 1) / page_tokens() + 2),
        pool(device, static_cast<std::size_t>(of.pool_bytes(index, pages))) {
    pool.fill(0xFF);
    table.resize(static_cast<std::size_t>(pages));
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937_64(7));
  }
  int page_tokens() const { return cache.format(layer).page_tokens; }
  KvPool place() const { return {.data = pool.data(), .pages = pages}; }

  void append(int first, int last, std::uint64_t seed = 0) const {
    const std::size_t row = kHeads * kDim;
    const std::vector<std::uint16_t> k = numbers(kTokens * row, 2 * seed + 1),
                                     v = numbers(kTokens * row, 2 * seed + 2);
    std::vector<std::int64_t> slots;
    for (int t = first; t < last; ++t)
      slots.push_back(table[static_cast<std::size_t>(t / page_tokens())] * page_tokens() +
                      t % page_tokens());
    const rt::Buffer keys = upload(device, k), values = upload(device, v),
                     places = upload(device, slots);
    const std::size_t from = static_cast<std::size_t>(first) * row * 2;
    cache.append(layer, place(), last - first,
                 {.k = rt::nhd(keys.data() + from, kHeads, kTokens, kDim),
                  .v = rt::nhd(values.data() + from, kHeads, kTokens, kDim),
                  .slots = places.data()},
                 nullptr);
    device.synchronize();
  }
  std::vector<std::byte> decode(int length) const {
    const rt::Buffer q = upload(device, numbers(kHeads * kGroup * kDim, 99)),
                     pages_of = upload(device, table),
                     lengths = upload(device, std::vector<std::int32_t>{length});
    rt::Buffer o(device, q.bytes());
    const sagegen::decode::Shape shape{.max_pages = pages, .splits = 2};
    const rt::Buffer workspace(device, cache.workspace_bytes(layer, shape));
    cache.decode(layer, place(), shape,
                 {.q = rt::hnd(q.data(), kHeads * kGroup, 1, kDim),
                  .page_table = pages_of.data(),
                  .lengths = lengths.data(),
                  .o = rt::hnd(o.data(), kHeads * kGroup, 1, kDim)},
                 workspace.data(), workspace.bytes(), nullptr);
    device.synchronize();
    return bytes_of(o);
  }

  rt::Device device;
  const KvCache& cache;
  int layer;
  std::int64_t pages;
  rt::Buffer pool;
  std::vector<std::int32_t> table;
};

KvCache cache_of(const Machine& machine, const std::string& layers, int page_tokens = 32) {
  return {machine.device,
          {.kv_heads = kHeads, .q_heads = kHeads * kGroup, .rotation = Rotation::hadamard},
          kv_layers(layers, {.head_dim = kDim, .page_tokens = page_tokens}),
          artifact_of};
}

}  // namespace

TEST_CASE("layers of a mixed map are bit for bit those of their formats", "[fast]") {
  const Machine machine;
  const std::vector<std::string> formats{"KV16", "KV8", "K8V4", "KV4", "K4V2", "K2V16"};
  std::string map;
  for (std::size_t i = 0; i < formats.size(); ++i)
    map += (i == 0 ? "" : ", ") + std::to_string(i) + ":" + formats[i];
  const KvCache mixed = cache_of(machine, map);
  REQUIRE(mixed.layers() == static_cast<int>(formats.size()));
  // All layers of a step, one after the other, as a model runs them.
  std::vector<Layer> layers;
  for (int i = 0; i < mixed.layers(); ++i) layers.emplace_back(machine, mixed, i);
  for (const Layer& layer : layers)
    layer.append(0, kTokens - 1, static_cast<std::uint64_t>(layer.layer));
  for (const Layer& layer : layers)
    layer.append(kTokens - 1, kTokens, static_cast<std::uint64_t>(layer.layer));
  for (const Layer& layer : layers) {
    INFO(formats[static_cast<std::size_t>(layer.layer)]);
    const KvCache uniform = cache_of(machine, formats[static_cast<std::size_t>(layer.layer)]);
    const Layer alone(machine, uniform, 0);
    alone.append(0, kTokens, static_cast<std::uint64_t>(layer.layer));
    CHECK(bytes_of(layer.pool) == bytes_of(alone.pool));
    CHECK(layer.decode(kTokens) == alone.decode(kTokens));
  }
}

TEST_CASE("a prompt is appended at once, in parts or token by token", "[fast]") {
  const Machine machine;
  const KvCache cache = cache_of(machine, "0:K8V4, 1:K4V16");
  for (int i = 0; i < cache.layers(); ++i) {
    const Layer at_once(machine, cache, i), parts(machine, cache, i), steps(machine, cache, i);
    at_once.append(0, kTokens);
    parts.append(40, kTokens);
    parts.append(0, 17);
    parts.append(17, 40);
    for (int t = 0; t < kTokens; ++t) steps.append(t, t + 1);
    CHECK(bytes_of(parts.pool) == bytes_of(at_once.pool));
    CHECK(bytes_of(steps.pool) == bytes_of(at_once.pool));
  }
}

TEST_CASE("O does not see how large the pages of a layer are", "[fast]") {
  const Machine machine;
  const KvCache cache =
      cache_of(machine, "0:K4V4, 1:K4V4 page_tokens=16, 2:K4V4 page_tokens=48 layout=nhd");
  const Layer usual(machine, cache, 0);
  usual.append(0, kTokens);
  for (int i = 1; i < cache.layers(); ++i) {
    const Layer layer(machine, cache, i);
    layer.append(0, kTokens);
    CHECK(layer.decode(kTokens) == usual.decode(kTokens));
  }
}

TEST_CASE("a shared page is copied before it is written", "[fast]") {
  const Machine machine;
  const KvCache cache = cache_of(machine, "0:K8V4");
  const Layer one(machine, cache, 0);
  one.append(0, 40);  // a prefix: a whole page, and 8 tokens of the next
  const std::vector<std::byte> before = one.decode(40);
  // The other goes on in a page of its own, and the first never sees it.
  Layer other(machine, cache, 0);
  other.append(0, 40);
  const std::int64_t shared = other.table[1], own = other.table[3];
  cache.copy_pages(0, other.place(), std::vector{shared}, std::vector{own}, nullptr);
  std::swap(other.table[1], other.table[3]);
  CHECK(other.decode(40) == before);
  other.append(40, kTokens);
  std::swap(other.table[1], other.table[3]);
  CHECK(other.decode(40) == before);
  std::swap(other.table[1], other.table[3]);
  one.append(40, kTokens);
  CHECK(other.decode(kTokens) == one.decode(kTokens));

  // A page that another sequence had is taken as it is.
  Layer evicted(machine, cache, 0);
  evicted.append(0, kTokens, 5);
  std::swap(evicted.table[0], evicted.table[2]);
  evicted.append(0, kTokens);
  CHECK(evicted.decode(kTokens) == one.decode(kTokens));
}

// Pools whose pages have gaps, or other layers between their heads: what lies there stays.
TEST_CASE("copies of pages touch their own bytes alone", "[fast]") {
  const Machine machine;
  const KvCache cache = cache_of(machine, "0:K8V4, 1:K8V4 layout=nhd");
  for (int layer = 0; layer < cache.layers(); ++layer) {
    const KvStrides tight = cache.strides(layer);
    const std::int64_t block = KvBlock(cache.format(layer)).bytes();
    const std::vector<KvStrides> layouts{
        tight,
        {.page = 3 * tight.page, .head = tight.head, .block = tight.block},
        {.page = 2 * tight.page, .head = 2 * tight.head, .block = 2 * tight.block},
        {.page = 5 * tight.page, .head = 4 * block, .block = block},
        {.page = 9 * block, .head = 4 * block, .block = 2 * block}};
    for (const KvStrides& strides : layouts) {
      INFO("layer " << layer << ", strides " << strides.page << ", " << strides.head << ", "
                    << strides.block);
      constexpr std::int64_t kPages = 4;
      rt::Buffer pool(machine.device, static_cast<std::size_t>(kPages * strides.page + 16 * block));
      std::vector<std::byte> expected(pool.bytes());
      for (std::size_t i = 0; i < expected.size(); ++i)
        expected[i] = static_cast<std::byte>(i * 7 >> 3);
      pool.upload(expected);
      rt::Stream stream(machine.device);
      const rt::Graph graph(machine.device, [&](rt::StreamHandle to) {
        cache.copy_pages(layer, {.data = pool.data(), .pages = kPages, .strides = strides},
                         std::vector<std::int64_t>{0, 3, 1}, std::vector<std::int64_t>{1, 2, 3},
                         to);
      });
      CHECK(bytes_of(pool) == expected);
      graph.launch(stream.handle());
      stream.synchronize();
      for (const auto& [from, to] : {std::pair{0, 1}, {3, 2}, {1, 3}}) {
        for (std::int64_t head = 0; head < kHeads; ++head) {
          for (std::int64_t b = 0; b < 2; ++b) {
            const std::int64_t in_page = head * strides.head + b * strides.block;
            std::copy_n(expected.begin() + from * strides.page + in_page, block,
                        expected.begin() + to * strides.page + in_page);
          }
        }
      }
      CHECK(bytes_of(pool) == expected);
    }
  }
}
