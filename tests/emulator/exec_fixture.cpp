#include "tests/emulator/exec_fixture.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <cstdlib>

namespace sagegen::emulator::test {

void Bench::kernel(const std::string& body, int parameters, const std::string& shared) {
  std::string text = ".version 8.7\n.target sm_89\n.address_size 64\n.visible .entry k(";
  for (int i = 0; i < parameters; ++i)
    text += fmt::format("{}.param .u64 p{}", i > 0 ? ", " : "", i);
  text += ")\n{\n.reg .pred %p<16>; .reg .b16 %h<16>; .reg .b32 %w<64>; .reg .b64 %d<32>;\n";
  text += shared + "\n";
  for (int i = 0; i < parameters; ++i)
    text += fmt::format("ld.param.b64 %d{}, [p{}];\n", 20 + i, i);
  text += body + "\nret;\n}\n";
  module_text(text);
}

void Bench::module_text(const std::string& text) {
  ptx::Module module = ptx::parse(text);
  SymbolAddresses symbols;
  for (const ptx::Variable& v : module.globals) {
    symbols[v.name] = memory.allocate(v.bytes);
    std::vector<std::uint8_t> initial = initial_bytes(v, symbols);
    initial.resize(v.bytes);
    memory.write(symbols[v.name], initial.data(), initial.size());
  }
  program_ = decode_with(*table_, module, module.functions.at(0), profile_, symbols);
}

LaunchReport Bench::run(unsigned blocks, unsigned threads,
                        const std::vector<std::uint64_t>& parameters) {
  LaunchRequest request;
  request.grid = {blocks, 1, 1};
  request.block = {threads, 1, 1};
  request.dynamic_shared_bytes = dynamic_shared;
  request.params.resize(parameters.size() * 8);
  if (!parameters.empty()) {
    std::memcpy(request.params.data(), parameters.data(), request.params.size());
  }
  request.options = options;
  return launch(*program_, memory, request);
}

std::string only_check(const LaunchReport& report) {
  if (report.findings.empty()) return "";
  return report.findings.size() == 1 ? report.findings[0].check : "several: " + messages(report);
}

std::string messages(const LaunchReport& report) {
  std::string text;
  for (const runtime::Finding& f : report.findings) {
    text += fmt::format("[{}] line {} warp {} lane {}: {}\n", f.check, f.ptx_line, f.warp, f.lane,
                        f.message);
  }
  return text;
}

// ---- one instruction -----------------------------------------------------------------------------

namespace {

constexpr int kOperands = 4;

std::vector<std::array<std::uint64_t, kOperands>> operand_tuples(const InstructionTest& test) {
  std::mt19937_64 random(std::hash<std::string>{}(test.text));
  std::vector<std::array<std::uint64_t, kOperands>> tuples;
  const auto& values = test.interesting;
  auto pick = [&] { return values.empty() ? random() : values[random() % values.size()]; };
  // All pairs of interesting values, with a random third and fourth.
  for (std::uint64_t a : values) {
    for (std::uint64_t b : values) tuples.push_back({a, b, pick(), pick()});
  }
  while (tuples.size() < 2048) {
    std::array<std::uint64_t, kOperands> tuple;
    for (std::uint64_t& x : tuple) {
      x = test.random_bits && (values.empty() || random() % 2 == 0) ? random() : pick();
    }
    tuples.push_back(tuple);
  }
  // Not a multiple of 32, so that the last warp is partial.
  if (tuples.size() % 32 == 0) tuples.push_back({1, 2, 3, 4});
  return tuples;
}

std::string result_register(const InstructionTest& test) {
  if (!test.result.empty()) return test.result;
  std::size_t best = std::string::npos;
  std::string found;
  for (const char* name : {"%h0", "%w0", "%d0", "%p0"}) {
    std::size_t at = test.text.find(name);
    if (at < best) {
      best = at;
      found = name;
    }
  }
  REQUIRE(!found.empty());
  return found;
}

}  // namespace

std::vector<HostLanes> usable_lanes() {
  const char* asked = std::getenv("SAGEGEN_EMULATOR_LANES");
  if (asked != nullptr && *asked != '\0') return {host_lanes()};
  std::vector<HostLanes> all;
  for (HostLanes lanes : {HostLanes::baseline, HostLanes::avx2, HostLanes::avx512}) {
    if (lanes <= widest_lanes()) all.push_back(lanes);
  }
  return all;
}

void check_instruction(const InstructionTest& test) {
  INFO(test.text);
  auto tuples = operand_tuples(test);
  std::string result = result_register(test);
  // Thread i reads tuple i; threads past the end leave.
  std::string body = R"(
    mov.u32 %w40, %tid.x; mov.u32 %w41, %ctaid.x; mov.u32 %w42, %ntid.x;
    mad.lo.u32 %w43, %w41, %w42, %w40;
    setp.ge.u32 %p15, %w43, TUPLES;
    @%p15 ret;
    mul.wide.u32 %d10, %w43, 32; add.u64 %d11, %d20, %d10;
    ld.global.v2.b64 {%d1, %d2}, [%d11]; ld.global.v2.b64 {%d3, %d4}, [%d11+16];
    mov.b64 %d0, 0; mov.b32 %w0, 0; mov.b16 %h0, 0; setp.ne.u32 %p0, 0, 0;
)";
  for (int i = 1; i <= kOperands; ++i) {
    body += fmt::format(
        "mov.b64 {{%w{0}, %w30}}, %d{0}; mov.b32 {{%h{0}, %h10}}, %w{0};\n"
        "and.b32 %w31, %w{0}, 1; setp.ne.u32 %p{0}, %w31, 0;\n",
        i);
  }
  body += test.text + "\n";
  if (result[1] == 'p') body += "selp.b64 %d12, 1, 0, %p0;\n";
  if (result[1] == 'w') body += "mov.b64 %d12, {" + result + ", 0};\n";
  if (result[1] == 'h') body += "mov.b32 %w32, {" + result + ", 0}; mov.b64 %d12, {%w32, 0};\n";
  if (result[1] == 'd') body += "mov.b64 %d12, " + result + ";\n";
  body +=
      "shl.b64 %d13, %d10, 0; shr.u64 %d13, %d10, 2; add.u64 %d14, %d21, %d13; st.global.b64 "
      "[%d14], %d12;";
  body.replace(body.find("TUPLES"), 6, std::to_string(tuples.size()));

  std::vector<std::uint64_t> input;
  for (const auto& tuple : tuples) input.insert(input.end(), tuple.begin(), tuple.end());
  for (HostLanes lanes : usable_lanes()) {
    Bench bench;
    bench.use_lanes(lanes);
    bench.kernel(body, 2);
    Address in = bench.upload(input);
    Address out = bench.memory.allocate(tuples.size() * 8);
    unsigned blocks = static_cast<unsigned>((tuples.size() + 127) / 128);
    LaunchReport report = bench.run(blocks, 128, {in, out});
    INFO(messages(report));
    REQUIRE(report.findings.empty());
    auto got = bench.download<std::uint64_t>(out, tuples.size());
    for (std::size_t i = 0; i < tuples.size(); ++i) {
      const auto& t = tuples[i];
      std::uint64_t expected = test.expected(t[0], t[1], t[2], t[3]);
      if (got[i] == expected) continue;
      INFO(fmt::format("operands {:#x} {:#x} {:#x} {:#x}: got {:#x}, expected {:#x}", t[0], t[1],
                       t[2], t[3], got[i], expected));
      REQUIRE(got[i] == expected);
    }
  }
}

std::vector<std::uint64_t> run_wide(const std::string& text,
                                    const std::vector<std::uint64_t>& inputs) {
  Bench bench;
  bench.kernel(
      "mov.u32 %w0, %tid.x; mul.wide.u32 %d2, %w0, 8; add.u64 %d3, %d20, %d2;\n"
      "ld.global.b64 %d1, [%d3];\n" +
          text + "\nadd.u64 %d4, %d21, %d2; st.global.b64 [%d4], %d0;",
      2);
  const Address in = bench.upload(inputs);
  const Address out = bench.memory.allocate(inputs.size() * 8);
  const LaunchReport report = bench.run(1, static_cast<unsigned>(inputs.size()), {in, out});
  INFO(messages(report));
  REQUIRE(report.findings.empty());
  return bench.download<std::uint64_t>(out, inputs.size());
}

std::vector<std::uint64_t> integers() {
  return {0,
          1,
          2,
          3,
          7,
          15,
          16,
          17,
          31,
          32,
          33,
          63,
          64,
          65,
          0x7f,
          0x80,
          0xff,
          0x100,
          0x7fff,
          0x8000,
          0xffff,
          0x10000,
          0x7fffffff,
          0x80000000,
          0xffffffff,
          0x100000000,
          0x7fffffffffffffff,
          0x8000000000000000,
          0xffffffffffffffff,
          0xfffffffffffffffe};
}
std::vector<std::uint64_t> floats32() {
  return {0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007fffff, 0x807fffff, 0x00800000,
          0x80800000, 0x3f800000, 0xbf800000, 0x3f800001, 0x3f7fffff, 0x40000000, 0x3f000000,
          0x40490fdb, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00001,
          0x7f800001, 0x4b800000, 0x4b800001, 0x4f000000, 0xcf000000, 0x4effffff, 0x4f800000,
          0x3effffff, 0x3fc00000, 0xbfc00000, 0x34000000};
}
std::vector<std::uint64_t> floats64() {
  return {0x0000000000000000, 0x8000000000000000, 0x0000000000000001, 0x000fffffffffffff,
          0x0010000000000000, 0x3ff0000000000000, 0xbff0000000000000, 0x3ff8000000000000,
          0x4000000000000000, 0x7fefffffffffffff, 0x7ff0000000000000, 0xfff0000000000000,
          0x7ff8000000000000, 0x7ff0000000000001, 0x41dfffffffc00000, 0xc1e0000000000000,
          0x3e45798ee2308c3a, 0x36a0000000000000, 0x47efffffe0000000, 0x47effffff0000000};
}
std::vector<std::uint64_t> halves() {
  return {0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x83ff, 0x0400, 0x8400,
          0x3c00, 0xbc00, 0x3c01, 0x3bff, 0x4000, 0x3800, 0x7bff, 0xfbff,
          0x7c00, 0xfc00, 0x7e00, 0xfe01, 0x7c01, 0x6400, 0x3555, 0xb555};
}
std::vector<std::uint64_t> bhalves() {
  return {0x0000, 0x8000, 0x0001, 0x8001, 0x007f, 0x0080, 0x8080, 0x3f80, 0xbf80, 0x3f81, 0x3f7f,
          0x4000, 0x3f00, 0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fc0, 0xffc1, 0x4b00, 0x3eab, 0x2000};
}

}  // namespace sagegen::emulator::test
