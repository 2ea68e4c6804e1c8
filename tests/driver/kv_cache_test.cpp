// KvCache on a driver that pretends: which kernels it loads, where bytes lie, what copies reach the driver, and what it
// refuses. What the kernels compute: tests/numerics/kv_layers_test.cpp.
#include "sagegen/kv_cache.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "sagegen/error.h"
#include "sagegen/runtime/emulator.h"
#include "tests/driver/fake_plan.h"

using namespace sagegen;
using namespace sagegen::test;
using Catch::Matchers::Contains;

namespace {

const KvFormat kBase{.head_dim = 128, .page_tokens = 64};
const KvCacheOptions kOptions{.kv_heads = 2, .q_heads = 8};

struct FakeCache {
  explicit FakeCache(const std::string& layers, const KvCacheOptions& options = kOptions,
                     const KvFormat& base = kBase)
      : cache(device, options, kv_layers(layers, base), fake_source()) {}
  auto calls(const std::string& name) const {
    return std::count(driver->calls().begin(), driver->calls().end(), name);
  }
  std::shared_ptr<FakeDriver> driver = std::make_shared<FakeDriver>();
  Device device{driver, 0};
  KvCache cache;
};

// As docs/embedding.md shows it.
struct Engine {
  Engine(const Device& device, const ArtifactSource& source)
      : cache(device, {.kv_heads = 8, .q_heads = 32, .rotation = Rotation::hadamard},
              kv_layers("0-1:KV8, 2-29:K8V4, 30-31:KV8",
                        kv_format_of("head_dim=128 io=f16 page_tokens=64")),
              source) {
    std::size_t most = 0;
    for (int layer = 0; layer < cache.layers(); ++layer) {
      memory.emplace_back(device, static_cast<std::size_t>(cache.pool_bytes(layer, kPages)));
      pools.push_back({.data = memory.back().data(), .pages = kPages});
      // Small batches are split more, and may need more than large ones.
      for (std::int64_t batch = 1; batch <= kBatch; ++batch)
        most = std::max(most, cache.workspace_bytes(layer, {.batch = batch, .max_pages = 512}));
    }
    workspace = Buffer(device, most);
  }

  // New tokens, of prompts or one of each sequence, go into their pages; queries of a step attend to all of them.
  void append(int layer, std::int64_t tokens, TensorView k, TensorView v, DevicePtr slots,
              StreamHandle stream) const {
    cache.append(layer, pools.at(layer), tokens, {.k = k, .v = v, .slots = slots}, stream);
  }
  void decode(int layer, std::int64_t batch, TensorView q, DevicePtr table, DevicePtr lengths,
              TensorView o, StreamHandle stream) const {
    cache.decode(layer, pools.at(layer), {.batch = batch, .max_pages = 512},
                 {.q = q, .page_table = table, .lengths = lengths, .o = o}, workspace.data(),
                 workspace.bytes(), stream);
  }
  // A sequence is to write into a page that others have, too.
  void unshare(std::int64_t page, std::int64_t own, StreamHandle stream) const {
    for (int layer = 0; layer < cache.layers(); ++layer)
      cache.copy_pages(layer, pools.at(layer), {&page, 1}, {&own, 1}, stream);
  }

  static constexpr std::int64_t kPages = 4, kBatch = 64;
  KvCache cache;
  std::vector<Buffer> memory;
  std::vector<KvPool> pools;
  Buffer workspace;
};

std::string refused(const std::string& layers) {
  try {
    kv_layers(layers, kBase);
  } catch (const SpecError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("ranges say the format of each layer", "[fast]") {
  const std::vector<KvFormat> layers =
      kv_layers("0-1:KV8, 2:K8V4 page_tokens=32,3-4 : K4V2 layout=nhd", kBase);
  REQUIRE(layers.size() == 5);
  KvFormat second = kBase, third = kBase;
  second.v_bits = 4;
  second.page_tokens = 32;
  third.k_bits = 4;
  third.v_bits = 2;
  third.layout = KvPageLayout::nhd;
  CHECK(layers == std::vector<KvFormat>{kBase, kBase, second, third, third});
  CHECK(kv_layers("KV16", kBase).size() == 1);
  CHECK(kv_layers("KV8, K8V4, 2-3:KV2", kBase).size() == 4);

  CHECK_THAT(refused(""), Contains("\"\" is no pair of bits"));
  CHECK_THAT(refused("0:KV8,"), Contains("\"\" is no pair of bits"));
  for (const char* text : {"0:K8", "0:8", "0:KV", "0:K8V4x", "0:Kf8V4", "0:K8V-4", "0:fp8", "0:V8"})
    CHECK_THAT(refused(text), Contains("is no pair of bits that the kernels store; write K8V4"));
  CHECK_THAT(refused("0:K8V3"), Contains("v_bits 3 is refused"));
  CHECK_THAT(refused("0:KV8 page_tokens=24"), Contains("the next such number is 32"));
  CHECK_THAT(refused("0:KV8 pages=24"), Contains("pages"));
  CHECK_THAT(refused("1:KV8"), Contains("layer 0 is missing before it"));
  CHECK_THAT(refused("0-3:KV8, 5:KV4"), Contains("layers \"5:KV4\": layer 4 is missing before it"));
  CHECK_THAT(refused("0-3:KV8, 2:KV4"), Contains("layer 2 stands twice"));
  for (const char* text : {"3-1:KV8", "a:KV8", "0-:KV8", "-1:KV8", "0-99999999999:KV8", "0+1:KV8"})
    CHECK_THAT(refused(text), Contains("layers are a number or a range"));
  CHECK_THAT(refused("0-1024:KV8"), Contains("at most 1024 layers"));
}

TEST_CASE("options of a cache come as a text, too", "[fast]") {
  const KvCacheOptions options = kv_cache_options_of(
      "q_heads=16 kv_heads=4 q_len=3 rope=neox smooth_k rotation=hadamard addressing=pages causal");
  CHECK(options == KvCacheOptions{.kv_heads = 4,
                                  .q_heads = 16,
                                  .q_len = 3,
                                  .addressing = kv_append::Addressing::pages,
                                  .rope = kv_append::Rope::neox,
                                  .smooth_k = true,
                                  .rotation = Rotation::hadamard,
                                  .causal = true});
  CHECK(kv_cache_options_of("") == KvCacheOptions{});
  CHECK_THROWS_WITH(kv_cache_options_of("heads=4"), Contains("kv_heads"));
  CHECK_THROWS_WITH(kv_cache_options_of("kv_heads=0"), Contains("kv_heads 0 is refused"));
  CHECK_THROWS_WITH(kv_cache_options_of("kv_heads=3 q_heads=8"),
                    Contains("q_heads 8 is no multiple of kv_heads 3"));
  CHECK_THROWS_WITH(kv_cache_options_of("q_len=17"), Contains("q_len 17 is refused"));
}

TEST_CASE("layers of equal formats share modules", "[fast]") {
  // Pages are arguments of the kernels: they make no other ones, but where a tile has several.
  FakeCache mixed("0-1:KV8, 2-40:K8V4, 41-79:K8V4 page_tokens=96 layout=nhd, 80-81:KV8");
  CHECK(mixed.cache.layers() == 82);
  CHECK(mixed.calls("cuModuleLoadDataEx") == 4);
  CHECK(mixed.cache.kernel_names().size() == 4);
  CHECK(mixed.calls("cuMemAlloc") == 0);

  // What is shared is not asked for again: the generator makes each kernel once.
  int asked = 0;
  const ArtifactSource counting = [&](const sagegen::Kernel& kernel) {
    ++asked;
    return fake_source()(kernel);
  };
  const KvCache many(mixed.device, kOptions, kv_layers("0-3:KV8, 4-63:KV4", kBase), counting);
  CHECK(asked == 4);
  const auto loaded = mixed.calls("cuModuleLoadDataEx");
  CHECK(loaded == 4 + 2);

  const KvCache again(mixed.device, kOptions, kv_layers("0:K8V4, 1:KV4", kBase), fake_source());
  CHECK(mixed.calls("cuModuleLoadDataEx") == loaded);

  FakeCache small("0:KV2, 1:KV2 page_tokens=16, 2:KV2 page_tokens=96");
  CHECK(small.calls("cuModuleLoadDataEx") == 3);
}

TEST_CASE("any number of query heads share a KV head", "[fast]") {
  struct Case {
    int head_dim, group, q_len;
    std::string layer, rows;
  };
  const Case cases[] = {{128, 1, 1, "0:KV4", "_r8_"},   {128, 3, 2, "0:KV4", "_r8_"},
                        {128, 5, 2, "0:KV4", "_r16_"},  {128, 7, 1, "0:KV16", "_r8_"},
                        {96, 12, 1, "0:K8V4", "_r16_"}, {128, 20, 16, "0:KV2", "_r16_"},
                        {256, 12, 1, "0:K8V4", "_r8_"}, {256, 12, 1, "0:K16V4", "_r16_"}};
  for (const Case& each : cases) {
    const FakeCache fake(each.layer,
                         {.kv_heads = 2, .q_heads = 2 * each.group, .q_len = each.q_len},
                         {.head_dim = each.head_dim});
    const std::string name = fake.cache.kernel_names().back();
    INFO(name << " for " << each.group << " heads of " << each.q_len << " queries");
    CHECK(name.find(each.rows) != std::string::npos);
  }
}

// Of what an SM has in shared memory a tile in flight is a part.
TEST_CASE("decode runs kernels of sm_80 on GPUs that have its shared memory", "[fast]") {
  CHECK(decode::target_on({.sm = 89}, 228 << 10) == Target{.sm = 80});
  CHECK(decode::target_on({.sm = 86}, 164 << 10) == Target{.sm = 80});
  CHECK(decode::target_on({.sm = 89}, 100 << 10) == Target{.sm = 89});
  CHECK(decode::target_on({.sm = 120}, 100 << 10) == Target{.sm = 120});
  CHECK(decode::target_on({.sm = 80}, 228 << 10) == Target{.sm = 80});
  CHECK(decode::target_on({.sm = 80}, 64 << 10) == Target{.sm = 80});
  // H200: the embedded ones, as well.
  const Device hopper(make_emulator(), static_cast<DeviceOrdinal>(EmulatorProfile::sm_90));
  const KvCache cache(hopper, kOptions, kv_layers("0:K8V4", kBase), embedded_ptx());
  CHECK(cache.kernel_names().back().find("__sm80") != std::string::npos);
}

TEST_CASE("keys of 16 bits are not transformed", "[fast]") {
  KvCacheOptions options = kOptions;
  options.smooth_k = true;
  options.rotation = Rotation::hadamard;
  const FakeCache fake("0:KV16, 1:K8V16", options);
  CHECK_FALSE(fake.cache.smooths(0));
  CHECK(fake.cache.smooths(1));
  std::vector<std::string> names = fake.cache.kernel_names();
  REQUIRE(names.size() == 4);
  for (const std::string& name : names) {
    INFO(name);
    CHECK((name.find("hadamard") != std::string::npos) == (name.find("k16") == std::string::npos));
  }
  // A mean is what the caller has of all layers.
  const TensorView rows = nhd(0x1'0000'0000, 2, 3, 128);
  const kv_append::Arguments arguments{
      .k = rows, .v = rows, .slots = 0x2'0000'0000, .k_mean = 0x3'0000'0000};
  const KvPool pool{.data = 0x4'0000'0000, .pages = 5};
  fake.cache.append(0, pool, 3, arguments, nullptr);
  fake.cache.append(1, pool, 3, arguments, nullptr);
  CHECK(fake.driver->launches().size() == 2);
}

TEST_CASE("a cache tells the bytes of pages and pools", "[fast]") {
  const FakeCache fake("0:KV16, 1:K4V4, 2:K4V4 page_tokens=32 layout=nhd");
  // 2 heads, 64 tokens, 2 * 128 channels of 2 bytes; of 4 bits 8 bytes of scales and zero points for each token.
  CHECK(fake.cache.page_bytes(0) == 2 * 64 * 512);
  CHECK(fake.cache.page_bytes(1) == 2 * 64 * (128 + 8));
  CHECK(fake.cache.page_bytes(2) == 2 * 32 * (128 + 8));
  CHECK(fake.cache.pool_bytes(1, 10) == 10 * fake.cache.page_bytes(1));
  CHECK(fake.cache.strides(2).head == 16 * (128 + 8));
  CHECK(fake.cache.format(2).page_tokens == 32);
  CHECK(fake.cache.workspace_bytes(1, {.batch = 1, .max_pages = 8, .splits = 1}) == 0);
  CHECK(fake.cache.workspace_bytes(1, {.batch = 1, .max_pages = 8, .splits = 2}) > 0);
  CHECK_THROWS_WITH(fake.cache.pool_bytes(1, 0), Contains("pages is 0"));
  CHECK_THROWS_WITH(fake.cache.page_bytes(3), Contains("kv_cache: layer is 3; there are 0 to 2"));
  CHECK_THROWS_WITH(fake.cache.page_bytes(-1), Contains("layer is -1"));
}

TEST_CASE("what no kernel is for is refused by its layer", "[fast]") {
  KvFormat odd = kBase;
  odd.head_dim = 100;
  CHECK_THROWS_WITH(FakeCache("0-1:KV8, 2:KV4", kOptions, odd),
                    Contains("kv_cache: layer 0: ") && Contains("head_dim 100 is refused"));
  CHECK_THROWS_WITH(FakeCache("0:KV4, 1:KV4 k_codes=channel"),
                    Contains("kv_cache: layer 1: ") && Contains("k_codes channel is refused"));
  auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  CHECK_THROWS_WITH(KvCache(device, kOptions, {}, fake_source()), Contains("there are no layers"));
  std::vector<KvFormat> layers = kv_layers("0-1:KV8", kBase);
  layers[1].page_tokens = 17;
  CHECK_THROWS_WITH(KvCache(device, kOptions, layers, fake_source()),
                    Contains("layer 1: page_tokens 17 is refused"));
  CHECK(driver->live().empty() == false);  // the context, which is the device's
}

TEST_CASE("an engine's step is two launches for each layer", "[fast]") {
  auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  const Engine engine(device, fake_source());
  const TensorView k = nhd(0x1'0000'0000, 8, 5, 128), v = nhd(0x2'0000'0000, 8, 5, 128);
  const TensorView q = hnd(0x3'0000'0000, 32, 1, 128), o = hnd(0x4'0000'0000, 32, 1, 128);
  const auto before = driver->calls().size();
  for (int layer = 0; layer < engine.cache.layers(); ++layer) {
    engine.append(layer, 5, k, v, 0x5'0000'0000, nullptr);
    engine.decode(layer, 5, q, 0x6'0000'0000, 0x7'0000'0000, o, nullptr);
  }
  CHECK(driver->launches().size() == 64);
  for (std::size_t i = before; i < driver->calls().size(); ++i) {
    INFO(driver->calls()[i]);
    CHECK((driver->calls()[i].starts_with("cuCtx") || driver->calls()[i] == "cuLaunchKernel" ||
           driver->calls()[i] == "cuMemsetD8Async"));
  }
  CHECK(driver->misuse().empty());
}

TEST_CASE("copies of pages are the bytes of the layer and no others", "[fast]") {
  FakeCache fake("0:K8V4");
  const auto page = static_cast<std::size_t>(fake.cache.page_bytes(0));
  Buffer pool(fake.device,
              1);  // the fake knows starts of allocations: pages that are copied begin one
  const KvPool contiguous{.data = 0x7f00'0000'0000, .pages = 8};
  const auto copies = [&](const KvPool& of, std::vector<std::int64_t> from,
                          std::vector<std::int64_t> to) {
    fake.cache.copy_pages(0, of, from, to, nullptr);
  };
  const auto none = [&](const std::string& why, const KvPool& of, std::vector<std::int64_t> from,
                        std::vector<std::int64_t> to) {
    CHECK_THROWS_WITH(copies(of, std::move(from), std::move(to)), Contains(why));
  };
  none("pool is a null pointer", {.pages = 8}, {1}, {2});
  none("pool.strides.head is 0 bytes",
       {.data = contiguous.data, .pages = 8, .strides = {.page = 1 << 20}}, {1}, {2});
  none("2 pages are copied to 1", contiguous, {1, 2}, {3});
  none("page 8 of copy 1; the pool has 0 to 7", contiguous, {1, 2}, {3, 8});
  none("page -1 of copy 0", contiguous, {-1}, {3});
  none("copy 1 is of page 2 to itself", contiguous, {1, 2}, {3, 2});
  CHECK_THROWS_WITH(fake.cache.copy_pages(1, contiguous, {}, {}, nullptr), Contains("layer is 1"));
  copies(contiguous, {}, {});
  CHECK(fake.calls("cuMemcpyDtoDAsync") == 0);
  CHECK(page == 2 * 64 * (128 + 64 + 8));
}
