// What ptx_entries() reads from PTX text, and that it does not read more than it needs.
#include "sagegen/runtime/ptx_entry.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cctype>
#include <chrono>
#include <functional>
#include <string>

using namespace sagegen::runtime;

namespace {

double best_seconds(int repeats, const std::function<void()>& work) {
  double best = 1e9;
  for (int i = 0; i < repeats; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    best = std::min(best, took.count());
  }
  return best;
}

// Like what compilers print: comments, guards, dots, slashes.
std::string body_of(std::size_t bytes) {
  std::string body;
  while (body.size() < bytes) {
    body +=
        "\t// begin inline asm\n\tmma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r1, %r2}, "
        "{%r3}, {%r4};\n\t// end inline asm\n\t@%p1 bra $L__BB0_2;\n\tld.global.u32 %r5, "
        "[%rd1+16]; // entry of a table, by tid.y\n";
  }
  return body;
}

}  // namespace

TEST_CASE("each parameter has a name, a type, a size, an alignment and a place") {
  const auto entries = ptx_entries(R"ptx(
.visible .entry mixed(
	.param .u8 flag,
	.param .u64 .ptr .global .align 128 data,
	.param .align 4 .b8 params[12],
	.param .f16 half,
	.param .align 16 .b8 block[2][24],
	.param .f64 d,
	.param .v4 .f32 four,
	.param .b32 bits, .param .b16 list[0x3], .param .f16x2 pair, .param .b128 wide
)
)ptx");
  REQUIRE(entries.size() == 1);
  struct Expected {
    const char* name;
    const char* type;
    bool is_array;
    std::size_t bytes, alignment, offset;
  };
  const Expected expected[] = {
      {"flag", "u8", false, 1, 1, 0},      {"data", "u64", false, 8, 8, 8},
      {"params", "b8", true, 12, 4, 16},   {"half", "f16", false, 2, 2, 28},
      {"block", "b8", true, 48, 16, 32},   {"d", "f64", false, 8, 8, 80},
      {"four", "f32", false, 16, 16, 96},  {"bits", "b32", false, 4, 4, 112},
      {"list", "b16", true, 6, 2, 116},    {"pair", "f16x2", false, 4, 4, 124},
      {"wide", "b128", false, 16, 16, 128}};
  REQUIRE(entries[0].parameters.size() == std::size(expected));
  for (std::size_t i = 0; i < std::size(expected); ++i) {
    const PtxParameter& p = entries[0].parameters[i];
    INFO(expected[i].name);
    CHECK(p.name == expected[i].name);
    CHECK(p.type == expected[i].type);
    CHECK(p.is_array == expected[i].is_array);
    CHECK(p.bytes == expected[i].bytes);
    CHECK(p.alignment == expected[i].alignment);
    CHECK(p.offset == expected[i].offset);
  }
}

TEST_CASE("block sizes are read wherever they stand before the body") {
  const auto entries = ptx_entries(R"ptx(
.entry a ( .param .u32 x ) .pragma "nounroll", "x; .reqntid 7"; .minnctapersm 2 .reqntid 32, 4, 2 { ret; }
.entry b .maxntid 64 { .reg .b32 x; }
.entry c .reqntid 16, 2
{ }
.entry d { .maxntid 99 }
.visible .entry e(.param .u32 x);
.reqntid 5
)ptx");
  REQUIRE(entries.size() == 5);
  const auto is = [](const Dim3& d, unsigned x, unsigned y, unsigned z) {
    return d.x == x && d.y == y && d.z == z;
  };
  CHECK(is(entries[0].required_block, 32, 4, 2));
  CHECK(is(entries[0].largest_block, 0, 0, 0));
  CHECK(is(entries[1].largest_block, 64, 1, 1));
  CHECK(is(entries[2].required_block, 16, 2, 1));
  CHECK(is(entries[3].largest_block, 0, 0, 0));
  CHECK(is(entries[4].required_block, 0, 0, 0));
}

TEST_CASE("entries in comments, strings and longer words are none") {
  const auto names = [](const std::string& ptx) {
    std::vector<std::string> result;
    for (const PtxEntry& entry : ptx_entries(ptx)) result.push_back(entry.name);
    return result;
  };
  using Names = std::vector<std::string>;
  CHECK(names("// .entry a(\n.entry b() { }") == Names{"b"});
  CHECK(names("/* .entry a() // */ .entry b() { } /* .entry c(").size() == 1);
  CHECK(names("\"/* .entry a()\" .entry b() { } \" .entry c // \" .entry d") == Names{"b", "d"});
  CHECK(names("// \" \n.entry b() { // \" \n } .entry c { }") == Names{"b", "c"});
  CHECK(names(".entryx a .entry.b c x.entry d %.entry e $.entry f .entry g").size() == 1);
  CHECK(names("{ 6 / 2 / 3 } .entry a { } { 4 /2 }\t.weak .entry b") == Names{"a", "b"});
  CHECK(names(".entry/* y */a // y\n(/**/.param .u32/**/ .entry) { }") == Names{"a"});
  CHECK(names("entry a .entr b .entry").size() == 1);
  CHECK(names(body_of(2000) + ".entry a { " + body_of(2000) + " } .entry b { " + body_of(2000) +
              "}") == Names{"a", "b"});
}

TEST_CASE("the target is that of the first directive") {
  CHECK(ptx_target("// .target sm_70\n.version 8.4\n.target sm_90a, debug\n") == "sm_90a");
  CHECK(ptx_target(".version 8.4") == "");
  CHECK(ptx_target(".target") == "");
}

TEST_CASE("reading the entries is quicker than looking at every character") {
  const std::string ptx =
      ".version 8.4\n.target sm_89\n.visible .entry k(.param .u64 x)\n{\n" + body_of(40000) + "}\n";
  std::size_t entries = 0, letters = 0;
  const double reading = best_seconds(50, [&] { entries += ptx_entries(ptx).size(); });
  const double looking = best_seconds(50, [&] {
    for (const char c : ptx) letters += std::isalnum(static_cast<unsigned char>(c)) != 0 ? 1 : 0;
  });
  INFO(reading * 1e6 << " us, every character " << looking * 1e6 << " us");
  CHECK(entries == 50);
  CHECK(letters > 0);
  CHECK(reading < looking);
}

TEST_CASE("many entries and many marks are read in linear time") {
  std::string ptx;
  for (int i = 0; i < 20000; ++i) ptx += ".entry e(.param .u32 x) { } // y / \n";
  CHECK(ptx_entries(ptx).size() == 20000);
  std::string marks = ".entry e { }";
  for (int i = 0; i < 200000; ++i) marks += "/ y \"y\" ";
  CHECK(ptx_entries(marks + ".entry").size() == 2);
}
