// Order between the CTAs of a grid: patterns that publish data with an atomic between two fences pass, and
// each fence, barrier or wait that is taken away is reported.

#include <catch2/catch.hpp>

#include "tests/emulator/exec_fixture.h"

namespace sagegen::emulator::test {
namespace {

using u32 = std::uint32_t;

constexpr unsigned kCtas = 5, kThreads = 64;

// %d20: an array of one word per thread of the grid; %d21: counters and flags, all 0; %d22: the result.
constexpr const char* kPreamble = R"(
    mov.u32 %w1, %tid.x; mov.u32 %w2, %ctaid.x; setp.eq.u32 %p1, %w1, 0;
    mad.lo.u32 %w3, %w2, 64, %w1; mul.wide.u32 %d1, %w3, 4; add.u64 %d1, %d1, %d20;
    mul.wide.u32 %d2, %w1, 4; add.u64 %d3, %d2, %d20; add.u64 %d4, %d2, %d22; mov.b64 %d5, s;
)";

struct Outcome {
  std::string check, message;
  std::vector<u32> result;
};

Outcome run(const std::string& body) {
  Bench bench;
  bench.kernel(kPreamble + body, 3, ".shared .align 16 .b8 s[16];");
  const Address words = bench.upload(std::vector<u32>(kCtas * kThreads, 0));
  const Address flags = bench.upload(std::vector<u32>(64, 0));
  const Address result = bench.memory.allocate(kThreads * 4);
  const LaunchReport report = bench.run(kCtas, kThreads, {words, flags, result});
  if (!report.findings.empty()) return {report.findings[0].check, messages(report), {}};
  return {"", "", bench.download<u32>(result, kThreads)};
}

// Every CTA writes its words and counts itself; the last one adds up all words.
struct LastBlock {
  std::string after_write = "";  // by all threads
  std::string barrier = "bar.sync 0;";
  std::string count = "atom.global.add.u32";  // by thread 0; its fences are in front and behind
  std::string before_count = "", after_count = "";
  std::string late_write = "";
  std::string before_read = "";
  std::string leave = "@%p2 ret;";  // unless it is the last
  std::string finish = "";

  std::string body() const {
    return "st.global.b32 [%d1], %w3;\n" + after_write + "\n" + barrier + "\n@!%p1 bra $wait;\n" +
           before_count + "\n" + count + " %w4, [%d21], 1; st.shared.b32 [%d5], %w4;\n" +
           after_count + "\n$wait:\n" + late_write + R"(
      bar.sync 0;
      ld.shared.b32 %w5, [%d5]; setp.ne.u32 %p2, %w5, 4;
      )" + leave +
           before_read + R"(
      ld.global.b32 %w6, [%d3]; ld.global.b32 %w7, [%d3+256]; add.u32 %w6, %w6, %w7;
      ld.global.b32 %w7, [%d3+512]; add.u32 %w6, %w6, %w7;
      ld.global.b32 %w7, [%d3+768]; add.u32 %w6, %w6, %w7;
      ld.global.b32 %w7, [%d3+1024]; add.u32 %w6, %w6, %w7;
      st.global.b32 [%d4], %w6;
      )" + finish;
  }
};

void check_passes(const LastBlock& kernel) {
  const Outcome outcome = run(kernel.body());
  INFO(kernel.body() << outcome.message);
  REQUIRE(outcome.check == "");
  for (u32 i = 0; i < kThreads; ++i) REQUIRE(outcome.result[i] == 5 * i + 64 * (0 + 1 + 2 + 3 + 4));
}

void check_races(const LastBlock& kernel) {
  const Outcome outcome = run(kernel.body());
  INFO(kernel.body() << outcome.message);
  CHECK(outcome.check == "race");
  CHECK_THAT(outcome.message, Catch::Contains("no atomic with a fence before it"));
}

}  // namespace

TEST_CASE("a last-block reduction passes with its fences") {
  for (const char* fence : {"membar.gl;", "membar.sys;", "fence.acq_rel.gpu;", "fence.sc.sys;"}) {
    check_passes({.before_count = fence, .after_count = fence});  // by the thread that counts
    check_passes({.after_write = fence, .before_read = fence});   // by every thread
    check_passes({.before_count = fence, .before_read = fence});
    check_passes({.after_write = fence, .after_count = fence});
  }
  check_passes({.count = "atom.acq_rel.gpu.global.add.u32"});
  check_passes({.count = "atom.release.gpu.global.add.u32", .before_read = "membar.gl;"});
  // The last block may reuse the counter: all others are done with it.
  check_passes({.before_count = "membar.gl;",
                .after_count = "membar.gl;",
                .finish = "@%p1 st.global.b32 [%d21], 0;"});
}

TEST_CASE("a last-block reduction that lacks one of them is a race") {
  const std::string fence = "fence.acq_rel.gpu;";
  check_races({});
  check_races({.before_count = fence});
  check_races({.after_count = fence});
  check_races({.before_read = fence});
  for (const char* narrow : {"membar.cta;", "fence.acq_rel.cta;", "fence.sc.cluster;"}) {
    check_races({.before_count = narrow, .after_count = fence});
    check_races({.before_count = fence, .after_count = narrow});
  }
  check_races({.count = "atom.relaxed.gpu.global.add.u32"});
  check_races({.count = "atom.release.gpu.global.add.u32"});
  check_races({.count = "atom.acquire.gpu.global.add.u32"});
  check_races({.count = "atom.acq_rel.cta.global.add.u32"});
  // Without the barrier thread 0 counts before other warps have written.
  check_races({.barrier = "", .before_count = fence, .after_count = fence});
  check_races({.after_write = fence, .barrier = "", .after_count = fence});
  // What comes behind the count is not published by it.
  check_races(
      {.before_count = fence, .after_count = fence, .late_write = "st.global.b32 [%d1], %w3;"});
  // A block that does not wait for the last reads what others have yet to write.
  check_races({.before_count = fence, .after_count = fence, .leave = ""});
  check_races({.after_count = fence, .finish = "@%p1 st.global.b32 [%d21], 0;"});
}

TEST_CASE("a chain of flags orders a CTA behind all before it") {
  // Each CTA but the first waits for the flag of the one before it, adds the words of that one and of the
  // first to its own, and sets its own flag.
  const auto chain = [](const std::string& wait, const std::string& acquire,
                        const std::string& release, const std::string& set) {
    return run(R"(
      setp.eq.u32 %p2, %w2, 0; mul.wide.u32 %d6, %w2, 4; add.u64 %d6, %d6, %d21; mov.b32 %w6, 0;
      @%p2 bra $first;
      $again: )" +
               wait + R"( setp.eq.u32 %p3, %w5, 0; @%p3 bra $again;
      )" + acquire +
               R"( bar.sync 0;
      ld.global.b32 %w6, [%d1+-256]; ld.global.b32 %w7, [%d3]; add.u32 %w6, %w6, %w7;
      $first: add.u32 %w6, %w6, %w3; st.global.b32 [%d1], %w6;
      setp.eq.u32 %p4, %w2, 4; @%p4 st.global.b32 [%d4], %w6;
      bar.sync 0; )" +
               release + " @%p1 " + set);
  };
  const std::string poll = "atom.global.or.b32 %w5, [%d6+-4], 0;", fence = "fence.acq_rel.gpu;";
  const std::string set = "atom.global.exch.b32 %w8, [%d6], 1;";
  const auto expect = [](const Outcome& outcome) {
    INFO(outcome.message);
    REQUIRE(outcome.check == "");
    for (u32 i = 0; i < kThreads; ++i) {
      u32 sum = i;  // of CTA 0
      for (u32 cta = 1; cta < kCtas; ++cta) sum += i + cta * 64 + i;
      REQUIRE(outcome.result[i] == sum);
    }
  };
  expect(chain(poll, fence, fence, set));
  expect(chain("ld.acquire.gpu.global.b32 %w5, [%d6+-4];", "", "",
               "st.release.gpu.global.b32 [%d6], 1;"));
  expect(chain("ld.volatile.global.b32 %w5, [%d6+-4];", fence, fence, set));
  CHECK(chain(poll, "", fence, set).check == "race");
  CHECK(chain(poll, fence, "", set).check == "race");
  CHECK(chain("ld.acquire.cta.global.b32 %w5, [%d6+-4];", "", "",
              "st.release.gpu.global.b32 [%d6], 1;")
            .check == "race");
  CHECK(chain("ld.acquire.gpu.global.b32 %w5, [%d6+-4];", "", fence, "st.global.b32 [%d6], 1;")
            .check == "race");
}

}  // namespace sagegen::emulator::test
