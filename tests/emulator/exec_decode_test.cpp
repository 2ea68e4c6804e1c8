// What the decoder refuses, and how it says so; lint; sharing of register rows.

#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "tests/emulator/exec_fixture.h"

namespace sagegen::emulator::test {
namespace {

std::string refusal(const std::string& body, Profile profile = Profile::sm_89) {
  Bench bench(profile);
  try {
    bench.kernel(body, 1, ".shared .align 16 .b8 s[64];");
    return "";
  } catch (const ptx::ParseError& e) {
    return e.what();
  }
}

}  // namespace

TEST_CASE("unknown instructions and modifiers are refused by line") {
  using Catch::Contains;
  using Catch::StartsWith;
  CHECK(refusal("add.s32 %w1, 1, 2;") == "");
  CHECK_THAT(refusal("frobnicate.b32 %w1, 1;"),
             StartsWith("line 9: ") && Contains("unknown instruction frobnicate.b32"));
  CHECK_THAT(refusal("nop;\nadd.s32 %w1, 1, 2;"), Contains("unknown instruction nop"));
  CHECK_THAT(refusal("add.s32 %w1, 1, 2;\n\nadd.bogus.s32 %w1, 1, 2;"),
             StartsWith("line 11: ") && Contains("add.bogus.s32"));
  for (const char* text : {"add.rn.s32 %w1, 1, 2;",
                           "fma.f32 %w1, %w1, %w1, %w1;",
                           "ld.weird.b32 %w1, [%d20];",
                           "ld.global.v3.b32 {%w1,%w2,%w3}, [%d20];",
                           "ld.global.b32.v2 %w1, [%d20];",
                           "ld.acquire.global.b32 %w1, [%d20];",
                           "st.const.b32 [%d20], 1;",
                           "cvt.f16.f32 %h1, %w1;",
                           "cvt.rn.s32.f32 %w1, %w1;",
                           "cvt.rn.e4m3x2.f32 %h1, %w1, %w1;",
                           "cvt.rni.f32.s32 %w1, %w1;",
                           "shfl.bfly.b32 %w1, %w1, 1, 31;",
                           "bar.sync.aligned.weird 0;",
                           "mma.sync.aligned.m16n8k32.row.row.s32.s8.s8.s32 {%w1,%w1,%w1,%w1}, "
                           "{%w1,%w1,%w1,%w1}, {%w1,%w1}, {%w1,%w1,%w1,%w1};",
                           "mma.sync.aligned.m16n8k16.row.col.f32.bf16.f16.f32 {%w1,%w1,%w1,%w1}, "
                           "{%w1,%w1,%w1,%w1}, {%w1,%w1}, {%w1,%w1,%w1,%w1};",
                           "ldmatrix.sync.aligned.m8n8.x3.shared.b16 {%w1,%w2,%w3}, [%d20];",
                           "cp.async.bulk.shared.global [%d1], [%d20], 16;",
                           "atom.global.add.b32 %w1, [%d20], 1;",
                           "red.global.cas.b32 [%d20], 1, 2;",
                           "setp.lt.b32 %p1, %w1, %w1;",
                           "lop3.b32.and %w1, %w1, %w1, %w1, 3;",
                           "ex2.f32 %w1, %w1;",
                           "sin.f32 %w1, %w1;",
                           "tanh.approx.ftz.f32 %w1, %w1;",
                           "rcp.approx.f64 %d1, %d1;",
                           "sqrt.approx.f64 %d1, %d1;",
                           "add.cc.u16 %h1, %h1, %h1;",
                           "madc.wide.u32 %d1, %w1, %w1, %d1;",
                           "dp2a.s32.s32 %w1, %w1, %w1, %w1;",
                           "mad24.hi.sat.u32 %w1, %w1, %w1, %w1;",
                           "set.lt.u16.u32 %h1, %w1, %w1;",
                           "set.lt.f32.f16 %w1, %h1, %h1;",
                           "set.lt.f16.bf16 %h1, %h1, %h1;",
                           "set.lt.u16x2.f16x2 %w1, %w1, %w1;",
                           "set.lt.ftz.f32.s16 %w1, %h1, %h1;",
                           "mul.s32.lo %w1, %w1, %w1;",
                           "mad.cc.lo.u32 %w1, %w1, %w1, %w1;",
                           "div.ftz.full.f32 %w1, %w1, %w1;",
                           "shf.wrap.l.b32 %w1, %w1, %w1, %w1;",
                           "cvta.global.to.u64 %d1, %d1;",
                           "cp.async.cg.global.shared [%w1], [%d20], 16;",
                           "cp.wait_group.async 0;",
                           "createpolicy.L2::evict_last.fractional.b64 %d1, 1.0;",
                           "add.rn.rn.f32 %w1, %w1, %w1;",
                           "ldmatrix.sync.aligned.trans.trans.m8n8.x1.shared.b16 {%w1}, [%d20];"}) {
    INFO(text);
    CHECK_THAT(refusal(text), StartsWith("line 9: "));
  }
}

TEST_CASE("operands must fit") {
  using Catch::Contains;
  CHECK_THAT(refusal("add.s32 %w1, %d1, 2;"),
             Contains("operand 2 is %d1 (a 64-bit register) where a 32-bit register is expected"));
  CHECK_THAT(refusal("add.s32 %w1, 2;"), Contains("2 operands are given"));
  CHECK_THAT(refusal("add.s32 5, %w1, 2;"), Contains("operand 1 is the integer 5"));
  CHECK_THAT(refusal("add.s32 %q1, %w1, 2;"), Contains("%q1"));
  CHECK_THAT(refusal("ld.global.v2.b32 {%w1, %d1}, [%d20];"), Contains("as wide as the others"));
  CHECK_THAT(refusal("ld.global.b64 %w1, [%d20];"),
             Contains("8 bytes do not fit the register of 4 bytes"));
  CHECK_THAT(refusal("ld.global.b32 %w1, [s];"), Contains("not in the state space"));
  CHECK_THAT(refusal("ld.shared.b32 %w1, [nowhere];"), Contains("nowhere"));
  CHECK_THAT(refusal("mov.u32 %tid.x, 1;"), Contains("can be written"));
  CHECK_THAT(refusal("@%w1 add.s32 %w1, %w1, 2;"), Contains("guard"));
  CHECK_THAT(refusal("cp.async.cg.shared.global [%d1], [%d20], 8;"), Contains("sizes are 16"));
  CHECK_THAT(refusal("cp.async.ca.shared.global [%d1], [%d20], 12;"),
             Contains("sizes are 4, 8 and 16"));
  CHECK_THAT(refusal("cvt.u32.u64 %h1, %d1;"), Contains("narrower"));
  CHECK_THAT(refusal("mov.b32 %w1, {%h1, %h2, %h3};"), Contains("vector"));
  CHECK_THAT(refusal("addc.u32 %w1, %w1;"), Contains("2 operands are given"));
  CHECK_THAT(refusal("mov.b32 %w1, %envreg3;"),
             Contains("operand 2: %envreg3 is set by the driver, and CUDA's documents no value"));
  CHECK_THAT(refusal("add.u32 %w1, %w1, %clusterid.x;"),
             Contains("%clusterid.x is a special register that the emulator does not have"));
  CHECK_THAT(refusal("mov.b32 %w1, %pm3;"), Contains("%pm3 is a special register"));
  CHECK_THAT(refusal("mov.b32 %w1, %envreg32;"), Contains("register '%envreg32' is not declared"));
}

TEST_CASE("instructions that the device does not have") {
  std::string fp8 =
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%w1,%w2,%w3,%w4}, {%w5,%w6,%w7,%w8}, "
      "{%w9,%w10}, {%w1,%w2,%w3,%w4};";
  CHECK(refusal(fp8, Profile::sm_89) == "");
  CHECK_THAT(refusal(fp8, Profile::sm_80),
             Catch::Contains("the emulated device has no such instruction"));
}

TEST_CASE("why_unknown looks at opcode and modifiers only") {
  auto why = [](const std::string& text) {
    return why_unknown(ptx::parse(".version 8.4\n.target sm_89\n.address_size 64\n.visible .entry "
                                  "k()\n{\n.reg .b32 %r<9>; .reg .b64 %rd<9>;\n" +
                                  text + "\n}\n")
                           .functions[0]
                           .body[0]);
  };
  CHECK(why("add.s32 %r1, %r2;") == "");
  CHECK(why("ld.global.nc.v4.b32 %r1;") == "");
  CHECK(why("ld.global.nc.v5.b32 %r1;") != "");
  CHECK(why("wgmma.fence.sync.aligned;") != "");
}

TEST_CASE("lint: f32 arithmetic without a rounding modifier") {
  Bench bench;
  bench.kernel(
      "add.rn.f32 %w1, %w2, %w3; fma.rn.f32 %w1, %w1, %w1, %w1; add.s32 %w1, %w1, 1; max.f32 %w1, "
      "%w1, %w1;",
      0);
  CHECK(info(bench.program()).warnings.empty());
  bench.kernel("add.f32 %w1, %w2, %w3;\nmul.ftz.f32 %w1, %w1, %w1; sub.f32 %w1, %w1, %w2;", 0);
  const auto& warnings = info(bench.program()).warnings;
  REQUIRE(warnings.size() == 3);
  CHECK_THAT(warnings[0], Catch::StartsWith("line 8: add.f32 "));
  CHECK_THAT(warnings[1], Catch::StartsWith("line 9: mul.ftz.f32 "));
}

TEST_CASE("registers share rows only when their lives do not overlap") {
  // A long chain of single-use registers needs few rows; values that live across it keep theirs.
  std::string body =
      "mov.u32 %w1, %tid.x; mad.lo.u32 %w2, %w1, 3, 1; mad.lo.u32 %w3, %w1, 5, 2;\n.reg .b32 "
      "%c<500>; mov.b32 %c0, %w1;\n";
  for (int i = 1; i < 500; ++i) body += fmt::format("add.u32 %c{}, %c{}, {};\n", i, i - 1, i);
  body +=
      "add.u32 %w4, %c499, %w2; add.u32 %w4, %w4, %w3; mul.wide.u32 %d1, %w1, 4; add.u64 %d1, %d1, "
      "%d20; st.global.b32 [%d1], %w4;";
  Bench bench;
  bench.kernel(body, 1);
  CHECK(info(bench.program()).registers < 16);
  Address out = bench.memory.allocate(256);
  LaunchReport report = bench.run(1, 64, {out});
  INFO(messages(report));
  REQUIRE(report.findings.empty());
  auto got = bench.download<std::uint32_t>(out, 64);
  for (std::uint32_t t = 0; t < 64; ++t) CHECK(got[t] == t + 499 * 500 / 2 + 3 * t + 1 + 5 * t + 2);
}

TEST_CASE("mutated kernels are refused or run to a report, and never crash") {
  const std::string body = R"(
    mov.u32 %w1, %tid.x; mov.b64 %d1, s; and.b32 %w2, %w1, 3; mul.wide.u32 %d2, %w2, 16; add.u64 %d2, %d2, %d1;
    mov.b32 %w9, 0; setp.lt.u32 %p1, %w1, 16; cvt.rn.f32.u32 %w3, %w1; cvt.rn.f16x2.f32 %w4, %w3, %w3; mov.b32 {%h1, %h2}, %w4;
    $loop: cp.async.cg.shared.global [%d2], [%d20], 16; cp.async.commit_group; cp.async.wait_group 0; bar.sync 0;
    ld.shared.v4.b32 {%w5, %w6, %w7, %w8}, [%d2]; shfl.sync.bfly.b32 %w10|%p2, %w5, 1, 31, -1;
    @%p1 add.u32 %w9, %w9, %w10; @!%p1 bra $else; fma.rn.f32 %w3, %w3, %w3, %w3; bra.uni $end; $else: sub.u32 %w9, %w9, 1;
    $end: ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%w11, %w12}, [%d2];
    mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%w13,%w14,%w15,%w16}, {%w11,%w12,%w4,%w4}, {%w4,%w4}, {%w3,%w3,%w3,%w3};
    add.u32 %w2, %w2, 1; setp.lt.u32 %p3, %w2, 4; vote.sync.any.pred %p4, %p3, -1; @%p4 bra $loop;
    mul.wide.u32 %d3, %w1, 4; add.u64 %d3, %d3, %d21; st.global.b32 [%d3], %w13; atom.shared.add.u32 %w17, [%d1], 1;)";
  std::vector<std::string> statements;
  for (std::size_t at = 0; at < body.size();) {
    std::size_t end = std::min(body.find(';', at), body.size() - 1);
    statements.push_back(body.substr(at, end + 1 - at));
    at = end + 1;
  }
  const std::vector<std::string> names = {"%w1", "%w5", "%w9", "%d1", "%d2", "%d20", "%p1", "%p3",
                                          "%h1", "0",   "-1",  "31",  "16",  "4",    "s",   "_"};
  std::mt19937 random(12);
  auto pick = [&](auto& list) -> auto& { return list[random() % list.size()]; };
  int ran = 0, clean = 0;
  for (int i = 0; i < 3000; ++i) {
    std::vector<std::string> mutated = statements;
    for (std::uint32_t edits = 1 + random() % 2; edits > 0; --edits) {
      std::string& victim = pick(mutated);
      switch (random() % 6) {
        case 0:
          victim.clear();
          break;
        case 1:
          victim += pick(statements);
          break;
        case 2:
          std::swap(victim, pick(mutated));
          break;
        case 3:
          victim.insert(random() % (victim.size() + 1), pick(names));
          break;
        default: {  // another operand
          std::size_t at = victim.find('%', random() % (victim.size() + 1));
          if (at == std::string::npos) break;
          std::size_t end = std::min(victim.find_first_of(" ,;|}]", at), victim.size());
          victim.replace(at, end - at, pick(names));
        }
      }
    }
    std::string text;
    for (const std::string& statement : mutated) text += statement;
    Bench bench;
    bench.options = {.checks = i % 2 == 0 ? runtime::Checks::on : runtime::Checks::off,
                     .threads = 1,
                     .instruction_limit = 2000};
    try {
      bench.kernel(text, 2, ".shared .align 16 .b8 s[64];");
    } catch (const ptx::ParseError&) {
      continue;
    }
    Address in = bench.upload(std::vector<std::uint32_t>(64, 0x3c003c00)),
            out = bench.memory.allocate(256);
    LaunchReport report = bench.run(1, 64, {in, out});
    ++ran;
    clean += report.findings.empty() ? 1 : 0;
  }
  CHECK(ran > 500);
  CHECK(clean < ran);
}

TEST_CASE("a launch refuses what no device takes") {
  Bench bench;
  bench.kernel("", 1);
  CHECK_THROWS_AS(bench.run(0, 32, {0}), std::invalid_argument);
  CHECK_THROWS_AS(bench.run(1, 0, {0}), std::invalid_argument);
  CHECK_THROWS_AS(bench.run(1, 1025, {0}), std::invalid_argument);
  CHECK_THROWS_AS(bench.run(1, 32, {}), std::invalid_argument);
  CHECK_NOTHROW(bench.run(1, 1024, {0}));
}

}  // namespace sagegen::emulator::test
