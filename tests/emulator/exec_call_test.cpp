// Calls of device functions: parameters, frames, divergence, checks, refusals.

#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "tests/emulator/exec_fixture.h"

namespace sagegen::emulator::test {
namespace {

using Catch::Matchers::Contains;
using runtime::Checks;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

// An entry behind `functions`; its body finds the thread in %t and leaves its result in %r0.
std::string module_with(const std::string& functions, const std::string& body) {
  return ".version 8.4\n.target sm_80\n.address_size 64\n" + functions + R"(
.visible .entry k(.param .u64 out)
{
.reg .b32 %t, %r<16>;
.reg .b64 %rd<16>;
.reg .b16 %h<4>;
.reg .pred %p<8>;
mov.u32 %t, %tid.x;
mov.b32 %r0, 0;
)" + body +
         R"(
ld.param.u64 %rd1, [out];
mul.wide.u32 %rd2, %t, 4;
add.u64 %rd3, %rd1, %rd2;
st.global.b32 [%rd3], %r0;
ret;
}
)";
}

template <class F>
void expect(const std::string& functions, const std::string& body, F&& expected) {
  for (unsigned threads : {32u, 45u, 96u}) {
    for (Checks checks : {Checks::on, Checks::off}) {
      Bench bench;
      bench.options.checks = checks;
      bench.module_text(module_with(functions, body));
      Address out = bench.upload(std::vector<u32>(threads, 0xdead));
      LaunchReport report = bench.run(1, threads, {out});
      INFO(messages(report));
      REQUIRE(report.findings.empty());
      std::vector<u32> got = bench.download<u32>(out, threads);
      for (u32 t = 0; t < threads; ++t) {
        INFO("thread " << t << " of " << threads);
        REQUIRE(got[t] == expected(t));
      }
    }
  }
}

LaunchReport report_of(const std::string& functions, const std::string& body) {
  Bench bench;
  bench.module_text(module_with(functions, body));
  return bench.run(1, 32, {bench.memory.allocate(128)});
}

void refused(const std::string& functions, const std::string& body, const std::string& words) {
  Bench bench;
  INFO(functions << body);
  CHECK_THROWS_WITH(bench.module_text(module_with(functions, body)), Contains(words));
}

// x + 3 y, as nvcc prints a function that it does not inline.
const std::string kSum = R"(
.func (.param .b32 func_retval0) sum(
.param .b32 sum_param_0,
.param .b32 sum_param_1
)
{
.reg .b32 %r<5>;
ld.param.u32 %r1, [sum_param_0];
ld.param.u32 %r2, [sum_param_1];
mad.lo.s32 %r3, %r2, 3, %r1;
st.param.b32 [func_retval0+0], %r3;
ret;
}
)";

std::string call_sum(const std::string& to, const std::string& x, const std::string& y) {
  return "{ // callseq\n.reg .b32 temp_param_reg;\n.param .b32 param0;\nst.param.b32 [param0+0], " +
         x + ";\n.param .b32 param1;\nst.param.b32 [param1+0], " + y +
         ";\n.param .b32 retval0;\ncall.uni "
         "(retval0),\nsum,\n(\nparam0,\nparam1\n);\nld.param.b32 " +
         to + ", [retval0+0];\n}\n";
}

TEST_CASE("a call passes .param variables and takes the result") {
  expect(kSum, call_sum("%r0", "%t", "7"), [](u32 t) { return t + 21; });
  // Registers of the function are not those of the caller, and calls follow each other.
  expect(kSum,
         "mov.b32 %r1, 5; mov.b32 %r2, 6; mov.b32 %r3, 7;\n" + call_sum("%r4", "%t", "%r1") +
             call_sum("%r5", "%r4", "%r2") + "add.s32 %r0, %r5, %r3;\nadd.s32 %r0, %r0, %r1;",
         [](u32 t) { return t + 15 + 18 + 7 + 5; });
}

TEST_CASE("functions call functions, in any order of their definitions") {
  const std::string declared = ".func (.param .b32 r) sum(.param .b32 a, .param .b32 b);\n";
  const std::string twice = R"(
.visible .func (.param .b32 func_retval0) twice(.param .b32 twice_param_0)
{
.reg .b32 %r<4>;
ld.param.b32 %r1, [twice_param_0];
)" + call_sum("%r2", "%r1", "%r1") +
                            call_sum("%r2", "%r2", "1") + R"(
st.param.b32 [func_retval0], %r2;
ret;
}
)";
  const std::string body =
      ".param .b32 a, r; st.param.b32 [a], %t; call (r), twice, (a); ld.param.b32 %r0, [r];";
  const auto expected = [](u32 t) { return 4 * t + 3; };
  expect(kSum + twice, body, expected);
  expect(declared + twice + kSum, body, expected);
}

TEST_CASE("parameters in registers, numbers, and results that nobody takes") {
  const std::string f = R"(
.func (.reg .b32 q, .reg .b64 w) divide(.reg .b32 a, .reg .b32 b)
{
.reg .b32 x;
div.u32 q, a, b;
mul.lo.u32 x, q, b;
sub.u32 x, a, x;
cvt.u64.u32 w, x;
}
)";
  expect(f,
         "call (%r1, %rd1), divide, (%t, 7); cvt.u32.u64 %r2, %rd1; mad.lo.u32 %r0, %r2, 100, %r1;",
         [](u32 t) { return t % 7 * 100 + t / 7; });
  expect(f, "call (%r0, _), divide, (%t, 5);", [](u32 t) { return t / 5; });
  expect(f, "call (_, %rd1), divide, (100, 30); cvt.u32.u64 %r0, %rd1;", [](u32) { return 10u; });
  // A special register, and each kind of argument for the other kind of parameter.
  expect(f, "call (%r0, _), divide, (%tid.x, 3);", [](u32 t) { return t / 3; });
  expect(f,
         ".param .b32 a, q; .param .b64 w; st.param.b32 [a], %t; call (q, w), divide, (a, 9);\n"
         "ld.param.b32 %r1, [q]; ld.param.b32 %r2, [w]; mad.lo.u32 %r0, %r2, 100, %r1;",
         [](u32 t) { return t % 9 * 100 + t / 9; });
  expect(kSum, "call (%r0), sum, (%t, 0x10);", [](u32 t) { return t + 48; });
  const std::string wide = R"(
.func (.param .f64 r) scale(.param .f64 a, .param .f32 b, .param .b16 c)
{
.reg .f64 %fd<4>; .reg .f32 %f<2>; .reg .b16 %h<2>;
ld.param.f64 %fd1, [a]; ld.param.f32 %f1, [b]; ld.param.u16 %h1, [c];
cvt.f64.f32 %fd2, %f1; mul.rn.f64 %fd1, %fd1, %fd2; cvt.rn.f64.u16 %fd2, %h1;
add.rn.f64 %fd1, %fd1, %fd2; st.param.f64 [r], %fd1; ret;
}
)";
  expect(wide,
         "mov.b16 %h1, 9; call (%rd4), scale, (0d4004000000000000, 0f40000000, %h1); "
         "cvt.rzi.u32.f64 %r0, %rd4;",
         [](u32) { return 14u; });
}

TEST_CASE("functions without parameters, with every spelling of none") {
  expect(".func a { } .func () b() { call a; ret.uni; }",
         "call a; call.uni b; call b, (); call (), b, (); mov.b32 %r0, 3;", [](u32) { return 3u; });
}

// 24 bytes by value, of which the padding is never written.
const std::string kStructs = R"(
.func (.param .align 8 .b8 func_retval0[24]) change(.param .align 8 .b8 change_param_0[24], .param .b32 change_param_1)
{
.reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .b16 %rs<2>;
mov.b64 %rd1, change_param_0;
ld.param.b32 %r1, [change_param_1];
ld.local.b32 %r2, [%rd1];
add.s32 %r2, %r2, %r1;
st.local.b32 [%rd1], %r2;
ld.param.b32 %r3, [change_param_0];
st.param.b32 [func_retval0], %r3;
ld.param.b64 %rd2, [change_param_0+8];
shl.b64 %rd2, %rd2, 1;
st.param.b64 [func_retval0+8], %rd2;
ld.param.u8 %rs1, [change_param_0+17];
st.param.b8 [func_retval0+16], %rs1;
ret;
}
)";

TEST_CASE("structures are passed by value, byte for byte") {
  // The function writes to its copy; the caller's argument serves two calls.
  expect(kStructs, R"(
.param .align 8 .b8 s[24], r[24];
.param .b32 n;
st.param.b32 [s], %t;
st.param.b64 [s+8], 50;
mov.b16 %h1, 3;
st.param.v2.b8 [s+16], {%h1, %h1};
st.param.b32 [n], 100;
call (r), change, (s, n);
call (r), change, (s, n);
ld.param.b32 %r1, [r];
ld.param.b32 %r2, [r+8];
ld.param.u8 %r3, [r+16];
add.s32 %r0, %r1, %r2;
mad.lo.s32 %r0, %r3, 10000, %r0;
)",
         [](u32 t) { return t + 100 + 100 + 30000; });
}

TEST_CASE("lanes that return early rejoin behind the call") {
  const std::string f = R"(
.func (.reg .b32 r) f(.reg .b32 x)
{
.reg .pred p, q; .reg .b32 i;
mov.b32 r, 0;
setp.lt.u32 p, x, 4;
@p ret;
and.b32 i, x, 7;
LOOP:
setp.eq.u32 q, i, 0;
@q ret;
add.u32 r, r, x;
sub.u32 i, i, 1;
setp.gt.u32 p, r, 100;
@p bra BIG;
bra.uni LOOP;
BIG:
add.u32 r, r, 1000;
ret;
}
)";
  const auto value = [](u32 x) {
    u32 r = 0;
    if (x < 4) return r;
    for (u32 i = x & 7; i != 0; --i) {
      r += x;
      if (r > 100) return r + 1000;
    }
    return r;
  };
  expect(f, "call (%r0), f, (%t);", value);
  // All lanes of the warp are together again: the barrier would stop the launch otherwise.
  expect(f, "call (%r0), f, (%t); bar.sync 0;", value);
  // Some lanes call only, by a branch or a guard.
  const std::string odd = "and.b32 %r1, %t, 1; setp.eq.u32 %p1, %r1, 1;\n";
  const auto for_odd = [&](u32 t) { return t % 2 == 1 ? value(t) : 0; };
  expect(f, odd + "@!%p1 bra SKIP; call (%r0), f, (%t); SKIP: bar.sync 0;", for_odd);
  expect(f, odd + "@%p1 call (%r0), f, (%t); bar.sync 0;", for_odd);
  expect(f, odd + "@!%p1 call (%r0), f, (%t); bar.sync 0;",
         [&](u32 t) { return t % 2 == 0 ? value(t) : 0; });
  expect(f, "setp.lt.u32 %p1, %t, 1000; @%p1 call.uni (%r0), f, (%t);", value);
  expect(f, "setp.gt.u32 %p1, %t, 1000; @%p1 call.uni (%r0), f, (%t);", [](u32) { return 0u; });
  // In a loop whose trips differ between lanes.
  expect(f,
         "and.b32 %r5, %t, 3; AGAIN: call (%r1), f, (%t); add.u32 %r0, %r0, %r1; sub.s32 %r5, %r5, "
         "1;\n"
         "setp.ge.s32 %p1, %r5, 0; @%p1 bra AGAIN;",
         [&](u32 t) { return (t % 4 + 1) * value(t); });
}

TEST_CASE("barriers and exchanges work in functions; exit leaves the kernel") {
  const std::string reduce = R"(
.func (.reg .b32 r) neighbour(.reg .b32 x)
{
.shared .align 4 .b32 s[128];
.reg .b32 t, a; 
mov.u32 t, %tid.x;
shl.b32 a, t, 2;
mov.b32 r, s;
add.s32 a, a, r;
bar.sync 0;
st.shared.b32 [a], x;
bar.sync 0;
xor.b32 a, a, 4;
ld.shared.b32 r, [a];
}
)";
  // Both calls use the same variable: 512 bytes in all.
  const std::string body =
      "call (%r1), neighbour, (%t); add.u32 %r2, %t, 10; call (%r3), neighbour, (%r2);\n"
      "mad.lo.u32 %r0, %r3, 1000, %r1;";
  Bench bench;
  bench.module_text(module_with(reduce, body));
  CHECK(info(bench.program()).static_shared_bytes == 512);
  Address out = bench.memory.allocate(256);
  LaunchReport report = bench.run(1, 64, {out});
  INFO(messages(report));
  REQUIRE(report.findings.empty());
  auto got = bench.download<u32>(out, 64);
  for (u32 t = 0; t < 64; ++t) CHECK(got[t] == ((t ^ 1) + 10) * 1000 + (t ^ 1));

  expect(".func leave(.reg .b32 x) { .reg .pred p; setp.gt.u32 p, x, 9; @p exit; ret; }",
         "call leave, (%t); mov.b32 %r0, 1;", [](u32 t) { return t > 9 ? 0xdead : 1u; });
}

TEST_CASE("local variables of functions lie on a stack") {
  const std::string f = R"(
.func (.reg .b32 r) inner(.reg .b32 x)
{
.local .align 16 .b8 buffer[64];
.reg .b64 a;
mov.b64 a, buffer;
st.local.b32 [a+60], x;
ld.local.b32 r, [buffer+60];
}
.func (.reg .b32 r) outer(.reg .b32 x)
{
.local .align 4 .b8 own[32];
.reg .b32 y;
st.local.b32 [own+28], x;
call (y), inner, (7);
call (r), inner, (y);
ld.local.b32 y, [own+28];
mad.lo.u32 r, y, 10, r;
}
)";
  const std::string body =
      ".local .align 8 .b8 depot[8]; st.local.b32 [depot+4], %t;\n"
      "call (%r1), outer, (%t); call (%r2), inner, (%t);\n"
      "ld.local.b32 %r3, [depot+4]; add.u32 %r0, %r1, %r2; add.u32 %r0, %r0, %r3;";
  expect(f, body, [](u32 t) { return 10 * t + 7 + t + t; });
  Bench bench;
  bench.module_text(module_with(f, body));
  // depot, then own, then buffer from a multiple of 16: neither a sum over calls nor less than the deepest.
  CHECK(info(bench.program()).local_bytes == 48 + 64);
}

TEST_CASE("registers of a kernel are those of its functions too") {
  std::string heavy = ".func (.reg .b32 r) heavy(.reg .b32 x)\n{\n.reg .b32 v<80>;\n";
  for (int i = 0; i < 80; ++i) heavy += fmt::format("add.s32 v{}, x, {};\n", i, i);
  heavy += "mov.b32 r, 0;\n";
  for (int i = 0; i < 80; ++i) heavy += fmt::format("xor.b32 r, r, v{};\n", i);
  heavy += "}\n";
  Bench bench;
  bench.module_text(module_with(heavy, "call (%r0), heavy, (%t);"));
  CHECK(info(bench.program()).registers >= 80);
  bench.module_text(module_with(heavy, ""));
  CHECK(info(bench.program()).registers < 20);
}

int line_of(const std::string& text, const std::string& part) {
  const std::size_t at = text.find(part);
  REQUIRE(at != std::string::npos);
  return 1 + static_cast<int>(std::count(text.begin(), text.begin() + static_cast<long>(at), '\n'));
}

void finds(const std::string& functions, const std::string& body, const std::string& check,
           const std::string& part) {
  INFO(body);
  LaunchReport report = report_of(functions, body);
  INFO(messages(report));
  REQUIRE(only_check(report) == check);
  CHECK(report.findings[0].ptx_line == line_of(module_with(functions, body), part));
}

TEST_CASE("findings in a function name its line") {
  const std::string store = R"(
.func store(.param .b64 a)
{
.reg .b64 p; .reg .b32 x;
ld.param.b64 p, [a];
mov.b32 x, 3;
st.global.b32 [p], x;
}
)";
  finds(store, "call store, (16);", "out-of-bounds", "st.global.b32 [p]");
  finds(".func f() {\n trap;\n}", "call f;", "trap", "trap");
  // An assertion of CUDA C++, which nvcc leaves to the driver to define.
  const std::string assertion =
      ".extern .func __assertfail(.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, "
      ".param "
      ".b64 s) .noreturn;\n";
  const std::string asserts =
      ".param .b64 m, f, n, s; .param .b32 l; st.param.b64 [m], 0; st.param.b64 [f], 0; "
      "st.param.b32 "
      "[l], 7; st.param.b64 [n], 0; st.param.b64 [s], 1;\n";
  const std::string failing = "@!%p1 bra GOOD;\ncall.uni __assertfail, (m, f, l, n, s);\nGOOD:\n";
  CHECK(report_of(assertion, asserts + "setp.gt.u32 %p1, %t, 50;\n" + failing).findings.empty());
  finds(assertion, asserts + "setp.gt.u32 %p1, %t, 5;\n" + failing, "trap",
        "call.uni __assertfail");
  // A call that only some lanes make although it says all.
  finds(".func f() { }", "setp.lt.u32 %p1, %t, 5;\n@%p1 call.uni f;", "divergent-collective",
        "@%p1 call.uni f");
}

TEST_CASE("what a function does not define is undefined, at every call") {
  const std::string use = "\nsetp.eq.u32 %p1, %r0, 3;\n@%p1 bra N; N:\nmov.b32 %r0, 1;";
  // An argument that nobody stored, used in the function; a result that nobody stored, used behind it.
  const std::string f = R"(
.func (.param .b32 r) f(.param .b32 a)
{
.reg .b32 x; .reg .pred p;
ld.param.b32 x, [a];
setp.eq.u32 p, x, 1;
@p bra STORE;
ret;
STORE:
st.param.b32 [r], x;
}
)";
  finds(f, ".param .b32 a, r; call (r), f, (a);", "uninitialized", "@p bra STORE");
  finds(f, ".param .b32 a, r; st.param.b32 [a], 2; call (r), f, (a); ld.param.b32 %r0, [r];" + use,
        "uninitialized", "@%p1 bra N");
  // A second call does not find what the first one left, neither in its result ...
  finds(
      f,
      ".param .b32 a, r; st.param.b32 [a], 1; call (r), f, (a);\nst.param.b32 [a], 2; call (r), f, "
      "(a); ld.param.b32 %r0, [r];" +
          use,
      "uninitialized", "@%p1 bra N");
  // ... nor in its local variables.
  const std::string local = R"(
.func (.reg .b32 r) g(.reg .b32 first)
{
.local .align 4 .b8 v[4];
.reg .pred p;
setp.eq.u32 p, first, 1;
@!p bra READ;
st.local.b32 [v], 3;
READ:
ld.local.b32 r, [v];
}
)";
  CHECK(report_of(local, "call (%r0), g, (1);" + use).findings.empty());
  finds(local, "call (%r1), g, (1); call (%r0), g, (0);" + use, "uninitialized", "@%p1 bra N");
  // ... nor in its registers and predicates, at one and the same place of the text.
  for (const char* type : {"b32", "b64", "pred"}) {
    const bool predicate = type == std::string("pred");
    const std::string guarded =
        std::string(".func (.reg .b32 r) h(.reg .b32 first)\n{\n.reg .pred p, q; .reg .") + type +
        " v;\nsetp.eq.u32 p, first, 1;\n" +
        (predicate ? "@p setp.eq.u32 v, 0, 0;\nselp.b32 r, 3, 4, v;\n"
                   : fmt::format("@p mov.{0} v, 3;\nadd.u{1} v, v, 0;\ncvt.u32.u{1} r, v;\n", type,
                                 type + 1)) +
        "}\n";
    const auto loop = [&](const char* second) {
      return std::string("mov.b32 %r5, 1;\nAGAIN:\ncall (%r0), h, (%r5);") + use +
             "\nsetp.eq.u32 %p2, %r6, 9;\nmov.b32 %r6, 9;\nmov.b32 %r5, " + second +
             ";\n@!%p2 bra AGAIN;\n";
    };
    CHECK(report_of(guarded, "mov.b32 %r6, 0;" + loop("1")).findings.empty());
    finds(guarded, "mov.b32 %r6, 0;" + loop("0"), "uninitialized", "@%p1 bra N");
  }
  // Padding of a structure stays undefined and does no harm to what lies beside it.
  CHECK(report_of(kStructs,
                  ".param .align 8 .b8 s[24], r[24]; .param .b32 n; st.param.b32 [s], %t; "
                  "st.param.b64 [s+8], 5; st.param.b8 [s+17], 3; st.param.b32 [n], 1; "
                  "call (r), change, (s, n); ld.param.b32 %r0, [r];" +
                      use)
            .findings.empty());
}

TEST_CASE("calls that the assembler or the emulator does not take are refused") {
  const std::string f = ".func (.reg .b32 r) f(.reg .b32 a, .reg .b64 b) { mov.b32 r, a; }\n";
  refused(f, "call (%r0), f, (%t);", "'f' has 2 arguments; the call gives 1");
  refused(f, "call f, (%t, %rd1);", "'f' has 1 results; the call gives 0");
  refused(f, "call (%r0), f, (%rd1, %rd1);",
          "parameter 'a' of 'f' has 4 bytes, but the call gives 8");
  refused(f, "call (%r0), f, (%t, %p1);", "but the call gives a predicate");
  refused(f, "call (%rd0), f, (%t, %rd1);", "parameter 'r' of 'f' has 4 bytes");
  refused(f, "call (3), f, (%t, %rd1);", "a number cannot take the result");
  refused(f, "call (%r0), f, (%t, out);", "'out' is no .param variable, register or number");
  refused(f, ".local .b32 l; call (%r0), f, (l, %rd1);", "'l' is no .param variable");
  refused(f, "call.foo (%r0), f, (%t, %rd1);", "unknown modifier .foo");
  refused("",
          "call (%r0), f, (%t, 1); ret; }\n" + f +
              ".entry l(.param .u64 out) { .reg .b32 %t, %r<2>; .reg .b64 %rd<4>;",
          "'f' is called before it is declared");
  refused("", "call k;", "'k' is no device function");
  refused(".extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);\n",
          ".param .b64 a; .param .b32 r; call (r), vprintf, (a, a);", "the text only declares it");
  refused(".func f(.param .b32 n, .param .align 8 .b8 v[]) { ret; }\n", "call f, (1, 2);",
          "a parameter without a size");
  refused(".func f() { call f; }\n", "call f;", "'f' calls itself");
  refused(".func g();\n.func f() { call g; }\n.func g() { call f; }\n", "call f;",
          "'f' calls itself, at once or through others");
  refused(".func f(.reg .v2 .b32 a) { }\n", "", "a parameter cannot be a vector");
  refused(".func f(.param .v4 .f32 a);\n", "", "a parameter cannot be a vector");
  refused(".func f(.reg .b16 a) { }\n", "", "only those of 32 and 64 bits");
  refused(".func f(.reg .pred a) { }\n", "", "'.pred' is no type of a variable");
  refused(".func (.param .b32 r, .param .b32 s) f() { }\n", "", "returns more than one .param");
  refused(".func f() { }\n.func f() { }\n", "", "function 'f' is defined twice");
  refused(".func f();\n.func f(.reg .b32 a) { }\n", "",
          "is declared with other parameters in line 4");
  refused(".func k() { }\n", "", "'k' is an entry and, in line 4, a function");
  refused(".func f(.param .b32 a) { st.param.b32 [a], 1; }\n", "call f, (1);",
          "'a' is an input of 'f' and cannot be written");
  refused(".func (.param .b32 r) f() { .reg .b32 x; ld.param.b32 x, [r]; }\n", "call (_), f;",
          "'r' is the result of 'f' and cannot be read");
  for (const char* access : {"@%p1 st.param.b32 [q], 1;", "@!%p1 ld.param.b32 %r1, [q];"}) {
    refused(".func f(.param .b32 a) { }\n",
            std::string(".param .b32 q; ") + access + " call f, (q);",
            "a guard cannot stand before an access to 'q'");
  }
  refused("", "st.param.b64 [out], %rd1;", "the parameter out cannot be written");
  refused("", "st.param.b64 [%rd1], %rd1;", "st.param stores to a variable that it names");
  refused("", ".param .b32 q; mov.b64 %rd1, q;", "the address of the argument q cannot be taken");
  refused("", ".param .b32 q; ld.local.b32 %r0, [q];", "not in the state space");
  refused(".func f() { foo; }\n", "call f;", "unknown instruction foo");

  // What nobody calls may hold what the emulator does not know.
  expect(".func f() { foo.bar; prototype: .callprototype ()_ (.param .b32 _); }\n",
         "mov.b32 %r0, 4;", [](u32) { return 4u; });
}

// Random functions that branch, loop, return early and call each other, as PTX and interpreted.
struct RandomFunctions {
  struct Node {
    enum Kind { add, branch, loop, leave, call } kind = add;
    u32 constant = 0, mask = 1;
    int callee = 0;
    bool guarded = false;
    std::vector<Node> body;
  };
  std::mt19937 random;
  std::vector<std::vector<Node>> functions;  // each calls those before it
  int labels = 0;

  explicit RandomFunctions(u32 seed) : random(seed) {
    for (int i = 0; i < 5; ++i) functions.push_back(block(2, i));
  }
  u32 below(u32 n) { return static_cast<u32>(random() % n); }
  std::vector<Node> block(int depth, int callees) {
    std::vector<Node> nodes;
    for (u32 i = 2 + below(3); i > 0; --i) {
      Node node;
      node.constant = 1 + below(50);
      node.mask = below(16) | 1;
      const u32 choice = below(10);
      if (choice < 3 && depth > 0) {
        node.kind = choice == 0 ? Node::loop : Node::branch;
        node.body = block(depth - 1, callees);
      } else if (choice < 5) {
        node.kind = Node::leave;
      } else if (choice < 8 && callees > 0) {
        node.kind = Node::call;
        node.callee = static_cast<int>(below(static_cast<u32>(callees)));
        node.guarded = below(2) == 0;
      }
      nodes.push_back(node);
    }
    return nodes;
  }

  std::string text(const std::vector<Node>& nodes, const char* leave) {
    std::string out;
    for (const Node& n : nodes) {
      const int label = labels++;
      const std::string test =
          fmt::format("xor.b32 y, x, t;\nand.b32 y, y, {0};\nsetp.eq.u32 p, y, {0};\n", n.mask);
      switch (n.kind) {
        case Node::add:
          out += fmt::format("mad.lo.u32 x, x, 3, {};\n", n.constant);
          break;
        case Node::branch:
          out += test + fmt::format("@!p bra L{};\n", label) + text(n.body, leave) +
                 fmt::format("L{}:\n", label);
          break;
        case Node::loop:
          out += fmt::format(
                     "{{\n.reg .b32 i;\nxor.b32 i, t, {0};\nand.b32 i, i, 3;\nL{1}:\n"
                     "setp.eq.u32 p, i, 0;\n@p bra M{1};\n",
                     n.constant, label) +
                 text(n.body, leave) +
                 fmt::format("sub.u32 i, i, 1;\nbra L{0};\nM{0}:\n}}\n", label);
          break;
        case Node::leave:
          out += test + fmt::format("@!p bra L{0};\n{1}L{0}:\n", label, leave);
          break;
        case Node::call:
          if (n.guarded) out += test;
          // Odd functions take .param.
          out += n.callee % 2 == 0
                     ? fmt::format("{}call (x), f{}, (t, x);\n", n.guarded ? "@p " : "", n.callee)
                     : fmt::format(
                           "{{\n.param .b32 a, b, r;\nst.param.b32 [a], t;\nst.param.b32 [b], "
                           "x;\nst.param.b32 [r], x;\n{}call (r), f{}, (a, b);\nld.param.b32 "
                           "x, [r];\n}}\n",
                           n.guarded ? "@p " : "", n.callee);
      }
    }
    return out;
  }
  std::string ptx() {
    std::string out;
    for (std::size_t i = 0; i + 1 < functions.size(); ++i) {
      out += i % 2 == 0
                 ? fmt::format(
                       ".func (.reg .b32 r) f{}(.reg .b32 t, .reg .b32 x)\n{{\n.reg .b32 y;\n.reg "
                       ".pred p;\n{}mov.b32 r, x;\n}}\n",
                       i, text(functions[i], "mov.b32 r, x;\nret;\n"))
                 : fmt::format(
                       ".func (.param .b32 r) f{}(.param .b32 a, .param .b32 b)\n{{\n.reg .b32 "
                       "t, x, y;\n.reg .pred p;\nld.param.b32 t, [a];\nld.param.b32 x, "
                       "[b];\n{}st.param.b32 [r], x;\nret;\n}}\n",
                       i, text(functions[i], "st.param.b32 [r], x;\nret;\n"));
    }
    return out;
  }
  // The last function is the entry: all lanes of it must be together after every statement.
  std::string entry() {
    std::string out = ".reg .b32 t, x, y;\n.reg .pred p;\nmov.b32 t, %t;\nmov.b32 x, t;\n";
    for (const Node& n : functions.back()) {
      if (n.kind == Node::leave) continue;
      out += text({n}, "") + "bar.sync 0;\n";
    }
    return out + "mov.b32 %r0, x;\n";
  }

  // False if the function returned.
  bool interpret(const std::vector<Node>& nodes, u32 t, u32& x) const {
    for (const Node& n : nodes) {
      const bool test = ((x ^ t) & n.mask) == n.mask;
      switch (n.kind) {
        case Node::add:
          x = x * 3 + n.constant;
          break;
        case Node::branch:
          if (test && !interpret(n.body, t, x)) return false;
          break;
        case Node::loop:
          for (u32 i = (t ^ n.constant) & 3; i != 0; --i) {
            if (!interpret(n.body, t, x)) return false;
          }
          break;
        case Node::leave:
          if (test) return false;
          break;
        case Node::call:
          if (!n.guarded || test) interpret(functions[static_cast<std::size_t>(n.callee)], t, x);
      }
    }
    return true;
  }
  u32 run(u32 t) const {
    u32 x = t;
    for (const Node& n : functions.back()) {
      if (n.kind != Node::leave) interpret({n}, t, x);
    }
    return x;
  }
};

TEST_CASE("random functions compute what they should, and all lanes come back from them") {
  int calls = 0;
  for (u32 seed = 0; seed < 150; ++seed) {
    INFO("seed " << seed);
    RandomFunctions program(seed);
    // An early return in the entry's blocks would leave the kernel.
    const auto no_returns = [](auto& self, std::vector<RandomFunctions::Node>& nodes) -> void {
      std::erase_if(nodes, [](const auto& n) { return n.kind == RandomFunctions::Node::leave; });
      for (auto& n : nodes) self(self, n.body);
    };
    no_returns(no_returns, program.functions.back());
    const std::string functions = program.ptx(), entry = program.entry();
    calls += entry.find("call") != std::string::npos ? 1 : 0;
    INFO(functions << entry);
    expect(functions, entry, [&](u32 t) { return program.run(t); });
  }
  CHECK(calls > 80);
}

TEST_CASE("expansion has a limit") {
  // Each function calls the next one twice: 2^20 calls.
  std::string chain = ".func f20() { ret; }\n";
  for (int i = 19; i >= 0; --i)
    chain += fmt::format(".func f{0}() {{ call f{1}; call f{1}; }}\n", i, i + 1);
  refused(chain, "call f0;", "make it longer than 250000 instructions");
  // A thousand calls of a function of many branches: 40,000 basic blocks.
  std::string branches = ".func f10() {\n.reg .pred p;\nsetp.eq.u32 p, 1, 1;\n";
  for (int i = 0; i < 20; ++i) branches += fmt::format("@p bra L{0};\ntrap;\nL{0}:\n", i);
  branches += "}\n";
  for (int i = 9; i >= 0; --i) {
    branches += fmt::format(".func f{0}() {{ call f{1}; call f{1}; }}\n", i, i + 1);
  }
  expect(branches, "call f0; mov.b32 %r0, 1;", [](u32) { return 1u; });
  std::string deep = ".func f100() { ret; }\n";
  for (int i = 99; i >= 0; --i) deep += fmt::format(".func f{}() {{ call f{}; }}\n", i, i + 1);
  refused(deep, "call f0;", "nested more than 64 deep");
  expect(deep, "call f50; mov.b32 %r0, 1;", [](u32) { return 1u; });
}

}  // namespace
}  // namespace sagegen::emulator::test
