// PTX, large and hostile, through the whole loading of a module: parser, control flow, registers, decoder.
#include <new>

#include "sagegen/runtime/emulator.h"
#include "tests/fuzz/large_cases.h"

using namespace sagegen::fuzz;
using namespace sagegen::runtime;

namespace {

constexpr std::size_t kMega = 1'000'000;
const std::string kHead = ".version 8.4\n.target sm_89\n.address_size 64\n";

std::string refusal(const std::string& text) {
  EmulatorOptions options;
  options.threads = 1;
  const auto driver = make_emulator(options);
  ContextHandle context = nullptr;
  ModuleHandle module = nullptr;
  std::string log;
  if (driver->init() != Result::success ||
      driver->primary_context_retain(&context, static_cast<int>(EmulatorProfile::sm_89)) !=
          Result::success ||
      driver->set_current(context) != Result::success) {
    return "no device";
  }
  const Result result = driver->module_load(&module, text.c_str(), &log);
  if (result == Result::success) return {};
  if (result == Result::out_of_memory && log.starts_with("not enough host memory")) {
    throw std::bad_alloc();  // the decoder caught it
  }
  return log.empty() ? "refused without a word" : log;
}

std::string kernel(const std::string& body, const std::string& parameters = "") {
  return kHead + ".visible .entry k(" + parameters + ")\n{\n.reg .pred %p<4>; .reg .b32 %r<9>;\n" +
         body + "ret;\n}\n";
}

// Diamonds: a branch, two sides and the point where they meet.
std::string diamonds(std::size_t count) {
  return numbered(count,
                  "@%p1 bra A#;\nadd.s32 %r1, %r1, 1;\nbra B#;\nA#:\nadd.s32 %r1, %r1, 2;\nB#:\n");
}

// Blocks that run from the last to the first, and registers that live through all of them.
std::string backwards(std::size_t blocks, std::size_t registers) {
  std::string text = ".reg .b32 %x<" + std::to_string(registers) + ">;\nbra L" +
                     std::to_string(blocks - 1) + ";\nL0:\n";
  for (std::size_t i = 0; i < registers; ++i) {
    text += "add.s32 %r1, %r1, %x" + std::to_string(i) + ";\n";
  }
  text += "ret;\n";
  for (std::size_t i = 1; i < blocks; ++i) {
    text += "L" + std::to_string(i) + ":\nbra L" + std::to_string(i - 1) + ";\n";
  }
  return text;
}

}  // namespace

TEST_CASE("large PTX: tokens and declarations") {
  check_large(
      {
          {"a name of 50 MB", [] { return kHead + std::string(50 * kMega, 'n'); },
           "at most 16777216"},
          {"a name of 16 MB", [] { return kHead + std::string(16 * kMega, 'n'); },
           "characters long; at most 4096"},
          {"a string of 16 MB",
           [] { return kHead + ".file 1 \"" + std::string(16 * kMega, 's') + "\""; },
           "characters long; at most 4096"},
          {"a number of 16 MB",
           [] { return kHead + ".global .b8 x[" + std::string(16 * kMega, '9'); },
           "does not fit in 64 bits"},
          {"a comment of 16 MB", [] { return kernel("/*" + std::string(16 * kMega, '*') + "*/"); },
           ""},
          {"16 MB of spaces in one line", [] { return kernel(std::string(16 * kMega, ' ')); }, ""},
          {"16 MB of escape sequences", [] { return kHead + times(4 * kMega, "\x1b[1m"); },
           "has no meaning in PTX"},
          {"90 MB of brackets", [] { return std::string(90 * kMega, '['); }, "at most 16777216"},
          {"16 MB of brackets",
           [] { return kernel("ld.u32 %r1, " + std::string(16 * kMega, '[')); }, "line 7: "},
          {"1,000,000 scopes", [] { return kernel(times(kMega, "{")); },
           "nested more than 64 deep"},
          {"64 scopes, opened and closed 100,000 times",
           [] { return kernel(times(60, "{") + times(100'000, "{}") + times(60, "}")); }, ""},
          {"a section of 4 million braces",
           [] { return kHead + ".section x {" + times(4 * kMega, "{"); }, "expected '}'"},
          {"200,000 dimensions",
           [] { return kHead + ".global .b8 x" + times(200'000, "[1]") + ";"; },
           "more than 32 dimensions"},
          {"a variable of 2^60 bytes", [] { return kHead + ".global .b8 x[1152921504606846976];"; },
           "at most 1073741824"},
          {"40 variables of 1 GiB",
           [] { return kHead + numbered(40, ".global .b8 x#[1073741824];"); },
           "the module has variables of 42949672960 bytes"},
          {"600,000 values of an initializer",
           [] { return kHead + ".global .b8 x[1000000] = {" + times(600'000, "1,") + "1};"; }, ""},
          {"90,000 variables",
           [] { return kHead + numbered(90'000, ".global .b32 x#;"); },
           "",
           {.cpu_seconds = 8}},
          {"200,000 variables", [] { return kHead + numbered(200'000, ".global .b8 x#;"); },
           "more than 100000 names"},
          {"registers <999999999>", [] { return kernel(".reg .b32 %x<999999999>;"); },
           "at most 250000"},
          {"250,000 registers, one by one",
           [] { return kernel(numbered(249'000, ".reg .b32 %x_#;")); }, ""},
          {"100,000 ranges of one register",
           [] { return kernel(numbered(100'000, ".reg .b32 %x_#_<1>;")); },
           "",
           {.cpu_seconds = 4}},
          {"40,000 parameters",
           [] {
             std::string parameters = numbered(40'000, ".param .u32 p#,");
             parameters.pop_back();
             return kernel("", parameters);
           },
           "bytes of parameters"},
          {"100,000 labels", [] { return kernel(numbered(99'000, "L#:\n")); }, ""},
          {"100,000 files",
           [] {
             return kernel(numbered(65'000, ".loc 1 # 1\n")) + numbered(65'000, ".file # \"f\"\n");
           },
           ""},
          {"1,000 kernels of a module with file 65535",
           [] {
             return kHead + ".file 65535 \"f\"\n" +
                    numbered(1000, ".entry k#() { .loc 65535 1 1\nret; }\n");
           },
           "",
           {.cpu_seconds = 20, .memory_bytes = std::size_t{200} << 20}},
      },
      refusal);
}

TEST_CASE("large PTX: instructions") {
  check_large(
      {
          {"a vector of 1,000,000 elements",
           [] { return kernel("ld.v4.u32 {" + times(kMega, "%r1,") + "%r1}, [%r1];"); },
           "more than 512 elements"},
          {"1,000,000 modifiers",
           [] { return kernel("add" + times(kMega, ".s32") + " %r1, %r1, 1;"); },
           "more than 24 modifiers"},
          {"1,000,000 operands", [] { return kernel("add.s32 %r1" + times(kMega, ", %r1") + ";"); },
           "more than 32 operands"},
          {"240,000 instructions", [] { return kernel(times(240'000, "add.s32 %r1, %r1, 1;\n")); },
           ""},
          {"240,000 instructions with a warning each",
           [] { return kernel(".reg .f32 %f<2>;" + times(240'000, "add.f32 %f1, %f1, %f1;\n")); },
           ""},
          {"500,000 instructions", [] { return kernel(times(500'000, "add.s32 %r1, %r1, 1;\n")); },
           "more than 250000 instructions"},
          {"60,000 different constants",
           [] { return kernel(numbered(60'000, "add.s32 %r1, %r1, #;\n")); }, ""},
          {"200,000 different constants",
           [] { return kernel(numbered(200'000, "add.s32 %r1, %r1, #;\n")); }, "register rows"},
          {"120,000 registers that live to the end",
           [] {
             return kernel(".reg .b32 %x<120000>;\n" + numbered(120'000, "mov.b32 %x#, %r1;\n") +
                           numbered(120'000, "add.s32 %r1, %r1, %x#;\n"));
           },
           "register rows"},
          {"60,000 instructions, each with a register from 64 scopes above",
           [] {
             return kernel(numbered(60, "{ .reg .b32 %y_#<9>;\n") +
                           times(60'000, "add.s32 %r1, %r2, %r3;\n") + times(60, "}"));
           },
           ""},
      },
      refusal);
}

TEST_CASE("large PTX: control flow") {
  check_large(
      {
          {"20,000 diamonds", [] { return kernel(diamonds(20'000)); }, ""},
          {"20,000 nested ifs",
           [] {
             return kernel(numbered(20'000, "@%p1 bra A#;\nadd.s32 %r1, %r1, 1;\n") +
                           numbered(20'000, "A#:\nadd.s32 %r1, %r1, 1;\n"));
           },
           ""},
          {"20,000 loops, one behind the other",
           [] { return kernel(numbered(20'000, "A#:\nadd.s32 %r1, %r1, 1;\n@%p1 bra A#;\n")); },
           ""},
          {"20,000 branches out of the kernel",
           [] { return kernel(times(20'000, "@%p1 bra OUT;\nadd.s32 %r1, %r1, 1;\n") + "OUT:\n"); },
           ""},
          {"49,000 jumps", [] { return kernel(numbered(49'000, "bra A#;\nA#:\n")); }, ""},
          {"20,000 blocks backwards, 40,000 registers that live through them",
           [] { return kernel(backwards(20'000, 40'000)); }, ""},
          {"45,000 blocks backwards, 100,000 registers",
           [] { return kernel(backwards(45'000, 100'000)); },
           "too many to analyze; split the function"},
          {"branches that meet nowhere",
           [] {
             return kernel(numbered(20'000, "@%p1 bra A#;\nadd.s32 %r1, %r1, 1;\n") + "ret;\n" +
                           numbered(20'000, "A#:\nadd.s32 %r1, %r1, 1;\n"));
           },
           "return at one place, or split the function"},
          {"45,000 jumps to the first of 45,000 labels",
           [] { return kernel("A0:\n" + numbered(45'000, "@%p1 bra A0;\nB#:\n")); }, ""},
      },
      refusal);
}

TEST_CASE("large PTX: kernels and variables, many of both") {
  check_large(
      {
          {"40,000 kernels", [] { return kHead + numbered(40'000, ".entry k#() { ret; }\n"); }, ""},
          {"40,000 kernels and 40,000 variables",
           [] {
             return kHead + numbered(40'000, ".global .b32 g#;\n") +
                    numbered(40'000, ".entry k#() { ret; }\n");
           },
           "",
           {.cpu_seconds = 8}},
          {"40,000 kernels and 40,000 shared arrays, each kernel with one",
           [] {
             return kHead + numbered(40'000, ".shared .align 4 .b8 s#[4];\n") +
                    numbered(40'000, ".entry k#() { .reg .b32 %r; mov.u32 %r, s#; ret; }\n");
           },
           "",
           {.cpu_seconds = 8}},
      },
      refusal);
}

TEST_CASE("large PTX: calls") {
  const auto doubling = [](std::size_t depth, const std::string& body) {
    std::string text = kHead;
    for (std::size_t i = depth; i-- > 0;) {
      const std::string call = "call f" + std::to_string(i + 1) + ";\n";
      text += ".func f" + std::to_string(i) + "()\n{\n" + body +
              (i + 1 == depth ? "" : call + call) + "ret;\n}\n";
    }
    return text + ".entry k()\n{\ncall f0;\nret;\n}\n";
  };
  check_large(
      {
          {"40 functions, each of which calls the next one twice", [=] { return doubling(40, ""); },
           "instructions"},
          {"functions of many registers, called 2^16 times",
           [=] { return doubling(17, ".reg .b32 %x<10000>;\n"); }, "line "},
          {"a function of 200,000 registers that is called 20,000 times",
           [] {
             return kHead + ".func f()\n{\n.reg .b32 %x<200000>;\nret;\n}\n.entry k()\n{\n" +
                    times(20'000, "call f;\n") + "ret;\n}\n";
           },
           ""},  // only registers that a function uses are copied
          {"a function of 50,000 labels that is called 5,000 times",
           [] {
             return kHead + ".func f()\n{\n" + numbered(50'000, "L#:\n") +
                    "ret;\n}\n.entry k()\n{\n" + times(5'000, "call f;\n") + "ret;\n}\n";
           },
           "line "},
          {"a chain of 30,000 functions",
           [] {
             std::string text = kHead + ".func f30000()\n{\nret;\n}\n";
             for (int i = 30'000; i-- > 0;) {
               text += ".func f" + std::to_string(i) + "()\n{\ncall f" + std::to_string(i + 1) +
                       ";\nret;\n}\n";
             }
             return text + ".entry k()\n{\ncall f0;\nret;\n}\n";
           },
           "deep"},
          {"40,000 functions that nobody calls",
           [] { return kHead + numbered(40'000, ".func f#()\n{\nret;\n}\n"); }, ""},
      },
      refusal);
}
