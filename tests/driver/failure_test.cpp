// Every driver call of a whole life fails once. Whatever fails: the error names it, nothing leaks, the caller's
// context is current again, and the same objects work when they are asked again.
#include <catch2/catch.hpp>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "sagegen/attention.h"
#include "sagegen/kv_cache.h"
#include "sagegen/runtime/code_cache.h"
#include "sagegen/runtime/stopwatch.h"
#include "tests/driver/fake_plan.h"
#include "tests/driver/fault_walk.h"
#include "tests/tune/temporary_folder.h"

using namespace sagegen;
using namespace sagegen::test;
using Catch::Matchers::Contains;
using tests::TemporaryFolder;

namespace {

const attention::Shape kShape{
    .batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 100, .kv_len = 77};
constexpr const char* kOtherSchedule = "q64k64w4s2";

// What one life saw.
struct Witness {
  std::vector<DriverError> errors;    // of steps, each of which was tried again at once
  std::vector<std::string> warnings;  // of what went on all the same
};

// Codes of a plan, far from all else.
struct Codes {
  attention::QueryCodes queries;
  attention::KeyValueCodes keys_values;
};
Codes codes_of(const attention::CodeSizes& sizes) {
  int next = 0;
  const auto at = [&](std::int64_t bytes) {
    constexpr DevicePtr kCodes = 0x10'0000'0000'0000, kStep = 0x1'0000'0000;
    return bytes == 0 ? 0 : kCodes + kStep * static_cast<DevicePtr>(next++);
  };
  Codes codes;
  codes.queries = {.codes = at(sizes.q_codes),
                   .scale = at(sizes.q_scale),
                   .mean = at(sizes.q_mean),
                   .lse_correction = at(sizes.lse_correction)};
  codes.keys_values = {.k_codes = at(sizes.k_codes),
                       .k_scale = at(sizes.k_scale),
                       .k_mean = at(sizes.k_mean),
                       .v_codes = at(sizes.v_codes),
                       .v_scale = at(sizes.v_scale),
                       .v_mean = at(sizes.v_mean)};
  return codes;
}

struct World {
  std::shared_ptr<FakeDriver> driver = std::make_shared<FakeDriver>();
  TemporaryFolder folder;
  std::shared_ptr<CodeCache> cache;  // null: none

  // With a database that has another schedule for kShape. Begins in a context of somebody else.
  explicit World(bool with_code_cache) {
    driver->set_compute_capability(90);
    driver->set_compiles(with_code_cache);
    const Device device(driver, 0, nullptr);
    const sagegen::Kernel kernel = usual_kernel();
    TuningDatabase(folder.path() / "tuning")
        .store({.key = attention::tuning_key(kernel, attention::shape_class(kShape),
                                             Deployment::eager, fingerprint_of(device)),
                .schedule = kOtherSchedule,
                .usual = kernel.how(),
                .params = kernel.params().digest(),
                .unit = "ns",
                .time = 90,
                .usual_time = 100,
                .samples = 10,
                .measured = "2026-11-30T12:00:00Z",
                .conditions = ""});
    if (with_code_cache) renew_cache();
    driver->set_current(driver->foreign_context());
  }
  // Empty, and told nothing yet.
  void renew_cache() {
    std::filesystem::remove_all(folder.path() / "code");
    cache = std::make_shared<CodeCache>(CodeCacheOptions{.folder = folder.path() / "code"});
  }
};

// Calls everything that the runtime offers, and destroys it.
Witness live(World& world) {
  Witness witness;
  const auto step = [&](const std::function<void()>& work) {
    try {
      work();
    } catch (const DriverError& error) {
      witness.errors.push_back(error);
      work();  // the same objects serve
    }
  };
  std::optional<Device> device;
  step([&] { device.emplace(world.driver, 0, world.cache); });
  step([&] { device->name(); });
  step([&] { device->total_memory(); });
  step([&] {
    make_tensor_map(*device, {.rank = 2,
                              .base = 0x1000,
                              .shape = {16, 16},
                              .strides = {16},
                              .box = {16, 16}});
  });
  std::optional<Buffer> buffer;
  std::optional<Stream> stream;
  std::optional<Event> start, end;
  std::optional<attention::Plan> plan, of_map;
  std::optional<runtime::Kernel> large;
  std::optional<attention::TunedPlan> tuned;
  std::unique_ptr<Stopwatch> stopwatch;
  step([&] { buffer.emplace(*device, 256); });
  step([&] { stream.emplace(*device); });
  step([&] { start.emplace(*device); });
  step([&] { end.emplace(*device); });
  step([&] { plan.emplace(*device, usual_kernel(), fake_source()); });
  // Asks for more shared memory than a block gets without asking.
  step([&] { large.emplace(*device, fake_ptx("large", 8), "large", 128, 64 * 1024, 8); });
  step([&] { large->attribute(FunctionAttribute::num_regs); });

  std::vector<std::byte> host(256);
  step([&] { buffer->fill(1); });
  step([&] { buffer->upload(host); });
  step([&] { start->record(stream->handle()); });
  const attention::Arguments arguments = plain_arguments(kShape, 128);
  const auto run = [&](const attention::Plan& with) {
    with.run(kShape, arguments, kWorkspace, with.workspace_bytes(kShape), stream->handle());
  };
  step([&] { run(*plan); });
  step([&] { end->record(stream->handle()); });
  step([&] { end->synchronize(); });
  step([&] { end->milliseconds_since(*start); });
  step([&] { stream->synchronize(); });
  step([&] { buffer->download(host); });
  step([&] { device->synchronize(); });

  const attention::CodeSizes sizes = plan->code_sizes(kShape);
  const Codes codes = codes_of(sizes);
  const auto bytes = static_cast<std::size_t>(sizes.workspace);
  step([&] {
    plan->quantize_keys_values(kShape, arguments, codes.keys_values, kWorkspace, bytes, nullptr);
  });
  step([&] {
    plan->quantize_queries(kShape, arguments, codes.keys_values, codes.queries, kWorkspace, bytes,
                           nullptr);
  });
  step([&] {
    plan->attend_codes(kShape, codes.queries, codes.keys_values, arguments, kWorkspace, bytes,
                       nullptr);
  });

  std::optional<KvCache> cache;
  step([&] {
    cache.emplace(*device, KvCacheOptions{.kv_heads = 1, .q_heads = 2},
                  kv_layers("0:KV8, 1:K8V4", {}), fake_source());
  });
  std::optional<Buffer> pages;
  step([&] { pages.emplace(*device, static_cast<std::size_t>(cache->pool_bytes(1, 2))); });
  const KvPool pool{.data = pages->data(), .pages = 2};
  step([&] {
    const TensorView rows = nhd(kK, 1, 3, 128);
    cache->append(1, pool, 3, {.k = rows, .v = rows, .slots = kQ}, stream->handle());
  });
  const decode::Shape steps{.max_pages = 2, .splits = 2};
  std::optional<Buffer> results;
  step([&] { results.emplace(*device, cache->workspace_bytes(1, steps)); });
  step([&] {
    cache->decode(1, pool, steps,
                  {.q = hnd(kQ, 2, 1, 128),
                   .page_table = kMask,
                   .lengths = kBits,
                   .o = hnd(kO, 2, 1, 128)},
                  results->data(), results->bytes(), stream->handle());
  });
  step([&] {
    cache->copy_pages(1, pool, std::vector<std::int64_t>{0}, std::vector<std::int64_t>{1},
                      stream->handle());
  });

  const auto map = attention::ModeMap::parse(
      std::string(attention::kModeMapHead) + "\n*\t" + usual_kernel({.head_dim = 64}).key(), "map");
  step([&] { of_map.emplace(*device, map.kernel_for("any"), fake_source()); });

  step([&] {
    tuned.emplace(*device, usual_kernel(), fake_source(),
                  attention::TuningOptions{.database = world.folder.path() / "tuning",
                                           .warn = [&](const std::string& text) {
                                             witness.warnings.push_back(text);
                                           }});
  });
  step([&] { tuned->prepare(std::span(&kShape, 1)); });
  step([&] { run(tuned->plan_for(kShape)); });

  for (const Deployment deployment : {Deployment::eager, Deployment::graph}) {
    step([&] { stopwatch = make_stopwatch(*device, deployment); });
    step([&] {
      stopwatch->time([&](StreamHandle on) {
        plan->attend(kShape, arguments, kWorkspace, plan->workspace_bytes(kShape), on);
      });
    });
  }
  return witness;
}

// Of what a call may cost that fails and is not told of.
enum class Silent {
  no,
  costs_its_handle,    // destructors
  costs_time,          // a code cache that is not used this time
  costs_the_best,      // sizes of caches and clocks, which a default stands in for
  has_warned,
};
Silent silence_of(const World& world, const Witness& witness, const std::string& call,
                  const std::string& purpose) {
  if (gives_back(purpose)) return Silent::costs_its_handle;
  if (contains_any(witness.warnings, call)) return Silent::has_warned;
  const bool compiles = call.starts_with("cuLink") || call == "cuModuleLoadDataEx" ||
                        call == "cuDriverGetVersion";
  if (world.cache && compiles) return Silent::costs_time;
  return call == "cuDeviceGetAttribute" ? Silent::costs_the_best : Silent::no;
}

void check_untouched(World& world) {
  CHECK(world.driver->live().empty());
  CHECK(world.driver->misuse().empty());
  CHECK(world.driver->current() == world.driver->foreign_context());
}

}  // namespace

TEST_CASE("a life without failures leaves nothing behind") {
  for (const bool with_code_cache : {false, true}) {
    World world(with_code_cache);
    const Witness witness = live(world);
    CHECK(witness.errors.empty());
    CHECK(witness.warnings.empty());
    check_untouched(world);
    const auto& calls = world.driver->calls();
    for (const char* call : {"cuGraphLaunch", "cuTensorMapEncodeTiled", "cuFuncSetAttribute"})
      CHECK(std::ranges::count(calls, call) > 0);
    CHECK((std::ranges::count(calls, "cuLinkComplete") > 0) == with_code_cache);
  }
}

TEST_CASE("every call of a life that fails is told, costs nothing else, and leaves objects that work") {
  const Result results[] = {Result::out_of_memory, Result::launch_failed, Result::invalid_context,
                            Result{1234}};
  for (const bool with_code_cache : {false, true}) {
    World reference(with_code_cache);
    const int first = reference.driver->call_count() + 1;
    live(reference);
    const std::vector<std::string>& calls = reference.driver->calls();
    World world(with_code_cache);
    REQUIRE(world.driver->call_count() + 1 == first);
    int told = 0;
    for (int n = first; n <= static_cast<int>(calls.size()); ++n) {
      const Result result = results[n % 4];
      const std::string& call = calls[static_cast<std::size_t>(n - 1)];
      const std::string purpose = purpose_of(calls, static_cast<std::size_t>(n - 1));
      INFO("call " << n << " of " << calls.size() << ": " << call << " for " << purpose
                   << (with_code_cache ? ", with a code cache" : ""));
      if (with_code_cache) world.renew_cache();
      world.driver = std::make_shared<FakeDriver>();
      world.driver->set_compute_capability(90);
      world.driver->set_compiles(with_code_cache);
      while (world.driver->call_count() + 1 < first)
        world.driver->set_current(world.driver->foreign_context());
      world.driver->fail_call(n, result);
      const Witness witness = live(world);

      if (!witness.errors.empty()) {
        ++told;
        REQUIRE(witness.errors.size() == 1);
        const DriverError& error = witness.errors.front();
        CHECK(error.call() == call);
        CHECK(error.result() == static_cast<int>(result));
        CHECK_THAT(error.what(), Contains(call) && Contains(world.driver->result_name(result)));
        check_untouched(world);
      } else {
        const Silent silence = silence_of(world, witness, call, purpose);
        CHECK(silence != Silent::no);
        if (silence == Silent::costs_its_handle) {
          CHECK(world.driver->live().size() <= 1);
          CHECK(world.driver->misuse().empty());
          // Restoring is the one thing that cannot be done in another way if it fails.
          if (call != "cuCtxSetCurrent")
            CHECK(world.driver->current() == world.driver->foreign_context());
        } else {
          check_untouched(world);
        }
      }
      // New ones work, too.
      world.driver->set_current(world.driver->foreign_context());
      const std::size_t lost = world.driver->live().size();
      const Witness again = live(world);
      CHECK(again.errors.empty());
      CHECK(again.warnings.empty());
      CHECK(world.driver->live().size() == lost);
    }
    CHECK(told > 100);
  }
}

namespace {

std::shared_ptr<FakeDriver> driver_in_foreign_context() {
  auto driver = std::make_shared<FakeDriver>();
  driver->set_compute_capability(90);
  driver->set_current(driver->foreign_context());
  return driver;
}

}  // namespace

TEST_CASE("nothing is kept if the caller's context is lost meanwhile") {
  const auto create = [](const Device& device, int what) {
    if (what == 0) Buffer(device, 256);
    if (what == 1) Stream{device};
    if (what == 2) Event{device};
    if (what == 3) runtime::Kernel(device, fake_ptx("k", 8), "k", 128, 0, 8);
  };
  for (int what = 0; what < 4; ++what) {
    INFO("object " << what);
    int restoring = 0;  // number of the call that makes the caller's context current again
    for (const bool lost : {false, true}) {
      const auto driver = driver_in_foreign_context();
      const Device device(driver, 0);
      const int before = driver->call_count();
      if (!lost) {
        create(device, what);
        int switches = 0;  // the second restores
        for (int n = before; n < driver->call_count() && restoring == 0; ++n) {
          if (driver->calls()[static_cast<std::size_t>(n)] != "cuCtxSetCurrent") continue;
          if (++switches == 2) restoring = n + 1;
        }
        REQUIRE(restoring > 0);
        continue;
      }
      driver->lose_contexts(restoring);
      CHECK_THROWS_AS(create(device, what), DriverError);
      CHECK(driver->live() == std::vector<std::string>{"primary context"});
      CHECK(driver->misuse().empty());
    }
  }
}

TEST_CASE("a destructor survives that memory ends while its error is put into words") {
  class OutOfMemory : public FakeDriver {
   public:
    std::string last_error_detail() const override {
      if (no_memory) throw std::bad_alloc();
      return FakeDriver::last_error_detail();
    }
    bool no_memory = false;
  };
  const auto driver = std::make_shared<OutOfMemory>();
  {
    const Device device(driver, 0);
    const Buffer buffer(device, 16);
    driver->fail_call(driver->call_count() + 1, Result::invalid_context);
    driver->no_memory = true;
  }
  CHECK(driver->calls().back() == "cuDevicePrimaryCtxRelease");
}

TEST_CASE("a failed launch says which kernel and grid") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  const runtime::Kernel kernel(device, fake_ptx("some_kernel", 8), "some_kernel", 128, 0, 8);
  CHECK_THROWS_WITH(
      kernel.launch(Dim3{1, 70000, 1}, std::uint64_t{5}, nullptr),
      Contains("cuLaunchKernel") && Contains("some_kernel") && Contains("(1, 70000, 1)"));
}

TEST_CASE("the JIT's log is part of the error") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  driver->reject_ptx("ptxas fatal: unexpected instruction at line 7");
  CHECK_THROWS_WITH(
      runtime::Kernel(device, fake_ptx("k", 8), "k", 128, 0, 8),
      Contains("cuModuleLoadDataEx") && Contains("kernel k") && Contains("at line 7"));
}

TEST_CASE("PTX that is too new for the driver says so") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  driver->reject_ptx("ptxas fatal: unsupported .version 9.9", Result::unsupported_ptx_version);
  CHECK_THROWS_WITH(
      runtime::Kernel(device, fake_ptx("k", 8), "k", 128, 0, 8),
      Contains(".version 9.9") && Contains("CUDA 13.0") && Contains("update the driver"));
  driver->set_cuda_version(12020, 82);
  driver->reject_ptx("");
  CHECK_THROWS_WITH(runtime::Kernel(device, fake_ptx("k", 8), "k", 128, 0, 8),
                    Contains("of version 8.4, which drivers of CUDA 12.4 and later compile") &&
                        Contains("(CUDA 12.2): update the driver"));
}
