// Loads, stores and atomics: every width, extension and state space.

#include <fmt/format.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <numeric>

#include "tests/emulator/exec_fixture.h"

namespace sagegen::emulator::test {
namespace {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

std::vector<u8> pattern(std::size_t bytes, u32 seed) {
  std::mt19937 random(seed);
  std::vector<u8> values(bytes);
  for (u8& v : values) v = static_cast<u8>(random());
  return values;
}

void require_clean(const LaunchReport& report) {
  INFO(messages(report));
  REQUIRE(report.findings.empty());
}

u64 little_endian(const u8* bytes, int count) {
  u64 value = 0;
  for (int i = 0; i < count; ++i) value |= u64{bytes[i]} << (8 * i);
  return value;
}

struct Type {
  const char* name;
  int bytes;
  bool sign;
};
constexpr Type kTypes[] = {
    {"b8", 1, false},  {"u8", 1, false},  {"s8", 1, true},   {"b16", 2, false}, {"u16", 2, false},
    {"s16", 2, true},  {"b32", 4, false}, {"u32", 4, false}, {"s32", 4, true},  {"f32", 4, false},
    {"b64", 8, false}, {"u64", 8, false}, {"s64", 8, true},  {"f64", 8, false}};

}  // namespace

TEST_CASE("ld extends to the register by the type, st cuts") {
  for (const Type& type : kTypes) {
    for (char reg : {'h', 'w', 'd'}) {
      int reg_bytes = reg == 'h' ? 2 : reg == 'w' ? 4 : 8;
      if (reg_bytes < type.bytes) continue;
      INFO(type.name << " in %" << reg);
      Bench bench;
      std::string r = fmt::format("%{}1", reg);
      std::string widen = reg == 'h'   ? "mov.b32 %w9, {%h1, 0}; mov.b64 %d9, {%w9, 0};"
                          : reg == 'w' ? "mov.b64 %d9, {%w1, 0};"
                                       : "mov.b64 %d9, %d1;";
      bench.kernel(fmt::format(R"(
        mov.u32 %w1, %tid.x; mul.wide.u32 %d2, %w1, {0}; mul.wide.u32 %d3, %w1, 8;
        add.u64 %d4, %d20, %d2; add.u64 %d5, %d21, %d3; add.u64 %d6, %d22, %d2;
        ld.global.{1} {2}, [%d4];
        st.global.{3} [%d6], {2};
        {4}
        st.global.b64 [%d5], %d9;)",
                               type.bytes, type.name, r, type.name, widen),
                   3);
      auto data = pattern(96 * type.bytes, 7);
      Address in = bench.upload(data), wide = bench.memory.allocate(96 * 8),
              narrow = bench.memory.allocate(96 * type.bytes);
      require_clean(bench.run(1, 96, {in, wide, narrow}));
      auto got = bench.download<u64>(wide, 96);
      for (int i = 0; i < 96; ++i) {
        u64 value = little_endian(&data[i * type.bytes], type.bytes);
        int bits = type.bytes * 8;
        if (type.sign && bits < 64 && (value >> (bits - 1) & 1) != 0) value |= ~u64{0} << bits;
        if (reg_bytes < 8) value &= (u64{1} << (8 * reg_bytes)) - 1;
        REQUIRE(got[i] == value);
      }
      REQUIRE(bench.download<u8>(narrow, 96 * type.bytes) == data);
    }
  }
}

TEST_CASE("vector loads and stores, all spaces") {
  for (const char* space : {"global", "shared", "local", ""}) {
    for (int count : {2, 4}) {
      for (const Type& type : {Type{"b8", 1, false}, Type{"b16", 2, false}, Type{"b32", 4, false},
                               Type{"b64", 8, false}}) {
        if (count * type.bytes > 16) continue;
        INFO(space << " v" << count << "." << type.name);
        char reg = type.bytes == 8 ? 'd' : type.bytes == 4 ? 'w' : 'h';
        std::string registers;
        for (int i = 0; i < count; ++i)
          registers += fmt::format("{}%{}{}", i > 0 ? ", " : "", reg, 10 + i % 4);
        if (reg == 'h') registers = count == 2 ? "%h1, %h2" : "%h1, %h2, %h3, %h4";
        std::string body = fmt::format(
            "mov.u32 %w1, %tid.x; mul.wide.u32 %d2, %w1, {}; add.u64 %d4, %d20, %d2; add.u64 %d5, "
            "%d21, %d2;\n",
            count * type.bytes);
        std::string v = fmt::format("v{}.{}", count, type.name);
        body += fmt::format("ld.global.{} {{{}}}, [%d4];\n", v, registers);
        std::string s = space;
        if (s == "shared") {
          body += "mov.b64 %d6, s; add.u64 %d6, %d6, %d2;\n";
        } else if (s == "local") {
          body += "mov.b64 %d6, l; add.u64 %d6, %d6, 32;\n";
        } else if (s.empty()) {
          body += "mov.b64 %d6, s; cvta.shared.u64 %d6, %d6; add.u64 %d6, %d6, %d2;\n";
        } else {
          body += "mov.b64 %d6, %d5;\n";
        }
        std::string dot = s.empty() ? "" : "." + s;
        body += fmt::format(
            "st{0}.{1} [%d6], {{{2}}};\nld{0}.{1} {{{2}}}, [%d6];\nst.global.{1} [%d5], {{{2}}};",
            dot, v, registers);
        Bench bench;
        bench.kernel(body, 2, ".shared .align 16 .b8 s[1024]; .local .align 16 .b8 l[64];");
        auto data = pattern(64 * count * type.bytes, 3);
        Address in = bench.upload(data), out = bench.memory.allocate(data.size());
        require_clean(bench.run(1, 64, {in, out}));
        REQUIRE(bench.download<u8>(out, data.size()) == data);
      }
    }
  }
}

TEST_CASE("generic addresses of every space, local memory per thread, parameters by address") {
  Bench bench;
  bench.kernel(R"(
    mov.u32 %w1, %tid.x;
    mov.b64 %d1, l; cvta.local.u64 %d2, %d1; st.b32 [%d2+4], %w1;     // every thread its own
    ld.local.b32 %w2, [%d1+4];
    isspacep.local %p1, %d2; isspacep.shared %p2, %d2; isspacep.global %p3, %d20;
    mov.b64 %d3, p1; cvta.param.u64 %d4, %d3; ld.b64 %d5, [%d4];      // the second parameter
    ld.param.b32 %w3, [%d3];
    cvta.to.local.u64 %d6, %d2; sub.u64 %d7, %d6, %d1; cvt.u32.u64 %w4, %d7;
    cvta.global.u64 %d8, %d20; cvta.to.global.u64 %d9, %d8;
    selp.b32 %w5, 100, 0, %p1; selp.b32 %w6, 1000, 0, %p2; selp.b32 %w7, 10000, 0, %p3;
    add.u32 %w2, %w2, %w5; add.u32 %w2, %w2, %w6; add.u32 %w2, %w2, %w7; add.u32 %w2, %w2, %w4;
    cvt.u32.u64 %w8, %d5; add.u32 %w2, %w2, %w8; add.u32 %w2, %w2, %w3;
    mul.wide.u32 %d10, %w1, 4; add.u64 %d10, %d10, %d9; st.b32 [%d10], %w2;)",
               2, ".local .align 8 .b8 l[8];");
  Address out = bench.memory.allocate(64 * 4);
  require_clean(bench.run(1, 64, {out, 0x3000000}));
  auto got = bench.download<u32>(out, 64);
  for (u32 t = 0; t < 64; ++t) CHECK(got[t] == t + 10100 + 2 * 0x3000000);
}

TEST_CASE("static and dynamic shared memory, module variables") {
  Bench bench;
  bench.dynamic_shared = 64;
  bench.module_text(R"(.version 8.4
.target sm_89
.address_size 64
.extern .shared .align 1024 .b8 dyn[];
.shared .align 4 .b8 unused[4096];
.global .align 4 .b32 table[4] = {10, 20, 30, 40};
.visible .entry k(.param .u64 out)
{
  .reg .b32 %r<16>; .reg .b64 %rd<8>;
  .shared .align 16 .b8 fixed[100];
  ld.param.b64 %rd1, [out];
  mov.b64 %rd2, dyn; cvt.u32.u64 %r1, %rd2;
  mov.b32 %r2, fixed;
  ld.global.b32 %r3, [table+8];
  mov.u32 %r4, %dynamic_smem_size;
  mov.u32 %r5, %total_smem_size;
  st.shared.b32 [dyn+60], %r3; ld.shared.b32 %r6, [dyn+60];
  mov.b32 %r7, dyn; ld.shared.b32 %r8, [%r7+60];
  st.global.v4.b32 [%rd1], {%r1, %r2, %r3, %r4};
  st.global.v4.b32 [%rd1+16], {%r5, %r6, %r8, 0};
  ret;
})");
  Address out = bench.memory.allocate(32);
  require_clean(bench.run(1, 1, {out}));
  auto got = bench.download<u32>(out, 8);
  CHECK(got[0] % 1024 == 0);  // alignment is honoured
  CHECK(got[0] == 2048);      // after the static array, which starts at 1024
  CHECK(got[1] == 1024);
  CHECK(std::vector<u32>(got.begin() + 2, got.begin() + 4) == std::vector<u32>{30, 64});
  CHECK(got[4] == 1024 + 64);
  CHECK(got[5] == 30);
  CHECK(got[6] == 30);
}

TEST_CASE("cache hints change nothing") {
  Bench bench;
  bench.kernel(R"(
    createpolicy.fractional.L2::evict_first.b64 %d9, 1.0;
    ld.global.nc.L1::no_allocate.L2::128B.b32 %w1, [%d20];
    ld.global.ca.v2.b32 {%w2, %w3}, [%d20+8];
    ld.global.L2::cache_hint.b32 %w4, [%d20], %d9;
    ld.volatile.global.u32 %w5, [%d20]; ld.relaxed.gpu.global.u32 %w6, [%d20]; ld.acquire.sys.global.u32 %w6, [%d20];
    prefetch.global.L2 [%d20]; nanosleep.u32 100; fence.acq_rel.gpu; membar.gl;
    add.u32 %w1, %w1, %w2; add.u32 %w1, %w1, %w3; add.u32 %w1, %w1, %w4; add.u32 %w1, %w1, %w5; add.u32 %w1, %w1, %w6;
    st.global.cs.b32 [%d21], %w1; st.relaxed.gpu.global.L1::no_allocate.b32 [%d21+4], %w1; st.global.L2::cache_hint.b32 [%d21+8], %w1, %d9;)",
               2);
  Address in = bench.upload(std::vector<u32>{1, 2, 30, 400});
  Address out = bench.memory.allocate(12);
  require_clean(bench.run(1, 1, {in, out}));
  CHECK(bench.download<u32>(out, 3) == std::vector<u32>(3, 434));
}

TEST_CASE("atomics return the old value and combine every lane") {
  struct Case {
    const char* text;  // on %d1, with operand %w2 = 3 * thread + 1
    u32 initial;
    u32 (*step)(u32, u32);
  };
  for (const Case& c :
       {Case{"atom{}.add.u32 %w3, [%d1], %w2;", 5, [](u32 old, u32 b) { return old + b; }},
        Case{"atom{}.min.s32 %w3, [%d1], %w2;", 0xfffffff0,
             [](u32 old, u32 b) {
               return static_cast<u32>(
                   std::min(static_cast<std::int32_t>(old), static_cast<std::int32_t>(b)));
             }},
        Case{"atom{}.min.u32 %w3, [%d1], %w2;", 0xfffffff0,
             [](u32 old, u32 b) { return std::min(old, b); }},
        Case{"atom{}.max.u32 %w3, [%d1], %w2;", 20,
             [](u32 old, u32 b) { return std::max(old, b); }},
        Case{"atom{}.exch.b32 %w3, [%d1], %w2;", 20, [](u32, u32 b) { return b; }},
        Case{"atom{}.and.b32 %w3, [%d1], %w2;", 0xff, [](u32 old, u32 b) { return old & b; }},
        Case{"atom{}.or.b32 %w3, [%d1], %w2;", 0, [](u32 old, u32 b) { return old | b; }},
        Case{"atom{}.xor.b32 %w3, [%d1], %w2;", 0, [](u32 old, u32 b) { return old ^ b; }},
        Case{"atom{}.inc.u32 %w3, [%d1], 9;", 3,
             [](u32 old, u32) { return old >= 9 ? 0 : old + 1; }},
        Case{"atom{}.dec.u32 %w3, [%d1], 9;", 3,
             [](u32 old, u32) { return old == 0 || old > 9 ? 9 : old - 1; }},
        Case{"atom{}.cas.b32 %w3, [%d1], 20, %w2;", 20,
             [](u32 old, u32 b) { return old == 20 ? b : old; }}}) {
    for (bool shared : {false, true}) {
      std::string text = c.text;
      text.replace(text.find("{}"), 2, shared ? ".shared" : ".relaxed.gpu.global");
      INFO(text);
      Bench bench;
      std::string address =
          shared ? "mov.b64 %d1, s; ld.global.b32 %w9, [%d20]; st.shared.b32 [%d1], %w9; "
                   "bar.warp.sync -1;"
                 : "mov.b64 %d1, %d20;";
      bench.kernel(
          R"(mov.u32 %w1, %tid.x; mad.lo.u32 %w2, %w1, 3, 1;)" + address + text +
              R"(mul.wide.u32 %d2, %w1, 4; add.u64 %d2, %d2, %d21; st.global.b32 [%d2], %w3;)",
          2, ".shared .align 4 .b8 s[4];");
      Address at = bench.upload(std::vector<u32>{c.initial});
      Address out = bench.memory.allocate(32 * 4);
      require_clean(bench.run(1, 32, {at, out}));
      auto old = bench.download<u32>(out, 32);
      u32 value = c.initial;
      for (u32 t = 0; t < 32; ++t) {  // lanes in order
        CHECK(old[t] == value);
        value = c.step(value, 3 * t + 1);
      }
      if (!shared) CHECK(bench.download<u32>(at, 1)[0] == value);
    }
  }
}

TEST_CASE("red, 64-bit and float atomics, across CTAs") {
  Bench bench;
  bench.kernel(R"(
    mov.u32 %w1, %tid.x; cvt.rn.f32.u32 %w2, %w1; cvt.u64.u32 %d1, %w1;
    red.global.add.f32 [%d20], %w2; atom.global.add.u64 %d2, [%d20+8], %d1; red.gpu.global.max.s32 [%d20+16], %w1;
    mov.b32 %w3, 0x3c003c00; red.global.add.noftz.f16x2 [%d20+20], %w3;)",
               1);
  Address at = bench.upload(std::vector<u64>{0, 1, 0});
  require_clean(bench.run(5, 64, {at}));
  auto got = bench.download<u32>(at, 6);
  float sum;
  std::memcpy(&sum, &got[0], 4);
  CHECK(sum == 5 * 63 * 32);
  CHECK(got[2] == 1 + 5 * 63 * 32);
  CHECK(got[4] == 63);
  CHECK(got[5] == 0x5d005d00);  // 320 in f16, both halves
}

TEST_CASE("bank conflicts and instruction counts") {
  auto wavefronts = [](const std::string& body) {
    Bench bench;
    bench.options.counting = runtime::Counting::on;
    bench.kernel("mov.u32 %w1, %tid.x; mov.b64 %d1, s;\n" + body, 0,
                 ".shared .align 16 .b8 s[8192];");
    LaunchReport report = bench.run(1, 32, {});
    INFO(messages(report));
    REQUIRE(report.findings.empty());
    for (const runtime::LineCount& line : report.counters.lines) {
      if (line.opcode.starts_with("st.shared")) {
        CHECK(line.executed == 1);
        return std::pair{line.shared_wavefronts, line.shared_wavefronts_ideal};
      }
    }
    FAIL("no store counted");
    return std::pair<u64, u64>{};
  };
  auto strided = [&](int stride, const char* store) {
    return wavefronts(
        fmt::format("mul.wide.u32 %d2, %w1, {}; add.u64 %d2, %d2, %d1; {}", stride, store));
  };
  CHECK(strided(4, "st.shared.b32 [%d2], %w1;") == std::pair<u64, u64>{1, 1});
  CHECK(strided(8, "st.shared.b32 [%d2], %w1;") == std::pair<u64, u64>{2, 1});
  CHECK(strided(128, "st.shared.b32 [%d2], %w1;") == std::pair<u64, u64>{32, 1});
  CHECK(strided(132, "st.shared.b32 [%d2], %w1;") == std::pair<u64, u64>{1, 1});
  CHECK(strided(16, "st.shared.v4.b32 [%d2], {%w1, %w1, %w1, %w1};") == std::pair<u64, u64>{4, 4});
  CHECK(strided(128, "st.shared.v4.b32 [%d2], {%w1, %w1, %w1, %w1};") ==
        std::pair<u64, u64>{32, 4});
}

}  // namespace sagegen::emulator::test
