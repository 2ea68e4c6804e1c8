// Every check, with a kernel that must trigger exactly it and a twin that must not; and cp.async under
// every policy. Undefined data: exec_definedness_test.cpp; races: exec_races_test.cpp.

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <set>

#include "tests/emulator/checks_body.h"

namespace sagegen::emulator::test {
namespace {

using runtime::AsyncPolicy;
using runtime::Checks;
using runtime::SchedulePolicy;

constexpr AsyncPolicy kPolicies[] = {AsyncPolicy::late, AsyncPolicy::eager, AsyncPolicy::random};

}  // namespace

// ---- bounds, lifetime, alignment -----------------------------------------------------------------

TEST_CASE("out of bounds: global, shared, local, parameters") {
  CHECK(check_of("ld.global.b32 %w4, [%d20+16380];") == "");
  CHECK(check_of("ld.global.b32 %w4, [%d20+16384];") == "out-of-bounds");
  CHECK(check_of("ld.global.b32 %w4, [%d20+-4];") == "out-of-bounds");
  CHECK(check_of("ld.global.v4.b32 {%w4,%w5,%w6,%w7}, [%d20+16376];") == "misaligned");
  CHECK(check_of("st.global.b32 [%d20+20000], %w1;") == "out-of-bounds");
  CHECK(check_of("mov.b64 %d9, 0; ld.global.b32 %w4, [%d9];") == "out-of-bounds");
  CHECK(check_of("ld.b32 %w4, [%d9];") == "uninitialized");
  CHECK(check_of("st.shared.b32 [%d3+16380], 1;") == "");
  CHECK(check_of("st.shared.b32 [%d3+16384], 1;") == "out-of-bounds");
  CHECK(check_of("st.shared.b32 [%d3+-4], 1;") == "out-of-bounds");
  CHECK(check_of("mov.b64 %d9, 0; ld.shared.b32 %w4, [%d9];") == "out-of-bounds");
  CHECK(check_of("cvta.shared.u64 %d9, %d3; st.b32 [%d9+16384], 1;") == "out-of-bounds");
  CHECK(check_of("mov.b64 %d9, l; st.local.b32 [%d9+60], 1;") == "");
  CHECK(check_of("mov.b64 %d9, l; st.local.b32 [%d9+64], 1;") == "out-of-bounds");
  CHECK(check_of("ld.param.b64 %d9, [p1+8];") == "out-of-bounds");
  CHECK(check_of("mov.b64 %d9, p0; cvta.param.u64 %d9, %d9; st.b32 [%d9], 1;") == "out-of-bounds");
  CHECK(check_of("add.u64 %d9, %d20, 16384; red.global.add.u32 [%d9], 1;") == "out-of-bounds");
  CHECK(check_of("add.u64 %d9, %d3, 16368; @!%p1 bra $x; $x: "
                 "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%w4}, [%d9+16];") == "uninitialized");
  CHECK(check_of("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%w4}, [%d6+16384];") ==
        "out-of-bounds");
  CHECK(check_of("cp.async.cg.shared.global [%d6], [%d20+16376], 16; cp.async.wait_all;") ==
        "misaligned");
  CHECK(check_of("cp.async.cg.shared.global [%d6], [%d20+16384], 16; cp.async.wait_all;") ==
        "out-of-bounds");
  CHECK(check_of("cp.async.cg.shared.global [%d6], [%d20+16384], 16, 0; cp.async.wait_all;") ==
        "");  // reads nothing
  CHECK(check_of("cp.async.ca.shared.global [%d4+16384], [%d2], 4; cp.async.wait_all;") ==
        "out-of-bounds");
}

TEST_CASE("bounds are checked with the checks off, too") {
  auto off = [](Bench& bench) { bench.options.checks = Checks::off; };
  CHECK(run_body("ld.global.b32 %w4, [%d20+16384];", 1, 64, off).check == "out-of-bounds");
  CHECK(run_body("st.shared.b32 [%d3+16384], 1;", 1, 64, off).check == "out-of-bounds");
  CHECK(run_body("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%w4,%w5,%w6,%w7}, [%d6+16384];", 1, 64,
                 off)
            .check == "out-of-bounds");
  CHECK(run_body("ld.shared.b32 %w4, [%d3+2];", 1, 64, off).check == "misaligned");
  CHECK(run_body("ld.shared.b32 %w4, [%d4]; st.global.b32 [%d2], %w4;", 1, 64, off).check ==
        "");  // undefined, unchecked
}

TEST_CASE("reports name line, lane, address and allocation") {
  Report report =
      run_body("setp.eq.u32 %p1, %w1, 37;\n@%p1 st.global.b32 [%d20+16400], %w1;", 1, 64);
  CHECK(report.check == "out-of-bounds");
  CHECK(report.warp == 1);
  CHECK(report.lane == 5);
  CHECK(report.line == 16);
  CHECK_THAT(report.message,
             Catch::Contains("st.global.b32") &&
                 Catch::Contains("16 bytes past the end of the 16384 bytes allocated at"));
}

TEST_CASE("use after free") {
  Bench bench;
  bench.kernel("ld.global.b32 %w1, [%d20];", 1);
  Address at = bench.upload(std::vector<u32>{1, 2, 3, 4});
  CHECK(only_check(bench.run(1, 32, {at})) == "");
  REQUIRE(bench.memory.release(at));
  LaunchReport report = bench.run(1, 32, {at});
  CHECK(only_check(report) == "use-after-free");
  CHECK_THAT(report.findings[0].message, Catch::Contains("allocated and freed"));
  CHECK_FALSE(bench.memory.release(at));
  // The address is not given out again.
  for (int i = 0; i < 10; ++i) CHECK(bench.memory.allocate(16) != at);
}

TEST_CASE("many live allocations: a call does not touch all of them") {
  constexpr std::size_t kMany = 20000;
  DeviceMemory memory(std::size_t{1} << 30);
  std::vector<Address> live;
  for (std::size_t i = 0; i < kMany; ++i) live.push_back(memory.allocate(16));
  const auto snapshot = memory.snapshot();
  for (std::size_t i = 0; i < kMany; ++i) {
    REQUIRE(memory.release(live[i % 2 == 0 ? i / 2 : kMany - 1 - i / 2]));
  }
  // Once for the snapshot, and a few times to forget what was freed long ago.
  CHECK(memory.entries_moved() < 6 * kMany);
  CHECK(memory.used_bytes() == 0);
  CHECK(snapshot->find(live[7]) != nullptr);
  CHECK_FALSE(snapshot->find(live[7])->freed);
  CHECK_FALSE(memory.release(live[7]));
  CHECK_FALSE(memory.release(live[kMany - 1]));
}

TEST_CASE("memories that live at the same time share no address, however many they hand out") {
  const auto apart = [](Address a, Address b) { return a / kRangeBytes != b / kRangeBytes; };
  DeviceMemory one(std::size_t{1} << 30), two(std::size_t{1} << 30);
  const Address first = one.allocate(16);
  CHECK(apart(first, two.allocate(16)));
  {
    DeviceMemory third(16);
    CHECK(apart(third.allocate(16), first));
  }
  // More than fit one range, red zones included: the next range is nobody else's.
  std::set<Address> of_one, of_two;
  for (Address i = 0; i < kRangeBytes / kRedZone + 2; ++i) {
    of_one.insert(one.allocate(16) / kRangeBytes);
    of_two.insert(two.allocate(16) / kRangeBytes);
  }
  CHECK(of_one.size() == 2);
  CHECK(of_two.size() == 2);
  for (const Address range : of_one) CHECK_FALSE(of_two.contains(range));
  CHECK(one.release(first));
  CHECK_FALSE(two.release(first));
}

TEST_CASE("misaligned") {
  CHECK(check_of("ld.global.b64 %d9, [%d20+8];") == "");
  CHECK(check_of("ld.global.b64 %d9, [%d20+4];") == "misaligned");
  CHECK(check_of("ld.global.v2.b32 {%w4, %w5}, [%d20+4];") == "misaligned");
  CHECK(check_of("ld.global.b16 %h1, [%d20+1];") == "misaligned");
  CHECK(check_of("st.shared.v4.b32 [%d3+8], {1, 2, 3, 4};", 1, 1) == "misaligned");
  CHECK(check_of("st.shared.b32 [%d6], 0; st.shared.b32 [%d6+4], 0; bar.sync 0; "
                 "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%w4}, [%d6+8];") == "misaligned");
  CHECK(check_of("atom.shared.add.u32 %w4, [%d3+2], 1;") == "misaligned");
}

// ---- collectives ---------------------------------------------------------------------------------

TEST_CASE("collective instructions in divergent code") {
  std::string odd = "and.b32 %w5, %w1, 1; setp.ne.u32 %p1, %w5, 0; mov.b32 %w6, 0; ";
  for (const char* instruction :
       {"shfl.sync.bfly.b32 %w4, %w1, 1, 31, -1;", "vote.sync.any.pred %p2, %p1, -1;",
        "bar.warp.sync -1;", "redux.sync.add.u32 %w4, %w1, -1;",
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%w4}, [%d6];",
        "movmatrix.sync.aligned.m8n8.trans.b16 %w4, %w1;", "bar.sync 0;",
        "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%w10,%w11,%w12,%w13}, {%w6,%w6}, {%w6}, "
        "{%w6,%w6,%w6,%w6};"}) {
    INFO(instruction);
    CHECK(check_of(odd + "st.shared.v4.b32 [%d6], {%w6, %w6, %w6, %w6}; bar.sync 1; " +
                   instruction) == "");
    CHECK(check_of(odd +
                   "st.shared.v4.b32 [%d6], {%w6, %w6, %w6, %w6}; bar.sync 1; @!%p1 bra $skip; " +
                   instruction + " mov.b32 %w7, 1; $skip: bar.sync 2;") == "divergent-collective");
  }
  // A warp with missing threads cannot do them at all.
  CHECK(check_of("movmatrix.sync.aligned.m8n8.trans.b16 %w4, %w1;", 1, 40) ==
        "divergent-collective");
  CHECK(check_of("shfl.sync.bfly.b32 %w4, %w1, 1, 31, 0xff;", 1, 8) == "");
  // What is read from a lane that takes no part is undefined.
  const std::string store = "\n@%p1 st.global.b32 [%d2], %w4;";
  CHECK(check_of(odd + "@%p1 shfl.sync.idx.b32 %w4, %w1, 1, 31, 0xaaaaaaaa;" + store) == "");
  CHECK(check_of(odd + "@%p1 shfl.sync.idx.b32 %w4, %w1, 2, 31, 0xaaaaaaaa;") == "");
  const Report used =
      run_body(odd + "\n@%p1 shfl.sync.idx.b32 %w4, %w1, 2, 31, 0xaaaaaaaa;" + store, 1, 64);
  CHECK(used.check == "uninitialized");
  const Report beginning = run_body(odd + "\ntrap;", 1, 64);
  CHECK(used.line == beginning.line + 1);  // where it is used
}

TEST_CASE("an undefined member mask") {
  const std::string mask = "ld.global.b32 %w4, [%d21]; ";
  for (const char* instruction :
       {"bar.warp.sync %w4;", "vote.sync.any.pred %p2, %p1, %w4;",
        "shfl.sync.idx.b32 %w5, %w1, 0, 31, %w4;", "redux.sync.add.u32 %w5, %w1, %w4;",
        "match.any.sync.b32 %w5, %w1, %w4;", "elect.sync %w5|%p2, %w4;"}) {
    const Report report = run_body("setp.eq.u32 %p1, %w1, 0; " + mask + instruction, 1, 32);
    INFO(instruction << report.message);
    CHECK(report.check == "uninitialized");
    CHECK_THAT(report.message, Catch::Contains("member mask"));
    CHECK(check_of("setp.eq.u32 %p1, %w1, 0; " + mask + "mov.b32 %w4, -1; " + instruction, 1, 32) ==
          "");
  }
}

TEST_CASE("undefined votes of bar.red") {
  // %p2 is one value (eq: true, ne: false), but comes from undefined data in the warp `voter`.
  const auto reduce = [](const std::string& others, const std::string& red, int voter) {
    return check_of(fmt::format("setp.eq.u32 %p4, %w3, {}; setp.{}.u32 %p2, 0, 0; "
                                "@%p4 ld.global.b32 %w4, [%d21]; @%p4 setp.eq.u32 %p2, %w4, 7; {}",
                                voter, others, red),
                    1, 96);
  };
  const std::string branch = " @%p5 bra $x; st.global.b32 [%d2], 1; $x:";
  const std::string count = "bar.red.popc.u32 %w5, 0, %p2; st.global.b32 [%d2], %w5;";
  const std::string counted = "bar.red.popc.u32 %w5, 0, 96, %p2; st.global.b32 [%d2], %w5;";
  const std::string all = "bar.red.and.pred %p5, 0, %p2;" + branch;
  const std::string any = "bar.red.or.pred %p5, 0, %p2;" + branch;
  const std::string any_not = "bar.red.or.pred %p5, 0, !%p2;" + branch;
  for (int voter = 0; voter < 3; ++voter) {
    INFO("warp " << voter);
    CHECK(reduce("eq", count, voter) == "uninitialized");
    CHECK(reduce("eq", counted, voter) == "uninitialized");
    CHECK(reduce("eq", all, voter) == "uninitialized");
    CHECK(reduce("ne", all, voter) == "");  // one that is known not to hold decides
    CHECK(reduce("eq", any, voter) == "");
    CHECK(reduce("ne", any, voter) == "uninitialized");
    CHECK(reduce("eq", any_not, voter) == "uninitialized");
    CHECK(reduce("ne", any_not, voter) == "");
    CHECK(reduce("eq", "bar.red.popc.u32 %w5, 0, %p2;", voter) == "");  // nobody uses it
  }
  CHECK(reduce("eq", count, 3) == "");
  // The next barrier has forgotten it.
  CHECK(reduce("eq", "bar.red.and.pred %p5, 0, %p2; bar.red.and.pred %p5, 0, %p4;" + branch, 1) ==
        "");
}

// ---- cp.async ------------------------------------------------------------------------------------

TEST_CASE("cp.async copies under every policy: sizes, zero fill, groups") {
  for (AsyncPolicy async : kPolicies) {
    for (Checks checks : {Checks::on, Checks::off}) {
      for (u64 seed = 0; seed < 5; ++seed) {
        Bench bench;
        bench.options.async = async;
        bench.options.checks = checks;
        bench.options.seed = seed;
        // Three groups: 16 bytes; 8 of 16 bytes; ignored. Waits for two, then for the rest.
        bench.kernel(std::string(kPreamble) + R"(
          setp.lt.u32 %p1, %w1, 10; mov.b32 %w9, 8;
          cp.async.cg.shared.global [%d6], [%d7], 16; cp.async.commit_group;
          cp.async.ca.shared.global [%d6+2048], [%d7], 16, %w9; cp.async.commit_group;
          cp.async.ca.shared.global [%d6+4096], [%d7], 8, %p1; cp.async.ca.shared.global [%d6+4104], [%d7+8], 4; cp.async.ca.shared.global [%d6+4108], [%d7+12], 4, 0; cp.async.commit_group;
          cp.async.wait_group 1;
          ld.shared.v4.b32 {%w10, %w11, %w12, %w13}, [%d6]; ld.shared.v4.b32 {%w14, %w15, %w16, %w17}, [%d6+2048];
          cp.async.wait_group 0;
          ld.shared.v4.b32 {%w18, %w19, %w20, %w21}, [%d6+4096];
          mul.wide.u32 %d8, %w1, 48; add.u64 %d8, %d8, %d21;
          st.global.v4.b32 [%d8], {%w10, %w11, %w12, %w13}; st.global.v4.b32 [%d8+16], {%w14, %w15, %w16, %w17}; st.global.v4.b32 [%d8+32], {%w18, %w19, %w20, %w21};)",
                     2, ".shared .align 16 .b8 s[8192];");
        std::vector<u32> words(64 * 4);
        for (u32 i = 0; i < words.size(); ++i) words[i] = 1000 + i;
        Address in = bench.upload(words), out = bench.memory.allocate(64 * 48);
        LaunchReport report = bench.run(1, 64, {in, out});
        INFO(messages(report));
        REQUIRE(report.findings.empty());
        auto got = bench.download<u32>(out, 64 * 12);
        for (u32 t = 0; t < 64; ++t) {
          u32 x = 1000 + 4 * t;
          std::vector<u32> expected = {
              x, x + 1, x + 2, x + 3, x, x + 1, 0, 0, t < 10 ? 0 : x, t < 10 ? 0 : x + 1, x + 2, 0};
          REQUIRE(std::vector<u32>(got.begin() + 12 * t, got.begin() + 12 * t + 12) == expected);
        }
      }
    }
  }
}

TEST_CASE("late copies land late, early ones early: what a missing wait reads without checks") {
  auto read_without_wait = [](AsyncPolicy async) {
    Bench bench;
    bench.options.async = async;
    bench.options.checks = Checks::off;
    bench.kernel(std::string(kPreamble) +
                     "cp.async.ca.shared.global [%d4], [%d2], 4; ld.shared.b32 %w4, [%d4]; add.u64 "
                     "%d8, %d21, %d1; st.global.b32 [%d8], %w4;",
                 2, ".shared .align 16 .b8 s[8192];");
    Address in = bench.upload(std::vector<u32>(32, 5)), out = bench.memory.allocate(128);
    REQUIRE(bench.run(1, 32, {in, out}).findings.empty());
    return bench.download<u32>(out, 32);
  };
  CHECK(read_without_wait(AsyncPolicy::eager) == std::vector<u32>(32, 5));
  CHECK(read_without_wait(AsyncPolicy::late) == std::vector<u32>(32, 0xffffffff));  // poison
  auto random = read_without_wait(AsyncPolicy::random);
  for (u32 x : random) CHECK((x == 5 || x == 0xffffffff));
}

TEST_CASE("copies in flight, under every policy") {
  for (AsyncPolicy async : kPolicies) {
    auto on = [&](const std::string& body, unsigned threads = 64) {
      Report report =
          run_body(body, 1, threads, [&](Bench& bench) { bench.options.async = async; });
      UNSCOPED_INFO(report.message);
      return report.check;
    };
    std::string copy = "cp.async.cg.shared.global [%d6], [%d7], 16; ";
    CHECK(on(copy + "cp.async.wait_all; ld.shared.b32 %w4, [%d6];") == "");
    CHECK(on(copy + "ld.shared.b32 %w4, [%d6];") == "copy-in-flight");  // no wait at all
    CHECK(on(copy + "cp.async.wait_group 0; ld.shared.b32 %w4, [%d6];") ==
          "copy-in-flight");  // never committed
    CHECK(on(copy + "cp.async.commit_group; cp.async.wait_group 1; ld.shared.b32 %w4, [%d6];") ==
          "copy-in-flight");  // waits for one too few
    CHECK(on(copy + "cp.async.commit_group; cp.async.wait_group 0; ld.shared.b32 %w4, [%d6];") ==
          "");
    CHECK(on(copy + "st.shared.b32 [%d6], 1;") == "copy-in-flight");
    CHECK(on(copy + "cp.async.wait_all; st.shared.b32 [%d6], 1;") == "");
    CHECK(on(copy + copy + "cp.async.wait_all;") == "copy-in-flight");  // twice to one place
    CHECK(on(copy +
             "bar.sync 0; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%w4,%w5,%w6,%w7}, [%d6];") ==
          "copy-in-flight");
    // A wait covers the waiting thread's copies only; the others' need a barrier after their waits.
    std::string cross = "xor.b32 %w5, %w1, 32; mul.wide.u32 %d8, %w5, 16; add.u64 %d8, %d8, %d3; ";
    CHECK(on(cross + copy + "cp.async.wait_all; bar.sync 0; ld.shared.b32 %w4, [%d8];") == "");
    std::string missing = on(cross + copy + "cp.async.wait_all; ld.shared.b32 %w4, [%d8];");
    CHECK((missing == "race" || missing == "copy-in-flight"));
    CHECK(on(cross + copy + "bar.sync 0; cp.async.wait_all; ld.shared.b32 %w4, [%d8];") !=
          "");  // the wait comes after the barrier
    // Overwriting what other warps may still read.
    CHECK(on(cross + "st.shared.b32 [%d6], 1; bar.sync 0; ld.shared.b32 %w4, [%d8]; " + copy +
             "cp.async.wait_all;") == "race");
    CHECK(on(cross + "st.shared.b32 [%d6], 1; bar.sync 0; ld.shared.b32 %w4, [%d8]; bar.sync 0; " +
             copy + "cp.async.wait_all;") == "");
    // Undefined sources; copies that nobody waits for.
    CHECK(on("add.u64 %d8, %d21, %d5; cp.async.cg.shared.global [%d6], [%d8], 16; "
             "cp.async.wait_all; ld.shared.b32 %w4, [%d6]; st.global.b32 [%d2], %w4;") ==
          "uninitialized");
    CHECK(on(copy) == "");
  }
}

TEST_CASE("waits per thread: lanes with different groups") {
  for (AsyncPolicy async : kPolicies) {
    // Even lanes commit twice, so wait_group 1 finishes their first group only.
    std::string text = R"(
      and.b32 %w5, %w1, 1; setp.eq.u32 %p1, %w5, 0;
      cp.async.cg.shared.global [%d6], [%d7], 16; cp.async.commit_group;
      @%p1 cp.async.cg.shared.global [%d6+4096], [%d7], 16; @%p1 cp.async.commit_group;
      cp.async.wait_group 1; )";
    auto on = [&](const std::string& body) {
      return run_body(text + body, 1, 64, [&](Bench& bench) { bench.options.async = async; }).check;
    };
    CHECK(on("@%p1 ld.shared.b32 %w4, [%d6];") == "");
    CHECK(on("@!%p1 ld.shared.b32 %w4, [%d6];") == "copy-in-flight");
    CHECK(on("@%p1 ld.shared.b32 %w4, [%d6+4096];") == "copy-in-flight");
    CHECK(on("cp.async.wait_group 0; ld.shared.b32 %w4, [%d6]; @%p1 ld.shared.b32 %w4, "
             "[%d6+4096];") == "");
  }
}

TEST_CASE(
    "a double-buffered pipeline is clean under every schedule and policy; without its last barrier "
    "it is not") {
  auto run = [](bool with_barrier, SchedulePolicy schedule, AsyncPolicy async, u64 seed) {
    std::string text = std::string(kPreamble) + R"(
      mov.b32 %w9, 0; mov.b32 %w8, 0;
      cp.async.cg.shared.global [%d6], [%d7], 16; cp.async.commit_group;
      $loop:
      add.u32 %w10, %w9, 1; setp.lt.u32 %p1, %w10, 8; and.b32 %w11, %w10, 1;
      mul.wide.u32 %d8, %w11, 2048; add.u64 %d8, %d8, %d6; mul.wide.u32 %d9, %w10, 2048; add.u64 %d9, %d9, %d7;
      @%p1 cp.async.cg.shared.global [%d8], [%d9], 16;
      cp.async.commit_group; cp.async.wait_group 1; bar.sync 0;
      and.b32 %w11, %w9, 1; mul.wide.u32 %d8, %w11, 2048; sub.u32 %w12, 127, %w1; mul.wide.u32 %d10, %w12, 16; add.u64 %d8, %d8, %d10; add.u64 %d8, %d8, %d3;
      ld.shared.b32 %w13, [%d8]; add.u32 %w8, %w8, %w13;
      BARRIER
      mov.b32 %w9, %w10; setp.lt.u32 %p2, %w9, 8; @%p2 bra $loop;
      add.u64 %d8, %d21, %d1; st.global.b32 [%d8], %w8;)";
    text.replace(text.find("BARRIER"), 7, with_barrier ? "bar.sync 0;" : "");
    Bench bench;
    bench.options = {.schedule = schedule, .async = async, .seed = seed};
    bench.kernel(text, 2, ".shared .align 16 .b8 s[4096];");
    std::vector<u32> words(8 * 512);
    for (u32 i = 0; i < words.size(); ++i) words[i] = i * i;
    Address in = bench.upload(words), out = bench.memory.allocate(512);
    LaunchReport report = bench.run(1, 128, {in, out});
    if (!report.findings.empty()) return report.findings[0].check;
    auto got = bench.download<u32>(out, 128);
    for (u32 t = 0; t < 128; ++t) {
      u32 sum = 0;
      for (u32 i = 0; i < 8; ++i) sum += words[i * 512 + (127 - t) * 4];
      if (got[t] != sum) return std::string("wrong");
    }
    return std::string();
  };
  for (SchedulePolicy schedule :
       {SchedulePolicy::round_robin, SchedulePolicy::random, SchedulePolicy::reverse}) {
    for (AsyncPolicy async : kPolicies) {
      for (u64 seed = 0; seed < 4; ++seed) {
        CHECK(run(true, schedule, async, seed) == "");
        std::string broken = run(false, schedule, async, seed);
        CHECK((broken == "race" || broken == "copy-in-flight"));
      }
    }
  }
}

// ---- after a finding -------------------------------------------------------------------------------

TEST_CASE("a launch goes on after a finding, and each is told once") {
  Bench bench;
  bench.kernel(std::string(kPreamble) + R"(
    mov.b32 %w10, 7; add.u64 %d8, %d21, %d1; setp.lt.u32 %p1, %w1, 3;
    ld.global.b32 %w10, [%d20+16384];
    st.global.b32 [%d20+16384], 5;
    st.global.b32 [%d8], %w9;
    @%p9 mov.b32 %w11, 1;
    ld.global.b32 %w12, [%d9];
    atom.global.add.u32 %w13, [%d20+2], 1;
    cp.async.ca.shared.global [%d4], [%d20+16384], 4; cp.async.wait_all; ld.shared.b32 %w14, [%d4];
    st.shared.b32 [%d3], %w1;
    mov.b32 %w15, 0;
    $loop: ld.shared.b32 %w16, [%d3+-4]; add.u32 %w15, %w15, 1; setp.lt.u32 %p2, %w15, 10; @%p2 bra $loop;
    add.u32 %w17, %w10, %w12; add.u32 %w17, %w17, %w13; add.u32 %w17, %w17, %w14;
    @%p1 st.global.b32 [%d8+4096], %w17;)",
               2, ".shared .align 16 .b8 s[16384];");
  const Address in = bench.upload(std::vector<u32>(4096, 9)),
                out = bench.upload(std::vector<u32>(4096, 1));
  const LaunchReport report = bench.run(1, 32, {in, out});
  std::vector<std::string> checks;
  for (const runtime::Finding& f : report.findings) checks.push_back(f.check);
  INFO(messages(report));
  CHECK(checks == std::vector<std::string>{"out-of-bounds", "out-of-bounds", "uninitialized",
                                           "uninitialized", "uninitialized", "misaligned",
                                           "out-of-bounds", "race", "out-of-bounds"});
  CHECK_FALSE(report.truncated);
  for (std::size_t i = 1; i < report.findings.size(); ++i) {
    CHECK(report.findings[i].ptx_line > report.findings[i - 1].ptx_line);
  }
  REQUIRE(report.findings.size() == 9);
  CHECK(report.findings[0].count == 32);   // lanes
  CHECK(report.findings[8].count == 320);  // and turns of the loop
  // What was read out of bounds, misaligned or from nowhere is zero; what was written there is lost.
  const auto got = bench.download<u32>(out, 4096);
  for (u32 i = 0; i < 32; ++i) CHECK(got[1024 + i] == (i < 3 ? 0 : 1));
  CHECK(bench.download<u32>(in, 4096) == std::vector<u32>(4096, 9));
}

TEST_CASE("a launch stops where nobody can go on, and behind many findings") {
  const auto checks_of = [](const std::string& body, unsigned blocks = 1) {
    Bench bench;
    bench.options.threads = 1;
    bench.kernel(std::string(kPreamble) + body, 1, ".shared .align 16 .b8 s[16384];");
    const LaunchReport report = bench.run(blocks, 32, {bench.upload(std::vector<u32>(4096, 9))});
    std::vector<std::string> checks;
    for (const runtime::Finding& f : report.findings) checks.push_back(f.check);
    return std::pair{checks, report.truncated};
  };
  using Checked = std::pair<std::vector<std::string>, bool>;
  const std::string read = "ld.global.b32 %w4, [%d20+16384];\n";
  CHECK(checks_of(read + "trap;\n" + read) == Checked{{"out-of-bounds", "trap"}, false});
  CHECK(checks_of(read + "setp.lt.u32 %p1, %w1, 3; @%p1 bar.sync 0;\n" + read) ==
        Checked{{"out-of-bounds", "divergent-collective"}, false});
  std::string many;
  for (int i = 0; i < 17; ++i) many += read;
  const Checked truncated = checks_of(many);
  CHECK(truncated.first.size() == 16);
  CHECK(truncated.second);
  // Undefined data that decide how long a loop runs do not keep the launch for long.
  const Checked loop =
      checks_of("$loop: sub.u32 %w9, %w9, 1; setp.ne.u32 %p1, %w9, 0;\n@%p1 bra $loop;\n");
  CHECK(loop == Checked{{"uninitialized"}, true});
  // Of several CTAs each finding is told once, from the first that has it.
  CHECK(checks_of("setp.gt.u32 %p1, %w2, 1; @%p1 ld.global.b32 %w4, [%d20+16384];\n" + read, 5) ==
        Checked{{"out-of-bounds", "out-of-bounds"}, false});
}

TEST_CASE("several findings are the same for any number of host threads") {
  const auto run = [](int threads) {
    Bench bench;
    bench.options.threads = threads;
    bench.kernel(std::string(kPreamble) + R"(
      setp.gt.u32 %p1, %w2, 4; setp.eq.u32 %p2, %w2, 9; setp.eq.u32 %p3, %w2, 11;
      @%p1 ld.global.b32 %w4, [%d20+16384];
      @%p2 ld.global.b32 %w4, [%d20+16388];
      @%p3 ld.global.b32 %w4, [%d20+16392];
      @%p2 trap;
      @%p3 trap;)",
                 1, ".shared .align 16 .b8 s[16384];");
    return messages(bench.run(20, 32, {bench.upload(std::vector<u32>(4096, 9))}));
  };
  const std::string expected = run(1);
  CHECK_THAT(expected, Catch::Contains("trap") && !Catch::Contains("16392"));
  for (int i = 0; i < 20; ++i) CHECK(run(2) == expected);
}

}  // namespace sagegen::emulator::test
