// 8 threads that make, use and destroy everything at once, on a driver that executes nothing and in the emulator. By
// itself it looks for crashes, leaks and for what is done twice; built with the thread sanitizer, for races.
#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <filesystem>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "sagegen/attention.h"
#include "sagegen/runtime/code_cache.h"
#include "sagegen/runtime/emulator.h"
#include "sagegen/runtime/stopwatch.h"
#include "tests/driver/buffers.h"
#include "tests/driver/fake_plan.h"
#include "tests/tune/temporary_folder.h"

using namespace sagegen;
using namespace sagegen::test;
using tests::TemporaryFolder;

namespace {

constexpr int kThreads = 8, kRounds = 12;
const attention::Shape kShape{.batch = 1, .q_heads = 2, .kv_heads = 1, .q_len = 20, .kv_len = 30};

// Assertions are for one thread: the others collect.
class Failures {
 public:
  void add(const std::string& text) {
    const std::scoped_lock lock(mutex_);
    texts_.push_back(text);
  }
  std::vector<std::string> texts() {
    const std::scoped_lock lock(mutex_);
    return texts_;
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> texts_;
};

// work(thread, round), each thread in its own time.
template <typename Work>
std::vector<std::string> at_once(int rounds, Work work) {
  Failures failures;
  std::atomic<int> waiting{kThreads};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      --waiting;
      while (waiting > 0) std::this_thread::yield();
      try {
        for (int round = 0; round < rounds; ++round) work(t, round);
      } catch (const std::exception& error) {
        failures.add(error.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return failures.texts();
}

std::vector<sagegen::Kernel> kernels() {
  std::vector<sagegen::Kernel> all;
  for (const int head_dim : {64, 128}) {
    for (const bool causal : {false, true})
      all.push_back(usual_kernel({.head_dim = head_dim, .causal = causal}));
  }
  return all;
}

TuningEntry entry_of(const Device& device, const std::string& schedule, int round) {
  TuningEntry entry = tuning_entry(device, usual_kernel(), kShape, schedule);
  entry.conditions = std::to_string(round);
  return entry;
}

}  // namespace

TEST_CASE("8 threads plan, load, run and time on one driver, and each kernel is compiled once") {
  const TemporaryFolder folder;
  const auto driver = std::make_shared<FakeDriver>();
  driver->set_compiles(true);
  Failures warnings;
  const auto warn = [&](const std::string& text) { warnings.add(text); };
  const auto cache = std::make_shared<CodeCache>(
      CodeCacheOptions{.folder = folder.path() / "code", .warn = warn});
  const std::vector<sagegen::Kernel> all = kernels();
  {
    const Device shared(driver, 0, cache);
    const TuningDatabase database(folder.path() / "tuning");
    database.store(entry_of(shared, "q64k64w4s2", 0));
    attention::TunedPlan tuned(shared, usual_kernel(), fake_source(),
                               {.database = database.folder(), .warn = warn});
    const attention::Plan one(shared, usual_kernel(), fake_source());
    const auto failures = at_once(kRounds, [&](int t, int round) {
      const Device own(driver, 0, cache);
      const Device& device = round % 2 == 0 ? own : shared;
      const auto run = [&](const attention::Plan& plan, int head_dim, StreamHandle stream) {
        plan.run(kShape, plain_arguments(kShape, head_dim), kWorkspace,
                 plan.workspace_bytes(kShape), stream);
      };
      Stream stream(device);
      const sagegen::Kernel& kernel = all[static_cast<std::size_t>(t + round) % all.size()];
      const attention::Plan plan(device, kernel,
                                 round % 3 == 0 ? embedded_ptx() : fake_source());
      run(plan, kernel.view(attention::family()).spec.head_dim, stream.handle());
      run(one, 128, stream.handle());
      attention::Shape other = kShape;
      other.kv_len = 1 << (1 + (t + round) % 12);
      tuned.prepare(std::vector{kShape, other});
      run(tuned.plan_for(round % 2 == 0 ? kShape : other), 128, stream.handle());
      const Buffer buffer = upload(device, std::vector<int>{t, round});
      if (download<int>(buffer) != std::vector<int>{t, round})
        throw std::runtime_error("a buffer holds what another thread wrote");
      if (round == 1) {
        make_stopwatch(device, t % 2 == 0 ? Deployment::eager : Deployment::graph)
            ->time([&](StreamHandle on) { run(one, 128, on); });
      }
      database.store(entry_of(device, t % 2 == 0 ? "q64k64w4s2" : "q128k64w4s2", round));
      const TuningDatabase::Found found = database.find(entry_of(device, "q64k64w4s2", 0).key);
      if (!found.entry) throw std::runtime_error("an entry is gone: " + found.warning);
      stream.synchronize();
    });
    INFO((failures.empty() ? "" : failures.front()));
    CHECK(failures.empty());
    const auto compiled = std::ranges::count(driver->calls(), "cuLinkComplete");
    // Every text once: no two threads, and no second life of a kernel, compile one again.
    CHECK(static_cast<std::size_t>(compiled) == cache->list().size());
    CHECK(compiled > 8);
  }
  CHECK(warnings.texts().empty());
  CHECK(driver->live().empty());
  CHECK(driver->misuse().empty());
}

TEST_CASE("8 threads share a code cache that is damaged and trimmed while they use it") {
  const TemporaryFolder folder;
  std::atomic<int> warned{0};
  const auto cache = std::make_shared<CodeCache>(
      CodeCacheOptions{.folder = folder.path(), .most_bytes = 4000, .warn = [&](const std::string&) {
                         ++warned;
                       }});
  const auto driver = std::make_shared<FakeDriver>();
  driver->set_compiles(true);
  const auto failures = at_once(40, [&](int t, int round) {
    const Device device(driver, 0, cache);
    const std::string entry = "kernel_" + std::to_string((3 * t + round) % 10);
    const std::string ptx = fake_ptx(entry, 8);
    const runtime::Kernel kernel(device, ptx, entry, 128, 0, 8);
    kernel.launch(Dim3{1, 1, 1}, std::uint64_t{5}, nullptr);
    std::error_code gone;  // another thread has removed it
    if (round % 10 == 9)
      std::filesystem::resize_file(
          cache->file_of({.ptx = ptx, .capability = 89, .cuda = 13000, .build = {}}), 50, gone);
    if (round == 20) cache->list();
    if (round == 30 && t == 0) cache->clear();
  });
  INFO((failures.empty() ? "" : failures.front()));
  CHECK(failures.empty());
  CHECK(driver->live().empty());
  CHECK(driver->misuse().empty());
}

TEST_CASE("8 threads run an attention of their own on one emulated device") {
  EmulatorOptions options;
  options.threads = 2;
  const Device device(make_emulator(options), static_cast<int>(EmulatorProfile::sm_89));
  const sagegen::Kernel kernel = usual_kernel({.head_dim = 64});
  const attention::Plan shared(device, kernel, embedded_ptx());
  const attention::Shape shape{
      .batch = 1, .q_heads = 1, .kv_heads = 1, .q_len = 5, .kv_len = 7};
  const auto failures = at_once(1, [&](int t, int) {
    const attention::Plan own(device, kernel, embedded_ptx());
    const attention::Plan& plan = t % 2 == 0 ? own : shared;
    // Ones: each row of O is the mean of the rows of V.
    const std::vector<std::uint16_t> ones(7 * 64, 0x3c00), zeros(7 * 64, 0);
    const Buffer q = upload(device, ones), k = upload(device, ones), v = upload(device, ones);
    const Buffer o = upload(device, zeros);
    const Buffer workspace(device, plan.workspace_bytes(shape));
    const Stream stream(device);
    plan.run(shape,
             {.q = hnd(q.data(), 1, 5, 64),
              .k = hnd(k.data(), 1, 7, 64),
              .v = hnd(v.data(), 1, 7, 64),
              .o = hnd(o.data(), 1, 5, 64)},
             workspace.data(), workspace.bytes(), stream.handle());
    stream.synchronize();
    const auto result = download<std::uint16_t>(o);
    for (std::size_t i = 0; i < 5 * 64; ++i) {
      if (result[i] != 0x3c00) throw std::runtime_error("a row of O is not the mean of V");
    }
  });
  INFO((failures.empty() ? "" : failures.front()));
  CHECK(failures.empty());
}
