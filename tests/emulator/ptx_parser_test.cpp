// The PTX parser: what LLVM prints, what people write by hand, and what must be refused.
#include <bit>
#include <catch2/catch.hpp>
#include <fstream>
#include <sstream>
#include <string>

#include "runtime/emulator/ptx/module.h"
#include "tests/emulator/ptx_text.h"

namespace sagegen::emulator::ptx {
namespace {

using Catch::Contains;
using Catch::StartsWith;
using test::ptx_body;
using test::ptx_module;
using Kind = Operand::Kind;

Function body_of(const std::string& text) { return parse(ptx_body(text)).functions.at(0); }
Instruction one(const std::string& text) { return body_of(text).body.at(0); }

std::string spelled(const Instruction& instruction) {
  std::string out = instruction.opcode;
  for (const std::string& modifier : instruction.modifiers) out += "." + modifier;
  return out;
}

std::string sample(const std::string& name) {
  std::ifstream file(std::string(SAGEGEN_SOURCE_DIR) + "/tests/fuzz/corpus/ptx/" + name);
  REQUIRE(file.good());
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

const Instruction& find(const Function& function, const std::string& start) {
  for (const Instruction& instruction : function.body) {
    if (spelled(instruction).starts_with(start)) return instruction;
  }
  FAIL("no instruction " << start);
  throw 0;
}

void refused(const std::string& text, int line, const std::string& words) {
  INFO(text);
  CHECK_THROWS_WITH(parse(text),
                    StartsWith("line " + std::to_string(line) + ": ") && Contains(words));
}
void body_refused(const std::string& text, const std::string& words) {
  refused(ptx_body(text), 7, words);
}

TEST_CASE("module header") {
  const Module module =
      parse(".version 8.7 // comment\n.target sm_120a, debug\n.address_size 64\n");
  CHECK(module.version == 87);
  CHECK(module.target == "sm_120a");
  CHECK(module.functions.empty());

  refused("", 1, "expected .version");
  refused("\n\nmov.b32 %r1, 0;", 3, "expected .version");
  refused(".version 8\n.target sm_80", 1, "'8' is no PTX version");
  refused(".version 8.4\n.address_size 64", 2, "expected .target");
  refused(".version 8.4\n.target gfx90a", 2, "'gfx90a' is no target");
  refused(".version 8.4\n.target sm_80, map_f64_to_f32", 2, "map_f64_to_f32");
  refused(".version 8.4\n.target sm_80\n.address_size 32", 3, "address_size");
  refused(ptx_module(".tex .u32 t;"), 4, "'.tex' is not supported at module level");
}

TEST_CASE("operands") {
  SECTION("registers and special registers") {
    const Instruction i = one("mad.lo.s32 %r0, %tid.x, %ntid.x, %laneid;");
    CHECK(spelled(i) == "mad.lo.s32");
    REQUIRE(i.operands.size() == 4);
    CHECK(i.operands[0].text == "%r0");
    CHECK(i.operands[1].text == "%tid.x");
    CHECK(i.operands[2].text == "%ntid.x");
    CHECK(i.operands[3].text == "%laneid");
    for (const Operand& operand : i.operands) CHECK(operand.kind == Kind::reg);
  }
  SECTION("integers") {
    const auto value = [](const std::string& text) {
      const Instruction i = one("mov.b64 %rd0, " + text + ";");
      CHECK(i.operands[1].kind == Kind::integer);
      return static_cast<std::uint64_t>(i.operands[1].value);
    };
    CHECK(value("0") == 0);
    CHECK(value("12") == 12);
    CHECK(value("-3") == ~std::uint64_t{2});
    CHECK(value("0x1fU") == 31);
    CHECK(value("0b101") == 5);
    CHECK(value("017") == 15);
    CHECK(value("18446744073709551615") == ~std::uint64_t{0});
    CHECK(value("0xffffffffffffffff") == ~std::uint64_t{0});
    CHECK(value("-9223372036854775808") == std::uint64_t{1} << 63);
    CHECK(value("WARP_SZ") == 32);
  }
  SECTION("floating-point constants") {
    CHECK(one("mov.b32 %r0, 0f3F800000;").operands[1].kind == Kind::f32_bits);
    CHECK(one("mov.b32 %r0, 0fbF80000a;").operands[1].value == 0xbf80000a);
    CHECK(one("mov.b32 %r0, -0f3F800000;").operands[1].value == 0xbf800000);
    CHECK(one("mov.b64 %rd0, 0d3FB999999999999A;").operands[1].kind == Kind::f64_bits);
    CHECK(one("mov.b64 %rd0, 0d3FB999999999999A;").operands[1].value == 0x3fb999999999999a);
    const Operand decimal = one("mov.f32 %r0, -1.5e1;").operands[1];
    CHECK(decimal.kind == Kind::f64_bits);
    CHECK(std::bit_cast<double>(decimal.value) == -15.0);
  }
  SECTION("addresses") {
    const auto address = [](const std::string& text) {
      return one("ld.global.b32 %r0, [" + text + "];").operands[1];
    };
    for (const auto& [text, base, offset] :
         {std::tuple{"%rd1", "%rd1", 0}, std::tuple{"%rd1+16", "%rd1", 16},
          std::tuple{"%rd1 + -4", "%rd1", -4}, std::tuple{"%rd1-4", "%rd1", -4},
          std::tuple{"4096", "", 4096}}) {
      CHECK(address(text).kind == Kind::address);
      CHECK(address(text).text == base);
      CHECK(address(text).value == offset);
      CHECK(address(text).elements.empty());
    }
    const Operand tensor = address("%rd1, {%r1, %r2}");
    CHECK(tensor.text == "%rd1");
    REQUIRE(tensor.elements.size() == 2);
    CHECK(tensor.elements[1].text == "%r2");
  }
  SECTION("vectors, sinks and pairs") {
    const Instruction load = one("ld.global.v4.b32 {%r1, _, %r3, %r4}, [%rd1];");
    REQUIRE(load.operands[0].kind == Kind::vector);
    REQUIRE(load.operands[0].elements.size() == 4);
    CHECK(load.operands[0].elements[1].kind == Kind::sink);
    CHECK(load.operands[0].elements[3].text == "%r4");
    const Instruction store = one("st.global.v2.b32 [%rd1], {0f3F800000, -1};");
    CHECK(store.operands[1].elements[0].kind == Kind::f32_bits);
    CHECK(store.operands[1].elements[1].value == -1);

    const Instruction pair = one("setp.lt.s32 %p1|%p2, %r1, 5;");
    CHECK(pair.operands[0].text == "%p1");
    CHECK(pair.operands[0].pair == "%p2");
    CHECK(one("shfl.sync.up.b32 %r1|_, %r2, 1, 0, -1;").operands[0].pair == "_");
    CHECK(one("elect.sync _|%p1, -1;").operands[0].kind == Kind::sink);
    CHECK(one("and.pred %p1, !%p2, %p3;").operands[1].negated);
  }
  SECTION("guards") {
    CHECK(one("@%p3 ret;").guard == "%p3");
    CHECK_FALSE(one("@%p3 ret;").guard_negated);
    CHECK(one("@!%p3 ret;").guard_negated);
    CHECK(one("ret;").guard.empty());
  }
  SECTION("modifiers") {
    CHECK(spelled(one("fence.proxy.async.shared::cta;")) == "fence.proxy.async.shared::cta");
    CHECK(one("fence.proxy.async.shared::cta;").modifiers[2] == "shared::cta");
    CHECK(spelled(one("cp.async.cg.shared.global.L2::128B [%r1], [%rd1], 16;")) ==
          "cp.async.cg.shared.global.L2::128B");
  }
}

TEST_CASE("refused operands name line and text") {
  body_refused("mov.b32 %r99, 0;", "register '%r99' is not declared");
  body_refused("mov.b32 %r01, 0;", "register '%r01' is not declared");
  body_refused("mov.b32 %r0, foo;", "'foo' is not declared");
  body_refused("ld.global.b32 %r0, [foo];", "'foo' is not declared");
  body_refused("ld.global.v2.b32 {%r0, foo}, [%rd1];", "'foo' is not declared");
  body_refused("bra nowhere;", "'nowhere' is not declared");
  body_refused("@foo ret;", "'foo' is no declared register");
  body_refused("mov.b32 %r0, 0f3F8;", "exactly 8 hexadecimal digits");
  body_refused("mov.b32 %r0, 0f3F8000000;", "exactly 8 hexadecimal digits");
  body_refused("mov.b32 %r0, 0dZ;", "exactly 16 hexadecimal digits");
  body_refused("mov.b32 %r0, 12ab;", "'12ab' is not a number");
  body_refused("mov.b32 %r0, 0x;", "'0x' is not a number");
  body_refused("mov.b32 %r0, 08;", "is not a number");
  body_refused("mov.b32 %r0, 18446744073709551616;", "does not fit in 64 bits");
  body_refused("mov.b32 %r0, 1e;", "is not a number");
  body_refused("mov.b32 %r0, -%r1;", "a number after '-'");
  body_refused("mov.b32 %r0, !5;", "'!' needs a predicate register");
  body_refused("mov.b32 %r0, !foo;", "'!' cannot negate");
  body_refused("mov.b32 %r0 %r1;", "expected ';' after 'mov'");
  body_refused("mov.b32 %r0,;", "expected an operand, found ';'");
  body_refused("ld.global.b32 %r0, [%rd1;", "']' after an address");
  body_refused("ld.global.b32 %r0, [];", "as address");
  body_refused("st.v2.b32 [%rd1], {};", "expected an operand");
  body_refused("st.v2.b32 [%rd1], {{%r1}};", "expected an operand, found '{'");
  body_refused("mov.b32 %r0, 1 # 2;", "'#' has no meaning");
  body_refused("mov.b32 %r0, \x80;", "'\\x80' has no meaning");
  body_refused("call (%r0), f, (%r1);", "'f' is no device function of this text");
  body_refused("call (%r0), %rd1, (%r1), p;", "none through a register");
  body_refused("call (%r0) f;", "',' after the results of a call");
  body_refused("call f, %r1;", "'(' after 'call'");
  body_refused("call f, (%r1;", "')' after the arguments of a call");
  body_refused("call f, (q);", "'q' is not declared");
  body_refused("call f, (!%p1);", "'!' cannot stand before an argument");
  body_refused("ret L;", "expected ';' after 'ret'");
  body_refused("foo (%r0);", "which only 'call' takes");
  body_refused("%r0;", "'%r0' is not an instruction");
  body_refused(".branchtargets A, B;", "'.branchtargets' is not supported inside a function");
  body_refused("/* never closed", "a comment is not closed");
  refused(ptx_module(".file 1 \"name\n\""), 4, "a string is not closed");
}

TEST_CASE("comments, blanks and lines") {
  const Function function = body_of(
      "// one ; { \" line\n"
      "mov.b32 %r0, /* in\n the middle */ 1;\n"
      "\t\r\n"
      "mov.b32\n%r1,\n2;");
  REQUIRE(function.body.size() == 2);
  CHECK(function.body[0].line == 8);
  CHECK(function.body[1].line == 11);
  CHECK(function.body[1].operands[1].value == 2);
}

TEST_CASE("registers") {
  const Function function = parse(ptx_module(R"(
.entry k() {
  .reg .pred %p<2>; .reg .f32 %f<3>, single; .reg .u16 a, b; .reg .b64 %rd<1>;
  .reg .b32 %r1<2>;
})"))
                                .functions.at(0);
  std::string names;
  for (const Register& reg : function.registers) {
    names += reg.name + ":" + std::to_string(static_cast<int>(reg.type)) + " ";
  }
  CHECK(names == "%p0:0 %p1:0 %f0:2 %f1:2 %f2:2 single:2 a:1 b:1 %rd0:3 %r10:2 %r11:2 ");

  body_refused(".reg .b32 %r<4>;", "'%r0' of the range %r<4> is declared twice");
  body_refused(".reg .b32 %r31;", "'%r31' is declared twice");
  body_refused(".reg .b32 x; .reg .b32 x;", "'x' is declared twice");
  body_refused(".reg .b32 %r1<2>;", "'%r10' of the range %r1<2> is declared twice");
  body_refused(".reg .b128 q;", "'.b128' registers are not supported");
  body_refused(".reg .bf16 q;", "'.bf16' is no type of registers; declare .b16");
  body_refused(".reg .bf16x2 q;", "declare .b32");
  body_refused(".reg .texref q;", "'.texref' is no type of registers");
  body_refused(".reg .b32 q<1000000000>;", "at most 250000 is possible");
  body_refused(".reg .b32 q<200000>; .reg .b32 s<200000>;", "more than 250000 registers");
}

TEST_CASE("registers of vectors are registers by element") {
  const Function function = body_of(R"(
.reg .v4 .f32 %v, u<2>; .reg .v2 .b64 w;
mov.f32 %v.x, u1.w; mov.f32 %v.b, %v.a; ld.global.v4.f32 %v, [w.y+8]; st.global.v2.b32 [%rd1], {u0.x, u0.y};
{ .reg .v2 .b16 w; mov.b16 w.x, w.g; })");
  std::string names;
  for (std::size_t i = 8 + 8 + 32 + 16; i < function.registers.size(); ++i) {
    names += function.registers[i].name + " ";
  }
  CHECK(names ==
        "%v.x %v.y %v.z %v.w u0.x u0.y u0.z u0.w u1.x u1.y u1.z u1.w w.x w.y w.x@1 w.y@1 ");
  const auto operand = [&](std::size_t i, std::size_t n) {
    return function.body.at(i).operands.at(n);
  };
  CHECK(operand(0, 0).text == "%v.x");
  CHECK(operand(0, 1).text == "u1.w");
  CHECK(operand(0, 1).kind == Kind::reg);
  CHECK(operand(1, 0).text == "%v.z");
  CHECK(operand(1, 1).text == "%v.w");
  REQUIRE(operand(2, 0).kind == Kind::vector);
  REQUIRE(operand(2, 0).elements.size() == 4);
  CHECK(operand(2, 0).elements[3].text == "%v.w");
  CHECK(operand(2, 1).kind == Kind::address);
  CHECK(operand(2, 1).text == "w.y");
  CHECK(operand(2, 1).value == 8);
  CHECK(operand(3, 1).elements[1].text == "u0.y");
  CHECK(operand(4, 0).text == "w.x@1");
  CHECK(operand(4, 1).text == "w.y@1");

  body_refused(".reg .v2 .f32 v; mov.f32 v.z, 0f00000000;", "'.z' is no element of a .v2 register");
  body_refused(".reg .v2 .f32 v; mov.f32 v.xy, 0f00000000;", "'.xy' is no element");
  body_refused(".reg .v2 .f32 v; st.v4.f32 [%rd1], {v, v};", "'v' is a vector inside a vector");
  body_refused(".reg .v2 .b64 v; ld.b32 %r0, [v];", "'v' is a vector, so it is no address");
  body_refused(".reg .v2 .b32 v; .reg .b32 v;", "'v' is declared twice");
  body_refused(".reg .v4 .f64 v;", "a vector of 4 .f64 has 32 bytes; at most 16 are possible");
  body_refused(".reg .v2 .pred v;", "predicates have no vectors");
  body_refused(".reg .b32 .v2 v;", "expected the name of a register");
  body_refused(".reg .v4 .b32 q<100000>;", "more than 250000 registers");
  body_refused("mov.b32 %r0, %r1.x;", "expected ';' after 'mov'");
}

TEST_CASE("parameters and launch bounds") {
  const Function function = parse(ptx_module(R"(
.visible .entry k(
  .param .u64 .ptr .global .align 16 a,
  .param .align 64 .b8 block[128],
  .param .u64 .ptr .shared .align 1 s,
  .param .f32 f,
  .param .u8 b
)
.maxntid 32, 4, 2
.minnctapersm 2
.maxnreg 168
{ ret; })"))
                                .functions.at(0);
  REQUIRE(function.params.size() == 5);
  const auto check = [&](std::size_t index, const std::string& name, std::uint64_t bytes,
                         int align) {
    CHECK(function.params[index].name == name);
    CHECK(function.params[index].bytes == bytes);
    CHECK(function.params[index].align == align);
  };
  check(0, "a", 8, 8);
  check(1, "block", 128, 64);
  check(2, "s", 8, 8);
  check(3, "f", 4, 4);
  check(4, "b", 1, 1);
  CHECK(function.max_threads == 256);
  CHECK(function.min_blocks == 2);
  CHECK(function.max_regs == 168);
  CHECK(function.line == 5);

  CHECK(parse(ptx_module(".entry k .reqntid 128 { ret; }")).functions.at(0).max_threads == 128);
  CHECK(parse(ptx_module(".entry k(.param .u32 a);")).functions.empty());  // only a declaration
  refused(ptx_module(".entry k() .maxntid 65536, 65536 { ret; }"), 4, "a product of at most");
  refused(ptx_module(".entry k() .maxntid 1, 1, 1, 1 { ret; }"), 4, "one to three");
  refused(ptx_module(".entry k() .maxntid 0 { ret; }"), 4, "positive");
  refused(ptx_module(".entry k() .reqnctapercluster 2 { ret; }"), 4, "'.reqnctapercluster' is not");
  refused(ptx_module(".entry k(.param .texref t) { ret; }"), 4, "'.texref' is no type");
  refused(ptx_module(".entry k(.param .b8 p[]) { ret; }"), 4, "a parameter has no size");
  refused(ptx_module(".entry k(.param .align 3 .b8 p[4]) { ret; }"), 4, "3 is no power of two");
  refused(ptx_module(".entry k(.param .u32 a, .param .u32 a) { ret; }"), 4,
          "'a' is declared twice");
  refused(ptx_module(".entry k() { ret; }\n.entry k() { ret; }"), 5,
          "entry 'k' is defined twice, first in line 4");
  refused(ptx_module(".entry k() .maxntid 32 .reqntid 32 { ret; }"), 4, "'k' has both");
  refused(ptx_module(".extern .entry k() { ret; }"), 4, "'k' is extern, so its body is not here");
  refused(ptx_module(".visible .extern .shared .b8 s[];"), 4, "'.extern' is a second linking");
  for (const char* type : {".v2 .b32", ".v4 .f32", ".align 16 .v4 .f32"}) {
    const std::string vector = std::string(".param ") + type + " p";
    const std::string words = "cannot be a vector";
    refused(ptx_module(".entry k(" + vector + ") { ret; }"), 4, words);
    refused(ptx_module(".func f(" + vector + ") { ret; }"), 4, words);
    refused(ptx_module(".func (" + vector + ") f() { ret; }"), 4, words);
  }
  refused(ptx_module(".entry k() { ret;"), 4, "a '}' that ends 'k', found the end of the text");
}

TEST_CASE("variables") {
  const Module module = parse(ptx_module(R"(
.extern .shared .align 1024 .b8 dynamic[];
.shared .align 16 .b8 tile[64][32];
.visible .global .align 4 .u32 counter = 7;
.const .align 4 .b8 table[16] = {0, 0, 128, 63, 0, -1};
.global .f32 constants[3] = {0f3F800000, -2.0};
.global .v4 .f32 vectors[2];
.global .b64 zero, other;
.entry k() { .shared .align 16 .b8 stat[256]; .local .align 8 .b8 depot[24]; { .shared .b32 inner; } })"));
  REQUIRE(module.shared.size() == 2);
  CHECK(module.shared[0].is_extern);
  CHECK(module.shared[0].bytes == 0);
  CHECK(module.shared[0].align == 1024);
  CHECK(module.shared[1].bytes == 2048);
  REQUIRE(module.globals.size() == 6);
  CHECK(module.globals[0].initial == std::vector<std::uint8_t>{7, 0, 0, 0});
  CHECK(module.globals[1].bytes == 16);
  CHECK(module.globals[1].initial == std::vector<std::uint8_t>{0, 0, 128, 63, 0, 255});
  CHECK(module.globals[2].bytes == 12);
  CHECK(module.globals[2].initial == std::vector<std::uint8_t>{0, 0, 128, 63, 0, 0, 0, 0xc0});
  CHECK(module.globals[3].bytes == 32);
  CHECK(module.globals[3].align == 16);
  CHECK(module.globals[5].name == "other");
  const Function& function = module.functions.at(0);
  REQUIRE(function.shared.size() == 2);
  CHECK(function.shared[0].bytes == 256);
  CHECK(function.shared[1].name == "inner@1");
  REQUIRE(function.local.size() == 1);
  CHECK(function.local[0].align == 8);

  refused(ptx_module(".shared .b8 a[];"), 4, "'a' has no size");
  refused(ptx_module(".global .b8 a[4][];"), 4, "only the first dimension");
  refused(ptx_module(".global .b8 a[0];"), 4, "array 'a' has size 0");
  refused(ptx_module(".global .b8 a[1073741824][2];"), 4, "larger than 1073741824 bytes");
  refused(ptx_module(".global .b8 a[1073741825];"), 4, "at most 1073741824 is possible");
  refused(ptx_module(".shared .b32 a = 1;"), 4, ".shared variables cannot be initialized");
  refused(ptx_module(".global .b8 a[2] = {1, 2, 3};"), 4, "longer than the variable's 2 bytes");
  body_refused(".shared .b8 s[];", "'s' has no size");
  body_refused(".local .b8 s[];", "'s' has no size");
  body_refused(".extern .shared .b8 s[];", "'.extern' is not supported inside a function");
  refused(ptx_module(".extern .global .b32 a = 1;"), 4, "'a' is extern");
  refused(ptx_module(".global .f32 a = 1;"), 4, "'1' cannot initialize a variable of .f32; write");
  refused(ptx_module(".global .bf16 a;"), 4, "'.bf16' is no type of a variable; declare .b16");
  refused(ptx_module(".global .v4 .b64 a;"), 4, "a vector of 4 .b64 has 32 bytes");
  refused(ptx_module(".global .b32 a;\n.global .b32 a;"), 5, "'a' is declared twice");
}

TEST_CASE("symbols as operands") {
  const Function function = parse(ptx_module(R"(
.extern .shared .align 16 .b8 smem[];
.entry k(.param .u32 n) {
  .reg .b32 %r<4>; .reg .b64 %rd<4>;
  mov.b64 %rd1, smem;
  mov.b64 %rd2, smem+64;
  ld.param.b32 %r1, [n];
  ld.shared.b32 %r2, [smem+8];
})"))
                                .functions.at(0);
  CHECK(function.body[0].operands[1].kind == Kind::symbol);
  CHECK(function.body[0].operands[1].text == "smem");
  CHECK(function.body[1].operands[1].value == 64);
  CHECK(function.body[2].operands[1].kind == Kind::address);
  CHECK(function.body[2].operands[1].text == "n");
  CHECK(function.body[3].operands[1].value == 8);
}

TEST_CASE("scopes") {
  SECTION("inner names are distinct, outer ones stay visible") {
    const Function function = body_of(R"(
L: mov.b32 %r0, 1;
{ .reg .pred p; .reg .b32 %r0; L: setp.eq.s32 p, %r0, %r1; @p bra L; bra OUT; }
{ .reg .pred p; L: @p bra L; { L: @p bra L; bra M; } M: }
bra L;
OUT: ret;)");
    const auto target = [&](std::size_t i) { return function.body.at(i).operands.at(0).text; };
    CHECK(function.body[0].operands[0].text == "%r0");
    CHECK(function.body[1].operands[0].text == "p@1");
    CHECK(function.body[1].operands[1].text == "%r0@1");
    CHECK(function.body[1].operands[2].text == "%r1");
    CHECK(function.body[2].guard == "p@1");
    CHECK(target(2) == "L@1");
    CHECK(target(3) == "OUT");
    CHECK(target(4) == "L@2");
    CHECK(function.body[5].guard == "p@2");
    CHECK(target(5) == "L@3");
    CHECK(target(6) == "M@2");
    CHECK(target(7) == "L");
    CHECK(function.labels.at("L") == 0);
    CHECK(function.labels.at("L@1") == 1);
    CHECK(function.labels.at("L@2") == 4);
    CHECK(function.labels.at("L@3") == 5);
    CHECK(function.labels.at("M@2") == 7);
    CHECK(function.labels.at("OUT") == 8);
  }
  SECTION("a label of an inner scope is invisible outside") {
    body_refused("bra L; { L: ret; }", "'L' is not declared");
    body_refused("{ L: ret; } { bra L; }", "'L' is not declared");
    body_refused("{ .reg .b32 q; } mov.b32 q, 0;", "'q' is not declared");
  }
  SECTION("twice in one scope") {
    body_refused("L: ret; L: ret;", "label 'L' is declared twice");
    body_refused("{ L: ret; L: ret; }", "label 'L' is declared twice");
  }
  SECTION("braces must match, and nest within reason") {
    refused(ptx_body("{ ret;"), 8, "found the end of the text");
    refused(ptx_body("} "), 7, "expected a directive, found '}'");
    CHECK_NOTHROW(body_of(std::string(63, '{') + std::string(63, '}')));
    body_refused(std::string(64, '{') + std::string(64, '}'), "nested more than 64 deep");
    body_refused(std::string(1'000'000, '{'), "nested more than 64 deep");
  }
}

TEST_CASE("device functions and sections are skipped") {
  const Module module = parse(ptx_module(R"(
.func (.reg .b32 r) f(.reg .b32 x) { { call g; } ret; }
.extern .func g;
.section .debug_abbrev { .b8 1 // abbreviation
  label: .b32 end-start }
.visible .entry k() { ret; })"));
  REQUIRE(module.functions.size() == 1);
  CHECK(module.functions[0].name == "k");
  CHECK(module.functions[0].line == 9);
  refused(ptx_module(".section .x { {"), 4, "expected '}', found the end");
  refused(ptx_module(".func f"), 4, "the body of a .func");
}

TEST_CASE("source positions") {
  const Module module = parse(ptx_module(R"(
.file 1 "a.cpp"
.file 2 "dir" "b.cpp", 123, 456
.entry k() { .reg .b32 %r<4>;
  mov.b32 %r0, 0;
  .loc 1 10 3
  mov.b32 %r0, 1;
  .loc 2 31 5, function_name $L__info_string0+4, inlined_at 1 7 3
  mov.b32 %r0, 2;
}
.entry j() { ret; })"));
  CHECK(module.files.at(1) == "a.cpp");
  CHECK(module.files.at(2) == "dir/b.cpp");
  const auto& body = module.functions.at(0).body;
  CHECK(body[0].source_line == 0);
  CHECK(body[1].source_file == 1);
  CHECK(body[1].source_line == 10);
  CHECK(body[2].source_file == 2);
  CHECK(body[2].source_line == 31);
  CHECK(module.functions.at(1).body[0].source_line == 0);
  body_refused(".loc 1 2;", "the column of .loc");
  body_refused(".loc 1 2 3, at 5", "'at' is no attribute of .loc");
}

TEST_CASE("what LLVM prints: copies, ldmatrix, mma, inline assembly") {
  const Module module = parse(sample("llvm_sm89_copies_and_mma.ptx"));
  CHECK(module.version == 84);
  CHECK(module.target == "sm_89");
  REQUIRE(module.functions.size() == 1);
  const Function& k = module.functions[0];
  CHECK(k.params.at(0).bytes == 24);
  CHECK(k.max_threads == 128);
  CHECK(k.min_blocks == 1);
  CHECK(k.registers.size() == 3 + 2 + 20 + 12 + 2);
  CHECK(k.body.size() == 46);
  const Instruction& mma = find(k, "mma");
  CHECK(spelled(mma) == "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32");
  CHECK(mma.line == 49);
  REQUIRE(mma.operands.size() == 4);
  CHECK(mma.operands[1].elements.size() == 4);
  CHECK(mma.operands[2].elements[1].text == "%r6");
  const Instruction& copy = find(k, "cp.async.cg");
  CHECK(copy.operands[0].kind == Kind::address);
  CHECK(copy.operands[2].value == 16);
  CHECK(copy.operands[3].text == "%r1");
  CHECK(k.labels.contains("L1@1"));
}

TEST_CASE("what LLVM prints: line information") {
  const Module module = parse(sample("llvm_sm89_line_info.ptx"));
  CHECK(module.files.at(2) == "/x/generator/dsl/b.cpp");
  const Function& k = module.functions.at(0);
  CHECK(find(k, "mma").source_file == 2);
  CHECK(find(k, "mma").source_line == 31);
  CHECK(find(k, "mul.wide").source_file == 1);
  CHECK(find(k, "mul.wide").source_line == 7);
  CHECK(k.local.at(0).bytes == 64);
}

TEST_CASE("what LLVM prints: wgmma, tensor copies, waiting loops") {
  const Function k = parse(sample("llvm_sm90a_wgmma_and_tma.ptx")).functions.at(0);
  const Instruction copy = find(k, "cp.async.bulk.tensor.2d");
  REQUIRE(copy.operands.size() == 3);
  CHECK(copy.operands[0].text == "sm");
  CHECK(copy.operands[0].value == 1024);
  CHECK(copy.operands[1].elements.size() == 2);
  CHECK(copy.modifiers.back() == "mbarrier::complete_tx::bytes");
  CHECK(k.labels.at("DONE@1") < k.labels.at("DONE@2"));
}

TEST_CASE("bounds on everything") {
  const auto repeated = [](const std::string& text, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += text;
    return out;
  };
  body_refused("mov." + repeated("b32.", 30) + "b32 %r0, 1;", "more than 24 modifiers");
  body_refused("mov.b32 " + repeated("%r0,", 40) + "1;", "more than 32 operands");
  body_refused("mov.b32 {" + repeated("%r0,", 600) + "1};", "more than 512 elements");
  body_refused(repeated("ret;", 250'001), "more than 250000 instructions");
  body_refused(repeated("a _,_,_,_,_,_,_,_,_,_,_,_,_,_,_,_;", 62'501),
               "more than 1000000 operands");
  body_refused(repeated("a", 5000) + ";", "at most 4096 are allowed");
  body_refused("mov.b32 %r0, " + repeated("9", 5000) + ";", "does not fit in 64 bits");
  body_refused("mov.b32 %r0, 1." + repeated("9", 5000) + ";", "at most 4096 are allowed");
  std::string labels;
  for (int i = 0; i < 100'001; ++i) labels += "l" + std::to_string(i) + ":";
  body_refused(labels, "more than 100000 names");
  refused(std::string((std::size_t{16} << 20) + 1, ' '), 1, "at most 16777216 are allowed");
}

}  // namespace
}  // namespace sagegen::emulator::ptx
