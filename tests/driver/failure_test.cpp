// Every driver call of a whole session fails once. Whatever fails: the error names it, nothing
// leaks, and the caller's context is current again.
#include <catch2/catch.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tests/driver/fake_plan.h"

using namespace sagegen;
using namespace sagegen::test;
using Catch::Matchers::Contains;

namespace {

// Calls everything that the runtime offers. `teardown` is where destructors start.
void session(const std::shared_ptr<FakeDriver>& driver, int* teardown) {
  const Device device(driver, 0);
  device.name();
  device.total_memory();
  Buffer buffer(device, 256);
  make_tensor_map(device,
                  {.rank = 2, .base = 0x1000, .shape = {16, 16}, .strides = {16}, .box = {16, 16}});
  Stream stream(device);
  Event start(device);
  Event end(device);
  const attention::Plan plan(device, usual_kernel(), fake_source());
  // Asks for more shared memory than a block gets without asking.
  const runtime::Kernel large(device, fake_ptx("large", 8), "large", 128, 64 * 1024, 8);
  large.attribute(FunctionAttribute::num_regs);

  std::vector<std::byte> host(256);
  buffer.fill(1);
  buffer.upload(host);
  start.record(stream.handle());
  const attention::Shape shape{.batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 100, .kv_len = 77};
  plan.run(shape, plain_arguments(shape, 128), kWorkspace, plan.workspace_bytes(shape),
           stream.handle());
  end.record(stream.handle());
  end.synchronize();
  end.milliseconds_since(start);
  stream.synchronize();
  buffer.download(host);
  device.synchronize();
  *teardown = driver->call_count();
}

std::shared_ptr<FakeDriver> driver_in_foreign_context() {
  auto driver = std::make_shared<FakeDriver>();
  driver->set_compute_capability(90);
  driver->set_current(driver->foreign_context());
  return driver;
}

}  // namespace

TEST_CASE("a session without failures leaves nothing behind") {
  const auto driver = driver_in_foreign_context();
  int teardown = 0;
  session(driver, &teardown);
  CHECK(teardown > 50);
  CHECK(driver->call_count() > teardown);
  CHECK(driver->launches().size() == 5);
  CHECK(driver->live().empty());
  CHECK(driver->misuse().empty());
  CHECK(driver->current() == driver->foreign_context());
}

TEST_CASE("every call that fails before the end is reported, and everything is released") {
  const auto reference = driver_in_foreign_context();
  int teardown = 0;
  session(reference, &teardown);
  const Result results[] = {Result::out_of_memory, Result::launch_failed, Result::invalid_context,
                            Result{1234}};
  // Call 1 is the test's own set_current.
  for (int n = 2; n <= teardown; ++n) {
    const Result result = results[n % 4];
    const auto driver = driver_in_foreign_context();
    driver->fail_call(n, result);
    const std::string call = reference->calls()[static_cast<std::size_t>(n - 1)];
    INFO("call " << n << " of " << teardown << ": " << call);
    std::optional<DriverError> error;
    try {
      int unused = 0;
      session(driver, &unused);
    } catch (const DriverError& e) {
      error = e;
    }
    REQUIRE(error.has_value());
    CHECK(error->call() == call);
    CHECK(error->result() == static_cast<int>(result));
    CHECK_THAT(error->what(), Contains(call) && Contains(driver->result_name(result)));
    CHECK(driver->live().empty());
    CHECK(driver->misuse().empty());
    CHECK(driver->current() == driver->foreign_context());
  }
}

TEST_CASE("a call that fails in a destructor is swallowed and costs at most its own handle") {
  const auto reference = driver_in_foreign_context();
  int teardown = 0;
  session(reference, &teardown);
  for (int n = teardown + 1; n <= reference->call_count(); ++n) {
    const auto driver = driver_in_foreign_context();
    driver->fail_call(n, Result::deinitialized);
    const std::string call = reference->calls()[static_cast<std::size_t>(n - 1)];
    INFO("call " << n << ": " << call);
    int unused = 0;
    CHECK_NOTHROW(session(driver, &unused));
    CHECK(driver->live().size() <= 1);
    CHECK(driver->misuse().empty());
    // Restoring is the one thing that cannot be done in another way if it fails.
    if (call != "cuCtxSetCurrent") CHECK(driver->current() == driver->foreign_context());
  }
}

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
