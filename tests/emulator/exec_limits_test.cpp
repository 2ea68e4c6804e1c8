// What ends a launch that is too long: EmulatorOptions::launch_limit and interrupt.

#include <catch2/catch.hpp>

#include <atomic>
#include <chrono>
#include <thread>

#include "runtime/emulator/exec/launch_budget.h"
#include "tests/emulator/exec_fixture.h"

namespace sagegen::emulator::test {
namespace {

using Catch::Matchers::Contains;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

// A loop of as many turns as the number of the CTA, and then so many.
constexpr const char* kUneven = R"(
    mov.u32 %w1, %ctaid.x; add.u32 %w1, %w1, 1;
    $loop: sub.u32 %w1, %w1, 1; setp.ne.u32 %p1, %w1, 0; @%p1 bra $loop;)";

LaunchReport run(const std::string& body, unsigned blocks, u64 limit, int threads = 1) {
  Bench bench;
  bench.options.launch_limit = limit;
  bench.options.threads = threads;
  bench.kernel(body, 0);
  return bench.run(blocks, 32, {});
}

}  // namespace

TEST_CASE("a huge grid of empty kernels ends at the limit of the launch") {
  const LaunchReport report = run("", 4'000'000'000u, 1'000'000);
  REQUIRE(only_check(report) == "launch-limit");
  // One instruction and the start: the limit is passed in CTA 3891.
  CHECK_THAT(report.findings[0].message, Contains("3892 of 4000000000 CTAs") &&
                                             Contains("more than 1000000 warp instructions") &&
                                             Contains("EmulatorOptions::launch_limit"));
  CHECK(report.findings[0].cta[0] == 3891);
  CHECK(only_check(run("", 3891, 1'000'000)) == "");
  CHECK(only_check(run("", 20'000, 0)) == "");  // no limit
}

TEST_CASE("the limit of a launch is passed at the same CTA for any number of threads") {
  const LaunchReport alone = run(kUneven, 1000, 200'000);
  REQUIRE(only_check(alone) == "launch-limit");
  for (int repeat = 0; repeat < 5; ++repeat) {
    const LaunchReport report = run(kUneven, 1000, 200'000, 4);
    CHECK(messages(report) == messages(alone));
    CHECK(report.findings.at(0).cta[0] == alone.findings[0].cta[0]);
  }
  // What CTAs behind it would report does not hide it; what is found before it comes first.
  const std::string late =
      std::string("mov.u32 %w2, %ctaid.x; setp.eq.u32 %p2, %w2, LATE; @%p2 trap;\n");
  const auto trap_at = [&](const char* cta) {
    std::string text = late;
    return text.replace(text.find("LATE"), 4, cta) + kUneven;
  };
  for (const int threads : {1, 4}) {
    CHECK(only_check(run(trap_at("999"), 1000, 200'000, threads)) == "launch-limit");
    CHECK(only_check(run(trap_at("3"), 1000, 200'000, threads)) == "trap");
  }
}

TEST_CASE("a single CTA does not outlive the limit of its launch") {
  const LaunchReport report = run("$loop: bra $loop;", 1, 50'000);
  CHECK(only_check(report) == "instruction-limit");
  CHECK_THAT(report.findings[0].message, Contains("executed 50000 warp instructions") &&
                                             Contains("EmulatorOptions::launch_limit"));
}

TEST_CASE("CTAs that end out of order are charged in order") {
  LaunchBudget budget(4 * LaunchBudget::kCtaInstructions);
  CHECK_FALSE(budget.spend(2, 100'000).has_value());  // 0 and 1 may pass it yet
  CHECK_FALSE(budget.spend(1, 0).has_value());
  CHECK_FALSE(budget.passed().has_value());
  CHECK(budget.spend(0, 0) == 2u);
  CHECK(budget.spend(3, 0) == 2u);
}

TEST_CASE("a launch can be interrupted, and the next one runs") {
  for (const int threads : {1, 3}) {
    Bench bench;
    const auto interrupt = std::make_shared<std::atomic<bool>>(false);
    bench.options.interrupt = interrupt;
    bench.options.threads = threads;
    bench.options.instruction_limit = ~u64{0};
    bench.kernel("$loop: bra $loop;", 0);
    std::thread later([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      interrupt->store(true);
    });
    const LaunchReport report = bench.run(8, 64, {});
    later.join();
    CHECK(only_check(report) == "interrupted");
    CHECK_THAT(report.findings[0].message, Contains("EmulatorOptions::interrupt"));
    CHECK(report.findings[0].ptx_line > 0);
    CHECK(only_check(bench.run(8, 64, {})) == "interrupted");  // still set
    interrupt->store(false);
    bench.kernel("", 0);
    CHECK(only_check(bench.run(8, 64, {})) == "");
  }
}

TEST_CASE("a launch tells how many of its CTAs have ended") {
  const auto progress = std::make_shared<runtime::LaunchProgress>();
  Bench bench;
  bench.options.progress = progress;
  bench.options.threads = 2;
  bench.kernel(kUneven, 0);
  for (const unsigned blocks : {40u, 7u}) {
    REQUIRE(bench.run(blocks, 32, {}).findings.empty());
    CHECK(progress->ctas == blocks);
    CHECK(progress->ended == blocks);
  }
}

}  // namespace sagegen::emulator::test
