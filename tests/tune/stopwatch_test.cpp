// Timing on the fake driver, which executes nothing and says that everything takes 1.5 ms; and counting in the emulator.
#include "sagegen/runtime/stopwatch.h"

#include <catch2/catch.hpp>

#include "sagegen/runtime/emulator.h"
#include "tests/driver/fake_driver.h"

using namespace sagegen;
using namespace sagegen::test;

namespace {

void time_once(const std::shared_ptr<FakeDriver>& driver, Deployment deployment) {
  const Device device(driver, 0);
  const runtime::Kernel kernel(device, fake_ptx("k", 8), "k", 128, 0, 8);
  const auto stopwatch = make_stopwatch(device, deployment);
  CHECK(stopwatch->unit() == "ns");
  CHECK(!stopwatch->is_exact());
  const double time = stopwatch->time([&](StreamHandle stream) {
    REQUIRE(stream != nullptr);
    kernel.launch({.x = 3}, std::uint64_t{7}, stream);
  });
  CHECK(time == Approx(1.5e6));
}

int count(const std::vector<std::string>& calls, const std::string& name) {
  return static_cast<int>(std::count(calls.begin(), calls.end(), name));
}

}  // namespace

TEST_CASE("Eager launches are flushed before, timed one by one, and leave nothing behind",
          "[stopwatch]") {
  const auto driver = std::make_shared<FakeDriver>();
  time_once(driver, Deployment::eager);
  // 4 ms of runs of 1.5 ms are fewer than 3, and one told that.
  CHECK(driver->launches().size() == 4);
  CHECK(count(driver->calls(), "cuMemsetD8Async") == 4);
  CHECK(driver->live().empty());
  CHECK(driver->misuse().empty());
}

TEST_CASE("A graph is captured once and replayed", "[stopwatch]") {
  const auto driver = std::make_shared<FakeDriver>();
  time_once(driver, Deployment::graph);
  CHECK(driver->launches().size() == 1);
  CHECK(count(driver->calls(), "cuGraphLaunch") == 4);
  CHECK(driver->live().empty());
  CHECK(driver->misuse().empty());
}

TEST_CASE("Every driver call of a timing fails once: it is told, and nothing leaks",
          "[stopwatch]") {
  for (const Deployment deployment : {Deployment::eager, Deployment::graph}) {
    const auto whole = std::make_shared<FakeDriver>();
    time_once(whole, deployment);
    int told = 0;
    for (int call = 1; call <= whole->call_count(); ++call) {
      const auto driver = std::make_shared<FakeDriver>();
      driver->fail_call(call, Result::launch_failed);
      INFO(call << ": " << whole->calls()[static_cast<std::size_t>(call - 1)]);
      try {
        time_once(driver, deployment);
      } catch (const DriverError& error) {
        ++told;
      }
      // A handle whose destruction fails is the driver's.
      CHECK(driver->live().size() <= 1);
      CHECK(driver->misuse().empty());
    }
    CHECK(told > whole->call_count() / 2);
  }
}

TEST_CASE("The emulator counts instructions, the same every time, and times no graphs",
          "[stopwatch]") {
  const auto emulator = make_emulator();
  const Device device(emulator, 2);
  const auto stopwatch = make_stopwatch(device, Deployment::eager);
  CHECK(stopwatch->unit() == "instructions");
  CHECK(stopwatch->is_exact());
  const runtime::Kernel kernel(device,
                               ".version 8.0\n.target sm_80\n.address_size 64\n"
                               ".visible .entry k(.param .align 8 .b8 p[8])\n{\n  ret;\n}\n",
                               "k", 32, 0, 8);
  const auto launches = [&](int times) {
    return stopwatch->time([&](StreamHandle stream) {
      for (int i = 0; i < times; ++i) kernel.launch({.x = 5}, std::uint64_t{0}, stream);
    });
  };
  CHECK(launches(1) == 5);
  CHECK(launches(3) == 15);
  CHECK(emulator->warp_instructions() == 20);
  CHECK_THROWS_AS(make_stopwatch(device, Deployment::graph), ArgumentError);
}
