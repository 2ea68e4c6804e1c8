// 8 threads in the C API at once: devices of their own and a shared one, behind a libcuda.so.1 of ours and in the
// emulator. As driver_threads_test, it is worth most when built with the thread sanitizer.
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "sagegen/sagegen.h"
#include "tests/driver/fake_cuda.h"
#include "tests/tune/temporary_folder.h"

using namespace sagegen::test;
using sagegen::tests::TemporaryFolder;

namespace {

constexpr int kThreads = 8, kRounds = 6;
constexpr std::uint64_t kFar = std::uint64_t{1} << 48;
constexpr sagegen_shape kShape = {sizeof(sagegen_shape), 1, 2, 1, 20, 30, 0, 0};

// Of the calling thread; throws the text of a call that fails.
void need(sagegen_status status) {
  if (status != SAGEGEN_OK) throw std::runtime_error(sagegen_last_error());
}

sagegen_attention* make_attention(sagegen_device* device, int head_dim) {
  sagegen_attention_options options;
  std::memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  const std::string kernel = "head_dim=" + std::to_string(head_dim);
  options.kernel = kernel.c_str();
  sagegen_attention* made = nullptr;
  need(sagegen_attention_create(device, &options, &made));
  return made;
}

void run(const sagegen_attention* attention, int head_dim) {
  const auto tensor = [&](std::uint64_t place, std::int64_t heads, std::int64_t rows) {
    return sagegen_tensor{place * kFar, heads * rows * head_dim, rows * head_dim, head_dim};
  };
  sagegen_arguments arguments;
  std::memset(&arguments, 0, sizeof arguments);
  arguments.struct_size = sizeof arguments;
  arguments.q = tensor(1, 2, 20);
  arguments.k = tensor(2, 1, 30);
  arguments.v = tensor(3, 1, 30);
  arguments.o = tensor(4, 2, 20);
  std::size_t bytes = 0;
  need(sagegen_attention_workspace_bytes(attention, &kShape, &bytes));
  need(sagegen_attention_run(attention, &kShape, &arguments, 5 * kFar, bytes, nullptr));
}

void memory(sagegen_device* device, int value) {
  std::uint64_t address = 0;
  need(sagegen_memory_alloc(device, sizeof value, &address));
  need(sagegen_memory_upload(device, address, &value, sizeof value));
  int back = 0;
  need(sagegen_memory_download(device, &back, address, sizeof back));
  need(sagegen_memory_free(device, address));
  if (back != value) throw std::runtime_error("memory holds what another thread wrote");
}

}  // namespace

TEST_CASE("8 threads share the C API") {
  const TemporaryFolder folder;
  setenv("SAGEGEN_CODE_CACHE", (folder.path() / "code").c_str(), 1);
  setenv("SAGEGEN_CACHE_DIR", folder.path().c_str(), 1);
  FakeDriver& driver = fake_cuda();
  driver.set_compiles(true);
  std::atomic<int> messages{0};
  sagegen_on_message(
      [](void* user, const char*) { ++*static_cast<std::atomic<int>*>(user); }, &messages);
  sagegen_device *shared = nullptr, *emulated = nullptr;
  REQUIRE(sagegen_device_create("cuda:0", &shared) == SAGEGEN_OK);
  REQUIRE(sagegen_device_create("emulator:sm_89", &emulated) == SAGEGEN_OK);
  sagegen_attention* const attention = make_attention(shared, 64);

  std::mutex mutex;
  std::vector<std::string> failures;
  const auto work = [&](int t, int round) {
    const int head_dim = (t + round) % 2 == 0 ? 64 : 128;
    sagegen_device* own = nullptr;
    need(sagegen_device_create("cuda:0", &own));
    sagegen_attention* const mine = make_attention(round % 2 == 0 ? own : shared, head_dim);
    run(mine, head_dim);
    run(attention, 64);
    sagegen_shape other = kShape;
    other.kv_len = 1 << (1 + (t + round) % 10);
    need(sagegen_attention_prepare(attention, &other, 1));
    memory(own, 100 * t + round);
    memory(shared, 100 * t + round);
    memory(emulated, 100 * t + round);
    need(sagegen_device_synchronize(shared));
    // The text of an error is the thread's own.
    const std::string name = "cuda:" + std::to_string(1000 + t);
    sagegen_device* none = nullptr;
    if (sagegen_device_create(name.c_str(), &none) == SAGEGEN_OK ||
        std::string(sagegen_last_error()).find(std::to_string(1000 + t)) == std::string::npos)
      throw std::runtime_error("the error of another thread");
    sagegen_attention_destroy(mine);
    sagegen_device_destroy(own);
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      try {
        for (int round = 0; round < kRounds; ++round) work(t, round);
      } catch (const std::exception& error) {
        const std::scoped_lock lock(mutex);
        failures.emplace_back(error.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  INFO((failures.empty() ? "" : failures.front()));
  CHECK(failures.empty());
  CHECK(messages == 0);
  sagegen_attention_destroy(attention);
  sagegen_device_destroy(emulated);
  sagegen_device_destroy(shared);
  sagegen_on_message(nullptr, nullptr);
  CHECK(driver.live().empty());
  CHECK(driver.misuse().empty());
}
