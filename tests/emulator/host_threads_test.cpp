// Work on several host threads, also where the system makes fewer than asked for, or none.
#include "runtime/emulator/exec/host_threads.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <mutex>
#include <set>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <vector>

#include "sagegen/runtime/emulator.h"
#include "tests/few_threads.h"

namespace sagegen::emulator {
namespace {

using test::FewThreads;

// The threads on which run_on_threads(asked) has run its work, each once.
std::size_t threads_of(std::uint32_t asked) {
  std::mutex mutex;
  std::multiset<std::thread::id> ids;
  run_on_threads(asked, [&] {
    const std::lock_guard lock(mutex);
    ids.insert(std::this_thread::get_id());
  });
  CHECK(ids.count(std::this_thread::get_id()) == 1);  // the caller counts as one
  return ids.size();
}

TEST_CASE("work runs on as many threads as asked for, or as can be made") {
  CHECK(threads_of(1) == 1);
  CHECK(threads_of(8) == 8);
  {
    const FewThreads few(0);
    CHECK_THROWS_AS(std::thread([] {}), std::system_error);
    CHECK(threads_of(8) == 1);
  }
  {
    const FewThreads few(2);
    CHECK(threads_of(8) == 3);
  }
  CHECK(threads_of(8) == 8);
}

TEST_CASE("what a thread throws reaches the caller after all have ended") {
  const auto work = [] { throw std::runtime_error("broken"); };
  CHECK_THROWS_WITH(run_on_threads(4, work), "broken");
  const FewThreads few(0);
  CHECK_THROWS_WITH(run_on_threads(4, work), "broken");
}

// out[ctaid] = ctaid
const char* const kKernel = R"(
.version 8.0
.target sm_80
.address_size 64
.visible .entry fill(.param .u64 out)
{
  .reg .b32 %r<2>; .reg .b64 %rd<4>;
  ld.param.b64 %rd1, [out];
  mov.u32 %r1, %ctaid.x;
  mul.wide.u32 %rd2, %r1, 4;
  add.s64 %rd3, %rd1, %rd2;
  st.global.b32 [%rd3], %r1;
  ret;
}
)";

TEST_CASE("a launch does all its CTAs where no thread can be made") {
  constexpr std::uint32_t kCtas = 64;
  runtime::EmulatorOptions options;
  options.threads = 8;
  const auto driver = runtime::make_emulator(options);
  runtime::ContextHandle context = nullptr;
  runtime::ModuleHandle module = nullptr;
  runtime::FunctionHandle function = nullptr;
  runtime::DevicePtr out = 0;
  REQUIRE(driver->init() == runtime::Result::success);
  REQUIRE(driver->primary_context_retain(&context, 0) == runtime::Result::success);
  REQUIRE(driver->set_current(context) == runtime::Result::success);
  REQUIRE(driver->module_load(&module, kKernel, nullptr) == runtime::Result::success);
  REQUIRE(driver->module_function(&function, module, "fill") == runtime::Result::success);
  REQUIRE(driver->mem_alloc(&out, 4 * kCtas) == runtime::Result::success);
  void* params[] = {&out};
  {
    const FewThreads few(GENERATE(0u, 1u));
    CHECK(driver->launch(function, {.x = kCtas, .y = 1, .z = 1}, {.x = 1, .y = 1, .z = 1}, 0,
                         nullptr, params) == runtime::Result::success);
  }
  std::vector<std::uint32_t> host(kCtas);
  REQUIRE(driver->copy_to_host(host.data(), out, 4 * kCtas, nullptr) == runtime::Result::success);
  for (std::uint32_t i = 0; i < kCtas; ++i) CHECK(host[i] == i);
  CHECK(driver->mem_free(out) == runtime::Result::success);
  CHECK(driver->primary_context_release(0) == runtime::Result::success);
}

}  // namespace
}  // namespace sagegen::emulator
