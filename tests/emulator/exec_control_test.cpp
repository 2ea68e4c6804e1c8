// Divergence, barriers, scheduling, deadlocks.

#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "tests/emulator/exec_fixture.h"

namespace sagegen::emulator::test {
namespace {

using Catch::Matchers::Contains;
using runtime::AsyncPolicy;
using runtime::Checks;
using runtime::SchedulePolicy;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

// Runs a body whose thread t leaves its result in %w0; %w1 is t.
std::vector<u32> results(const std::string& body, unsigned threads, Checks checks = Checks::on) {
  Bench bench;
  bench.options.checks = checks;
  bench.kernel(
      "mov.u32 %w1, %tid.x; mov.b32 %w0, 0;\n" + body +
          "\n$done: mul.wide.u32 %d1, %w1, 4; add.u64 %d1, %d1, %d20; st.global.b32 [%d1], %w0;",
      1);
  Address out = bench.memory.allocate(threads * 4);
  LaunchReport report = bench.run(1, threads, {out});
  INFO(messages(report));
  REQUIRE(report.findings.empty());
  return bench.download<u32>(out, threads);
}

template <class F>
void expect(const std::string& body, F&& expected) {
  for (unsigned threads : {32u, 1u, 45u, 96u}) {
    for (Checks checks : {Checks::on, Checks::off}) {
      std::vector<u32> got = results(body, threads, checks);
      for (u32 t = 0; t < threads; ++t) {
        INFO("thread " << t << " of " << threads);
        REQUIRE(got[t] == expected(t));
      }
    }
  }
}

// A random structured program over x (%w0) and the thread (%w1), as PTX and as a function.
struct RandomProgram {
  std::mt19937 random;
  std::string ptx;
  int labels = 0, loops = 0;
  struct Node {
    enum Kind { add, multiply, branch, loop, leave } kind;
    u32 constant;
    u32 mask;
    int break_at = -1;
    std::vector<Node> first, second;
  };
  std::vector<Node> program;

  bool barriers;

  // With barriers: one after every statement of the outermost block, where all lanes that are left must
  // have rejoined.
  explicit RandomProgram(u32 seed, bool with_barriers = false)
      : random(seed), barriers(with_barriers) {
    program = block(4, false);
    for (const Node& n : program) {
      emit({n}, "");
      if (barriers) ptx += "bar.sync 0;\n";
    }
  }
  u32 below(u32 n) { return static_cast<u32>(random() % n); }

  std::vector<Node> block(int depth, bool in_loop) {
    std::vector<Node> nodes;
    u32 n = 1 + below(4);
    for (u32 i = 0; i < n; ++i) nodes.push_back(node(depth, in_loop));
    return nodes;
  }
  Node node(int depth, bool in_loop) {
    u32 choice = below(depth > 0 ? 10 : 3);
    Node result{Node::add, 1 + below(100), below(32), -1, {}, {}};
    if (choice < 2) return result;
    if (choice == 2) {
      result.kind = Node::multiply;
    } else if (choice < 7) {
      result.kind = Node::branch;
      result.first = block(depth - 1, in_loop);
      if (below(2) == 0) result.second = block(depth - 1, in_loop);
    } else if (choice < 9 && loops < 6) {
      ++loops;
      result.kind = Node::loop;  // trip count (t ^ constant) & 7, left early when a bit of x is set
      result.first = block(depth - 1, true);
    } else if (below(6) == 0) {
      result.kind = Node::leave;  // lanes with (t & mask) == mask stop here
    }
    return result;
  }

  void emit(const std::vector<Node>& nodes, const std::string& indent) {
    for (const Node& n : nodes) {
      switch (n.kind) {
        case Node::add:
          ptx += fmt::format("{}add.u32 %w0, %w0, {};\n", indent, n.constant);
          break;
        case Node::multiply:
          ptx += fmt::format("{}mad.lo.u32 %w0, %w0, {}, %w1;\n", indent, n.constant | 1);
          break;
        case Node::leave:
          ptx += fmt::format("{0}and.b32 %w5, %w1, {1}; setp.eq.u32 %p2, %w5, {1};\n", indent,
                             n.mask | 1);
          if (barriers) {  // leaves the kernel
            int label = labels++;
            ptx += fmt::format("{0}@!%p2 bra $stay{1}; st.global.b32 [%d1], %w0; ret; $stay{1}:\n",
                               indent, label);
          } else {  // skips the rest
            ptx += fmt::format("{0}@%p2 bra $done;\n", indent);
          }
          break;
        case Node::branch: {
          int label = labels++;
          // Lanes differ by their number and by their data.
          ptx += fmt::format(
              "{0}xor.b32 %w5, %w0, %w1; and.b32 %w5, %w5, {1}; setp.ne.u32 %p1, %w5, 0;\n{0}@!%p1 "
              "bra $else{2};\n",
              indent, n.mask | 1, label);
          emit(n.first, indent + " ");
          ptx += fmt::format("{0}bra $end{1};\n$else{1}:\n", indent, label);
          emit(n.second, indent + " ");
          ptx += fmt::format("$end{}:\n", label);
          break;
        }
        case Node::loop: {
          int label = labels++;
          int counter = 10 + label % 40;
          ptx += fmt::format(
              "{0}xor.b32 %w5, %w1, {1}; and.b32 %w{2}, %w5, 7;\n$head{3}:\n{0}setp.eq.u32 %p1, "
              "%w{2}, 0; @%p1 bra $exit{3};\n",
              indent, n.constant, counter, label);
          emit(n.first, indent + " ");
          ptx += fmt::format(
              "{0}and.b32 %w5, %w0, {1}; setp.eq.u32 %p1, %w5, {1}; @%p1 bra $exit{2};\n"
              "{0}sub.u32 %w{3}, %w{3}, 1; bra $head{2};\n$exit{2}:\n",
              indent, n.mask | 4, label, counter);
          break;
        }
      }
    }
  }

  // False if the thread left.
  bool interpret(const std::vector<Node>& nodes, u32 t, u32& x) const {
    for (const Node& n : nodes) {
      switch (n.kind) {
        case Node::add:
          x += n.constant;
          break;
        case Node::multiply:
          x = x * (n.constant | 1) + t;
          break;
        case Node::leave:
          if ((t & (n.mask | 1)) == (n.mask | 1)) return false;
          break;
        case Node::branch:
          if (!interpret(((x ^ t) & (n.mask | 1)) != 0 ? n.first : n.second, t, x)) return false;
          break;
        case Node::loop:
          for (u32 trips = (t ^ n.constant) & 7; trips != 0; --trips) {
            if (!interpret(n.first, t, x)) return false;
            if ((x & (n.mask | 4)) == (n.mask | 4)) break;
          }
          break;
      }
    }
    return true;
  }
};

constexpr const char* kReverseThroughShared = R"(
    mov.u32 %w1, %tid.x; mov.u32 %w2, %ntid.x; mov.u32 %w9, %ctaid.x;
    mov.b64 %d1, s; mul.wide.u32 %d2, %w1, 4; add.u64 %d2, %d2, %d1;
    mad.lo.u32 %w3, %w1, 7, %w9;
    st.shared.b32 [%d2], %w3;
    bar.sync 0;
    sub.u32 %w4, %w2, %w1; sub.u32 %w4, %w4, 1;
    mul.wide.u32 %d3, %w4, 4; add.u64 %d3, %d3, %d1;
    ld.shared.b32 %w5, [%d3];
    mad.lo.u32 %w6, %w9, %w2, %w1;
    mul.wide.u32 %d4, %w6, 4; add.u64 %d4, %d4, %d20;
    st.global.b32 [%d4], %w5;)";

}  // namespace

TEST_CASE("nested branches") {
  expect(R"(
    and.b32 %w2, %w1, 1; setp.eq.u32 %p1, %w2, 0; @%p1 bra $even;
      and.b32 %w2, %w1, 2; setp.eq.u32 %p2, %w2, 0; @%p2 bra $odd_low;
        mov.b32 %w0, 3; bra $odd_end;
      $odd_low: mov.b32 %w0, 1;
      $odd_end: add.u32 %w0, %w0, 100;
      bra $join;
    $even: mov.b32 %w0, 50;
    $join: add.u32 %w0, %w0, %w1;)",
         [](u32 t) {
           return (t % 2 == 0 ? 50 : (t & 2) == 0 ? 101 : 103) + t;
         });
}

TEST_CASE("a loop with a trip count per lane") {
  expect(R"(
    mov.b32 %w2, %w1;
    $loop: setp.eq.u32 %p1, %w2, 0; @%p1 bra $out;
    add.u32 %w0, %w0, %w2; sub.u32 %w2, %w2, 1; bra $loop;
    $out: add.u32 %w0, %w0, 1000;)",
         [](u32 t) { return t * (t + 1) / 2 + 1000; });
}

TEST_CASE("break and continue") {
  expect(R"(
    mov.b32 %w2, 0;
    $loop: add.u32 %w2, %w2, 1;
    and.b32 %w3, %w2, 1; setp.eq.u32 %p1, %w3, 0; @%p1 bra $next;
    add.u32 %w0, %w0, %w2;
    setp.gt.u32 %p2, %w0, %w1; @%p2 bra $out;
    $next: setp.lt.u32 %p3, %w2, 20; @%p3 bra $loop;
    add.u32 %w0, %w0, 500;
    $out:)",
         [](u32 t) {
           u32 x = 0;
           for (u32 i = 1; i <= 20; ++i) {
             if (i % 2 == 0) continue;
             x += i;
             if (x > t) return x;
           }
           return x + 500;
         });
}

TEST_CASE("early return inside nested branches, then a barrier for the others") {
  // Lanes that return never rejoin; those that stay must be together again at the barrier.
  Bench bench;
  bench.kernel(R"(
    mov.u32 %w1, %tid.x;
    setp.lt.u32 %p1, %w1, 40; @!%p1 bra $after;
      setp.ge.u32 %p2, %w1, 32; @%p2 ret;
    $after: bar.sync 0;
    mul.wide.u32 %d1, %w1, 4; add.u64 %d1, %d1, %d20; st.global.b32 [%d1], %w1;)",
               1);
  Address out = bench.upload(std::vector<u32>(64, 7));
  LaunchReport report = bench.run(1, 64, {out});
  INFO(messages(report));
  REQUIRE(report.findings.empty());
  auto got = bench.download<u32>(out, 64);
  for (u32 t = 0; t < 64; ++t) CHECK(got[t] == (t >= 32 && t < 40 ? 7 : t));
}

TEST_CASE("lanes that store and return do not hold up those that meet at a barrier") {
  // In one step, and out of a loop whose other exit leads to the barrier.
  for (const char* way_out :
       {R"(setp.ge.u32 %p1, %w1, 8; @%p1 bra $stay; st.global.b32 [%d1], 77; ret; $stay:)",
        R"(mov.b32 %w2, 0;
              $loop: setp.ne.u32 %p1, %w1, %w2; @%p1 bra $stay; st.global.b32 [%d1], 77; ret;
              $stay: add.u32 %w2, %w2, 1; setp.lt.u32 %p2, %w2, 8; @%p2 bra $loop;)"}) {
    std::string body = std::string("mul.wide.u32 %d1, %w1, 4; add.u64 %d1, %d1, %d20;\n") +
                       way_out +
                       R"(
      bar.sync 0;
      setp.lt.u32 %p3, %w1, 32; selp.b32 %w3, 0xffffff00, 0xffffffff, %p3;
      vote.sync.ballot.b32 %w4, %p2, %w3; popc.b32 %w0, %w3;)";
    for (SchedulePolicy schedule :
         {SchedulePolicy::round_robin, SchedulePolicy::random, SchedulePolicy::reverse}) {
      Bench bench;
      bench.options.schedule = schedule;
      bench.kernel("mov.u32 %w1, %tid.x; mov.b32 %w0, 0; setp.ne.u32 %p2, 0, 0;\n" + body +
                       "\nst.global.b32 [%d1], %w0;",
                   1);
      Address out = bench.memory.allocate(64 * 4);
      LaunchReport report = bench.run(1, 64, {out});
      INFO(way_out << "\n" << messages(report));
      REQUIRE(report.findings.empty());
      auto got = bench.download<u32>(out, 64);
      for (u32 t = 0; t < 64; ++t) CHECK(got[t] == (t < 8 ? 77 : t < 32 ? 24 : 32));
    }
  }
}

TEST_CASE("lanes that never meet are reported") {
  auto check_of = [](const std::string& body) {
    Bench bench;
    bench.kernel("mov.u32 %w1, %tid.x; setp.lt.u32 %p1, %w1, 7; mov.b32 %w2, 0;\n" + body, 0);
    LaunchReport report = bench.run(1, 32, {});
    UNSCOPED_INFO(messages(report));
    return only_check(report);
  };
  // Two barriers, one on each side; a barrier inside a loop with a trip count per lane.
  CHECK(check_of("@%p1 bra $a; bar.sync 0; bra $j; $a: bar.sync 0; $j: bar.sync 1;") ==
        "divergent-collective");
  CHECK(check_of("@%p1 bra $a; bar.sync 0; bra $j; $a: add.u32 %w2, %w2, 1; $j: bar.sync 0;") ==
        "divergent-collective");
  CHECK(check_of("$l: bar.sync 0; add.u32 %w2, %w2, 1; setp.lt.u32 %p2, %w2, %w1; @%p2 bra $l; "
                 "bar.sync 1;") == "divergent-collective");
  CHECK(check_of("$l: bar.sync 0; add.u32 %w2, %w2, 1; setp.lt.u32 %p2, %w2, 9; @%p2 bra $l; "
                 "bar.sync 1;") == "");
  // Shuffles that name the lanes of the other side, which wait for them in turn.
  CHECK(check_of("@%p1 bra $a; shfl.sync.idx.b32 %w3, %w1, 0, 31, -1; bra $j; $a: "
                 "shfl.sync.idx.b32 %w3, %w1, 0, 31, -1; $j: bar.sync 0;") ==
        "divergent-collective");
}

TEST_CASE("random structured programs") {
  for (u32 seed = 0; seed < 150; ++seed) {
    RandomProgram program(seed);
    INFO("seed " << seed << "\n" << program.ptx);
    std::vector<u32> got = results(program.ptx, 45);
    for (u32 t = 0; t < 45; ++t) {
      u32 x = 0;
      program.interpret(program.program, t, x);
      INFO("thread " << t);
      REQUIRE(got[t] == x);
    }
  }
}

TEST_CASE("random structured programs whose lanes rejoin at barriers") {
  for (u32 seed = 1000; seed < 1200; ++seed) {
    RandomProgram program(seed, true);
    INFO("seed " << seed << "\n" << program.ptx);
    std::string address = "mul.wide.u32 %d1, %w1, 4; add.u64 %d1, %d1, %d20;\n";
    std::vector<u32> got = results(address + program.ptx, 45);
    for (u32 t = 0; t < 45; ++t) {
      u32 x = 0;
      program.interpret(program.program, t, x);
      INFO("thread " << t);
      REQUIRE(got[t] == x);
    }
  }
}

TEST_CASE("warps exchange data through shared memory and a barrier, under every schedule") {
  for (SchedulePolicy schedule :
       {SchedulePolicy::round_robin, SchedulePolicy::random, SchedulePolicy::reverse}) {
    for (u64 seed = 0; seed < 8; ++seed) {
      for (unsigned threads : {32u, 128u, 1024u}) {
        Bench bench;
        bench.options.schedule = schedule;
        bench.options.seed = seed;
        bench.kernel(kReverseThroughShared, 1, ".shared .align 4 .b8 s[4096];");
        Address out = bench.memory.allocate(threads * 3 * 4);
        LaunchReport report = bench.run(3, threads, {out});
        INFO(messages(report));
        REQUIRE(report.findings.empty());
        auto got = bench.download<u32>(out, threads * 3);
        for (u32 i = 0; i < threads * 3; ++i)
          REQUIRE(got[i] == (threads - 1 - i % threads) * 7 + i / threads);
      }
    }
  }
}

TEST_CASE("named barriers: a producer arrives, consumers wait") {
  Bench bench;
  // Warp 0 fills; warps 1 to 3 wait for it at barrier 1 and answer at barrier 2.
  bench.kernel(R"(
    mov.b32 %w6, 0;
    mov.u32 %w1, %tid.x; shr.u32 %w2, %w1, 5; and.b32 %w3, %w1, 31;
    mov.b64 %d1, s; mul.wide.u32 %d2, %w3, 4; add.u64 %d2, %d2, %d1;
    mov.b32 %w9, 0;
    $loop:
    setp.ne.u32 %p1, %w2, 0; @%p1 bra $consume;
      mad.lo.u32 %w4, %w9, 1000, %w3;
      st.shared.b32 [%d2], %w4;
      bar.arrive 1, 128;
      bar.sync 2, 128;
      bra $next;
    $consume:
      bar.sync 1, 128;
      ld.shared.b32 %w5, [%d2]; add.u32 %w6, %w6, %w5;
      bar.arrive 2, 128;
    $next:
    add.u32 %w9, %w9, 1; setp.lt.u32 %p2, %w9, 5; @%p2 bra $loop;
    setp.eq.u32 %p3, %w2, 0; @%p3 ret;
    mul.wide.u32 %d4, %w1, 4; add.u64 %d4, %d4, %d20; st.global.b32 [%d4], %w6;)",
               1, ".shared .align 4 .b8 s[128];");
  for (SchedulePolicy schedule :
       {SchedulePolicy::round_robin, SchedulePolicy::random, SchedulePolicy::reverse}) {
    bench.options.schedule = schedule;
    Address out = bench.memory.allocate(128 * 4);
    LaunchReport report = bench.run(1, 128, {out});
    INFO(messages(report));
    REQUIRE(report.findings.empty());
    auto got = bench.download<u32>(out, 128);
    for (u32 t = 32; t < 128; ++t) CHECK(got[t] == 10000 + 5 * (t % 32));
  }
}

TEST_CASE("bar.red counts and combines predicates") {
  Bench bench;
  bench.kernel(R"(
    mov.u32 %w1, %tid.x; setp.lt.u32 %p1, %w1, 37;
    bar.red.popc.u32 %w2, 0, %p1;
    bar.red.and.pred %p2, 0, %p1;
    bar.red.or.pred %p3, 1, 96, !%p1;
    selp.b32 %w3, 1000, 0, %p2; selp.b32 %w4, 10000, 0, %p3;
    add.u32 %w2, %w2, %w3; add.u32 %w2, %w2, %w4;
    mul.wide.u32 %d1, %w1, 4; add.u64 %d1, %d1, %d20; st.global.b32 [%d1], %w2;)",
               1);
  Address out = bench.memory.allocate(96 * 4);
  LaunchReport report = bench.run(1, 96, {out});
  INFO(messages(report));
  REQUIRE(report.findings.empty());
  for (u32 x : bench.download<u32>(out, 96)) CHECK(x == 37 + 10000);
}

TEST_CASE("a barrier without a count does not wait for warps that have exited") {
  Bench bench;
  bench.kernel(R"(
    mov.u32 %w1, %tid.x; setp.lt.u32 %p1, %w1, 64; @%p1 ret;
    bar.sync 0;
    mul.wide.u32 %d1, %w1, 4; add.u64 %d1, %d1, %d20; st.global.b32 [%d1], %w1;)",
               1);
  Address out = bench.memory.allocate(128 * 4);
  LaunchReport report = bench.run(1, 128, {out});
  INFO(messages(report));
  CHECK(report.findings.empty());
}

TEST_CASE("deadlocks are reported with every warp's place") {
  Bench bench;
  bench.kernel(R"(
    mov.u32 %w1, %tid.x; shr.u32 %w2, %w1, 5;
    setp.eq.u32 %p1, %w2, 0; @%p1 bra $other;
    bar.sync 1, 96;
    ret;
    $other: bar.sync 2, 64;)",
               0);
  LaunchReport report = bench.run(1, 64, {});
  REQUIRE(only_check(report) == "deadlock");
  const std::string& text = report.findings[0].message;
  CHECK_THAT(text, Catch::Contains("warp 0 waits at line 13") &&
                       Catch::Contains("barrier 2: 32 of 64 threads"));
  CHECK_THAT(text, Catch::Contains("warp 1 waits at line 11") &&
                       Catch::Contains("barrier 1: 32 of 96 threads"));
}

TEST_CASE("misused barriers") {
  auto check_of = [](const std::string& body, unsigned threads) {
    Bench bench;
    bench.kernel(
        "mov.u32 %w1, %tid.x; shr.u32 %w2, %w1, 5; setp.eq.u32 %p1, %w2, 0; setp.lt.u32 %p2, %w1, "
        "7;\n" +
            body,
        0);
    return only_check(bench.run(1, threads, {}));
  };
  CHECK(check_of("bar.sync 3;", 64) == "");
  CHECK(check_of("bar.sync 16;", 64) == "barrier");     // there are 0 to 15
  CHECK(check_of("bar.sync 1, 33;", 64) == "barrier");  // no multiple of 32
  CHECK(check_of("@%p1 bar.sync 1, 64; @!%p1 bar.sync 1, 96;", 64) ==
        "barrier");  // different counts
  CHECK(check_of("bar.arrive 1, 96; bar.arrive 1, 96;", 64) ==
        "barrier");                              // twice before completion
  CHECK(check_of("bar.sync 1, 32;", 64) == "");  // each warp by itself
  CHECK(check_of("@%p2 bar.sync 0;", 64) == "divergent-collective");
  CHECK(check_of("@!%p2 bra $x; bar.sync 0; $x: bar.sync 1;", 32) == "divergent-collective");
  CHECK(check_of("@!%p2 bra $x; bar.sync 0; $x:", 32) == "");  // the others have left
  CHECK(check_of("bar.sync %w1;", 64) == "barrier");           // different numbers in a warp
}

TEST_CASE("an endless loop ends as a finding") {
  Bench bench;
  bench.options.instruction_limit = 100000;
  bench.kernel("$loop: bra $loop;", 0);
  LaunchReport report = bench.run(1, 64, {});
  CHECK(only_check(report) == "instruction-limit");
  CHECK_THAT(report.findings[0].message, Contains("executed 100000 warp instructions"));
  bench.kernel(
      "mov.u32 %w1, 30000; $loop: sub.u32 %w1, %w1, 1; setp.ne.u32 %p1, %w1, 0; @%p1 bra $loop;",
      0);
  CHECK(only_check(bench.run(8, 32, {})) == "");  // the limit counts for each CTA
}

TEST_CASE("of nested loops, the report names the one that does not end") {
  // Lanes and warps leave the inner loop after different numbers of turns, and meet at a barrier.
  const auto nested = [](const char* inner, const char* outer) {
    return std::string(
               "mov.u32 %w3, %tid.x;\n$outer: mov.u32 %w1, %w3;\n$inner: sub.u32 %w1, %w1, 1;\n") +
           "setp.gt.s32 %p1, %w1, 0;\n" + inner + " bra $inner;\nbar.sync 0;\n" +
           "add.u32 %w2, %w3, 1;\nsetp.gt.u32 %p1, %w2, 0;\n" + outer + " bra $outer;\n";
  };
  const auto places = [](const std::string& body, SchedulePolicy schedule) {
    Bench bench;
    bench.options.instruction_limit = 100000;
    bench.options.schedule = schedule;
    bench.kernel(body, 0);
    const LaunchReport report = bench.run(1, 64, {});
    REQUIRE(only_check(report) == "instruction-limit");
    const std::string& text = report.findings[0].message;
    const std::string_view before = "the loop from line ";
    const std::size_t at = text.find(before);
    INFO(text);
    REQUIRE(at != std::string::npos);
    return std::pair{std::stoi(text.substr(at + before.size())), report.findings[0].ptx_line};
  };
  for (SchedulePolicy schedule :
       {SchedulePolicy::round_robin, SchedulePolicy::random, SchedulePolicy::reverse}) {
    const auto [outer_top, outer_branch] = places(nested("@%p1", "@%p1"), schedule);
    CHECK(outer_branch == outer_top + 7);
    CHECK(places(nested("", "@%p1"), schedule) == std::pair{outer_top + 1, outer_top + 3});
  }
}

TEST_CASE("a warp that ends as it passes the limit is not said to go on") {
  Bench bench;
  bench.options.instruction_limit = 1;
  bench.kernel("mov.u32 %w1, 1; mov.u32 %w1, 2; mov.u32 %w1, 3;", 0);
  const LaunchReport report = bench.run(1, 32, {});
  CHECK(only_check(report) == "instruction-limit");
  CHECK_THAT(report.findings[0].message,
             Contains("has just ended") && !Contains("may never finish"));
}

TEST_CASE("without a limit of its own, a launch has one by the memory in use") {
  const char* const endless = "$loop: bra $loop;";
  const auto limit = [&](std::size_t bytes) {
    Bench bench;
    bench.memory.allocate(bytes);
    bench.kernel(endless, 0);
    const LaunchReport report = bench.run(1, 32, {});
    REQUIRE(only_check(report) == "instruction-limit");
    return report.findings[0].message;
  };
  CHECK_THAT(limit(256), Contains("executed 4000256 warp instructions"));
  CHECK_THAT(limit(2'000'000), Contains("executed 6000000 warp instructions"));
}

TEST_CASE("trap, and divergent uniform branches") {
  Bench bench;
  bench.kernel("mov.u32 %w1, %tid.x; setp.eq.u32 %p1, %w1, 5; @%p1 trap;", 0);
  LaunchReport report = bench.run(1, 32, {});
  CHECK(only_check(report) == "trap");
  CHECK(report.findings[0].lane == 5);
  bench.kernel("mov.u32 %w1, %tid.x; setp.eq.u32 %p1, %w1, 5; @%p1 bra.uni $x; $x:", 0);
  CHECK(only_check(bench.run(1, 32, {})) == "divergent-collective");
  bench.kernel("mov.u32 %w1, %tid.x; setp.lt.u32 %p1, %w1, 32; @%p1 bra.uni $x; $x:", 0);
  CHECK(only_check(bench.run(1, 32, {})) == "");
}

TEST_CASE("results and reports do not depend on host threads, nor repeat differently") {
  auto run = [](int threads, SchedulePolicy schedule, u64 seed, bool racy) {
    Bench bench;
    bench.options.threads = threads;
    bench.options.schedule = schedule;
    bench.options.seed = seed;
    std::string body = kReverseThroughShared;
    if (racy) body.erase(body.find("bar.sync 0;"), 11);
    bench.kernel(body, 1, ".shared .align 4 .b8 s[4096];");
    Address out = bench.memory.allocate(128 * 20 * 4);
    LaunchReport report = bench.run(20, 128, {out});
    return std::pair{messages(report), bench.download<u32>(out, racy ? 1 : 128 * 20)};
  };
  for (SchedulePolicy schedule :
       {SchedulePolicy::round_robin, SchedulePolicy::random, SchedulePolicy::reverse}) {
    for (u64 seed : {1, 2, 3}) {
      auto alone = run(1, schedule, seed, false);
      CHECK(alone.first == "");
      CHECK(run(4, schedule, seed, false) == alone);
      std::string finding = run(1, schedule, seed, true).first;
      CHECK(finding != "");
      for (int repeat = 0; repeat < 5; ++repeat)
        CHECK(run(4, schedule, seed, true).first == finding);
    }
  }
}

TEST_CASE("special registers") {
  Bench bench;
  bench.kernel(R"(
    mov.u32 %w1, %tid.x; mov.u32 %w2, %laneid; mov.u32 %w3, %warpid; mov.u32 %w4, %lanemask_lt; mov.u32 %w5, %nctaid.x;
    mov.u32 %w6, %ctaid.x; mov.u32 %w7, %ntid.x; mov.u32 %w10, %tid.y; add.u32 %w7, %w7, %w10;
    mad.lo.u32 %w8, %w6, %w7, %w1; mul.wide.u32 %d1, %w8, 32; add.u64 %d1, %d1, %d20;
    st.global.v4.b32 [%d1], {%w1, %w2, %w3, %w4}; st.global.v4.b32 [%d1+16], {%w5, %w6, %w7, %w8};)",
               1);
  Address out = bench.memory.allocate(3 * 70 * 32);
  LaunchReport report = bench.run(3, 70, {out});
  INFO(messages(report));
  REQUIRE(report.findings.empty());
  auto got = bench.download<u32>(out, 3 * 70 * 8);
  for (u32 i = 0; i < 210; ++i) {
    u32 t = i % 70;
    std::vector<u32> expected = {t, t % 32, t / 32, (1u << t % 32) - 1, 3, i / 70, 70, i};
    CHECK(std::vector<u32>(got.begin() + i * 8, got.begin() + i * 8 + 8) == expected);
  }
}

}  // namespace sagegen::emulator::test
