// Lanes of one warp as threads of their own: hazards between them, members that have exited, and lanes that
// wait for each other.

#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "tests/emulator/exec_fixture.h"

namespace sagegen::emulator::test {
namespace {

using Catch::Matchers::Contains;
using runtime::Checks;
using runtime::SchedulePolicy;
using u32 = std::uint32_t;

constexpr SchedulePolicy kSchedules[] = {SchedulePolicy::round_robin, SchedulePolicy::random,
                                         SchedulePolicy::reverse};

// %w1 is the lane, %d4 its word of shared memory and %d2 of global memory, %d8 and %d9 the words of lane
// 31 - l, %d6 16 bytes of shared memory; %d20 is an array of 1024 defined words.
constexpr const char* kPreamble = R"(
    mov.u32 %w1, %laneid; mov.b64 %d3, s; mov.b32 %w9, 0; setp.eq.u32 %p1, %w1, 0;
    mul.wide.u32 %d1, %w1, 4; add.u64 %d4, %d3, %d1; add.u64 %d2, %d20, %d1;
    xor.b32 %w3, %w1, 31; mul.wide.u32 %d5, %w3, 4; add.u64 %d8, %d3, %d5; add.u64 %d9, %d20, %d5;
    mul.wide.u32 %d5, %w1, 16; add.u64 %d6, %d3, %d5; add.u64 %d7, %d20, %d5;
)";

struct Outcome {
  std::string check, message;
};

Outcome run_lanes(const std::string& body, unsigned threads = 32,
                  Profile profile = Profile::sm_90) {
  Bench bench(profile);
  bench.kernel(kPreamble + body, 1, ".shared .align 16 .b8 s[4096];");
  const Address words = bench.upload(std::vector<u32>(1024, 3));
  const LaunchReport report = bench.run(1, threads, {words});
  return {report.findings.empty() ? "" : report.findings[0].check, messages(report)};
}

std::string check_of(const std::string& body, unsigned threads = 32) {
  const Outcome outcome = run_lanes(body, threads);
  UNSCOPED_INFO(body << outcome.message);
  return outcome.check;
}

const char* const kSync = "bar.warp.sync -1;\n";

}  // namespace

// ---- hazards -------------------------------------------------------------------------------------

TEST_CASE("lanes that exchange words of memory must have met in between") {
  const std::string write = "st.shared.b32 [%d4], %w1;\n", read = "ld.shared.b32 %w4, [%d8];\n";
  const std::string global_write = "st.global.b32 [%d2], %w1;\n",
                    global_read = "ld.global.b32 %w4, [%d9];\n";
  for (const char* meeting :
       {kSync, "bar.sync 0;", "barrier.sync 1, 32;", "shfl.sync.bfly.b32 %w5, %w1, 1, 31, -1;",
        "vote.sync.any.pred %p2, %p1, -1;", "match.any.sync.b32 %w5, %w1, -1;",
        "match.all.sync.b32 %w5|%p2, %w1, -1;", "redux.sync.add.u32 %w5, %w1, -1;",
        "elect.sync _|%p2, -1;", "movmatrix.sync.aligned.m8n8.trans.b16 %w5, %w1;",
        "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%w10,%w11,%w12,%w13}, {%w9,%w9}, {%w9}, "
        "{%w9,%w9,%w9,%w9};"}) {
    INFO(meeting);
    CHECK(check_of(write + meeting + read) == "");
    CHECK(check_of(global_write + meeting + global_read) == "");
    CHECK(check_of(write + kSync + read + meeting + "st.shared.b32 [%d4], 7;") == "");
  }
  for (const char* none :
       {"", "membar.cta;", "membar.gl;", "cp.async.wait_all;", "activemask.b32 %w5;",
        "nanosleep.u32 100;", "add.u32 %w5, %w1, 1;", "atom.shared.add.u32 %w5, [%d4+128], 1;"}) {
    INFO(none);
    const std::string defined = "st.shared.b32 [%d4+128], 0;" + write;
    CHECK(check_of(defined + none + read) == "race");                         // read after write
    CHECK(check_of(defined + none + "st.shared.b32 [%d8], %w1;") == "race");  // write after write
    CHECK(check_of(defined + kSync + read + none + "st.shared.b32 [%d4], 7;") == "race");
    CHECK(check_of(global_write + "st.shared.b32 [%d4+128], 0;" + none + global_read) == "race");
    CHECK(check_of(global_read + "st.shared.b32 [%d4+128], 0;" + none + global_write) == "race");
  }
}

TEST_CASE("what is no hazard between lanes") {
  CHECK(check_of("st.shared.b32 [%d4], 1; ld.shared.b32 %w4, [%d4]; st.shared.b32 [%d4], %w4; "
                 "st.shared.b32 [%d4], 9;") == "");  // its own word
  CHECK(check_of("ld.global.b32 %w4, [%d2]; ld.global.b32 %w4, [%d9];") == "");
  // The value that is there already, whoever wrote or read it.
  CHECK(check_of("st.shared.b32 [%d4], 7; st.shared.b32 [%d8], 7;") == "");
  CHECK(check_of("st.global.b32 [%d2], 7; st.global.b32 [%d9], 7;") == "");
  CHECK(check_of("st.global.b32 [%d2], 7; st.global.b32 [%d9], 8;") == "race");
  CHECK(check_of("mov.b32 %w6, 0; $set: setp.eq.u32 %p2, %w1, %w6; @%p2 st.global.b32 [%d20], 1; "
                 "add.u32 %w6, %w6, 1; setp.lt.u32 %p2, %w6, 40; @%p2 bra $set;",
                 64) == "");  // a flag that several lanes and warps set, each at its time
  CHECK(check_of("st.shared.b32 [%d4], 7; st.shared.b32 [%d8], 8;") == "race");
  // Another's write is not forgotten for the same value behind it.
  CHECK(check_of("st.shared.b32 [%d4], %w1; st.shared.b32 [%d4], %w1; ld.shared.b32 %w5, [%d8];") ==
        "race");
  // Bytes of one word.
  const std::string bytes =
      "cvt.u64.u32 %d10, %w1; add.u64 %d10, %d10, %d3; cvt.u64.u32 %d11, "
      "%w3; add.u64 %d11, %d11, %d3; st.shared.b8 [%d10], %w1; ";
  CHECK(check_of(bytes + "ld.shared.b8 %w4, [%d10];") == "");
  CHECK(check_of(bytes + "ld.shared.b8 %w4, [%d11];") == "race");
  // Atomics among each other.
  CHECK(check_of("atom.global.add.u32 %w4, [%d20], 1; atom.global.add.u32 %w4, [%d20], 1;") == "");
  CHECK(check_of("@%p1 st.shared.b32 [%d3], 0; atom.shared.add.u32 %w4, [%d3], 1;") == "race");
  CHECK(check_of("setp.eq.u32 %p2, %w1, 9; @%p2 st.shared.b32 [%d3], 0; atom.shared.add.u32 %w4, "
                 "[%d3], 1;") == "race");
  CHECK(check_of(std::string("@%p1 st.shared.b32 [%d3], 0;") + kSync +
                 "atom.shared.add.u32 %w4, [%d3], 1;") == "");
  CHECK(check_of(std::string("@%p1 st.shared.b32 [%d3], 0;") + kSync +
                 "atom.shared.add.u32 %w4, [%d3], 1; st.shared.b32 [%d3], 2;") == "race");
  // Two warps at once keep their lanes apart.
  CHECK(check_of(std::string("ld.global.b32 %w4, [%d2];") + kSync +
                     "setp.gt.u32 %p2, %w1, 40; @%p2 st.global.b32 [%d9], %w1;",
                 64) == "");
}

TEST_CASE("a loop is no lockstep: its next turn may overtake") {
  const std::string body = R"(
    shr.u32 %w5, %w1, 1; mul.wide.u32 %d10, %w5, 4; add.u64 %d10, %d10, %d3; mov.b32 %w6, 0;
    $loop: st.shared.b32 [%d10], %w6; MEET
    add.u32 %w6, %w6, 1; setp.lt.u32 %p2, %w6, 3; @%p2 bra $loop;)";
  const auto with = [&](const char* meeting) {
    std::string text = body;
    return text.replace(text.find("MEET"), 4, meeting);
  };
  CHECK(check_of(with("")) == "race");
  CHECK(check_of(with(kSync)) == "");
}

TEST_CASE("sides of a branch that rejoin are not ordered by that") {
  const std::string sides = R"(
    setp.lt.u32 %p2, %w1, 16; @!%p2 bra $high; st.shared.b32 [%d4], %w1; $high: )";
  CHECK(check_of(sides + "@!%p2 ld.shared.b32 %w4, [%d8];") == "race");
  CHECK(check_of(sides + kSync + "@!%p2 ld.shared.b32 %w4, [%d8];") == "");
}

TEST_CASE("lanes that only some of the others have met") {
  const auto exchange = [](int partner, const std::string& meeting) {
    return fmt::format(
        "setp.lt.u32 %p2, %w1, 16; selp.b32 %w7, 0xffff, 0xffff0000, %p2; st.shared.b32 [%d4], "
        "%w1; xor.b32 %w5, %w1, {}; mul.wide.u32 %d10, %w5, 4; add.u64 %d10, %d10, %d3; {} "
        "ld.shared.b32 %w4, [%d10];",
        partner, meeting);
  };
  for (const char* halves : {"bar.warp.sync %w7;", "shfl.sync.bfly.b32 %w6, %w1, 1, 31, %w7;",
                             "vote.sync.any.pred %p3, %p1, %w7;"}) {
    INFO(halves);
    CHECK(check_of(exchange(15, halves)) == "");
    CHECK(check_of(exchange(16, halves)) == "race");
    CHECK(check_of(exchange(16, std::string(halves) + kSync)) == "");
    CHECK(check_of(exchange(16, kSync + std::string(halves))) == "");
    // Read, then overwritten by a lane that has met the reader, or not.
    CHECK(check_of(exchange(15, halves) + halves + "st.shared.b32 [%d4], 99;") == "");
    CHECK(check_of(exchange(16, kSync) + halves + "st.shared.b32 [%d4], 99;") == "race");
  }
  // One lane after the other: 0 meets 1, then 1 meets 2.
  const std::string chain = R"(
    @%p1 st.shared.b32 [%d3], 5;
    setp.lt.u32 %p2, %w1, 2; @%p2 bar.warp.sync 3;
    setp.eq.u32 %p3, %w1, 1; setp.eq.u32 %p4, %w1, 2; or.pred %p3, %p3, %p4; @%p3 bar.warp.sync 6;
    setp.eq.u32 %p5, %w1, 3; )";
  CHECK(check_of(chain + "@%p4 ld.shared.b32 %w4, [%d3];") == "");
  CHECK(check_of(chain + "@%p5 ld.shared.b32 %w4, [%d3];") == "race");
}

TEST_CASE("matrix instructions and copies read and write before their lanes have met") {
  const std::string rows = "st.shared.v4.b32 [%d6], {%w1, %w1, %w1, %w1};\n";
  // Rows come from the lanes that give their addresses: here from others than those that wrote them.
  const std::string other =
      "xor.b32 %w5, %w1, 7; mul.wide.u32 %d10, %w5, 16; add.u64 %d10, %d10, %d3;\n";
  const std::string load =
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%w10,%w11,%w12,%w13}, [%d10];\n";
  const std::string store = "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%d10], {%w1,%w1,%w1,%w1};\n";
  CHECK(check_of(other + rows + load) == "race");
  CHECK(check_of(other + rows + kSync + load) == "");
  CHECK(check_of(other + rows + store) == "race");
  CHECK(check_of(other + rows + kSync + store) == "");
  // Behind them they have.
  CHECK(check_of(other + rows + kSync + load + rows) == "");
  CHECK(check_of(other + store + "ld.shared.b32 %w4, [%d6];") == "");
  // A copy is its lane's own until another has met it behind its wait.
  const std::string copy = "cp.async.cg.shared.global [%d6], [%d7], 16; cp.async.wait_all;\n";
  CHECK(check_of(other + copy + "ld.shared.b32 %w4, [%d6];") == "");
  CHECK(check_of(other + copy + "ld.shared.b32 %w4, [%d10];") == "race");
  CHECK(check_of(other + copy + load) == "race");
  CHECK(check_of(other + copy + kSync + load) == "");
}

TEST_CASE("a hazard between lanes names both, and the lines") {
  const Outcome outcome = run_lanes("st.shared.b32 [%d4], %w1;\nld.shared.b32 %w4, [%d8];");
  CHECK_THAT(outcome.message,
             Contains("lane 0 reads shared address 0x47c that lane 31 wrote at line 14 "
                      "(st.shared.b32)") &&
                 Contains("line 15") && Contains("bar.warp.sync"));
}

// ---- members that have exited --------------------------------------------------------------------

TEST_CASE("a full mask in a partial warp, or after lanes have exited, names those that are left") {
  struct Case {
    const char* text;
    std::function<u32(u32)> expected;  // of a lane, with 16 lanes left
  };
  const Case cases[] = {
      {"vote.sync.ballot.b32 %w4, %p2, -1;", [](u32) { return 0xaaaau; }},
      {"vote.sync.all.pred %p3, %p4, -1; selp.b32 %w4, 1, 0, %p3;", [](u32) { return 1u; }},
      {"vote.sync.any.pred %p3, !%p4, -1; selp.b32 %w4, 1, 0, %p3;", [](u32) { return 0u; }},
      {"vote.sync.uni.pred %p3, %p4, -1; selp.b32 %w4, 1, 0, %p3;", [](u32) { return 1u; }},
      {"match.any.sync.b32 %w4, %w5, -1;", [](u32 l) { return l % 2 == 0 ? 0x5555u : 0xaaaau; }},
      {"match.all.sync.b32 %w4|%p3, 9, -1;", [](u32) { return 0xffffu; }},
      {"redux.sync.add.u32 %w4, %w1, -1;", [](u32) { return 120u; }},
      {"redux.sync.min.u32 %w4, %w1, -1;", [](u32) { return 0u; }},
      {"elect.sync %w4|%p3, -1;", [](u32) { return 0u; }},
      {"bar.warp.sync -1; mov.b32 %w4, %w1;", [](u32 l) { return l; }},
      {"shfl.sync.idx.b32 %w4, %w1, 3, 31, -1;", [](u32) { return 3u; }},
      {"shfl.sync.bfly.b32 %w4, %w1, 5, 31, -1;", [](u32 l) { return l ^ 5; }},
  };
  for (const Case& c : cases) {
    for (const char* leave :
         {"", "setp.ge.u32 %p5, %w1, 16; @%p5 ret;",
          // The others come to the place where they would be waited for, or not.
          "setp.lt.u32 %p5, %w1, 16; @%p5 bra $stay; mov.b32 %w6, 1; ret; "
          "$stay:"}) {
      for (const Checks checks : {Checks::on, Checks::off}) {
        Bench bench(Profile::sm_90);
        bench.options.checks = checks;
        bench.kernel(std::string("mov.u32 %w1, %laneid; and.b32 %w5, %w1, 1; setp.eq.u32 %p2, %w5, "
                                 "1; setp.lt.u32 %p4, %w1, 16;\n") +
                         leave + c.text +
                         "mov.u32 %w7, %tid.x; mul.wide.u32 %d1, %w7, 4; add.u64 %d1, %d1, %d20; "
                         "st.global.b32 [%d1], %w4;",
                     1);
        const bool whole = *leave != '\0';
        const unsigned threads = whole ? 64 : 48;
        const Address out = bench.upload(std::vector<u32>(threads, 77));
        const LaunchReport report = bench.run(1, threads, {out});
        INFO(c.text << leave << messages(report));
        REQUIRE(report.findings.empty());
        const auto got = bench.download<u32>(out, threads);
        for (u32 lane = 0; lane < 16; ++lane) CHECK(got[32 + lane] == c.expected(lane));
        if (whole) CHECK(got[63] == 77);
      }
    }
  }
}

TEST_CASE("what shfl reads from a lane that has exited is undefined") {
  // Sums of the block's 48 threads by halves: lanes behind the end are read, and not used.
  Bench bench;
  const std::string sum = R"(
    mov.u32 %w1, %laneid; mov.u32 %w2, %tid.x; mov.b32 %w3, %w2; mov.b32 %w6, 16;
    $step: add.u32 %w7, %w2, %w6; setp.lt.u32 %p1, %w7, 48;
    shfl.sync.down.b32 %w4, %w3, %w6, 31, -1;
    GUARD add.u32 %w3, %w3, %w4;
    shr.u32 %w6, %w6, 1; setp.ne.u32 %p2, %w6, 0; @%p2 bra $step;
    setp.eq.u32 %p3, %w1, 0; mul.wide.u32 %d1, %w2, 4; add.u64 %d1, %d1, %d20;
    @%p3 st.global.b32 [%d1], %w3;)";
  const auto run = [&](const char* guard) {
    std::string text = sum;
    bench.kernel(text.replace(text.find("GUARD"), 5, guard), 1);
    const Address out = bench.upload(std::vector<u32>(48, 0));
    const LaunchReport report = bench.run(1, 48, {out});
    INFO(messages(report));
    if (!report.findings.empty()) return report.findings[0].check;
    const auto got = bench.download<u32>(out, 48);
    CHECK(got[0] == 31 * 32 / 2);
    CHECK(got[32] == 47 * 48 / 2 - 31 * 32 / 2);
    return std::string();
  };
  CHECK(run("@%p1") == "");
  CHECK(run("") == "uninitialized");
  CHECK(check_of("setp.gt.u32 %p2, %w1, 7; @%p2 ret; shfl.sync.idx.b32 %w4, %w1, 9, 31, -1;") ==
        "");
  CHECK(check_of("setp.gt.u32 %p2, %w1, 7; @%p2 ret; shfl.sync.idx.b32 %w4, %w1, 9, 31, -1; "
                 "st.global.b32 [%d2], %w4;") == "uninitialized");
  // So it is from lanes that live, but do not take part, or take part in another group.
  CHECK(check_of("setp.gt.u32 %p2, %w1, 7; @!%p2 shfl.sync.idx.b32 %w4, %w1, 9, 31, 0xff;") == "");
  CHECK(check_of("setp.gt.u32 %p2, %w1, 7; @!%p2 shfl.sync.idx.b32 %w4, %w1, 9, 31, 0xff; "
                 "@!%p2 st.global.b32 [%d2], %w4;") == "uninitialized");
  CHECK(check_of("setp.gt.u32 %p2, %w1, 7; selp.b32 %w5, 0xffffff00, 0xff, %p2; "
                 "shfl.sync.idx.b32 %w4, %w1, 9, 31, %w5; @%p2 st.global.b32 [%d2], %w4;") == "");
  CHECK(check_of("setp.gt.u32 %p2, %w1, 7; selp.b32 %w5, 0xffffff00, 0xff, %p2; "
                 "shfl.sync.idx.b32 %w4, %w1, 9, 31, %w5; st.global.b32 [%d2], %w4;") ==
        "uninitialized");
}

TEST_CASE("members of a group meet at different bar.warp.sync") {
  // Each lane reads what lane 31 - l wrote, which came another way.
  const std::string write = "setp.lt.u32 %p2, %w1, 16; st.shared.b32 [%d4], %w1;\n";
  const std::string read = "ld.shared.b32 %w4, [%d8]; st.global.b32 [%d2], %w4;\n";
  struct Way {
    std::string text, check;
  };
  const Way ways[] = {
      {"@%p2 bra $a; bar.warp.sync -1; bra $b; $a: bar.warp.sync -1; $b:", ""},
      {"@%p2 bra $a; bar.warp.sync -1; bra $b; $a: add.u32 %w9, %w9, 1; $b:",
       "divergent-collective"},
      {"@%p2 bra $a; bar.warp.sync -1; bra $b; $a: bar.warp.sync 0xffff; $b:",
       "divergent-collective"},
      // One after the other.
      {"@%p2 bar.warp.sync -1; @!%p2 bar.warp.sync -1;", ""},
      {"@%p2 bar.warp.sync -1;", "divergent-collective"},
      // One side twice, the other in a loop.
      {"@%p2 bra $a; bar.warp.sync -1; bar.warp.sync -1; bra $b;\n"
       "$a: bar.warp.sync -1; add.u32 %w9, %w9, 1; setp.lt.u32 %p3, %w9, 2; @%p3 bra $a; $b:",
       ""},
      {"@%p2 bra $a; bar.warp.sync -1; bra $b;\n"
       "$a: bar.warp.sync -1; add.u32 %w9, %w9, 1; setp.lt.u32 %p3, %w9, 2; @%p3 bra $a; $b:",
       "divergent-collective"},
      // Three places.
      {"setp.lt.u32 %p3, %w1, 24; @%p2 bra $a; @%p3 bra $c; bar.warp.sync -1; bra $b;\n"
       "$c: bar.warp.sync -1; bra $b; $a: bar.warp.sync -1; $b:",
       ""},
      // Two groups, each at both places: lanes with an even and with an odd number of bits.
      {"popc.b32 %w6, %w1; and.b32 %w6, %w6, 1; setp.eq.u32 %p3, %w6, 0;\n"
       "selp.b32 %w7, 0x69969669, 0x96696996, %p3;\n"
       "@%p2 bra $a; bar.warp.sync %w7; bra $b; $a: bar.warp.sync %w7; $b: bar.warp.sync -1;",
       ""},
      // One waits at another instruction, which is no warp barrier.
      {"@%p2 bra $a; bar.warp.sync -1; bra $b; $a: vote.sync.any.pred %p3, %p2, -1; $b:",
       "divergent-collective"},
      {"@%p2 bra $a; bar.sync 0; bra $b; $a: bar.sync 0; $b:", "divergent-collective"}};
  for (const Way& way : ways) {
    // Behind it all lanes meet again, also in instructions that all of them must execute as one.
    const std::string end =
        "bar.sync 0; shfl.sync.bfly.b32 %w5, %w4, 31, 31, -1;\n"
        "st.global.b32 [%d2+128], %w5;";
    for (const Checks checks : {Checks::on, Checks::off}) {
      Bench bench(Profile::sm_90);
      bench.options.checks = checks;
      bench.kernel(kPreamble + write + way.text + "\n" + read + end, 1,
                   ".shared .align 16 .b8 s[4096];");
      const Address words = bench.upload(std::vector<u32>(1024, 3));
      const LaunchReport report = bench.run(1, 32, {words});
      INFO(way.text << messages(report));
      // What is not ordered is a race as well.
      CHECK((report.findings.empty() ? "" : report.findings.back().check) == way.check);
      if (!way.check.empty()) {
        CHECK_THAT(report.findings.back().message,
                   Contains("; lanes 0x") && Contains("wait at line 1"));
        continue;
      }
      const auto got = bench.download<u32>(words, 64);
      for (u32 lane = 0; lane < 32; ++lane) {
        CHECK(got[lane] == 31 - lane);
        CHECK(got[32 + lane] == lane);
      }
    }
  }
  // Those that meet, and no others, are ordered.
  CHECK(check_of(write +
                 "@%p2 bra $a; bar.warp.sync 0xffff0000; bra $b; $a: bar.warp.sync 0xffff; "
                 "$b:\n" +
                 read) == "race");
}

TEST_CASE("warps that wait for a lower or a higher one") {
  // Each warp waits for the one before it, or the one behind it, before it signs.
  for (const char* way : {"up", "down"}) {
    for (const char* pause : {"", "nanosleep.u32 20;"}) {
      for (const SchedulePolicy schedule : kSchedules) {
        Bench bench;
        bench.options.schedule = schedule;
        bench.kernel(fmt::format(R"(
          mov.u32 %w1, %tid.x; shr.u32 %w2, %w1, 5; mov.b64 %d3, s;
          setp.eq.u32 %p1, %w1, 0; @%p1 st.shared.b32 [%d3], 0; bar.sync 0;
          sub.u32 %w3, 31, %w2; setp.eq.u32 %p3, {}, 0; selp.b32 %w3, %w2, %w3, %p3;
          $wait: {} ld.volatile.shared.b32 %w4, [%d3]; setp.ne.u32 %p2, %w4, %w3; @%p2 bra $wait;
          bar.warp.sync -1; add.u32 %w5, %w4, 1; and.b32 %w6, %w1, 31; setp.eq.u32 %p4, %w6, 0;
          membar.cta; @%p4 st.volatile.shared.b32 [%d3], %w5;
          mul.wide.u32 %d1, %w1, 4; add.u64 %d1, %d1, %d20; st.global.b32 [%d1], %w4;)",
                                 way == std::string("up") ? 0 : 1, pause),
                     1, ".shared .align 4 .b8 s[4];");
        const Address out = bench.upload(std::vector<u32>(1024, 99));
        const LaunchReport report = bench.run(1, 1024, {out});
        INFO(way << pause << messages(report));
        REQUIRE(report.findings.empty());
        const auto got = bench.download<u32>(out, 1024);
        for (u32 t = 0; t < 1024; ++t) {
          REQUIRE(got[t] == (way == std::string("up") ? t / 32 : 31 - t / 32));
        }
      }
    }
  }
}

// ---- lanes that wait for each other --------------------------------------------------------------

TEST_CASE("a spin lock among the lanes of a warp") {
  // Words: the lock, the counter. Whoever has the lock leaves the loop and must go on to give it back.
  const char* const kBody = R"(
    mov.u32 %w1, %tid.x; setp.eq.u32 %p1, %w1, 0; mov.b64 %d3, s;
    @%p1 st.shared.v2.b32 [%d3], {0, 0};
    bar.sync 0;
    $again: POLL atom.shared.cas.b32 %w4, [%d3], 0, 1; setp.ne.u32 %p2, %w4, 0; @%p2 bra $again;
    ld.shared.b32 %w5, [%d3+4]; add.u32 %w5, %w5, 1; st.shared.b32 [%d3+4], %w5; membar.cta;
    atom.shared.exch.b32 %w6, [%d3], 0;
    bar.sync 0;
    ld.shared.b32 %w5, [%d3+4]; @%p1 st.global.b32 [%d20], %w5;)";
  for (const SchedulePolicy schedule : kSchedules) {
    for (const Checks checks : {Checks::on, Checks::off}) {
      for (const char* poll : {"", "nanosleep.u32 20;"}) {
        Bench bench;
        bench.options.schedule = schedule;
        bench.options.checks = checks;
        bench.options.seed = 5;
        std::string text = kBody;
        bench.kernel(text.replace(text.find("POLL"), 4, poll), 1, ".shared .align 8 .b8 s[8];");
        const Address out = bench.upload(std::vector<u32>{0});
        const LaunchReport report = bench.run(1, 32, {out});
        INFO(messages(report));
        REQUIRE(report.findings.empty());
        CHECK(bench.download<u32>(out, 1)[0] == 32);
      }
    }
  }
}

TEST_CASE("lanes that wait for a flag of another lane") {
  // The flag is set on the other side of the branch, or behind it; the wait may count its turns.
  const std::string wait =
      "$wait: COUNT ld.volatile.shared.b32 %w4, [%d3]; setp.eq.u32 %p2, %w4, "
      "0; @%p2 bra $wait;\n";
  const std::string set =
      "st.shared.b32 [%d3+4], 42; membar.cta; st.volatile.shared.b32 [%d3], 1;\n";
  const std::string end = "membar.cta; ld.shared.b32 %w5, [%d3+4]; st.global.b32 [%d2], %w5;";
  const std::string begin =
      "mov.b32 %w8, 0; setp.eq.u32 %p4, %w1, 9; @%p1 st.shared.v2.b32 [%d3], "
      "{0, 0}; bar.warp.sync -1;\n";
  const std::string bodies[] = {
      begin + "@%p4 bra $set;\n" + wait + "bra $end; $set:\n" + set + "$end:\n" + end,
      begin + "@!%p4 bra $waits;\n" + set + "bra $end; $waits:\n" + wait + "$end:\n" + end,
      // Lane 9 passes the loop and sets the flag further on.
      begin + "@%p4 bra $past;\n" + wait + "$past: @!%p4 bra $end;\n" + set + "$end:\n" + end,
      // The others pass it, and one of them sets the flag.
      begin +
          "setp.eq.u32 %p5, %w1, 10; @%p5 bra $past; bra $enter; $past: bra $behind; $enter: "
          "@!%p4 bra $behind;\n" +
          wait + "$behind: @!%p5 bra $end;\n" + set + "$end: bar.warp.sync -1;\n" + end};
  for (const std::string& body : bodies) {
    for (const char* count : {"", "add.u32 %w8, %w8, 1;"}) {
      for (const SchedulePolicy schedule : kSchedules) {
        std::string text = body;
        text.replace(text.find("COUNT"), 5, count);
        Bench bench;
        bench.options.schedule = schedule;
        bench.kernel(kPreamble + text, 1, ".shared .align 16 .b8 s[4096];");
        const Address out = bench.upload(std::vector<u32>(1024, 3));
        const LaunchReport report = bench.run(1, 32, {out});
        INFO(text << messages(report));
        REQUIRE(report.findings.empty());
        CHECK(bench.download<u32>(out, 32) == std::vector<u32>(32, 42));
      }
    }
  }
  // Nobody sets it.
  CHECK(
      check_of(std::string("@%p1 st.shared.b32 [%d3], 0; bar.warp.sync -1; setp.eq.u32 %p4, %w1, "
                           "9; @%p4 bra $past; $wait: ld.volatile.shared.b32 %w4, [%d3]; "
                           "setp.eq.u32 %p2, %w4, 0; @%p2 bra $wait; $past: bar.warp.sync -1;")) ==
      "instruction-limit");
}

TEST_CASE("a lane that waits for another warp holds up its own only where they meet") {
  // In each of three turns lane 0 of warp 0 waits for warp 1, which takes its time; the others of warp 0
  // go ahead to the end of the turn.
  const char* const kBody = R"(
    mov.u32 %w1, %tid.x; setp.eq.u32 %p1, %w1, 0; mov.b64 %d3, s; mov.b32 %w9, 0; setp.ge.u32 %p6, %w1, 32;
    @%p1 st.shared.b32 [%d3], 0; bar.sync 0;
    @%p6 bra $other;
    $turn: add.u32 %w9, %w9, 1;
    @!%p1 bra $meet;
    $wait: ld.volatile.shared.b32 %w4, [%d3]; setp.lt.u32 %p2, %w4, %w9; @%p2 bra $wait;
    $meet: bar.warp.sync -1;
    setp.lt.u32 %p3, %w9, 3; @%p3 bra $turn;
    bra $end;
    $other: mov.b32 %w5, 0;
    $delay: add.u32 %w5, %w5, 1; rem.u32 %w6, %w5, 20000; setp.ne.u32 %p4, %w6, 0; @%p4 bra $delay;
    div.u32 %w6, %w5, 20000; setp.eq.u32 %p5, %w1, 32; @%p5 st.volatile.shared.b32 [%d3], %w6;
    setp.lt.u32 %p4, %w6, 3; @%p4 bra $delay;
    $end: mul.wide.u32 %d1, %w1, 4; add.u64 %d1, %d1, %d20; st.global.b32 [%d1], %w9;)";
  for (const SchedulePolicy schedule : kSchedules) {
    Bench bench;
    bench.options.schedule = schedule;
    bench.kernel(kBody, 1, ".shared .align 4 .b8 s[4];");
    const Address out = bench.upload(std::vector<u32>(64, 0));
    const LaunchReport report = bench.run(1, 64, {out});
    INFO(messages(report));
    REQUIRE(report.findings.empty());
    CHECK(bench.download<u32>(out, 1)[0] == 3);
  }
}

}  // namespace sagegen::emulator::test
