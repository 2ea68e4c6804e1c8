// The PTX parser at module level: initial values of variables, and texts with many entries.
#include <time.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <functional>
#include <string>

#include "runtime/emulator/exec/launch.h"
#include "runtime/emulator/ptx/module.h"
#include "tests/emulator/ptx_text.h"

namespace sagegen::emulator::ptx {
namespace {

using Catch::Contains;
using Catch::StartsWith;
using test::ptx_module;

void refused(const std::string& text, int line, const std::string& words) {
  INFO(text);
  CHECK_THROWS_WITH(parse(text),
                    StartsWith("line " + std::to_string(line) + ": ") && Contains(words));
}

TEST_CASE("values in nested braces fill the rows of an array") {
  const Module module =
      parse(ptx_module(".global .s8 a[][2] = {{-1, 0}, {3}, {5, 6}}; .global .u8 b[2][2][2] = "
                       "{{{1}, {2, 3}}, {4, 5}};"
                       ".global .v2 .u8 c[3] = {{1}, {2, 3}}; .global .v4 .u8 d = {1, 2}; .const "
                       ".u8 e[2][2] = {1, 2, 3};"));
  using Bytes = std::vector<std::uint8_t>;
  CHECK(module.globals.at(0).bytes == 6);
  CHECK(module.globals.at(0).initial == Bytes{255, 0, 3, 0, 5, 6});
  CHECK(module.globals.at(1).initial == Bytes{1, 0, 2, 3, 4, 5, 0, 0});
  CHECK(module.globals.at(2).bytes == 6);
  CHECK(module.globals.at(2).initial == Bytes{1, 0, 2, 3});
  CHECK(module.globals.at(3).initial == Bytes{1, 2});
  CHECK(module.globals.at(4).initial == Bytes{1, 2, 3});
  refused(ptx_module(".global .u8 a[2][2] = {{1, 2, 3}};"), 4, "longer than the item's 2 bytes");
  refused(ptx_module(".global .u8 a[2][2] = {1, {2, 3}};"), 4, "do not begin an item of 'a'");
  refused(ptx_module(".global .u8 a[2] = {{1}};"), 4, "do not begin an item of 'a'");
  refused(ptx_module(".global .u8 a[2][2] = {{1, 2}, {3, 4}, {5}};"), 4, "the variable's 4 bytes");
  refused(ptx_module(".global .u8 a[4][536870912]; .global .u8 b[][33554432] = {{1}, {2}};"), 4,
          "larger than 1073741824 bytes");
  refused(ptx_module(".global .u8 b[][33554432] = {{1}, {2}};"), 4,
          "more than 16777216 bytes of initial values are left open");
  std::string deep = ".global .u8 a";
  for (int i = 0; i < 33; ++i) deep += "[1]";
  refused(ptx_module(deep + ";"), 4, "'a' has more than 32 dimensions");
}

TEST_CASE("an open array with values is as long as they are") {
  const Module module =
      parse(ptx_module(".global .b16 a[] = {1, 2, 3}; .const .v2 .b8 b[] = {1, 2, 3};"));
  CHECK(module.globals.at(0).bytes == 6);
  CHECK(module.globals.at(1).bytes == 4);
}

TEST_CASE("addresses as initial values") {
  const Module module = parse(ptx_module(R"(
.global .b32 x[4]; .const .b8 y[4];
.global .u64 p = generic(x)+4;
.const .u64 table[3] = {x, 5, y + 8};
.global .u8 bytes[9] = {7, 0xFF(x), 0xff00(generic(y)+4), 0xFF00000000000000(x)};
.global .u32 low = x;)"));
  REQUIRE(module.globals.size() == 6);
  const auto check = [&](std::size_t variable, std::size_t which, std::size_t offset, int bytes,
                         int shift, const std::string& name, std::uint64_t addend) {
    const InitialAddress& address = module.globals[variable].addresses.at(which);
    CHECK(address.offset == offset);
    CHECK(address.bytes == bytes);
    CHECK(address.shift == shift);
    CHECK(address.variable == name);
    CHECK(address.addend == addend);
  };
  check(2, 0, 0, 8, 0, "x", 4);
  check(3, 0, 0, 8, 0, "x", 0);
  check(3, 1, 16, 8, 0, "y", 8);
  CHECK(module.globals[3].initial.size() == 24);
  CHECK(module.globals[3].initial[8] == 5);
  check(4, 0, 1, 1, 0, "x", 0);
  check(4, 1, 2, 1, 8, "y", 4);
  check(4, 2, 3, 1, 56, "x", 0);
  check(5, 0, 0, 4, 0, "x", 0);

  // What the assembler refuses as well.
  const std::string x = ".global .b32 x[4]; .shared .b32 s; ";
  const auto refused_value = [&](const std::string& text, const std::string& words) {
    refused(ptx_module(x + text), 4, words);
  };
  refused_value(".global .u64 p = p;", "'p' is no .global or .const variable that is declared");
  refused_value(".global .u64 p = later; .global .b32 later;", "'later' is no .global or .const");
  refused_value(".global .u64 p = generic(s);", "'s' is no .global or .const variable");
  refused_value(".global .b64 p = x;", "of .u64 or .u32 only, not of .b64");
  refused_value(".global .f64 p = x;", "not of .f64");
  refused_value(".global .u16 p = x;", "not of .u16");
  refused_value(".global .u64 p = x-4;", "expected ';'");
  refused_value(".global .u64 p = generic(x+4);", "expected ')'");
  refused_value(".global .u32 p = 0xffffffff(x);", "takes no single byte of an address");
  refused_value(".global .u8 p = 0xff0(x);", "takes no single byte of an address");
  refused_value(".global .u8 p = 0(x);", "takes no single byte of an address");
  refused_value(".global .u8 p = 0xff(x;", "expected ')'");
  refused_value(".global .u64 p = {x, x};", "longer than the variable's 8 bytes");
}

// Processor time of this thread: what other processes do does not count.
double seconds_of(const std::function<void()>& work) {
  const auto now = [] {
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  double best = 1e9;
  for (int i = 0; i < 3; ++i) {
    const double begin = now();
    work();
    best = std::min(best, now() - begin);
  }
  return best;
}

// Four times the text may take four times as long, not sixteen times.
constexpr double kMostGrowth = 9;

TEST_CASE("parsing takes time in proportion to the number of entries") {
  const auto text = [](int entries) {
    std::string module;
    for (int i = 0; i < entries; ++i) module += ".entry k" + std::to_string(i) + "(){}\n";
    return ptx_module(module);
  };
  const std::string small = text(15'000), large = text(60'000);
  CHECK(parse(large).functions.size() == 60'000);
  const double before = seconds_of([&] { parse(small); });
  CHECK(seconds_of([&] { parse(large); }) / before < kMostGrowth);
}

TEST_CASE("decoding takes time in proportion to the number of entries, variables and files") {
  const auto module_of = [](int entries) {
    std::string text = ".file 60000 \"far.cu\"\n";
    for (int i = 0; i < entries; ++i) {
      const std::string n = std::to_string(i);
      text += ".file " + n + " \"" + n + ".cu\"\n.shared .b32 s" + n + ";\n.global .b32 g" + n +
              ";\n.visible .entry k" + n + "() { .reg .b32 %r<2>; .reg .b64 %rd<2>; .loc " + n +
              " 1 1 mov.b64 %rd0, g" + n + "; mov.b32 %r0, s" + n + "; ret; }\n";
    }
    return parse(ptx_module(text));
  };
  const auto decode_all = [](const Module& module) {
    SymbolAddresses symbols;
    for (const Variable& variable : module.globals) symbols.emplace(variable.name, kGlobalBase);
    std::size_t shared = 0;
    for (const Function& function : module.functions) {
      shared += info(*decode(module, function, Profile::sm_89, symbols)).static_shared_bytes;
    }
    CHECK(shared == 4 * module.functions.size());  // each uses one of the module's
  };
  const Module small = module_of(2000), large = module_of(8000);
  CHECK(large.functions.size() == 8000);
  const double before = seconds_of([&] { decode_all(small); });
  CHECK(seconds_of([&] { decode_all(large); }) / before < kMostGrowth);
}

}  // namespace
}  // namespace sagegen::emulator::ptx
