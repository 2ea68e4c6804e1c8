// Races between warps and between CTAs.

#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "runtime/emulator/exec/races.h"
#include "tests/emulator/checks_body.h"

namespace sagegen::emulator::test {
namespace {

using runtime::SchedulePolicy;

}  // namespace

// ---- races in shared memory ----------------------------------------------------------------------

TEST_CASE("races between warps") {
  // Each thread reads what the thread 32 further on wrote.
  std::string other = "xor.b32 %w5, %w1, 32; mul.wide.u32 %d8, %w5, 4; add.u64 %d8, %d8, %d3; ";
  CHECK(check_of(other + "st.shared.b32 [%d4], %w1; bar.sync 0; ld.shared.b32 %w4, [%d8];") == "");
  CHECK(check_of(other + "st.shared.b32 [%d4], %w1; ld.shared.b32 %w4, [%d8];") == "race");
  CHECK(check_of(other + "st.shared.b32 [%d4], %w1; bar.warp.sync -1; ld.shared.b32 %w4, [%d8];") ==
        "race");
  CHECK(check_of(other + "st.shared.b32 [%d4], %w1; bar.sync 0; ld.shared.b32 %w4, [%d8]; "
                         "st.shared.b32 [%d4], 3;") == "race");  // write after read
  CHECK(check_of(other + "st.shared.b32 [%d4], %w1; bar.sync 0; ld.shared.b32 %w4, [%d8]; bar.sync "
                         "0; st.shared.b32 [%d4], 3;") == "");
  CHECK(check_of(other + "st.shared.b32 [%d4], %w1; st.shared.b32 [%d8], %w1;") ==
        "race");                                                             // write after write
  CHECK(check_of("st.shared.b32 [%d3], 7;") == "");                          // all write one value
  CHECK(check_of("mov.b32 %w5, %w3; st.shared.b32 [%d3], %w5;") == "race");  // a value per warp
  // Different bytes of one word are different cells; the same byte is not.
  CHECK(check_of("cvt.u64.u32 %d8, %w1; add.u64 %d8, %d8, %d3; st.shared.b8 [%d8], %w1;", 1, 128) ==
        "");
  CHECK(check_of("and.b32 %w5, %w1, 31; mad.lo.u32 %w5, %w5, 4, %w3; cvt.u64.u32 %d8, %w5; add.u64 "
                 "%d8, %d8, %d3; st.shared.b8 [%d8], %w1;",
                 1, 128) == "");
  CHECK(check_of("and.b32 %w5, %w1, 31; mad.lo.u32 %w5, %w5, 4, %w3; cvt.u64.u32 %d8, %w5; add.u64 "
                 "%d8, %d8, %d3; st.shared.b8 [%d8], %w1; ld.shared.b8 %w4, [%d3+1];",
                 1, 128) == "race");
  // Atomics do not race with each other, but with plain accesses.
  CHECK(check_of("setp.eq.u32 %p1, %w1, 0; @%p1 st.shared.b32 [%d3], 0; bar.sync 0; "
                 "atom.shared.add.u32 %w4, [%d3], 1;") == "");
  CHECK(check_of("setp.eq.u32 %p1, %w1, 0; @%p1 st.shared.b32 [%d3], 0; bar.sync 0; "
                 "atom.shared.add.u32 %w4, [%d3], 1; ld.shared.b32 %w5, [%d3];") == "race");
  CHECK(check_of("setp.eq.u32 %p1, %w1, 0; @%p1 st.shared.b32 [%d3], 0; bar.sync 0; "
                 "atom.shared.add.u32 %w4, [%d3], 1; bar.sync 0; ld.shared.b32 %w5, [%d3];") == "");
  CHECK(check_of("setp.eq.u32 %p1, %w1, 0; @%p1 st.shared.b32 [%d3], 0; bar.sync 0; "
                 "atom.shared.add.u32 %w4, [%d3], 1; ld.volatile.shared.b32 %w5, [%d3];") == "");
}

TEST_CASE("locks and flags with their fences order the warps of a CTA") {
  struct Lock {
    const char *take, *acquire, *release, *give;
  };
  const auto with_lock = [](const Lock& lock, const std::string& lanes) {
    return check_of("setp.eq.u32 %p1, %w1, 0; @%p1 st.shared.v2.b32 [%d3], {0, 0}; bar.sync 0; " +
                        lanes + " $again: " + lock.take +
                        " setp.ne.u32 %p3, %w6, 0; @%p3 bra $again;\n" + lock.acquire +
                        " ld.shared.b32 %w7, [%d3+4]; add.u32 %w7, %w7, 1; st.shared.b32 [%d3+4], "
                        "%w7;\nld.global.b32 %w7, [%d20+4]; add.u32 %w7, %w7, 1; st.global.b32 "
                        "[%d20+4], %w7;\n" +
                        lock.release + lock.give + " $end: ret;",
                    1, 128);
  };
  const char* const kTake = "atom.shared.cas.b32 %w6, [%d3], 0, 1;";
  const char* const kGive = "atom.shared.exch.b32 %w8, [%d3], 0;";
  const char* const kTakeGlobal = "atom.global.cas.b32 %w6, [%d20], 0, 1;";
  const char* const kGiveGlobal = "atom.global.exch.b32 %w8, [%d20], 0;";
  const std::string one_lane = "and.b32 %w5, %w1, 31; setp.ne.u32 %p2, %w5, 0; @%p2 bra $end;";
  const Lock sound[] = {
      {kTake, "membar.cta;", "membar.cta;", kGive},
      {kTake, "membar.gl;", "fence.acq_rel.cta;", "st.volatile.shared.b32 [%d3], 0;"},
      {kTakeGlobal, "membar.cta;", "membar.cta;", kGiveGlobal},
      {kTakeGlobal, "fence.sc.gpu;", "membar.gl;", kGiveGlobal},
      {"atom.acquire.cta.shared.cas.b32 %w6, [%d3], 0, 1;", "", "",
       "atom.release.cta.shared.exch.b32 %w8, [%d3], 0;"},
      {"atom.acq_rel.gpu.global.cas.b32 %w6, [%d20], 0, 1;", "", "",
       "st.release.gpu.global.b32 [%d20], 0;"}};
  for (const Lock& lock : sound) {
    INFO(lock.take << lock.give);
    CHECK(with_lock(lock, one_lane) == "");
    CHECK(with_lock(lock, "") == "");  // by every lane
  }
  for (const Lock& lock :
       {Lock{kTake, "", "membar.cta;", kGive}, Lock{kTake, "membar.cta;", "", kGive},
        Lock{kTakeGlobal, "", "membar.gl;", kGiveGlobal},
        Lock{kTakeGlobal, "membar.gl;", "", kGiveGlobal},
        Lock{"atom.release.cta.shared.cas.b32 %w6, [%d3], 0, 1;", "", "",
             "atom.release.cta.shared.exch.b32 %w8, [%d3], 0;"},
        Lock{"mov.b32 %w6, 0;", "membar.cta;", "membar.cta;", ""}}) {
    INFO(lock.take << lock.acquire << lock.release << lock.give);
    CHECK(with_lock(lock, one_lane) == "race");
  }

  const auto with_flag = [](const std::string& set, const std::string& wait,
                            const std::string& behind) {
    return check_of(
        "setp.eq.u32 %p1, %w1, 0; @%p1 st.shared.v2.b32 [%d3], {0, 0}; bar.sync 0; and.b32 %w5, "
        "%w1, 31; setp.ne.u32 %p2, %w5, 0; @%p2 bra $end; setp.eq.u32 %p3, %w1, 32; @%p3 bra "
        "$wait; st.shared.b32 [%d3+4], 77;\n" +
        set + " bra $end;\n$wait: " + wait + " setp.eq.u32 %p4, %w6, 0; @%p4 bra $wait;\n" +
        behind + " ld.shared.b32 %w7, [%d3+4]; st.global.b32 [%d20], %w7; $end: ret;");
  };
  const char* const kVolatile = "st.volatile.shared.b32 [%d3], 1;";
  const char* const kPoll = "ld.volatile.shared.b32 %w6, [%d3];";
  const char* const kAcquire = "ld.acquire.cta.shared.b32 %w6, [%d3];";
  CHECK(with_flag("st.release.cta.shared.b32 [%d3], 1;", kAcquire, "") == "");
  CHECK(with_flag("st.release.gpu.shared.b32 [%d3], 1;", kPoll, "membar.cta;") == "");
  CHECK(with_flag(std::string("membar.cta;") + kVolatile, kPoll, "membar.cta;") == "");
  CHECK(with_flag(std::string("membar.cta;") + kVolatile, kAcquire, "") == "");
  CHECK(with_flag(kVolatile, kPoll, "membar.cta;") == "race");
  CHECK(with_flag(std::string("membar.cta;") + kVolatile, kPoll, "") == "race");
  CHECK(with_flag(std::string(kVolatile) + "membar.cta;", kAcquire, "") == "race");
  CHECK(with_flag("st.relaxed.cta.shared.b32 [%d3], 1;", kAcquire, "") == "race");
  // A fence and a strong access of another place order nothing.
  CHECK(with_flag(std::string(kVolatile) + "st.release.cta.shared.b32 [%d3+64], 1;", kPoll,
                  "membar.cta; ld.acquire.cta.shared.b32 %w8, [%d3+68];") == "race");
}

TEST_CASE("to store the value that is there already is no hazard to warps that read it") {
  const std::string begin =
      "setp.eq.u32 %p1, %w1, 0; setp.eq.u32 %p2, %w3, 0; setp.eq.u32 %p3, "
      "%w3, 1; @%p1 st.shared.b32 [%d3], 1; bar.sync 0; ";
  for (const SchedulePolicy schedule : {SchedulePolicy::round_robin, SchedulePolicy::reverse}) {
    const auto check = [&](const std::string& body, unsigned threads = 64) {
      return run_body(begin + body, 1, threads, [&](Bench& b) { b.options.schedule = schedule; })
          .check;
    };
    const std::string read = "ld.shared.b32 %w4, [%d3]; ", set = "st.shared.b32 [%d3], 1; ";
    CHECK(check(read + set) == "");
    CHECK(check(set + read) == "");
    CHECK(check(read + "st.shared.b8 [%d3], 1; " + read) == "");
    CHECK(check("st.global.b32 [%d20], 5; bar.sync 0; ld.global.b32 %w4, [%d20]; st.global.b32 "
                "[%d20], 5; ld.global.b32 %w4, [%d20];") == "");
    // Another value is one, also behind it; and so is the write that brought the value.
    CHECK(check("@%p2 st.shared.b32 [%d3], 2; @%p3 " + read) == "race");
    CHECK(check("@%p2 " + set + "@%p2 st.shared.b32 [%d3], 2; @%p3 " + read) == "race");
    CHECK(check("@%p3 " + read + "@%p2 " + set + "@%p2 st.shared.b32 [%d3], 2; ") == "race");
    CHECK(check("setp.lt.u32 %p4, %w3, 2; @%p4 st.shared.b32 [%d3], 2; @!%p4 " + read, 96) ==
          "race");
    for (const char* between : {"", "membar.cta; "}) {
      CHECK(check("@%p2 st.shared.b32 [%d3], 2; " + std::string(between) +
                  "@%p2 st.shared.b32 [%d3], 2; @%p3 " + read) == "race");
    }
    CHECK(check("@%p2 " + set + "@%p3 st.shared.b32 [%d3], 2; ") == "race");
  }
}

TEST_CASE("readers whose clocks differ take memory once per cell") {
  RaceDetector races(4, 16);
  races.barrier_arrive(3, 1);  // from here on warp 3 is ahead of the others
  races.barrier_release(1, 8);
  for (u32 turn = 0; turn < 100; ++turn) {
    for (int warp = 0; warp < 4; ++warp) {
      for (const u32 offset : {0u, 4u, 8u, 12u}) {
        CHECK_FALSE(races.access_shared(offset, offset == 8 ? 1 : 4, {.warp = warp, .now = turn},
                                        AccessKind::read));
      }
    }
    for (int warp = 0; warp < 4; ++warp) races.barrier_arrive(warp, 0);
    races.barrier_release(0, 15);
    CHECK_FALSE(races.access_shared(0, 16, {.warp = 0, .now = turn}, AccessKind::write));
    for (int warp = 0; warp < 4; ++warp) races.barrier_arrive(warp, 0);
    races.barrier_release(0, 15);
  }
  CHECK(races.kept_read_clocks() > 0);
  CHECK(races.kept_read_clocks() <= 3 + 4);  // words, and the bytes of one
}

TEST_CASE("a barrier of other warps orders nothing; named barriers order their members") {
  std::string text = R"(
    setp.eq.u32 %p1, %w3, 0; setp.eq.u32 %p2, %w3, 1; setp.gt.u32 %p3, %w3, 1;
    @%p1 st.shared.b32 [%d4], %w1;
    @%p1 bar.arrive 1, 64; @%p2 bar.sync 1, 64;
    @%p2 ld.shared.b32 %w4, [%d4+-128];)";
  CHECK(check_of(text, 1, 96) == "");  // warp 1 reads after warp 0
  CHECK(check_of(text + "@%p3 ld.shared.b32 %w4, [%d4+-256];", 1, 96) ==
        "race");  // warp 2 did not wait
  CHECK(
      check_of(
          text + "@%p2 bar.arrive 2, 64; @%p3 bar.sync 2, 64; @%p3 ld.shared.b32 %w4, [%d4+-256];",
          1, 96) == "");  // ordered through warp 1
  CHECK(check_of(text + "@%p1 st.shared.b32 [%d4], 5;", 1, 96) == "race");  // warp 1 may still read
  CHECK(check_of(text + "@%p2 bar.arrive 2, 64; @%p1 bar.sync 2, 64; @%p1 st.shared.b32 [%d4], 5;",
                 1, 96) == "");
}

TEST_CASE("race reports are the same under every schedule, and name both sides") {
  for (SchedulePolicy schedule :
       {SchedulePolicy::round_robin, SchedulePolicy::random, SchedulePolicy::reverse}) {
    for (u64 seed = 0; seed < 10; ++seed) {
      Report report = run_body(
          "xor.b32 %w5, %w1, 32; mul.wide.u32 %d8, %w5, 4; add.u64 %d8, %d8, %d3;\nst.shared.b32 "
          "[%d4], %w1;\nld.shared.b32 %w4, [%d8];",
          1, 64, [&](Bench& bench) {
            bench.options.schedule = schedule;
            bench.options.seed = seed;
          });
      REQUIRE(report.check == "race");
      CHECK((report.line == 16 || report.line == 17));
      CHECK_THAT(report.message, Catch::Contains(report.line == 16 ? "line 17" : "line 16"));
    }
  }
}

TEST_CASE("lanes of one instruction that store different values to one place") {
  CHECK(check_of("st.shared.b32 [%d3], %w1;", 1, 32) == "race");
  CHECK(check_of("st.shared.b32 [%d3], 1;", 1, 32) == "");
  CHECK(check_of("st.global.b32 [%d20], %w1;", 1, 32) == "race");
  CHECK(check_of("st.global.b32 [%d20], %w2;", 1, 32) == "");
  CHECK(check_of(
            "mul.wide.u32 %d8, %w1, 8; add.u64 %d8, %d8, %d3; st.shared.v2.b32 [%d8], {%w1, %w1};",
            1, 32) == "");
  CHECK(check_of("shr.u32 %w5, %w1, 1; mul.wide.u32 %d8, %w5, 8; add.u64 %d8, %d8, %d3; "
                 "st.shared.v2.b32 [%d8], {%w5, %w1};",
                 1, 32) == "race");
  CHECK(check_of("sub.u32 %w5, 31, %w1; mul.wide.u32 %d8, %w5, 4; add.u64 %d8, %d8, %d3; "
                 "st.shared.b32 [%d8], %w1;",
                 1, 32) == "");  // descending
}

// ---- races in global memory ----------------------------------------------------------------------

// A race of CTAs is a race of the host threads that run them, on the bytes of device memory and their
// shadows: harmless, since it is reported, but not to ThreadSanitizer.
#ifdef __SANITIZE_THREAD__
constexpr int kMostThreads = 1;
#else
constexpr int kMostThreads = 2;
#endif

TEST_CASE("races between CTAs, whatever the order they ran in") {
  for (int threads = 1; threads <= kMostThreads; ++threads) {
    auto on = [&](const char* body, unsigned blocks = 4, unsigned block = 32) {
      Report report =
          run_body(body, blocks, block, [&](Bench& bench) { bench.options.threads = threads; });
      UNSCOPED_INFO(report.message);
      return report.check;
    };
    CHECK(on("mul.wide.u32 %d8, %w2, 128; add.u64 %d8, %d8, %d2; st.global.b32 [%d8], %w1;") ==
          "");  // disjoint
    CHECK(on("st.global.b32 [%d2], %w2;") == "race");
    CHECK(on("st.global.b32 [%d2], 5;") == "");  // all write the same value
    CHECK(on("st.global.v4.b32 [%d7], {1, 2, 3, %w1};") == "");
    CHECK(on("st.global.v4.b32 [%d7], {1, 2, 3, %w2};") == "race");
    CHECK(on("st.global.b32 [%d2], 5; ld.global.b32 %w4, [%d2];") == "race");  // or the old one
    CHECK(on("st.global.b32 [%d2], 4; st.global.b32 [%d2], 5;") == "race");
    CHECK(on("setp.eq.u32 %p1, %w2, 0; @%p1 st.global.b32 [%d2], 0x07070707; @!%p1 st.global.b8 "
             "[%d2+1], 7;") == "");  // a byte of the same word
    CHECK(on("setp.eq.u32 %p1, %w2, 0; @%p1 st.global.b32 [%d2], 0x07070607; @!%p1 st.global.b8 "
             "[%d2+1], 7;") == "race");
    // With atomics CTAs run in order, and are watched by other means.
    CHECK(on("red.global.add.u32 [%d2+4096], 1; st.global.b32 [%d2], 5;") == "");
    CHECK(on("red.global.add.u32 [%d2+4096], 1; st.global.b32 [%d2], %w2;") == "race");
    CHECK(on("ld.global.b32 %w4, [%d2];") == "");
    CHECK(on("setp.eq.u32 %p1, %w2, 2; @%p1 st.global.b32 [%d2], 5; @!%p1 ld.global.b32 %w4, "
             "[%d2];") == "race");
    CHECK(on("setp.eq.u32 %p1, %w2, 2; @%p1 st.global.b32 [%d2], 5; @%p1 ld.global.b32 %w4, "
             "[%d2];") == "");
    CHECK(on("red.global.add.u32 [%d2], 1;") == "");
    CHECK(on("red.global.add.u32 [%d2], 1; ld.global.b32 %w4, [%d2];") == "race");
    CHECK(on("mad.lo.u32 %w5, %w1, 4, %w2; cvt.u64.u32 %d8, %w5; add.u64 %d8, %d8, %d20; "
             "st.global.b8 [%d8], %w1;") == "");  // bytes of one word
    CHECK(on("mad.lo.u32 %w5, %w1, 4, %w2; cvt.u64.u32 %d8, %w5; add.u64 %d8, %d8, %d20; "
             "st.global.b8 [%d8], %w1; ld.global.b8 %w4, [%d20];") == "race");
    CHECK(on("mul.wide.u32 %d8, %w2, 512; add.u64 %d8, %d8, %d6; add.u64 %d9, %d20, 0; "
             "cp.async.cg.shared.global [%d6], [%d7], 16; cp.async.wait_all; setp.eq.u32 %p1, %w2, "
             "3; @%p1 st.global.b32 [%d2], 1;") == "race");
  }
}

TEST_CASE("the plain read before a loop of compare-and-swap is no race") {
  // old = *p; do { assumed = old; old = atomicCAS(p, assumed, f(assumed)); } while (old != assumed);
  const auto loop = [](const std::string& read, const std::string& swapped = "%d9") {
    return "mov.b64 %d9, %d20; add.u64 %d10, %d20, 0;" + read +
           "\n$loop: mov.b32 %w5, %w4; add.u32 %w6, %w5, 1;\n"
           "atom.global.cas.b32 %w7, [" +
           swapped +
           "], %w5, %w6;\n"
           "setp.ne.u32 %p1, %w5, %w7; mov.b32 %w4, %w7;\n@%p1 bra $loop;\n";
  };
  CHECK(check_of(loop("ld.global.b32 %w4, [%d9];"), 4, 1) == "");
  CHECK(check_of(loop("cvta.to.global.u64 %d8, %d20; ld.global.b32 %w4, [%d8];"), 4, 1) == "");
  CHECK(check_of(loop("ld.global.b32 %w3, [%d9]; mov.b32 %w4, %w3;"), 4, 1) == "");
  // Another place, a read that the atomic does not compare, an address that changes.
  CHECK(check_of(loop("ld.global.b32 %w4, [%d9];") + "ld.global.b32 %w8, [%d9];", 4, 1) == "race");
  CHECK(check_of(loop("ld.global.b32 %w4, [%d9]; st.global.b32 [%d9], 5;"), 4, 1) == "race");
  CHECK(check_of(loop("mov.b32 %w4, 0; ld.global.b32 %w8, [%d9];"), 4, 1) == "race");
  CHECK(check_of(loop("ld.global.b32 %w4, [%d10];", "%d10") + "add.u64 %d10, %d10, 4;", 4, 1) ==
        "race");
  // In shared memory, between warps.
  const std::string shared =
      "setp.eq.u32 %p1, %w1, 0; @%p1 st.shared.b32 [%d3], 0; bar.sync 0; ld.shared.b32 %w4, "
      "[%d3];\n"
      "$loop: mov.b32 %w5, %w4; add.u32 %w6, %w5, 1; atom.shared.cas.b32 %w7, [%d3], %w5, %w6;\n"
      "setp.ne.u32 %p1, %w5, %w7; mov.b32 %w4, %w7; @%p1 bra $loop;";
  CHECK(check_of(shared) == "");
  CHECK(check_of(shared + "ld.shared.b32 %w8, [%d3];") == "race");
}

TEST_CASE("races between warps of one CTA in global memory") {
  std::string other = "xor.b32 %w5, %w1, 32; mul.wide.u32 %d8, %w5, 4; add.u64 %d8, %d8, %d20; ";
  CHECK(check_of(other + "st.global.b32 [%d2], %w1; ld.global.b32 %w4, [%d8];") == "race");
  CHECK(check_of(other + "st.global.b32 [%d2], %w1; bar.sync 0; ld.global.b32 %w4, [%d8];") == "");
}

}  // namespace sagegen::emulator::test
