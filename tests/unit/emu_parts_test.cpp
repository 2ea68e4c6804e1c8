// The parts of `sagegen emu`: its grammar, the values of buffers, launches in TOML.
#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "tools/sagegen/emu_arguments.h"
#include "tools/sagegen/emu_file.h"
#include "tools/sagegen/emu_launch.h"
#include "tools/sagegen/emu_values.h"
#include "tools/sagegen/errors.h"

using namespace sagegen::cli;
using Catch::Matchers::Contains;
using sagegen::runtime::ptx_entries;

namespace {

constexpr Number kInfinity = std::numeric_limits<Number>::infinity();

// The number that comes back, or NaN where the type refuses it.
Number through(ElementType type, Number value) {
  std::byte bytes[8] = {};
  return encode(type, value, bytes) ? decode(type, bytes)
                                    : std::numeric_limits<Number>::quiet_NaN();
}

std::vector<Number> values(const std::string& text, ElementType type, std::size_t count,
                           std::uint64_t seed = 1) {
  const std::vector<std::uint64_t> shape{count};
  Source source = open_source(parse_value(text), type, &shape, seed, {}, "value");
  const std::vector<std::byte> bytes = fill(source, type, "value");
  std::vector<Number> result;
  for (std::size_t i = 0; i < count; ++i)
    result.push_back(decode(type, bytes.data() + i * info(type).bytes));
  return result;
}

std::string argument_error(const std::string& text) {
  try {
    parse_argument(text);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

std::string fit_error(const std::string& parameters, const std::vector<std::string>& arguments) {
  std::vector<ArgumentSpec> specs;
  for (const std::string& text : arguments) specs.push_back(parse_argument(text));
  try {
    check_arguments(ptx_entries(".entry k(" + parameters + ") { }").at(0), specs);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

std::string file_error(const std::string& text) {
  try {
    parse_launch_file(text, "l.toml");
  } catch (const FileError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("emu: arguments mean what they say") {
  const ArgumentSpec buffer = parse_argument(" x : f16[64x128] = normal(7, -1, 0.5)");
  CHECK(buffer.kind == ArgumentSpec::Kind::buffer);
  CHECK(buffer.name == "x");
  CHECK(buffer.type == ElementType::f16);
  CHECK(buffer.shape == std::vector<std::uint64_t>{64, 128});
  CHECK(buffer.value.kind == ValueSpec::Kind::normal);
  CHECK(buffer.value.seed == 7);
  CHECK(buffer.value.range == std::array{-1.0, 0.5});
  CHECK(spelled(buffer) == "x:f16[64x128]=normal(7,-1,0.5)");

  CHECK(parse_argument("s32=5").type == ElementType::i32);  // as PTX spells it
  CHECK(parse_argument("f32[4]").value.kind == ValueSpec::Kind::output);
  CHECK(parse_argument("f32[4]=0x10").value.kind == ValueSpec::Kind::number);
  CHECK_FALSE(parse_argument("u8[]=data.bin").shape);
  CHECK(parse_argument("u8[]=a b, c.npy").value.file == "a b, c.npy");
  const ArgumentSpec whole = parse_argument("{f32[2]=\"a,b}.npy\", p:{u8=1,i64=-2}, &p+16}");
  REQUIRE(whole.fields.size() == 3);
  CHECK(whole.fields[0].value.file == "a,b}.npy");
  CHECK(whole.fields[1].name == "p");
  CHECK(whole.fields[1].fields[1].type == ElementType::i64);
  CHECK(whole.fields[2].target == "p");
  CHECK(whole.fields[2].offset == 16);
}

TEST_CASE("emu: an argument that makes no sense says where and what could be there") {
  CHECK_THAT(argument_error(""), Contains("\"\": expected a type") && Contains("at its end"));
  CHECK_THAT(argument_error("f33=1"), Contains("did you mean f32?") && Contains("at \"f33=1\""));
  CHECK_THAT(argument_error("f32"), Contains("'=NUMBER'") && Contains("'[SHAPE]'"));
  CHECK_THAT(argument_error("f32=x"), Contains("expected a number at \"x\""));
  CHECK_THAT(argument_error("f32[12=iota"), Contains("expected ']'") && Contains("\"=iota\""));
  CHECK_THAT(argument_error("f32[]"), Contains("f32[]=x.npy"));
  CHECK_THAT(argument_error("f32[]=iota"), Contains("f32[]=x.npy"));
  CHECK_THAT(argument_error("f32[4]=itoa"), Contains("did you mean iota?"));
  CHECK_THAT(argument_error("f32[4]=x.csv"), Contains(".safetensors:TENSOR"));
  CHECK_THAT(argument_error("f32[4]=normal(x)"), Contains("a seed"));
  CHECK_THAT(argument_error("f32[4]=normal(1,2)"), Contains("and the deviation"));
  CHECK_THAT(argument_error("f32[4]=normal(1,2,-1)"), Contains("not negative"));
  CHECK_THAT(argument_error("f32[4]=uniform(1,2,1)"), Contains("above the highest"));
  CHECK_THAT(argument_error("f32[4]=iota)"), Contains("the end of the argument"));
  CHECK_THAT(argument_error("{f32=1"), Contains("'}'"));
  CHECK_THAT(argument_error("{}"), Contains("expected a type"));
  CHECK_THAT(argument_error("&"), Contains("&x or &0"));
  CHECK_THAT(argument_error("f32[1099511627776x1099511627776]"),
             Contains("make the shape smaller"));
  CHECK_THAT(argument_error("f32[1x1x1x1x1x1x1x1x1]"), Contains("at most 8 dimensions"));
  CHECK_THAT(argument_error("{{{{{{{{{i32=1}}}}}}}}}"), Contains("at most 8 deep"));
}

TEST_CASE("emu: grids and blocks are one to three numbers") {
  CHECK(parse_extents("8", 3, "--grid") == std::vector<std::uint64_t>{8});
  CHECK(parse_extents("8x4x2", 3, "--grid") == std::vector<std::uint64_t>{8, 4, 2});
  for (const char* bad : {"", "0", "8x", "x8", "8x4x2x1", "8,4", "-1", "2147483648", "8 "}) {
    INFO(bad);
    CHECK_THROWS_WITH(parse_extents(bad, 3, "--grid"), Contains("--grid") && Contains("64x2"));
  }
}

TEST_CASE("emu: arguments have to fit the kernel's parameters") {
  const std::string pointer = ".param .u64 x", scalar = ".param .f32 s, .param .u32 n";
  CHECK(fit_error(pointer, {"f32[4]"}) == "no error");
  CHECK(fit_error(pointer, {"u64=0"}) == "no error");
  CHECK(fit_error(scalar, {"f32=1", "i32=1"}) == "no error");
  CHECK(fit_error(".param .b16 h", {"f16=1"}) == "no error");
  CHECK(fit_error(".param .u8 h", {"e4m3=1"}) == "no error");
  CHECK(fit_error(".param .align 8 .b8 p[24]", {"{f32[4],i32=1,u64=0}"}) == "no error");
  CHECK_THAT(fit_error(pointer, {"i32=1"}),
             Contains("4 bytes instead of 8") && Contains("x (.u64)") && Contains("give a buffer"));
  CHECK_THAT(fit_error(pointer, {"f64=1"}), Contains("it is a floating-point number"));
  CHECK_THAT(fit_error(scalar, {"i32=1", "i32=1"}),
             Contains("it is an integer") && Contains("give f32"));
  CHECK_THAT(fit_error(".param .f64 d", {"f32[4]"}), Contains("it is an address"));
  CHECK_THAT(fit_error(pointer, {"{f32[4]}"}), Contains("it is a struct"));
  CHECK_THAT(fit_error(".param .align 8 .b8 p[24]", {"{f32[4],i32=1}"}),
             Contains("16 bytes instead of 24"));
  CHECK_THAT(fit_error(scalar, {"f32=1"}),
             Contains("takes 2 arguments, and 1 are given") && Contains("1: n (.u32): u32=5"));
  CHECK_THAT(fit_error(".param .texref t", {"u64=0"}), Contains("t is not understood"));
  const std::string two = ".param .u64 a, .param .u64 b";
  CHECK(fit_error(two, {"x:f32[4]", "&x+8"}) == "no error");
  CHECK(fit_error(two, {"f32[4]", "&0"}) == "no error");
  CHECK_THAT(fit_error(two, {"x:f32[4]", "x:f32[4]"}), Contains("two arguments are named x"));
  CHECK_THAT(fit_error(two, {"x:f32[4]", "&y"}), Contains("no buffer is called y; there is x"));
  CHECK_THAT(fit_error(two, {"x:u64=1", "&x"}), Contains("no buffer is called x; there is none"));
}

TEST_CASE("emu: every code of the narrow types comes back") {
  for (const ElementInfo& element : element_types()) {
    if (element.bytes > 2) continue;
    INFO(element.name);
    std::size_t differ = 0;
    for (unsigned code = 0; code < 1u << (8 * element.bytes); ++code) {
      std::byte bytes[2], back[2] = {};
      std::memcpy(bytes, &code, 2);
      const Number value = decode(element.type, bytes);
      if (std::isnan(value)) continue;
      const bool fits = encode(element.type, value, back);
      if (!fits || std::memcmp(bytes, back, element.bytes) != 0) ++differ;
    }
    CHECK(differ == 0);
  }
}

TEST_CASE("emu: numbers are held exactly, rounded to nearest, or refused") {
  constexpr Number kLargest = static_cast<Number>(std::numeric_limits<std::uint64_t>::max());
  CHECK(through(ElementType::u64, kLargest) == kLargest);
  CHECK(through(ElementType::i64, -9223372036854775807.0L - 1) == -9223372036854775807.0L - 1);
  CHECK(through(ElementType::f16, 2049) == 2048);  // a tie, to even
  CHECK(through(ElementType::f32, 16777217) == 16777216);
  CHECK(through(ElementType::e5m2, 57344) == 57344);
  CHECK(through(ElementType::e5m2, 1.125) == 1);
  CHECK(through(ElementType::e5m2, kInfinity) == kInfinity);
  for (const auto& [type, value] :
       std::vector<std::pair<ElementType, Number>>{{ElementType::u8, 256},
                                                   {ElementType::u8, -1},
                                                   {ElementType::i8, 128},
                                                   {ElementType::i32, 0.5},
                                                   {ElementType::u64, kLargest + 1},
                                                   {ElementType::f16, 1e6},
                                                   {ElementType::e4m3, 500},
                                                   {ElementType::e4m3, kInfinity},
                                                   {ElementType::e5m2, 1e6},
                                                   {ElementType::f32, 1e39},
                                                   {ElementType::i32, kInfinity}}) {
    INFO(info(type).name << " " << static_cast<double>(value));
    CHECK(std::isnan(through(type, value)));
  }
}

TEST_CASE("emu: made-up values are those that their names say") {
  using V = std::vector<Number>;
  CHECK(values("iota", ElementType::f16, 4) == V{0, 1, 2, 3});
  CHECK(values("iota", ElementType::u8, 258).back() == 1);
  CHECK(values("iota", ElementType::i8, 130).back() == 1);
  CHECK(values("-2.5", ElementType::f32, 2) == V{-2.5, -2.5});
  CHECK(values("zeros", ElementType::i64, 2) == V{0, 0});
  CHECK(values("normal(3)", ElementType::f32, 9) == values("normal", ElementType::f32, 9, 3));
  CHECK(values("normal(3)", ElementType::f32, 9) != values("normal(4)", ElementType::f32, 9));
  CHECK_THROWS_WITH(values("70000", ElementType::f16, 1), Contains("element 0 is 70000"));
  CHECK_THROWS_WITH(values("normal", ElementType::i32, 1), Contains("use uniform"));
  CHECK_THROWS_WITH(values("uniform(1,0,0.5)", ElementType::i32, 1), Contains("whole numbers"));
  CHECK_THROWS_WITH(values("uniform(1,0,256)", ElementType::u8, 1), Contains("0 to 255"));

  const auto moments = [](const V& sample) {
    Number mean = 0, square = 0;
    for (const Number value : sample) mean += value / static_cast<Number>(sample.size());
    for (const Number value : sample)
      square += (value - mean) * (value - mean) / static_cast<Number>(sample.size());
    return std::pair{static_cast<double>(mean), static_cast<double>(std::sqrt(square))};
  };
  const auto [mean, deviation] = moments(values("normal(1,5,2)", ElementType::f32, 20000));
  CHECK(mean == Approx(5).margin(0.06));
  CHECK(deviation == Approx(2).margin(0.06));
  const V flat = values("uniform(1,-3,5)", ElementType::f32, 20000);
  CHECK(moments(flat).first == Approx(1).margin(0.07));
  CHECK(moments(flat).second == Approx(8 / std::sqrt(12.0)).margin(0.05));
  std::vector<int> seen(5);
  for (const Number value : values("uniform(1,-2,2)", ElementType::i8, 1000))
    ++seen.at(static_cast<std::size_t>(value + 2));
  for (const int count : seen) CHECK(count > 150);
}

TEST_CASE("emu: values are compared within a tolerance, and NaN with itself") {
  const std::vector<float> got{1, 2, std::nanf(""), 4, INFINITY, INFINITY, 7};
  const std::vector<Number> expected{1, 2.1, std::nanl(""), 5, kInfinity, 3, std::nanl("")};
  const auto compared = [&](const Tolerance& tolerance) {
    Source source{.shape = {7}, .next = [&](std::size_t i) { return expected[i]; }};
    return compare(ElementType::f32, std::as_bytes(std::span(got)), source, tolerance);
  };
  const Comparison exact = compared({});
  CHECK(exact.count == 7);
  CHECK(exact.differ == 4);  // 2, 4, the sixth and the seventh
  CHECK(exact.first == 1);
  CHECK(exact.got == 2);
  CHECK(exact.largest == 1);
  CHECK(compared({.atol = 0.2, .rtol = 0}).first == 3);
  CHECK(compared({.atol = 0, .rtol = 0.3}).differ == 2);
  CHECK(compared({.atol = 1e30, .rtol = 1e30}).differ == 2);  // never what is not finite
}

TEST_CASE("emu: summaries leave out what is not finite") {
  const std::vector<float> values{3, std::nanf(""), -1, INFINITY};
  const Summary s = summarize(ElementType::f32, std::as_bytes(std::span(values)));
  CHECK((s.count == 4 && s.nan == 1 && s.infinite == 1));
  CHECK((s.least == -1 && s.largest == 3 && s.mean == 1));
}

TEST_CASE("emu: launches in TOML") {
  const auto keys = parse_launch_file(
      "\xef\xbb\xbf# a launch\r\nptx = 'a\\b.ptx'  # literal\n\n\"grid\" = 1_024\n"
      "arg = [ # one\n  \"x:\\u00e9\\t\\\"\", 'y' ,\n 3, ]\nout = []\natol = +1e-3",
      "l.toml");
  REQUIRE(keys.size() == 5);
  CHECK(keys[0].name == "ptx");
  CHECK(keys[0].values == std::vector<std::string>{"a\\b.ptx"});
  CHECK(keys[0].line == 2);
  CHECK(keys[1].name == "grid");
  CHECK(keys[1].values == std::vector<std::string>{"1024"});
  CHECK(keys[2].is_list);
  CHECK(keys[2].values == std::vector<std::string>{"x:\xc3\xa9\t\"", "y", "3"});
  CHECK((keys[3].is_list && keys[3].values.empty()));
  CHECK(keys[4].values == std::vector<std::string>{"1e-3"});
  CHECK(keys[4].line == 9);

  CHECK_THAT(file_error("grid = 1\ngrid = 2"), Contains("l.toml:2: grid is given again; line 1"));
  CHECK_THAT(file_error("[launch]\n"), Contains("no tables"));
  CHECK_THAT(file_error("a.b = 1"), Contains("expected '=' behind a"));
  CHECK_THAT(file_error("a = sm_89"), Contains("write \"sm_89\""));
  CHECK_THAT(file_error("a = true"), Contains("write \"true\""));
  CHECK_THAT(file_error("a = "), Contains("in quotes or a number, found the end of the file"));
  CHECK_THAT(file_error("a = 1 2"), Contains("end of the line"));
  CHECK_THAT(file_error("a = [1 2]"), Contains("',' or ']'"));
  CHECK_THAT(file_error("a = [1,"), Contains("the end of the file"));
  CHECK_THAT(file_error("a = \"x\n\""), Contains("l.toml:1: a string is not closed"));
  CHECK_THAT(file_error("a = \"\"\"x\"\"\""), Contains("many lines"));
  CHECK_THAT(file_error("a = \"\\x41\""), Contains("\\x is no escape"));
  CHECK_THAT(file_error("a = \"\\ud800\""), Contains("U+D800 is no character"));
  CHECK_THAT(file_error("a = \"\\u12\""), Contains("4 hexadecimal digits"));
  CHECK_THAT(file_error(std::string("a = \"\x01\"")), Contains("byte 0x01"));
  std::string many;
  for (int i = 0; i < 200000; ++i) many += "a" + std::to_string(i) + "=1\n";
  CHECK_THAT(file_error(many.substr(0, 1 << 20)), Contains("l.toml:101: a launch has at most 100"));
  CHECK_THAT(file_error(std::string(2 << 20, '#')), Contains("at most 1048576 bytes"));
}
