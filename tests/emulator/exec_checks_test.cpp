// Every check, with a kernel that must trigger exactly it and a twin that must not; and cp.async under
// every policy.

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <set>

#include "runtime/emulator/exec/races.h"
#include "tests/emulator/exec_fixture.h"

namespace sagegen::emulator::test {
namespace {

using runtime::AsyncPolicy;
using runtime::Checks;
using runtime::SchedulePolicy;
using u8 = std::uint8_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

constexpr AsyncPolicy kPolicies[] = {AsyncPolicy::late, AsyncPolicy::eager, AsyncPolicy::random};

constexpr const char* kPreamble = R"(
    mov.u32 %w1, %tid.x; mov.u32 %w2, %ctaid.x; shr.u32 %w3, %w1, 5;
    mul.wide.u32 %d1, %w1, 4; add.u64 %d2, %d20, %d1;            // global word of the thread
    mov.b64 %d3, s; add.u64 %d4, %d3, %d1;                       // shared word of the thread
    mul.wide.u32 %d5, %w1, 16; add.u64 %d6, %d3, %d5; add.u64 %d7, %d20, %d5;   // 16 bytes of it
)";

struct Report {
  std::string check, message;
  int line = 0, warp = 0, lane = 0;
};

// Runs a body on `blocks` x `threads`; %d20 is an array of 4096 defined words, %d21 one of 4096
// undefined ones.
Report run_body(const std::string& body, unsigned blocks, unsigned threads,
                const std::function<void(Bench&)>& prepare = nullptr) {
  Bench bench;
  if (prepare) prepare(bench);
  bench.kernel(kPreamble + body, 2, ".shared .align 16 .b8 s[16384]; .local .align 16 .b8 l[64];");
  std::vector<u32> words(4096);
  for (u32 i = 0; i < 4096; ++i) words[i] = i * 3;
  Address defined = bench.upload(words), undefined = bench.memory.allocate(4096 * 4);
  LaunchReport report = bench.run(blocks, threads, {defined, undefined});
  if (report.findings.empty()) return {};
  const runtime::Finding& f = report.findings[0];
  return {f.check, messages(report), f.ptx_line, f.warp, f.lane};
}

std::string check_of(const std::string& body, unsigned blocks = 1, unsigned threads = 64) {
  Report report = run_body(body, blocks, threads);
  UNSCOPED_INFO(report.message);
  return report.check;
}

}  // namespace

// ---- bounds, lifetime, alignment -----------------------------------------------------------------

TEST_CASE("out of bounds: global, shared, local, parameters") {
  CHECK(check_of("ld.global.b32 %w4, [%d20+16380];") == "");
  CHECK(check_of("ld.global.b32 %w4, [%d20+16384];") == "out-of-bounds");
  CHECK(check_of("ld.global.b32 %w4, [%d20+-4];") == "out-of-bounds");
  CHECK(check_of("ld.global.v4.b32 {%w4,%w5,%w6,%w7}, [%d20+16376];") == "misaligned");
  CHECK(check_of("st.global.b32 [%d20+20000], %w1;") == "out-of-bounds");
  CHECK(check_of("mov.b64 %d9, 0; ld.global.b32 %w4, [%d9];") == "out-of-bounds");
  CHECK(check_of("ld.b32 %w4, [%d9];") == "uninitialized");
  CHECK(check_of("st.shared.b32 [%d3+16380], 1;") == "");
  CHECK(check_of("st.shared.b32 [%d3+16384], 1;") == "out-of-bounds");
  CHECK(check_of("st.shared.b32 [%d3+-4], 1;") == "out-of-bounds");
  CHECK(check_of("mov.b64 %d9, 0; ld.shared.b32 %w4, [%d9];") == "out-of-bounds");
  CHECK(check_of("cvta.shared.u64 %d9, %d3; st.b32 [%d9+16384], 1;") == "out-of-bounds");
  CHECK(check_of("mov.b64 %d9, l; st.local.b32 [%d9+60], 1;") == "");
  CHECK(check_of("mov.b64 %d9, l; st.local.b32 [%d9+64], 1;") == "out-of-bounds");
  CHECK(check_of("ld.param.b64 %d9, [p1+8];") == "out-of-bounds");
  CHECK(check_of("mov.b64 %d9, p0; cvta.param.u64 %d9, %d9; st.b32 [%d9], 1;") == "out-of-bounds");
  CHECK(check_of("add.u64 %d9, %d20, 16384; red.global.add.u32 [%d9], 1;") == "out-of-bounds");
  CHECK(check_of("add.u64 %d9, %d3, 16368; @!%p1 bra $x; $x: "
                 "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%w4}, [%d9+16];") == "uninitialized");
  CHECK(check_of("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%w4}, [%d6+16384];") ==
        "out-of-bounds");
  CHECK(check_of("cp.async.cg.shared.global [%d6], [%d20+16376], 16; cp.async.wait_all;") ==
        "misaligned");
  CHECK(check_of("cp.async.cg.shared.global [%d6], [%d20+16384], 16; cp.async.wait_all;") ==
        "out-of-bounds");
  CHECK(check_of("cp.async.cg.shared.global [%d6], [%d20+16384], 16, 0; cp.async.wait_all;") ==
        "");  // reads nothing
  CHECK(check_of("cp.async.ca.shared.global [%d4+16384], [%d2], 4; cp.async.wait_all;") ==
        "out-of-bounds");
}

TEST_CASE("bounds are checked with the checks off, too") {
  auto off = [](Bench& bench) { bench.options.checks = Checks::off; };
  CHECK(run_body("ld.global.b32 %w4, [%d20+16384];", 1, 64, off).check == "out-of-bounds");
  CHECK(run_body("st.shared.b32 [%d3+16384], 1;", 1, 64, off).check == "out-of-bounds");
  CHECK(run_body("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%w4,%w5,%w6,%w7}, [%d6+16384];", 1, 64,
                 off)
            .check == "out-of-bounds");
  CHECK(run_body("ld.shared.b32 %w4, [%d3+2];", 1, 64, off).check == "misaligned");
  CHECK(run_body("ld.shared.b32 %w4, [%d4]; st.global.b32 [%d2], %w4;", 1, 64, off).check ==
        "");  // undefined, unchecked
}

TEST_CASE("reports name line, lane, address and allocation") {
  Report report =
      run_body("setp.eq.u32 %p1, %w1, 37;\n@%p1 st.global.b32 [%d20+16400], %w1;", 1, 64);
  CHECK(report.check == "out-of-bounds");
  CHECK(report.warp == 1);
  CHECK(report.lane == 5);
  CHECK(report.line == 16);
  CHECK_THAT(report.message,
             Catch::Contains("st.global.b32") &&
                 Catch::Contains("16 bytes past the end of the 16384 bytes allocated at"));
}

TEST_CASE("use after free") {
  Bench bench;
  bench.kernel("ld.global.b32 %w1, [%d20];", 1);
  Address at = bench.upload(std::vector<u32>{1, 2, 3, 4});
  CHECK(only_check(bench.run(1, 32, {at})) == "");
  REQUIRE(bench.memory.release(at));
  LaunchReport report = bench.run(1, 32, {at});
  CHECK(only_check(report) == "use-after-free");
  CHECK_THAT(report.findings[0].message, Catch::Contains("allocated and freed"));
  CHECK_FALSE(bench.memory.release(at));
  // The address is not given out again.
  for (int i = 0; i < 10; ++i) CHECK(bench.memory.allocate(16) != at);
}

TEST_CASE("many live allocations: a call does not touch all of them") {
  constexpr std::size_t kMany = 20000;
  DeviceMemory memory(std::size_t{1} << 30);
  std::vector<Address> live;
  for (std::size_t i = 0; i < kMany; ++i) live.push_back(memory.allocate(16));
  const auto snapshot = memory.snapshot();
  for (std::size_t i = 0; i < kMany; ++i) {
    REQUIRE(memory.release(live[i % 2 == 0 ? i / 2 : kMany - 1 - i / 2]));
  }
  // Once for the snapshot, and a few times to forget what was freed long ago.
  CHECK(memory.entries_moved() < 6 * kMany);
  CHECK(memory.used_bytes() == 0);
  CHECK(snapshot->find(live[7]) != nullptr);
  CHECK_FALSE(snapshot->find(live[7])->freed);
  CHECK_FALSE(memory.release(live[7]));
  CHECK_FALSE(memory.release(live[kMany - 1]));
}

TEST_CASE("memories that live at the same time share no address, however many they hand out") {
  const auto apart = [](Address a, Address b) { return a / kRangeBytes != b / kRangeBytes; };
  DeviceMemory one(std::size_t{1} << 30), two(std::size_t{1} << 30);
  const Address first = one.allocate(16);
  CHECK(apart(first, two.allocate(16)));
  {
    DeviceMemory third(16);
    CHECK(apart(third.allocate(16), first));
  }
  // More than fit one range, red zones included: the next range is nobody else's.
  std::set<Address> of_one, of_two;
  for (Address i = 0; i < kRangeBytes / kRedZone + 2; ++i) {
    of_one.insert(one.allocate(16) / kRangeBytes);
    of_two.insert(two.allocate(16) / kRangeBytes);
  }
  CHECK(of_one.size() == 2);
  CHECK(of_two.size() == 2);
  for (const Address range : of_one) CHECK_FALSE(of_two.contains(range));
  CHECK(one.release(first));
  CHECK_FALSE(two.release(first));
}

TEST_CASE("misaligned") {
  CHECK(check_of("ld.global.b64 %d9, [%d20+8];") == "");
  CHECK(check_of("ld.global.b64 %d9, [%d20+4];") == "misaligned");
  CHECK(check_of("ld.global.v2.b32 {%w4, %w5}, [%d20+4];") == "misaligned");
  CHECK(check_of("ld.global.b16 %h1, [%d20+1];") == "misaligned");
  CHECK(check_of("st.shared.v4.b32 [%d3+8], {1, 2, 3, 4};", 1, 1) == "misaligned");
  CHECK(check_of("st.shared.b32 [%d6], 0; st.shared.b32 [%d6+4], 0; bar.sync 0; "
                 "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%w4}, [%d6+8];") == "misaligned");
  CHECK(check_of("atom.shared.add.u32 %w4, [%d3+2], 1;") == "misaligned");
}

// ---- definedness ---------------------------------------------------------------------------------

TEST_CASE("undefined registers may be copied, not used") {
  CHECK(check_of("mov.b32 %w4, %w9; add.s32 %w5, %w4, 1; selp.b32 %w6, %w5, 0, %p9;") == "");
  CHECK(check_of("mov.b32 %w4, %w9; add.s32 %w5, %w4, 1; st.global.b32 [%d2], %w5;") ==
        "uninitialized");
  CHECK(check_of("mov.b32 %w4, 9; add.s32 %w5, %w4, 1; st.global.b32 [%d2], %w5;") == "");
  CHECK(check_of("add.s64 %d10, %d9, 4; ld.global.b32 %w4, [%d10];") == "uninitialized");
  CHECK(check_of("setp.eq.s32 %p1, %w9, 0; @%p1 mov.b32 %w5, 1;") == "uninitialized");
  CHECK(check_of("@%p9 bra $x; $x:") == "uninitialized");
  CHECK(check_of("setp.eq.s32 %p1, %w1, 0; @%p1 bra $x; $x:") == "");
  CHECK(check_of("xor.b32 %w4, %w9, %w9; st.global.b32 [%d2], %w4; sub.s32 %w4, %w8, %w8; "
                 "st.global.b32 [%d2], %w4;") == "");
  CHECK(check_of("xor.b32 %w4, %w9, %w8; st.global.b32 [%d2], %w4;") == "uninitialized");
  // Written in some lanes only.
  CHECK(check_of("setp.lt.u32 %p1, %w1, 40; @%p1 mov.b32 %w4, 1; @%p1 st.global.b32 [%d2], %w4;") ==
        "");
  Report report =
      run_body("setp.lt.u32 %p1, %w1, 40; @%p1 mov.b32 %w4, 1; st.global.b32 [%d2], %w4;", 1, 64);
  CHECK(report.check == "uninitialized");
  CHECK(report.warp == 1);
  CHECK(report.lane == 8);
  // Through a shuffle, from the lane that has no value.
  CHECK(check_of("and.b32 %w5, %w1, 31; setp.lt.u32 %p1, %w5, 31; @%p1 mov.b32 %w4, 1; "
                 "shfl.sync.down.b32 %w6, %w4, 0, 31, -1; @%p1 st.global.b32 [%d2], %w6;") == "");
  CHECK(check_of("and.b32 %w5, %w1, 31; setp.lt.u32 %p1, %w5, 31; @%p1 mov.b32 %w4, 1; "
                 "shfl.sync.down.b32 %w6, %w4, 1, 31, -1; @%p1 st.global.b32 [%d2], %w6;") ==
        "uninitialized");
}

TEST_CASE("undefined memory taints what is loaded from it") {
  CHECK(check_of("add.u64 %d9, %d21, %d1; ld.global.b32 %w4, [%d9];") == "");
  CHECK(check_of("add.u64 %d9, %d21, %d1; ld.global.b32 %w4, [%d9]; st.global.b32 [%d2], %w4;") ==
        "uninitialized");
  CHECK(check_of("add.u64 %d9, %d21, %d1; st.global.b32 [%d9], 5; ld.global.b32 %w4, [%d9]; "
                 "st.global.b32 [%d2], %w4;") == "");
  CHECK(check_of("ld.shared.b32 %w4, [%d4]; st.global.b32 [%d2], %w4;") == "uninitialized");
  CHECK(check_of("st.shared.b32 [%d4], %w1; ld.shared.b32 %w4, [%d4]; st.global.b32 [%d2], %w4;") ==
        "");
  // Half of a word, and undefined values that pass through shared memory.
  CHECK(check_of("mov.b16 %h1, 1; st.shared.b16 [%d4], %h1; ld.shared.b32 %w4, [%d4]; "
                 "st.global.b32 [%d2], %w4;") == "uninitialized");
  CHECK(check_of("mov.b16 %h1, 1; st.shared.b16 [%d4], %h1; ld.shared.b16 %h2, [%d4]; "
                 "st.global.b16 [%d2], %h2;") == "");
  CHECK(check_of("st.shared.b32 [%d4], %w9;") == "");
  CHECK(check_of("st.shared.b32 [%d4], %w9; ld.shared.b32 %w4, [%d4]; st.global.b32 [%d2], %w4;") ==
        "uninitialized");
  CHECK(check_of("st.shared.v2.b32 [%d6], {%w1, %w9}; ld.shared.v2.b32 {%w4, %w5}, [%d6]; "
                 "st.global.b32 [%d2], %w4;") == "");
  CHECK(check_of("st.shared.v2.b32 [%d6], {%w1, %w9}; ld.shared.v2.b32 {%w4, %w5}, [%d6]; "
                 "st.global.b32 [%d2], %w5;") == "uninitialized");
  CHECK(check_of("mov.b64 %d9, l; ld.local.b32 %w4, [%d9]; st.global.b32 [%d2], %w4;") ==
        "uninitialized");
  CHECK(check_of("mov.b64 %d9, l; st.local.b32 [%d9], %w1; ld.local.b32 %w4, [%d9]; st.global.b32 "
                 "[%d2], %w4;") == "");
  CHECK(check_of("atom.shared.add.u32 %w4, [%d4], 1; st.global.b32 [%d2], %w4;") ==
        "uninitialized");
  CHECK(check_of("atom.shared.exch.b32 %w4, [%d4], 1; ld.shared.b32 %w4, [%d4]; st.global.b32 "
                 "[%d2], %w4;") == "");
}

TEST_CASE("undefined data in matrix instructions") {
  std::string good =
      "mov.b32 %w10, 0; mov.b32 %w11, 0; mov.b32 %w12, 0; mov.b32 %w13, 0; mov.b32 %w14, 0; "
      "mov.b32 %w15, 0;\n";
  auto mma = [&](const char* a, const char* b, const char* c) {
    return good + fmt::format(
                      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {{%w20,%w21,%w22,%w23}}, "
                      "{{{},%w11,%w12,%w13}}, {{{},%w15}}, {{{},%w10,%w10,%w10}}; st.global.b32 "
                      "[%d2], %w20;",
                      a, b, c);
  };
  CHECK(check_of(mma("%w10", "%w14", "%w10")) == "");
  CHECK(check_of(mma("%w9", "%w14", "%w10")) == "uninitialized");
  CHECK(check_of(mma("%w10", "%w9", "%w10")) == "uninitialized");
  CHECK(check_of(mma("%w10", "%w14", "%w9")) == "uninitialized");
  // ldmatrix of a tile with one undefined element: only the fragment that holds it.
  std::string tile = R"(
    st.shared.v4.b32 [%d6], {%w1, %w1, %w1, %w1}; setp.eq.u32 %p1, %w1, 3; @%p1 st.shared.b32 [%d6+8], %w9;
    bar.warp.sync -1; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%w4}, [%d6];)";
  CHECK(check_of(tile + "setp.ne.u32 %p2, %w1, 14; @%p2 st.global.b32 [%d2], %w4;", 1, 32) ==
        "");  // row 3, third word: lane 14
  CHECK(check_of(tile + "st.global.b32 [%d2], %w4;", 1, 32) == "uninitialized");
}

// ---- undefined operands that do not decide -----------------------------------------------------------

TEST_CASE("an undefined operand that does not decide leaves the result defined") {
  // Stores %w4, which must be defined (or not) although %w9, %w8, %h9, %d9 and %p9 are not.
  const auto stored = [](const std::string& body) {
    return check_of("mov.b32 %w10, 0; setp.eq.u32 %p1, %w1, %w1; setp.ne.u32 %p2, %w1, %w1; " +
                    body + " st.global.b32 [%d2], %w4;");
  };
  const auto decided = [](const std::string& predicate) {
    return check_of("setp.eq.u32 %p1, %w1, %w1; setp.ne.u32 %p2, %w1, %w1; " + predicate +
                    " @%p3 mov.b32 %w4, 1;");
  };
  struct Pair {
    const char* fine;
    const char* wrong;
  };
  const Pair values[] = {
      {"selp.b32 %w4, %w1, %w9, %p1;", "selp.b32 %w4, %w1, %w9, %p2;"},
      {"selp.b32 %w4, %w9, %w1, %p2;", "selp.b32 %w4, %w1, %w3, %p9;"},
      {"selp.b32 %w4, %w1, %w9, !%p2;", "selp.b32 %w4, %w1, %w9, !%p1;"},
      {"selp.b32 %w4, %w1, %w1, %p9;", "selp.b32 %w4, %w9, %w9, %p1;"},  // both sides are the same
      {"slct.b32.s32 %w4, %w1, %w9, 0;", "slct.b32.s32 %w4, %w1, %w9, -1;"},
      {"slct.b32.f32 %w4, %w9, %w1, 0fBF800000;", "slct.b32.f32 %w4, %w1, %w10, %w9;"},
      {"and.b32 %w4, %w9, 0;", "and.b32 %w4, %w9, 1;"},
      {"and.b32 %w5, %w9, 0xff; shr.u32 %w4, %w5, 8;",
       "and.b32 %w5, %w9, 0x1ff; shr.u32 %w4, %w5, 8;"},
      {"or.b32 %w4, %w9, -1;", "or.b32 %w4, %w9, 0xffff;"},
      {"not.b32 %w5, %w9; and.b32 %w4, %w5, 0;", "not.b32 %w4, %w9;"},
      {"xor.b32 %w5, %w9, %w1; and.b32 %w4, %w5, %w10;", "xor.b32 %w4, %w9, %w1;"},
      {"lop3.b32 %w4, %w9, %w8, 0, 0x80;", "lop3.b32 %w4, %w9, %w8, -1, 0x80;"},  // a & b & c
      {"lop3.b32 %w4, %w1, %w9, 0, 0xa8;", "lop3.b32 %w4, %w1, %w9, -1, 0xa8;"},  // (a | b) & c
      {"mul.lo.u32 %w4, %w9, 0;", "mul.lo.u32 %w4, %w9, 2;"},
      {"mov.b16 %h8, 7; mov.b32 %w5, {%h8, %h9}; dp2a.lo.u32.u32 %w4, %w1, %w5, %w1;",
       "mov.b16 %h8, 7; mov.b32 %w5, {%h8, %h9}; dp2a.hi.u32.u32 %w4, %w1, %w5, %w1;"},
      {"mov.b16 %h8, 7; mov.b32 %w5, {%h9, %h8}; dp2a.hi.s32.s32 %w4, %w1, %w5, %w1;",
       "mov.b16 %h8, 7; mov.b32 %w5, {%h9, %h8}; dp2a.lo.s32.s32 %w4, %w1, %w5, %w1;"},
      {"and.b32 %w5, %w9, 0xffff; dp2a.lo.u32.u32 %w4, %w5, 0xff00, %w1;",
       "and.b32 %w5, %w9, 0xffff; dp2a.lo.u32.u32 %w4, %w5, 0x00ff, %w1;"},
      {"and.b32 %w5, %w9, 0xffff; or.b32 %w5, %w5, 0x10000; bfind.u32 %w4, %w5;",
       "and.b32 %w5, %w9, 0xffff; or.b32 %w5, %w5, 0x8000; and.b32 %w5, %w5, 0xffff; xor.b32 %w5, "
       "%w5, 0x8000; bfind.u32 %w4, %w5;"},
      {"or.b32 %w5, %w9, 0xfffe0000; and.b32 %w5, %w5, 0xfffdffff; bfind.s32 %w4, %w5;",
       "or.b32 %w5, %w9, 0xfffe0000; bfind.s32 %w4, %w5;"},
      {"and.b32 %w5, %w9, 0xffff; or.b32 %w5, %w5, 0x10000; bfind.shiftamt.s32 %w4, %w5;",
       "and.b32 %w5, %w9, 0x8000ffff; or.b32 %w5, %w5, 0x10000; bfind.shiftamt.s32 %w4, %w5;"},
      {"mul.hi.s32 %w4, %w10, %w9;", "mul.hi.s32 %w4, 1, %w9;"},
      {"mad.lo.u32 %w4, %w9, %w10, %w1;", "mad.lo.u32 %w4, %w9, %w10, %w8;"},
      {"mul.wide.u32 %d8, %w9, 0; cvt.u32.u64 %w4, %d8;",
       "mul.wide.u32 %d8, %w9, 1; cvt.u32.u64 %w4, %d8;"},
      {"mul.lo.u32 %w5, %w9, 256; and.b32 %w4, %w5, 0xff;",
       "mul.lo.u32 %w5, %w9, 128; and.b32 %w4, %w5, 0xff;"},
      {"shl.b32 %w5, %w9, 8; add.u32 %w5, %w5, 3; and.b32 %w4, %w5, 0xff;",
       "shl.b32 %w5, %w9, 8; sub.u32 %w5, 3, %w5; and.b32 %w4, %w5, 0x100;"},
      {"dp4a.u32.u32 %w4, %w9, 0, %w1;", "dp4a.u32.u32 %w4, %w9, 0x100, %w1;"},
      {"min.u32 %w4, %w9, 0;", "min.s32 %w4, %w9, 0;"},
      {"max.s32 %w4, 0x7fffffff, %w9;", "max.u32 %w4, 0x7fffffff, %w9;"},
      {"shl.b32 %w4, %w9, 32;", "shl.b32 %w4, %w9, 31;"},
      {"shr.u32 %w4, %w9, 40;", "shr.s32 %w4, %w9, 40;"},
      {"shl.b32 %w5, %w9, 16; and.b32 %w5, %w5, 0xffff; shl.b32 %w4, %w1, %w5;",
       "shl.b32 %w4, %w1, %w9;"},
      {"shf.r.clamp.b32 %w4, %w9, %w1, 32;", "shf.r.clamp.b32 %w4, %w9, %w1, 31;"},
      {"bfe.u32 %w4, %w9, 3, 0;", "bfe.u32 %w4, %w9, 3, 1;"},
      {"mov.b32 %w5, {%h3, %h9}; bfe.s32 %w4, %w5, 0, 16;",
       "mov.b32 %w5, {%h3, %h9}; bfe.s32 %w4, %w5, 0, 17;"},
      {"bfi.b32 %w4, %w9, %w1, 4, 0;", "bfi.b32 %w4, %w9, %w1, 4, 1;"},
      {"bfi.b32 %w4, %w1, %w9, 0, 32;", "bfi.b32 %w4, %w1, %w9, 0, 31;"},
      {"brev.b32 %w5, %w9; and.b32 %w4, %w5, 0;", "brev.b32 %w4, %w9;"},
      {"or.b32 %w5, %w9, 0x80000000; clz.b32 %w4, %w5;", "or.b32 %w5, %w9, 1; clz.b32 %w4, %w5;"},
      {"or.b32 %w5, %w9, 4; cnot.b32 %w4, %w5;", "cnot.b32 %w4, %w9;"},
      {"prmt.b32 %w4, %w1, %w9, 0x3210;", "prmt.b32 %w4, %w1, %w9, 0x3214;"},
      {"mov.b32 %w5, {%h3, %h9}; prmt.b32 %w4, %w5, 0, 0x4410;",
       "mov.b32 %w5, {%h3, %h9}; prmt.b32 %w4, %w5, 0, 0x4420;"},
      {"mov.b32 %w5, {%h3, %h9}; prmt.b32 %w4, %w5, 0, 0x9999;",
       "mov.b32 %w5, {%h3, %h9}; prmt.b32 %w4, %w5, 0, 0xbbbb;"},
      {"set.gt.and.u32.s32 %w4, %w9, 3, %p2;", "set.gt.and.u32.s32 %w4, %w9, 3, %p1;"},
      {"or.b32 %w5, %w9, 1; set.eq.u32.u32 %w4, %w5, 0;", "set.eq.u32.u32 %w4, %w9, 0;"},
      {"set.ne.and.u32.s32 %w4, %w1, %w1, %p9;", "set.eq.and.u32.s32 %w4, %w1, %w1, %p9;"},
      {"mul24.lo.u32 %w4, %w9, 0xff000000;", "mul24.lo.u32 %w4, %w9, 0xff000001;"},
      {"add.cc.u32 %w5, %w1, 1; addc.u32 %w4, 0, 0;",
       "add.cc.u32 %w5, %w9, 1; addc.u32 %w4, 0, 0;"},
      {"mov.b32 %w5, {%h3, %h9}; mov.v2.b32 {%w6, %w7}, {%w9, %w5}; and.b32 %w4, %w7, 0xffff;",
       "mov.b32 %w5, {%h3, %h9}; mov.v2.b32 {%w6, %w7}, {%w9, %w5}; and.b32 %w4, %w6, 0xffff;"},
      // Halves and bytes that are put together and taken apart.
      {"mov.b32 %w5, {%h3, %h9}; mov.b32 {%h4, %h5}, %w5; cvt.u32.u16 %w4, %h4;",
       "mov.b32 %w5, {%h3, %h9}; mov.b32 {%h4, %h5}, %w5; cvt.u32.u16 %w4, %h5;"},
      {"mov.b64 %d8, {%w1, %w9}; mov.b64 {%w4, %w5}, %d8;",
       "mov.b64 %d8, {%w1, %w9}; mov.b64 {%w5, %w4}, %d8;"},
      {"mov.b64 %d8, {%w9, %w1}; shr.u64 %d8, %d8, 32; cvt.u32.u64 %w4, %d8;",
       "mov.b64 %d8, {%w9, %w1}; cvt.u32.u64 %w4, %d8;"},
      {"mov.b64 %d8, {%h3, %h9, %h3, %h9}; mov.b64 {%h4, %h5, %h6, %h7}, %d8; mov.b32 %w4, {%h4, "
       "%h6};",
       "mov.b64 %d8, {%h3, %h9, %h3, %h9}; mov.b64 {%h4, %h5, %h6, %h7}, %d8; mov.b32 %w4, {%h4, "
       "%h7};"},
      {"mov.b32 %w5, {%h3, %h9}; mov.b32 %w6, %w5; and.b32 %w4, %w6, 0xffff;",
       "mov.b32 %w5, {%h3, %h9}; mov.b32 %w4, %w5;"},
      {"mov.b32 %w5, {%h3, %h9}; add.rn.f16x2 %w5, %w5, %w1; cvt.u32.u16 %w4, %w5;",
       "mov.b32 %w5, {%h3, %h9}; add.rn.f16x2 %w5, %w5, %w1; shr.u32 %w4, %w5, 16;"},
      {"mov.b64 %d8, {%w1, %w9}; add.rn.f32x2 %d8, %d8, %d8; cvt.u32.u64 %w4, %d8;",
       "mov.b64 %d8, {%w1, %w9}; add.rn.f32x2 %d8, %d8, %d8; shr.u64 %d8, %d8, 32; cvt.u32.u64 "
       "%w4, %d8;"},
      {"cvt.rn.f16x2.f32 %w5, %w9, %w1; and.b32 %w4, %w5, 0xffff;",
       "cvt.rn.f16x2.f32 %w5, %w9, %w1; shr.u32 %w4, %w5, 16;"},
      {"cvt.rn.satfinite.e4m3x2.f32 %h4, %w1, %w9; cvt.u32.u16 %w5, %h4; shr.u32 %w4, %w5, 8;",
       "cvt.rn.satfinite.e4m3x2.f32 %h4, %w1, %w9; cvt.u32.u16 %w4, %h4;"},
      {"cvt.rn.satfinite.e4m3x2.f32 %h4, %w9, %w1; cvt.rn.f16x2.e4m3x2 %w5, %h4; cvt.u32.u16 %w4, "
       "%w5;",
       "cvt.rn.satfinite.e4m3x2.f32 %h4, %w9, %w1; cvt.rn.f16x2.e4m3x2 %w4, %h4;"},
      {"mov.b32 %w5, {%h3, %h9}; cvt.u32.u8 %w4, %w5;",
       "mov.b32 %w5, {%h9, %h3}; cvt.u32.u8 %w4, %w5;"},
      {"mov.b32 %w5, {%h3, %h9}; cvt.rn.f32.u16 %w4, %w5;",
       "mov.b32 %w5, {%h3, %h9}; cvt.rn.f32.u32 %w4, %w5;"},
      // Through memory and between lanes.
      {"mov.b32 %w5, {%h3, %h9}; st.shared.b32 [%d4], %w5; ld.shared.u16 %w4, [%d4];",
       "mov.b32 %w5, {%h3, %h9}; st.shared.b32 [%d4], %w5; ld.shared.u16 %w4, [%d4+2];"},
      {"mov.b32 %w5, {%h3, %h9}; st.local.b32 [l], %w5; ld.local.s8 %w4, [l+1];",
       "mov.b32 %w5, {%h3, %h9}; st.local.b32 [l], %w5; ld.local.s8 %w4, [l+2];"},
      {"st.shared.b8 [%d4], %w1; ld.shared.b32 %w5, [%d4]; and.b32 %w4, %w5, 0xff;",
       "st.shared.b8 [%d4], %w1; ld.shared.b32 %w5, [%d4]; and.b32 %w4, %w5, 0x1ff;"},
      {"st.shared.b16 [%d4+2], %h3; ld.shared.b32 %w5, [%d4]; shr.u32 %w4, %w5, 16;",
       "st.shared.b16 [%d4+2], %h3; ld.shared.b32 %w4, [%d4];"},
      {"mov.b32 %w5, {%h3, %h9}; shfl.sync.bfly.b32 %w5, %w5, 1, 31, -1; and.b32 %w4, %w5, 0xffff;",
       "mov.b32 %w5, {%h3, %h9}; shfl.sync.bfly.b32 %w5, %w5, 1, 31, -1; and.b32 %w4, %w5, "
       "0x1ffff;"},
      {"vote.sync.ballot.b32 %w5, %p9, -1; and.b32 %w4, %w5, 0;",
       "vote.sync.ballot.b32 %w4, %p9, -1;"},
  };
  for (const Pair& pair : values) {
    const std::string halves = "cvt.u16.u32 %h3, %w1; ";
    INFO(pair.fine);
    CHECK(stored(halves + pair.fine) == "");
    INFO(pair.wrong);
    CHECK(stored(halves + pair.wrong) == "uninitialized");
  }
  const Pair predicates[] = {
      {"and.pred %p3, %p2, %p9;", "and.pred %p3, %p1, %p9;"},
      {"and.pred %p3, %p9, !%p1;", "and.pred %p3, %p9, !%p2;"},
      {"or.pred %p3, %p1, %p9;", "or.pred %p3, %p2, %p9;"},
      {"xor.pred %p3, %p1, %p2;", "xor.pred %p3, %p1, %p9;"},
      {"setp.gt.and.s32 %p3, %w9, 3, %p2;", "setp.gt.and.s32 %p3, %w9, 3, %p1;"},  // ok && v > 3
      {"setp.gt.or.s32 %p3, %w9, 3, %p1;", "setp.gt.or.s32 %p3, %w9, 3, %p2;"},
      {"setp.gt.and.f32 %p3, %w9, 0f40000000, %p2;", "setp.gt.and.f32 %p3, %w9, 0f40000000, %p1;"},
      {"setp.ne.and.s32 %p3, %w1, %w1, %p9;", "setp.eq.and.s32 %p3, %w1, %w1, %p9;"},
      {"setp.gt.and.f32 %p3, 0f3F800000, 0f40000000, %p9;",
       "setp.lt.and.f32 %p3, 0f3F800000, 0f40000000, %p9;"},
      {"setp.lt.or.f32 %p3, 0f3F800000, 0f40000000, !%p9;",
       "setp.gt.or.f32 %p3, 0f3F800000, 0f40000000, !%p9;"},
      {"setp.ge.u32 %p3, %w9, 0;", "setp.ge.s32 %p3, %w9, 0;"},
      {"and.b32 %w5, %w9, 7; setp.lt.s32 %p3, %w5, 8;",
       "and.b32 %w5, %w9, 8; setp.lt.s32 %p3, %w5, 8;"},
      {"or.b32 %w5, %w9, 1; setp.eq.u32 %p3, %w5, 0;",
       "or.b32 %w5, %w9, 1; setp.eq.u32 %p3, %w5, 1;"},
      {"setp.gt.and.s32 %p4|%p3, %w1, 1000, %p2;", "setp.gt.and.s32 %p4|%p3, %w9, 1000, %p1;"},
      {"vote.sync.any.pred %p3, %p1, -1;", "vote.sync.any.pred %p3, %p9, -1;"},
  };
  for (const Pair& pair : predicates) {
    INFO(pair.fine);
    CHECK(decided(pair.fine) == "");
    INFO(pair.wrong);
    CHECK(decided(pair.wrong) == "uninitialized");
  }
  // One lane with a value decides for all; lanes without one do not.
  const std::string some = "setp.lt.u32 %p4, %w1, 3; @%p4 setp.eq.u32 %p9, %w1, %w1; ";
  CHECK(check_of(some + "vote.sync.any.pred %p3, %p9, -1; @%p3 mov.b32 %w4, 1;", 1, 32) == "");
  CHECK(check_of(some + "vote.sync.all.pred %p3, %p9, -1; @%p3 mov.b32 %w4, 1;", 1, 32) ==
        "uninitialized");
  CHECK(check_of(some + "vote.sync.all.pred %p3, !%p9, -1; @%p3 mov.b32 %w4, 1;", 1, 32) == "");
}

TEST_CASE("lanes that are wholly defined stay it, whatever is undefined in another") {
  // Rules for undefined bits run for all lanes as soon as one of them has such. Lane 5 gets undefined
  // operands, each of the others is defined: so are all results that they store.
  const char* const kInstructions[] = {
      "mov.b32 %w4, %w10;",
      "mov.b64 {%w4, %w5}, %d10;",
      "mov.b32 %w4, {%h10, %h11};",
      "and.b32 %w4, %w10, %w11;",
      "or.b64 %d11, %d10, %d12;",
      "xor.b16 %h4, %h10, %h11;",
      "not.b32 %w4, %w10;",
      "cnot.b32 %w4, %w10;",
      "and.pred %p3, %p10, %p11;",
      "or.pred %p3, %p10, %p11;",
      "xor.pred %p3, %p10, %p11;",
      "not.pred %p3, %p10;",
      "lop3.b32 %w4, %w10, %w11, %w12, 0x96;",
      "lop3.b32 %w4, %w10, %w11, %w10, 0xe8;",
      "shl.b32 %w4, %w10, %w11;",
      "shl.b32 %w4, %w10, %w10;",
      "shr.s32 %w4, %w10, %w11;",
      "shr.u64 %d11, %d10, %w10;",
      "shf.l.wrap.b32 %w4, %w10, %w11, %w12;",
      "shf.l.wrap.b32 %w4, %w10, %w11, %w10;",
      "shf.r.clamp.b32 %w4, %w11, %w10, %w11;",
      "bfe.u32 %w4, %w10, %w11, %w12;",
      "bfe.s32 %w4, %w10, %w10, %w10;",
      "bfi.b32 %w4, %w10, %w11, %w12, %w10;",
      "bfi.b32 %w4, %w10, %w11, %w11, 3;",
      "brev.b32 %w4, %w10;",
      "prmt.b32 %w4, %w10, %w11, %w12;",
      "prmt.b32 %w4, %w10, %w11, %w10;",
      "prmt.b32 %w4, %w10, 0x5410, 0x5410;",
      "szext.wrap.s32 %w4, %w10, %w11;",
      "szext.clamp.u32 %w4, %w10, %w10;",
      "clz.b32 %w4, %w10;",
      "clz.b64 %w4, %d10;",
      "bfind.u32 %w4, %w10;",
      "bfind.s32 %w4, %w10;",
      "bfind.shiftamt.s64 %w4, %d10;",
      "popc.b32 %w4, %w10;",
      "selp.b32 %w4, %w10, %w11, %p10;",
      "slct.b32.s32 %w4, %w10, %w11, %w12;",
      "slct.b32.f32 %w4, %w10, %w11, %w12;",
      "set.lt.u32.s32 %w4, %w10, %w11;",
      "set.eq.and.f32.u32 %w4, %w10, %w11, %p10;",
      "set.gtu.or.u32.f32 %w4, %w10, %w11, %p10;",
      "setp.lt.s32 %p3, %w10, %w11;",
      "setp.hi.and.u32 %p3|%p4, %w10, %w11, %p10;",
      "setp.ne.xor.b64 %p3|%p4, %d10, %d12, !%p10;",
      "setp.leu.or.f32 %p3|%p4, %w10, %w11, %p10;",
      "min.s32 %w4, %w10, %w11;",
      "max.u64 %d11, %d10, %d12;",
      "max.u16 %h4, %h10, %h10;",
      "min.u16x2 %w4, %w10, %w11;",
      "add.u32 %w4, %w10, %w11;",
      "add.cc.u32 %w4, %w10, %w11; addc.u32 %w5, %w10, %w11;",
      "sub.s64 %d11, %d10, %d12;",
      "neg.s32 %w4, %w10;",
      "abs.s32 %w4, %w10;",
      "sad.u32 %w4, %w10, %w11, %w12;",
      "mul.lo.u32 %w4, %w10, %w11;",
      "mul.hi.s64 %d11, %d10, %d12;",
      "mul.wide.s32 %d11, %w10, %w11;",
      "mad.lo.s32 %w4, %w10, %w11, %w12;",
      "mad.wide.u16 %w4, %h10, %h11, %w12;",
      "mul24.hi.u32 %w4, %w10, %w11;",
      "mad24.lo.s32 %w4, %w10, %w11, %w12;",
      "dp4a.u32.s32 %w4, %w10, %w11, %w12;",
      "dp2a.lo.u32.u32 %w4, %w10, %w11, %w12;",
      "dp2a.hi.s32.u32 %w4, %w10, %w11, %w12;",
      "add.f16x2 %w4, %w10, %w11;",
      "fma.rn.bf16x2 %w4, %w10, %w11, %w12;",
      "add.f32 %w4, %w10, %w11;",
      "cvt.u16.u32 %h4, %w10;",
      "cvt.s32.s8 %w4, %w10;",
      "cvt.u64.u32 %d11, %w10;",
      "cvt.rn.f32.s32 %w4, %w10;",
      "cvt.rn.f16x2.f32 %w4, %w10, %w11;",
      "cvt.sat.u8.s32 %w4, %w10;",
  };
  for (const char* value : {"0", "%w1", "-1", "0x80000000"}) {
    for (const char* undefined : {"mov.b32 %w10, %w9;", "mov.b32 %w10, {%h8, %h9};",
                                  "mov.b32 %w11, {%h9, %h8};", "mov.b32 %w12, %w9;"}) {
      std::string body = fmt::format(
          "mov.b16 %h8, 7; mov.b32 %w10, {0}; mov.b32 %w11, {0}; mov.b32 %w12, {0}; setp.eq.u32 "
          "%p1, %w1, 5; setp.ne.u32 %p2, %w1, 5; @%p1 {1} mov.b32 {{%h10, _}}, %w10; mov.b32 "
          "{{%h11, _}}, %w11; mov.b64 %d10, {{%w10, %w11}}; mov.b64 %d12, {{%w11, %w12}}; "
          "setp.ne.u32 %p10, %w10, 0; setp.ne.u32 %p11, %w11, 3;\n",
          value, undefined);
      for (const char* instruction : kInstructions) {
        body +=
            "mov.b32 %w4, 0; mov.b32 %w5, 0; mov.b16 %h4, 0; mov.b64 %d11, 0; setp.ne.u32 "
            "%p3, %w1, %w1; setp.ne.u32 %p4, %w1, %w1;\n";
        body += instruction;
        body +=
            "\nselp.b32 %w6, 1, 0, %p3; selp.b32 %w7, 1, 0, %p4; cvt.u32.u16 %w8, %h4; @%p2 "
            "st.global.v4.b32 [%d7], {%w4, %w5, %w6, %w7}; @%p2 st.global.b32 [%d7], %w8; @%p2 "
            "st.global.b64 [%d7], %d11; // of ";
        body += instruction;
        body += "\n";
      }
      INFO(body);
      CHECK(check_of(body, 1, 32) == "");
    }
  }
}

TEST_CASE("operands that are moved keep their values, also where an instruction names one twice") {
  // The marks of undefined bits go through the registers themselves.
  Bench bench;
  bench.kernel(std::string(kPreamble) + R"(
    cvt.u16.u32 %h3, %w1; mov.b32 %w5, {%h3, %h9}; mov.b32 %w8, %w1;
    prmt.b32 %w6, %w5, %w5, 0x5410; shl.b32 %w5, %w5, 16; shf.l.wrap.b32 %w7, %w8, %w9, %w8;
    and.b32 %w7, %w7, 0; st.global.v4.b32 [%d7], {%w5, %w6, %w7, %w8};)",
               1, ".shared .align 16 .b8 s[16384];");
  const Address out = bench.upload(std::vector<u32>(128, 0));
  const LaunchReport report = bench.run(1, 32, {out});
  INFO(messages(report));
  CHECK(report.findings.empty());
  const auto got = bench.download<u32>(out, 128);
  for (u32 t = 0; t < 32; ++t) {
    CHECK(got[4 * t] == t << 16);
    CHECK(got[4 * t + 1] == (t | t << 16));
    CHECK(got[4 * t + 2] == 0);
    CHECK(got[4 * t + 3] == t);
  }
}

TEST_CASE("undefined rows and columns of a matrix product are those of the result, no more") {
  struct Kind {
    const char* name;
    int a, b, c;  // registers
    int halves;   // elements of C in a register
  };
  const Kind kinds[] = {{"m16n8k32.row.col.s32.s8.s8.s32", 4, 2, 4, 1},
                        {"m16n8k16.row.col.s32.s8.s8.s32", 2, 1, 4, 1},
                        {"m16n8k16.row.col.f32.f16.f16.f32", 4, 2, 4, 1},
                        {"m16n8k8.row.col.f32.bf16.bf16.f32", 2, 1, 4, 1},
                        {"m16n8k32.row.col.f32.e4m3.e4m3.f32", 4, 2, 4, 1},
                        {"m16n8k64.row.col.s32.s4.s4.s32", 4, 2, 4, 1},
                        {"m16n8k16.row.col.f16.f16.f16.f16", 4, 2, 2, 2}};
  const auto registers = [](int first, int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += fmt::format("{}%w{}", i > 0 ? "," : "", first + i);
    return text;
  };
  // Runs the product with register `hole` undefined in the lanes where `lanes` holds; stores of D what
  // the predicate %p3 of each register says, and nothing else.
  struct Element {
    int row, column;
  };
  for (const Kind& kind : kinds) {
    // Which elements of D are undefined, as the program sees it: register, lane, half.
    const auto undefined = [&](int hole, int lane) {
      std::vector<Element> found;
      for (int i = 0; i < kind.c; ++i) {
        for (int half = 0; half < kind.halves; ++half) {
          for (int reader = 0; reader < 32; ++reader) {
            std::string body;
            for (int r = 0; r < 10; ++r) {
              body += r == hole ? fmt::format("setp.ne.u32 %p1, %w1, {}; @%p1 mov.b32 %w{}, 0;",
                                              lane, 20 + r)
                                : fmt::format("mov.b32 %w{}, 0;", 20 + r);
            }
            body += fmt::format(
                "\nmma.sync.aligned.{} {{{}}}, {{{}}}, {{{}}}, {{{}}};\nsetp.eq.u32 %p2, %w1, {};",
                kind.name, registers(30, kind.c), registers(20, kind.a), registers(24, kind.b),
                registers(26, kind.c), reader);
            body += kind.halves == 2
                        ? fmt::format("shr.u32 %w40, %w{}, {}; @%p2 st.global.b16 [%d2], %w40;",
                                      30 + i, 16 * half)
                        : fmt::format("@%p2 st.global.b32 [%d2], %w{};", 30 + i);
            if (check_of(body, 1, 32) != "") {
              const int row = reader / 4 + 8 * (kind.halves == 2 ? i : i / 2);
              found.push_back({row, 2 * (reader % 4) + (kind.halves == 2 ? half : i % 2)});
            }
          }
        }
      }
      return found;
    };
    INFO(kind.name);
    // The last register of A in lane 13: row 3 + 8.
    const auto of_a = undefined(kind.a - 1, 13);
    CHECK(of_a.size() == 8);
    for (const Element& e : of_a) CHECK(e.row == 11);
    if (&kind != &kinds[0] && kind.halves == 1) continue;  // the rest depends on no type
    const auto of_b = undefined(4 + kind.b - 1, 13);
    CHECK(of_b.size() == 16);
    for (const Element& e : of_b) CHECK(e.column == 3);
    const auto of_c = undefined(6 + kind.c - 1, 13);
    CHECK(of_c.size() == static_cast<std::size_t>(kind.halves));
    for (const Element& e : of_c) {
      CHECK(e.row == 11);
      CHECK(e.column / 2 == 1);
    }
  }
}

TEST_CASE("halves of matrices that are loaded, transposed and stored") {
  // Row 3, byte 8 is undefined: of lane 14's two elements the first.
  const std::string tile = R"(
    st.shared.v4.b32 [%d6], {%w1, %w1, %w1, %w1}; setp.eq.u32 %p1, %w1, 3; @%p1 st.shared.b16 [%d6+8], %h9;
    bar.warp.sync -1; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%w4}, [%d6]; )";
  CHECK(check_of(tile + "shr.u32 %w5, %w4, 16; st.global.b32 [%d2], %w5;", 1, 32) == "");
  CHECK(check_of(tile + "and.b32 %w5, %w4, 0xffff; st.global.b32 [%d2], %w5;", 1, 32) ==
        "uninitialized");
  // Transposed it is row 4, column 3: the second element of lane 17.
  const std::string turned = tile + "movmatrix.sync.aligned.m8n8.trans.b16 %w5, %w4; ";
  CHECK(check_of(turned + "and.b32 %w5, %w5, 0xffff; st.global.b32 [%d2], %w5;", 1, 32) == "");
  CHECK(check_of(turned + "setp.ne.u32 %p2, %w1, 17; @%p2 st.global.b32 [%d2], %w5;", 1, 32) == "");
  CHECK(check_of(turned + "shr.u32 %w5, %w5, 16; st.global.b32 [%d2], %w5;", 1, 32) ==
        "uninitialized");
  // Element (0, 1) of a tile of 16 x 16 halves is the second one of lane 0.
  const std::string fragment =
      "st.shared.v4.b32 [%d6], {%w1, %w1, %w1, %w1}; setp.eq.u32 %p1, %w1, 0; @%p1 st.shared.b16 "
      "[%d6+2], %h9; bar.warp.sync -1; wmma.load.c.sync.aligned.row.m16n16k16.shared.f16 {%w20, "
      "%w21, %w22, %w23}, [%d3]; ";
  CHECK(check_of(fragment + "and.b32 %w5, %w20, 0xffff; st.global.v4.b32 [%d7], {%w5, %w21, %w22, "
                            "%w23};",
                 1, 32) == "");
  CHECK(check_of(fragment + "shr.u32 %w5, %w20, 16; st.global.b32 [%d2], %w5;", 1, 32) ==
        "uninitialized");
  CHECK(check_of(fragment + "bar.warp.sync -1; wmma.store.d.sync.aligned.row.m16n16k16.shared.f16 "
                            "[%d3+1024], {%w20, %w21, %w22, %w23}; bar.warp.sync -1; ld.shared.b32 "
                            "%w5, [%d4+1024]; setp.ne.u32 %p2, %w1, 0; @%p2 st.global.b32 [%d2], "
                            "%w5; cvt.u32.u16 %w6, %w5; st.global.b32 [%d2+1024], %w6;",
                 1, 32) == "");
  // Column 9 of B is undefined: of lane 0's elements (0, 8) and (0, 9) of D the second, and with it
  // those of C.
  const std::string column =
      "mov.b32 %w10, 0; mov.b32 %w11, 0; setp.ne.u32 %p1, %w1, 4; @%p1 mov.b32 %w12, 0; "
      "wmma.mma.sync.aligned.row.col.m16n16k16.TYPES {%w20, %w21, %w22, %w23RESULT}, "
      "{%w10, %w10, %w10, %w10, %w10, %w10, %w10, %w10}, "
      "{%w10, %w10, %w12, %w10, %w10, %w10, %w10, %w10}, {%w10, %w10, %w10, %w10SUMS}; "
      "setp.eq.u32 %p2, %w1, 0; ";
  const auto product = [&](const char* types, const char* result, const char* sums) {
    std::string text = column;
    text.replace(text.find("TYPES"), 5, types);
    text.replace(text.find("RESULT"), 6, result);
    return text.replace(text.find("SUMS"), 4, sums);
  };
  for (const std::string& text :
       {product("f16.f16", "", ""), product("f16.f32", "", ", %w10, %w10, %w10, %w10")}) {
    CHECK(check_of(text + "cvt.u32.u16 %w5, %w22; @%p2 st.global.v2.b32 [%d7], {%w5, %w20};", 1,
                   32) == "");
    CHECK(check_of(text + "shr.u32 %w5, %w22, 16; @%p2 st.global.b32 [%d7], %w5;", 1, 32) ==
          "uninitialized");
  }
  const std::string stored =
      tile +
      "bar.warp.sync -1; stmatrix.sync.aligned.m8n8.x1.shared.b16 [%d6+1024], {%w4}; "
      "bar.warp.sync -1; ld.shared.v4.b32 {%w10, %w11, %w12, %w13}, [%d6+1024]; ";
  CHECK(check_of(stored + "setp.lt.u32 %p2, %w1, 8; shr.u32 %w5, %w12, 16; @%p2 st.global.b32 "
                          "[%d2], %w5; @%p2 st.global.b32 [%d2+512], %w11;",
                 1, 32) == "");
  CHECK(check_of(stored + "setp.lt.u32 %p2, %w1, 8; @%p2 st.global.b32 [%d2], %w12;", 1, 32) ==
        "uninitialized");
}

// ---- collectives ---------------------------------------------------------------------------------

TEST_CASE("collective instructions in divergent code") {
  std::string odd = "and.b32 %w5, %w1, 1; setp.ne.u32 %p1, %w5, 0; mov.b32 %w6, 0; ";
  for (const char* instruction :
       {"shfl.sync.bfly.b32 %w4, %w1, 1, 31, -1;", "vote.sync.any.pred %p2, %p1, -1;",
        "bar.warp.sync -1;", "redux.sync.add.u32 %w4, %w1, -1;",
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%w4}, [%d6];",
        "movmatrix.sync.aligned.m8n8.trans.b16 %w4, %w1;", "bar.sync 0;",
        "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%w10,%w11,%w12,%w13}, {%w6,%w6}, {%w6}, "
        "{%w6,%w6,%w6,%w6};"}) {
    INFO(instruction);
    CHECK(check_of(odd + "st.shared.v4.b32 [%d6], {%w6, %w6, %w6, %w6}; bar.sync 1; " +
                   instruction) == "");
    CHECK(check_of(odd +
                   "st.shared.v4.b32 [%d6], {%w6, %w6, %w6, %w6}; bar.sync 1; @!%p1 bra $skip; " +
                   instruction + " mov.b32 %w7, 1; $skip: bar.sync 2;") == "divergent-collective");
  }
  // A warp with missing threads cannot do them at all.
  CHECK(check_of("movmatrix.sync.aligned.m8n8.trans.b16 %w4, %w1;", 1, 40) ==
        "divergent-collective");
  CHECK(check_of("shfl.sync.bfly.b32 %w4, %w1, 1, 31, 0xff;", 1, 8) == "");
  // What is read from a lane that takes no part is undefined.
  const std::string store = "\n@%p1 st.global.b32 [%d2], %w4;";
  CHECK(check_of(odd + "@%p1 shfl.sync.idx.b32 %w4, %w1, 1, 31, 0xaaaaaaaa;" + store) == "");
  CHECK(check_of(odd + "@%p1 shfl.sync.idx.b32 %w4, %w1, 2, 31, 0xaaaaaaaa;") == "");
  const Report used =
      run_body(odd + "\n@%p1 shfl.sync.idx.b32 %w4, %w1, 2, 31, 0xaaaaaaaa;" + store, 1, 64);
  CHECK(used.check == "uninitialized");
  const Report beginning = run_body(odd + "\ntrap;", 1, 64);
  CHECK(used.line == beginning.line + 1);  // where it is used
}

TEST_CASE("an undefined member mask") {
  const std::string mask = "ld.global.b32 %w4, [%d21]; ";
  for (const char* instruction :
       {"bar.warp.sync %w4;", "vote.sync.any.pred %p2, %p1, %w4;",
        "shfl.sync.idx.b32 %w5, %w1, 0, 31, %w4;", "redux.sync.add.u32 %w5, %w1, %w4;",
        "match.any.sync.b32 %w5, %w1, %w4;", "elect.sync %w5|%p2, %w4;"}) {
    const Report report = run_body("setp.eq.u32 %p1, %w1, 0; " + mask + instruction, 1, 32);
    INFO(instruction << report.message);
    CHECK(report.check == "uninitialized");
    CHECK_THAT(report.message, Catch::Contains("member mask"));
    CHECK(check_of("setp.eq.u32 %p1, %w1, 0; " + mask + "mov.b32 %w4, -1; " + instruction, 1, 32) ==
          "");
  }
}

TEST_CASE("undefined votes of bar.red") {
  // %p2 is one value (eq: true, ne: false), but comes from undefined data in the warp `voter`.
  const auto reduce = [](const std::string& others, const std::string& red, int voter) {
    return check_of(fmt::format("setp.eq.u32 %p4, %w3, {}; setp.{}.u32 %p2, 0, 0; "
                                "@%p4 ld.global.b32 %w4, [%d21]; @%p4 setp.eq.u32 %p2, %w4, 7; {}",
                                voter, others, red),
                    1, 96);
  };
  const std::string branch = " @%p5 bra $x; st.global.b32 [%d2], 1; $x:";
  const std::string count = "bar.red.popc.u32 %w5, 0, %p2; st.global.b32 [%d2], %w5;";
  const std::string counted = "bar.red.popc.u32 %w5, 0, 96, %p2; st.global.b32 [%d2], %w5;";
  const std::string all = "bar.red.and.pred %p5, 0, %p2;" + branch;
  const std::string any = "bar.red.or.pred %p5, 0, %p2;" + branch;
  const std::string any_not = "bar.red.or.pred %p5, 0, !%p2;" + branch;
  for (int voter = 0; voter < 3; ++voter) {
    INFO("warp " << voter);
    CHECK(reduce("eq", count, voter) == "uninitialized");
    CHECK(reduce("eq", counted, voter) == "uninitialized");
    CHECK(reduce("eq", all, voter) == "uninitialized");
    CHECK(reduce("ne", all, voter) == "");  // one that is known not to hold decides
    CHECK(reduce("eq", any, voter) == "");
    CHECK(reduce("ne", any, voter) == "uninitialized");
    CHECK(reduce("eq", any_not, voter) == "uninitialized");
    CHECK(reduce("ne", any_not, voter) == "");
    CHECK(reduce("eq", "bar.red.popc.u32 %w5, 0, %p2;", voter) == "");  // nobody uses it
  }
  CHECK(reduce("eq", count, 3) == "");
  // The next barrier has forgotten it.
  CHECK(reduce("eq", "bar.red.and.pred %p5, 0, %p2; bar.red.and.pred %p5, 0, %p4;" + branch, 1) ==
        "");
}

// ---- races in shared memory ----------------------------------------------------------------------

TEST_CASE("races between warps") {
  // Each thread reads what the thread 32 further on wrote.
  std::string other = "xor.b32 %w5, %w1, 32; mul.wide.u32 %d8, %w5, 4; add.u64 %d8, %d8, %d3; ";
  CHECK(check_of(other + "st.shared.b32 [%d4], %w1; bar.sync 0; ld.shared.b32 %w4, [%d8];") == "");
  CHECK(check_of(other + "st.shared.b32 [%d4], %w1; ld.shared.b32 %w4, [%d8];") == "race");
  CHECK(check_of(other + "st.shared.b32 [%d4], %w1; bar.warp.sync -1; ld.shared.b32 %w4, [%d8];") ==
        "race");
  CHECK(check_of(other + "st.shared.b32 [%d4], %w1; bar.sync 0; ld.shared.b32 %w4, [%d8]; "
                         "st.shared.b32 [%d4], 3;") == "race");  // write after read
  CHECK(check_of(other + "st.shared.b32 [%d4], %w1; bar.sync 0; ld.shared.b32 %w4, [%d8]; bar.sync "
                         "0; st.shared.b32 [%d4], 3;") == "");
  CHECK(check_of(other + "st.shared.b32 [%d4], %w1; st.shared.b32 [%d8], %w1;") ==
        "race");                                                             // write after write
  CHECK(check_of("st.shared.b32 [%d3], 7;") == "");                          // all write one value
  CHECK(check_of("mov.b32 %w5, %w3; st.shared.b32 [%d3], %w5;") == "race");  // a value per warp
  // Different bytes of one word are different cells; the same byte is not.
  CHECK(check_of("cvt.u64.u32 %d8, %w1; add.u64 %d8, %d8, %d3; st.shared.b8 [%d8], %w1;", 1, 128) ==
        "");
  CHECK(check_of("and.b32 %w5, %w1, 31; mad.lo.u32 %w5, %w5, 4, %w3; cvt.u64.u32 %d8, %w5; add.u64 "
                 "%d8, %d8, %d3; st.shared.b8 [%d8], %w1;",
                 1, 128) == "");
  CHECK(check_of("and.b32 %w5, %w1, 31; mad.lo.u32 %w5, %w5, 4, %w3; cvt.u64.u32 %d8, %w5; add.u64 "
                 "%d8, %d8, %d3; st.shared.b8 [%d8], %w1; ld.shared.b8 %w4, [%d3+1];",
                 1, 128) == "race");
  // Atomics do not race with each other, but with plain accesses.
  CHECK(check_of("setp.eq.u32 %p1, %w1, 0; @%p1 st.shared.b32 [%d3], 0; bar.sync 0; "
                 "atom.shared.add.u32 %w4, [%d3], 1;") == "");
  CHECK(check_of("setp.eq.u32 %p1, %w1, 0; @%p1 st.shared.b32 [%d3], 0; bar.sync 0; "
                 "atom.shared.add.u32 %w4, [%d3], 1; ld.shared.b32 %w5, [%d3];") == "race");
  CHECK(check_of("setp.eq.u32 %p1, %w1, 0; @%p1 st.shared.b32 [%d3], 0; bar.sync 0; "
                 "atom.shared.add.u32 %w4, [%d3], 1; bar.sync 0; ld.shared.b32 %w5, [%d3];") == "");
  CHECK(check_of("setp.eq.u32 %p1, %w1, 0; @%p1 st.shared.b32 [%d3], 0; bar.sync 0; "
                 "atom.shared.add.u32 %w4, [%d3], 1; ld.volatile.shared.b32 %w5, [%d3];") == "");
}

TEST_CASE("locks and flags with their fences order the warps of a CTA") {
  struct Lock {
    const char *take, *acquire, *release, *give;
  };
  const auto with_lock = [](const Lock& lock, const std::string& lanes) {
    return check_of("setp.eq.u32 %p1, %w1, 0; @%p1 st.shared.v2.b32 [%d3], {0, 0}; bar.sync 0; " +
                        lanes + " $again: " + lock.take +
                        " setp.ne.u32 %p3, %w6, 0; @%p3 bra $again;\n" + lock.acquire +
                        " ld.shared.b32 %w7, [%d3+4]; add.u32 %w7, %w7, 1; st.shared.b32 [%d3+4], "
                        "%w7;\nld.global.b32 %w7, [%d20+4]; add.u32 %w7, %w7, 1; st.global.b32 "
                        "[%d20+4], %w7;\n" +
                        lock.release + lock.give + " $end: ret;",
                    1, 128);
  };
  const char* const kTake = "atom.shared.cas.b32 %w6, [%d3], 0, 1;";
  const char* const kGive = "atom.shared.exch.b32 %w8, [%d3], 0;";
  const char* const kTakeGlobal = "atom.global.cas.b32 %w6, [%d20], 0, 1;";
  const char* const kGiveGlobal = "atom.global.exch.b32 %w8, [%d20], 0;";
  const std::string one_lane = "and.b32 %w5, %w1, 31; setp.ne.u32 %p2, %w5, 0; @%p2 bra $end;";
  const Lock sound[] = {
      {kTake, "membar.cta;", "membar.cta;", kGive},
      {kTake, "membar.gl;", "fence.acq_rel.cta;", "st.volatile.shared.b32 [%d3], 0;"},
      {kTakeGlobal, "membar.cta;", "membar.cta;", kGiveGlobal},
      {kTakeGlobal, "fence.sc.gpu;", "membar.gl;", kGiveGlobal},
      {"atom.acquire.cta.shared.cas.b32 %w6, [%d3], 0, 1;", "", "",
       "atom.release.cta.shared.exch.b32 %w8, [%d3], 0;"},
      {"atom.acq_rel.gpu.global.cas.b32 %w6, [%d20], 0, 1;", "", "",
       "st.release.gpu.global.b32 [%d20], 0;"}};
  for (const Lock& lock : sound) {
    INFO(lock.take << lock.give);
    CHECK(with_lock(lock, one_lane) == "");
    CHECK(with_lock(lock, "") == "");  // by every lane
  }
  for (const Lock& lock :
       {Lock{kTake, "", "membar.cta;", kGive}, Lock{kTake, "membar.cta;", "", kGive},
        Lock{kTakeGlobal, "", "membar.gl;", kGiveGlobal},
        Lock{kTakeGlobal, "membar.gl;", "", kGiveGlobal},
        Lock{"atom.release.cta.shared.cas.b32 %w6, [%d3], 0, 1;", "", "",
             "atom.release.cta.shared.exch.b32 %w8, [%d3], 0;"},
        Lock{"mov.b32 %w6, 0;", "membar.cta;", "membar.cta;", ""}}) {
    INFO(lock.take << lock.acquire << lock.release << lock.give);
    CHECK(with_lock(lock, one_lane) == "race");
  }

  const auto with_flag = [](const std::string& set, const std::string& wait,
                            const std::string& behind) {
    return check_of(
        "setp.eq.u32 %p1, %w1, 0; @%p1 st.shared.v2.b32 [%d3], {0, 0}; bar.sync 0; and.b32 %w5, "
        "%w1, 31; setp.ne.u32 %p2, %w5, 0; @%p2 bra $end; setp.eq.u32 %p3, %w1, 32; @%p3 bra "
        "$wait; st.shared.b32 [%d3+4], 77;\n" +
        set + " bra $end;\n$wait: " + wait + " setp.eq.u32 %p4, %w6, 0; @%p4 bra $wait;\n" +
        behind + " ld.shared.b32 %w7, [%d3+4]; st.global.b32 [%d20], %w7; $end: ret;");
  };
  const char* const kVolatile = "st.volatile.shared.b32 [%d3], 1;";
  const char* const kPoll = "ld.volatile.shared.b32 %w6, [%d3];";
  const char* const kAcquire = "ld.acquire.cta.shared.b32 %w6, [%d3];";
  CHECK(with_flag("st.release.cta.shared.b32 [%d3], 1;", kAcquire, "") == "");
  CHECK(with_flag("st.release.gpu.shared.b32 [%d3], 1;", kPoll, "membar.cta;") == "");
  CHECK(with_flag(std::string("membar.cta;") + kVolatile, kPoll, "membar.cta;") == "");
  CHECK(with_flag(std::string("membar.cta;") + kVolatile, kAcquire, "") == "");
  CHECK(with_flag(kVolatile, kPoll, "membar.cta;") == "race");
  CHECK(with_flag(std::string("membar.cta;") + kVolatile, kPoll, "") == "race");
  CHECK(with_flag(std::string(kVolatile) + "membar.cta;", kAcquire, "") == "race");
  CHECK(with_flag("st.relaxed.cta.shared.b32 [%d3], 1;", kAcquire, "") == "race");
  // A fence and a strong access of another place order nothing.
  CHECK(with_flag(std::string(kVolatile) + "st.release.cta.shared.b32 [%d3+64], 1;", kPoll,
                  "membar.cta; ld.acquire.cta.shared.b32 %w8, [%d3+68];") == "race");
}

TEST_CASE("to store the value that is there already is no hazard to warps that read it") {
  const std::string begin =
      "setp.eq.u32 %p1, %w1, 0; setp.eq.u32 %p2, %w3, 0; setp.eq.u32 %p3, "
      "%w3, 1; @%p1 st.shared.b32 [%d3], 1; bar.sync 0; ";
  for (const SchedulePolicy schedule : {SchedulePolicy::round_robin, SchedulePolicy::reverse}) {
    const auto check = [&](const std::string& body, unsigned threads = 64) {
      return run_body(begin + body, 1, threads, [&](Bench& b) { b.options.schedule = schedule; })
          .check;
    };
    const std::string read = "ld.shared.b32 %w4, [%d3]; ", set = "st.shared.b32 [%d3], 1; ";
    CHECK(check(read + set) == "");
    CHECK(check(set + read) == "");
    CHECK(check(read + "st.shared.b8 [%d3], 1; " + read) == "");
    CHECK(check("st.global.b32 [%d20], 5; bar.sync 0; ld.global.b32 %w4, [%d20]; st.global.b32 "
                "[%d20], 5; ld.global.b32 %w4, [%d20];") == "");
    // Another value is one, also behind it; and so is the write that brought the value.
    CHECK(check("@%p2 st.shared.b32 [%d3], 2; @%p3 " + read) == "race");
    CHECK(check("@%p2 " + set + "@%p2 st.shared.b32 [%d3], 2; @%p3 " + read) == "race");
    CHECK(check("@%p3 " + read + "@%p2 " + set + "@%p2 st.shared.b32 [%d3], 2; ") == "race");
    CHECK(check("setp.lt.u32 %p4, %w3, 2; @%p4 st.shared.b32 [%d3], 2; @!%p4 " + read, 96) ==
          "race");
    for (const char* between : {"", "membar.cta; "}) {
      CHECK(check("@%p2 st.shared.b32 [%d3], 2; " + std::string(between) +
                  "@%p2 st.shared.b32 [%d3], 2; @%p3 " + read) == "race");
    }
    CHECK(check("@%p2 " + set + "@%p3 st.shared.b32 [%d3], 2; ") == "race");
  }
}

TEST_CASE("readers whose clocks differ take memory once per cell") {
  RaceDetector races(4, 16);
  races.barrier_arrive(3, 1);  // from here on warp 3 is ahead of the others
  races.barrier_release(1, 8);
  for (u32 turn = 0; turn < 100; ++turn) {
    for (int warp = 0; warp < 4; ++warp) {
      for (const u32 offset : {0u, 4u, 8u, 12u}) {
        CHECK_FALSE(races.access_shared(offset, offset == 8 ? 1 : 4, {.warp = warp, .now = turn},
                                        AccessKind::read));
      }
    }
    for (int warp = 0; warp < 4; ++warp) races.barrier_arrive(warp, 0);
    races.barrier_release(0, 15);
    CHECK_FALSE(races.access_shared(0, 16, {.warp = 0, .now = turn}, AccessKind::write));
    for (int warp = 0; warp < 4; ++warp) races.barrier_arrive(warp, 0);
    races.barrier_release(0, 15);
  }
  CHECK(races.kept_read_clocks() > 0);
  CHECK(races.kept_read_clocks() <= 3 + 4);  // words, and the bytes of one
}

TEST_CASE("a barrier of other warps orders nothing; named barriers order their members") {
  std::string text = R"(
    setp.eq.u32 %p1, %w3, 0; setp.eq.u32 %p2, %w3, 1; setp.gt.u32 %p3, %w3, 1;
    @%p1 st.shared.b32 [%d4], %w1;
    @%p1 bar.arrive 1, 64; @%p2 bar.sync 1, 64;
    @%p2 ld.shared.b32 %w4, [%d4+-128];)";
  CHECK(check_of(text, 1, 96) == "");  // warp 1 reads after warp 0
  CHECK(check_of(text + "@%p3 ld.shared.b32 %w4, [%d4+-256];", 1, 96) ==
        "race");  // warp 2 did not wait
  CHECK(
      check_of(
          text + "@%p2 bar.arrive 2, 64; @%p3 bar.sync 2, 64; @%p3 ld.shared.b32 %w4, [%d4+-256];",
          1, 96) == "");  // ordered through warp 1
  CHECK(check_of(text + "@%p1 st.shared.b32 [%d4], 5;", 1, 96) == "race");  // warp 1 may still read
  CHECK(check_of(text + "@%p2 bar.arrive 2, 64; @%p1 bar.sync 2, 64; @%p1 st.shared.b32 [%d4], 5;",
                 1, 96) == "");
}

TEST_CASE("race reports are the same under every schedule, and name both sides") {
  for (SchedulePolicy schedule :
       {SchedulePolicy::round_robin, SchedulePolicy::random, SchedulePolicy::reverse}) {
    for (u64 seed = 0; seed < 10; ++seed) {
      Report report = run_body(
          "xor.b32 %w5, %w1, 32; mul.wide.u32 %d8, %w5, 4; add.u64 %d8, %d8, %d3;\nst.shared.b32 "
          "[%d4], %w1;\nld.shared.b32 %w4, [%d8];",
          1, 64, [&](Bench& bench) {
            bench.options.schedule = schedule;
            bench.options.seed = seed;
          });
      REQUIRE(report.check == "race");
      CHECK((report.line == 16 || report.line == 17));
      CHECK_THAT(report.message, Catch::Contains(report.line == 16 ? "line 17" : "line 16"));
    }
  }
}

TEST_CASE("lanes of one instruction that store different values to one place") {
  CHECK(check_of("st.shared.b32 [%d3], %w1;", 1, 32) == "race");
  CHECK(check_of("st.shared.b32 [%d3], 1;", 1, 32) == "");
  CHECK(check_of("st.global.b32 [%d20], %w1;", 1, 32) == "race");
  CHECK(check_of("st.global.b32 [%d20], %w2;", 1, 32) == "");
  CHECK(check_of(
            "mul.wide.u32 %d8, %w1, 8; add.u64 %d8, %d8, %d3; st.shared.v2.b32 [%d8], {%w1, %w1};",
            1, 32) == "");
  CHECK(check_of("shr.u32 %w5, %w1, 1; mul.wide.u32 %d8, %w5, 8; add.u64 %d8, %d8, %d3; "
                 "st.shared.v2.b32 [%d8], {%w5, %w1};",
                 1, 32) == "race");
  CHECK(check_of("sub.u32 %w5, 31, %w1; mul.wide.u32 %d8, %w5, 4; add.u64 %d8, %d8, %d3; "
                 "st.shared.b32 [%d8], %w1;",
                 1, 32) == "");  // descending
}

// ---- races in global memory ----------------------------------------------------------------------

// A race of CTAs is a race of the host threads that run them, on the bytes of device memory and their
// shadows: harmless, since it is reported, but not to ThreadSanitizer.
#ifdef __SANITIZE_THREAD__
constexpr int kMostThreads = 1;
#else
constexpr int kMostThreads = 2;
#endif

TEST_CASE("races between CTAs, whatever the order they ran in") {
  for (int threads = 1; threads <= kMostThreads; ++threads) {
    auto on = [&](const char* body, unsigned blocks = 4, unsigned block = 32) {
      Report report =
          run_body(body, blocks, block, [&](Bench& bench) { bench.options.threads = threads; });
      UNSCOPED_INFO(report.message);
      return report.check;
    };
    CHECK(on("mul.wide.u32 %d8, %w2, 128; add.u64 %d8, %d8, %d2; st.global.b32 [%d8], %w1;") ==
          "");  // disjoint
    CHECK(on("st.global.b32 [%d2], %w2;") == "race");
    CHECK(on("st.global.b32 [%d2], 5;") == "");  // all write the same value
    CHECK(on("st.global.v4.b32 [%d7], {1, 2, 3, %w1};") == "");
    CHECK(on("st.global.v4.b32 [%d7], {1, 2, 3, %w2};") == "race");
    CHECK(on("st.global.b32 [%d2], 5; ld.global.b32 %w4, [%d2];") == "race");  // or the old one
    CHECK(on("st.global.b32 [%d2], 4; st.global.b32 [%d2], 5;") == "race");
    CHECK(on("setp.eq.u32 %p1, %w2, 0; @%p1 st.global.b32 [%d2], 0x07070707; @!%p1 st.global.b8 "
             "[%d2+1], 7;") == "");  // a byte of the same word
    CHECK(on("setp.eq.u32 %p1, %w2, 0; @%p1 st.global.b32 [%d2], 0x07070607; @!%p1 st.global.b8 "
             "[%d2+1], 7;") == "race");
    // With atomics CTAs run in order, and are watched by other means.
    CHECK(on("red.global.add.u32 [%d2+4096], 1; st.global.b32 [%d2], 5;") == "");
    CHECK(on("red.global.add.u32 [%d2+4096], 1; st.global.b32 [%d2], %w2;") == "race");
    CHECK(on("ld.global.b32 %w4, [%d2];") == "");
    CHECK(on("setp.eq.u32 %p1, %w2, 2; @%p1 st.global.b32 [%d2], 5; @!%p1 ld.global.b32 %w4, "
             "[%d2];") == "race");
    CHECK(on("setp.eq.u32 %p1, %w2, 2; @%p1 st.global.b32 [%d2], 5; @%p1 ld.global.b32 %w4, "
             "[%d2];") == "");
    CHECK(on("red.global.add.u32 [%d2], 1;") == "");
    CHECK(on("red.global.add.u32 [%d2], 1; ld.global.b32 %w4, [%d2];") == "race");
    CHECK(on("mad.lo.u32 %w5, %w1, 4, %w2; cvt.u64.u32 %d8, %w5; add.u64 %d8, %d8, %d20; "
             "st.global.b8 [%d8], %w1;") == "");  // bytes of one word
    CHECK(on("mad.lo.u32 %w5, %w1, 4, %w2; cvt.u64.u32 %d8, %w5; add.u64 %d8, %d8, %d20; "
             "st.global.b8 [%d8], %w1; ld.global.b8 %w4, [%d20];") == "race");
    CHECK(on("mul.wide.u32 %d8, %w2, 512; add.u64 %d8, %d8, %d6; add.u64 %d9, %d20, 0; "
             "cp.async.cg.shared.global [%d6], [%d7], 16; cp.async.wait_all; setp.eq.u32 %p1, %w2, "
             "3; @%p1 st.global.b32 [%d2], 1;") == "race");
  }
}

TEST_CASE("the plain read before a loop of compare-and-swap is no race") {
  // old = *p; do { assumed = old; old = atomicCAS(p, assumed, f(assumed)); } while (old != assumed);
  const auto loop = [](const std::string& read, const std::string& swapped = "%d9") {
    return "mov.b64 %d9, %d20; add.u64 %d10, %d20, 0;" + read +
           "\n$loop: mov.b32 %w5, %w4; add.u32 %w6, %w5, 1;\n"
           "atom.global.cas.b32 %w7, [" +
           swapped +
           "], %w5, %w6;\n"
           "setp.ne.u32 %p1, %w5, %w7; mov.b32 %w4, %w7;\n@%p1 bra $loop;\n";
  };
  CHECK(check_of(loop("ld.global.b32 %w4, [%d9];"), 4, 1) == "");
  CHECK(check_of(loop("cvta.to.global.u64 %d8, %d20; ld.global.b32 %w4, [%d8];"), 4, 1) == "");
  CHECK(check_of(loop("ld.global.b32 %w3, [%d9]; mov.b32 %w4, %w3;"), 4, 1) == "");
  // Another place, a read that the atomic does not compare, an address that changes.
  CHECK(check_of(loop("ld.global.b32 %w4, [%d9];") + "ld.global.b32 %w8, [%d9];", 4, 1) == "race");
  CHECK(check_of(loop("ld.global.b32 %w4, [%d9]; st.global.b32 [%d9], 5;"), 4, 1) == "race");
  CHECK(check_of(loop("mov.b32 %w4, 0; ld.global.b32 %w8, [%d9];"), 4, 1) == "race");
  CHECK(check_of(loop("ld.global.b32 %w4, [%d10];", "%d10") + "add.u64 %d10, %d10, 4;", 4, 1) ==
        "race");
  // In shared memory, between warps.
  const std::string shared =
      "setp.eq.u32 %p1, %w1, 0; @%p1 st.shared.b32 [%d3], 0; bar.sync 0; ld.shared.b32 %w4, "
      "[%d3];\n"
      "$loop: mov.b32 %w5, %w4; add.u32 %w6, %w5, 1; atom.shared.cas.b32 %w7, [%d3], %w5, %w6;\n"
      "setp.ne.u32 %p1, %w5, %w7; mov.b32 %w4, %w7; @%p1 bra $loop;";
  CHECK(check_of(shared) == "");
  CHECK(check_of(shared + "ld.shared.b32 %w8, [%d3];") == "race");
}

TEST_CASE("races between warps of one CTA in global memory") {
  std::string other = "xor.b32 %w5, %w1, 32; mul.wide.u32 %d8, %w5, 4; add.u64 %d8, %d8, %d20; ";
  CHECK(check_of(other + "st.global.b32 [%d2], %w1; ld.global.b32 %w4, [%d8];") == "race");
  CHECK(check_of(other + "st.global.b32 [%d2], %w1; bar.sync 0; ld.global.b32 %w4, [%d8];") == "");
}

// ---- cp.async ------------------------------------------------------------------------------------

TEST_CASE("cp.async copies under every policy: sizes, zero fill, groups") {
  for (AsyncPolicy async : kPolicies) {
    for (Checks checks : {Checks::on, Checks::off}) {
      for (u64 seed = 0; seed < 5; ++seed) {
        Bench bench;
        bench.options.async = async;
        bench.options.checks = checks;
        bench.options.seed = seed;
        // Three groups: 16 bytes; 8 of 16 bytes; ignored. Waits for two, then for the rest.
        bench.kernel(std::string(kPreamble) + R"(
          setp.lt.u32 %p1, %w1, 10; mov.b32 %w9, 8;
          cp.async.cg.shared.global [%d6], [%d7], 16; cp.async.commit_group;
          cp.async.ca.shared.global [%d6+2048], [%d7], 16, %w9; cp.async.commit_group;
          cp.async.ca.shared.global [%d6+4096], [%d7], 8, %p1; cp.async.ca.shared.global [%d6+4104], [%d7+8], 4; cp.async.ca.shared.global [%d6+4108], [%d7+12], 4, 0; cp.async.commit_group;
          cp.async.wait_group 1;
          ld.shared.v4.b32 {%w10, %w11, %w12, %w13}, [%d6]; ld.shared.v4.b32 {%w14, %w15, %w16, %w17}, [%d6+2048];
          cp.async.wait_group 0;
          ld.shared.v4.b32 {%w18, %w19, %w20, %w21}, [%d6+4096];
          mul.wide.u32 %d8, %w1, 48; add.u64 %d8, %d8, %d21;
          st.global.v4.b32 [%d8], {%w10, %w11, %w12, %w13}; st.global.v4.b32 [%d8+16], {%w14, %w15, %w16, %w17}; st.global.v4.b32 [%d8+32], {%w18, %w19, %w20, %w21};)",
                     2, ".shared .align 16 .b8 s[8192];");
        std::vector<u32> words(64 * 4);
        for (u32 i = 0; i < words.size(); ++i) words[i] = 1000 + i;
        Address in = bench.upload(words), out = bench.memory.allocate(64 * 48);
        LaunchReport report = bench.run(1, 64, {in, out});
        INFO(messages(report));
        REQUIRE(report.findings.empty());
        auto got = bench.download<u32>(out, 64 * 12);
        for (u32 t = 0; t < 64; ++t) {
          u32 x = 1000 + 4 * t;
          std::vector<u32> expected = {
              x, x + 1, x + 2, x + 3, x, x + 1, 0, 0, t < 10 ? 0 : x, t < 10 ? 0 : x + 1, x + 2, 0};
          REQUIRE(std::vector<u32>(got.begin() + 12 * t, got.begin() + 12 * t + 12) == expected);
        }
      }
    }
  }
}

TEST_CASE("late copies land late, early ones early: what a missing wait reads without checks") {
  auto read_without_wait = [](AsyncPolicy async) {
    Bench bench;
    bench.options.async = async;
    bench.options.checks = Checks::off;
    bench.kernel(std::string(kPreamble) +
                     "cp.async.ca.shared.global [%d4], [%d2], 4; ld.shared.b32 %w4, [%d4]; add.u64 "
                     "%d8, %d21, %d1; st.global.b32 [%d8], %w4;",
                 2, ".shared .align 16 .b8 s[8192];");
    Address in = bench.upload(std::vector<u32>(32, 5)), out = bench.memory.allocate(128);
    REQUIRE(bench.run(1, 32, {in, out}).findings.empty());
    return bench.download<u32>(out, 32);
  };
  CHECK(read_without_wait(AsyncPolicy::eager) == std::vector<u32>(32, 5));
  CHECK(read_without_wait(AsyncPolicy::late) == std::vector<u32>(32, 0xffffffff));  // poison
  auto random = read_without_wait(AsyncPolicy::random);
  for (u32 x : random) CHECK((x == 5 || x == 0xffffffff));
}

TEST_CASE("copies in flight, under every policy") {
  for (AsyncPolicy async : kPolicies) {
    auto on = [&](const std::string& body, unsigned threads = 64) {
      Report report =
          run_body(body, 1, threads, [&](Bench& bench) { bench.options.async = async; });
      UNSCOPED_INFO(report.message);
      return report.check;
    };
    std::string copy = "cp.async.cg.shared.global [%d6], [%d7], 16; ";
    CHECK(on(copy + "cp.async.wait_all; ld.shared.b32 %w4, [%d6];") == "");
    CHECK(on(copy + "ld.shared.b32 %w4, [%d6];") == "copy-in-flight");  // no wait at all
    CHECK(on(copy + "cp.async.wait_group 0; ld.shared.b32 %w4, [%d6];") ==
          "copy-in-flight");  // never committed
    CHECK(on(copy + "cp.async.commit_group; cp.async.wait_group 1; ld.shared.b32 %w4, [%d6];") ==
          "copy-in-flight");  // waits for one too few
    CHECK(on(copy + "cp.async.commit_group; cp.async.wait_group 0; ld.shared.b32 %w4, [%d6];") ==
          "");
    CHECK(on(copy + "st.shared.b32 [%d6], 1;") == "copy-in-flight");
    CHECK(on(copy + "cp.async.wait_all; st.shared.b32 [%d6], 1;") == "");
    CHECK(on(copy + copy + "cp.async.wait_all;") == "copy-in-flight");  // twice to one place
    CHECK(on(copy +
             "bar.sync 0; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%w4,%w5,%w6,%w7}, [%d6];") ==
          "copy-in-flight");
    // A wait covers the waiting thread's copies only; the others' need a barrier after their waits.
    std::string cross = "xor.b32 %w5, %w1, 32; mul.wide.u32 %d8, %w5, 16; add.u64 %d8, %d8, %d3; ";
    CHECK(on(cross + copy + "cp.async.wait_all; bar.sync 0; ld.shared.b32 %w4, [%d8];") == "");
    std::string missing = on(cross + copy + "cp.async.wait_all; ld.shared.b32 %w4, [%d8];");
    CHECK((missing == "race" || missing == "copy-in-flight"));
    CHECK(on(cross + copy + "bar.sync 0; cp.async.wait_all; ld.shared.b32 %w4, [%d8];") !=
          "");  // the wait comes after the barrier
    // Overwriting what other warps may still read.
    CHECK(on(cross + "st.shared.b32 [%d6], 1; bar.sync 0; ld.shared.b32 %w4, [%d8]; " + copy +
             "cp.async.wait_all;") == "race");
    CHECK(on(cross + "st.shared.b32 [%d6], 1; bar.sync 0; ld.shared.b32 %w4, [%d8]; bar.sync 0; " +
             copy + "cp.async.wait_all;") == "");
    // Undefined sources; copies that nobody waits for.
    CHECK(on("add.u64 %d8, %d21, %d5; cp.async.cg.shared.global [%d6], [%d8], 16; "
             "cp.async.wait_all; ld.shared.b32 %w4, [%d6]; st.global.b32 [%d2], %w4;") ==
          "uninitialized");
    CHECK(on(copy) == "");
  }
}

TEST_CASE("waits per thread: lanes with different groups") {
  for (AsyncPolicy async : kPolicies) {
    // Even lanes commit twice, so wait_group 1 finishes their first group only.
    std::string text = R"(
      and.b32 %w5, %w1, 1; setp.eq.u32 %p1, %w5, 0;
      cp.async.cg.shared.global [%d6], [%d7], 16; cp.async.commit_group;
      @%p1 cp.async.cg.shared.global [%d6+4096], [%d7], 16; @%p1 cp.async.commit_group;
      cp.async.wait_group 1; )";
    auto on = [&](const std::string& body) {
      return run_body(text + body, 1, 64, [&](Bench& bench) { bench.options.async = async; }).check;
    };
    CHECK(on("@%p1 ld.shared.b32 %w4, [%d6];") == "");
    CHECK(on("@!%p1 ld.shared.b32 %w4, [%d6];") == "copy-in-flight");
    CHECK(on("@%p1 ld.shared.b32 %w4, [%d6+4096];") == "copy-in-flight");
    CHECK(on("cp.async.wait_group 0; ld.shared.b32 %w4, [%d6]; @%p1 ld.shared.b32 %w4, "
             "[%d6+4096];") == "");
  }
}

TEST_CASE(
    "a double-buffered pipeline is clean under every schedule and policy; without its last barrier "
    "it is not") {
  auto run = [](bool with_barrier, SchedulePolicy schedule, AsyncPolicy async, u64 seed) {
    std::string text = std::string(kPreamble) + R"(
      mov.b32 %w9, 0; mov.b32 %w8, 0;
      cp.async.cg.shared.global [%d6], [%d7], 16; cp.async.commit_group;
      $loop:
      add.u32 %w10, %w9, 1; setp.lt.u32 %p1, %w10, 8; and.b32 %w11, %w10, 1;
      mul.wide.u32 %d8, %w11, 2048; add.u64 %d8, %d8, %d6; mul.wide.u32 %d9, %w10, 2048; add.u64 %d9, %d9, %d7;
      @%p1 cp.async.cg.shared.global [%d8], [%d9], 16;
      cp.async.commit_group; cp.async.wait_group 1; bar.sync 0;
      and.b32 %w11, %w9, 1; mul.wide.u32 %d8, %w11, 2048; sub.u32 %w12, 127, %w1; mul.wide.u32 %d10, %w12, 16; add.u64 %d8, %d8, %d10; add.u64 %d8, %d8, %d3;
      ld.shared.b32 %w13, [%d8]; add.u32 %w8, %w8, %w13;
      BARRIER
      mov.b32 %w9, %w10; setp.lt.u32 %p2, %w9, 8; @%p2 bra $loop;
      add.u64 %d8, %d21, %d1; st.global.b32 [%d8], %w8;)";
    text.replace(text.find("BARRIER"), 7, with_barrier ? "bar.sync 0;" : "");
    Bench bench;
    bench.options = {.schedule = schedule, .async = async, .seed = seed};
    bench.kernel(text, 2, ".shared .align 16 .b8 s[4096];");
    std::vector<u32> words(8 * 512);
    for (u32 i = 0; i < words.size(); ++i) words[i] = i * i;
    Address in = bench.upload(words), out = bench.memory.allocate(512);
    LaunchReport report = bench.run(1, 128, {in, out});
    if (!report.findings.empty()) return report.findings[0].check;
    auto got = bench.download<u32>(out, 128);
    for (u32 t = 0; t < 128; ++t) {
      u32 sum = 0;
      for (u32 i = 0; i < 8; ++i) sum += words[i * 512 + (127 - t) * 4];
      if (got[t] != sum) return std::string("wrong");
    }
    return std::string();
  };
  for (SchedulePolicy schedule :
       {SchedulePolicy::round_robin, SchedulePolicy::random, SchedulePolicy::reverse}) {
    for (AsyncPolicy async : kPolicies) {
      for (u64 seed = 0; seed < 4; ++seed) {
        CHECK(run(true, schedule, async, seed) == "");
        std::string broken = run(false, schedule, async, seed);
        CHECK((broken == "race" || broken == "copy-in-flight"));
      }
    }
  }
}

// ---- after a finding -------------------------------------------------------------------------------

TEST_CASE("a launch goes on after a finding, and each is told once") {
  Bench bench;
  bench.kernel(std::string(kPreamble) + R"(
    mov.b32 %w10, 7; add.u64 %d8, %d21, %d1; setp.lt.u32 %p1, %w1, 3;
    ld.global.b32 %w10, [%d20+16384];
    st.global.b32 [%d20+16384], 5;
    st.global.b32 [%d8], %w9;
    @%p9 mov.b32 %w11, 1;
    ld.global.b32 %w12, [%d9];
    atom.global.add.u32 %w13, [%d20+2], 1;
    cp.async.ca.shared.global [%d4], [%d20+16384], 4; cp.async.wait_all; ld.shared.b32 %w14, [%d4];
    st.shared.b32 [%d3], %w1;
    mov.b32 %w15, 0;
    $loop: ld.shared.b32 %w16, [%d3+-4]; add.u32 %w15, %w15, 1; setp.lt.u32 %p2, %w15, 10; @%p2 bra $loop;
    add.u32 %w17, %w10, %w12; add.u32 %w17, %w17, %w13; add.u32 %w17, %w17, %w14;
    @%p1 st.global.b32 [%d8+4096], %w17;)",
               2, ".shared .align 16 .b8 s[16384];");
  const Address in = bench.upload(std::vector<u32>(4096, 9)),
                out = bench.upload(std::vector<u32>(4096, 1));
  const LaunchReport report = bench.run(1, 32, {in, out});
  std::vector<std::string> checks;
  for (const runtime::Finding& f : report.findings) checks.push_back(f.check);
  INFO(messages(report));
  CHECK(checks == std::vector<std::string>{"out-of-bounds", "out-of-bounds", "uninitialized",
                                           "uninitialized", "uninitialized", "misaligned",
                                           "out-of-bounds", "race", "out-of-bounds"});
  CHECK_FALSE(report.truncated);
  for (std::size_t i = 1; i < report.findings.size(); ++i) {
    CHECK(report.findings[i].ptx_line > report.findings[i - 1].ptx_line);
  }
  REQUIRE(report.findings.size() == 9);
  CHECK(report.findings[0].count == 32);   // lanes
  CHECK(report.findings[8].count == 320);  // and turns of the loop
  // What was read out of bounds, misaligned or from nowhere is zero; what was written there is lost.
  const auto got = bench.download<u32>(out, 4096);
  for (u32 i = 0; i < 32; ++i) CHECK(got[1024 + i] == (i < 3 ? 0 : 1));
  CHECK(bench.download<u32>(in, 4096) == std::vector<u32>(4096, 9));
}

TEST_CASE("a launch stops where nobody can go on, and behind many findings") {
  const auto checks_of = [](const std::string& body, unsigned blocks = 1) {
    Bench bench;
    bench.options.threads = 1;
    bench.kernel(std::string(kPreamble) + body, 1, ".shared .align 16 .b8 s[16384];");
    const LaunchReport report = bench.run(blocks, 32, {bench.upload(std::vector<u32>(4096, 9))});
    std::vector<std::string> checks;
    for (const runtime::Finding& f : report.findings) checks.push_back(f.check);
    return std::pair{checks, report.truncated};
  };
  using Checked = std::pair<std::vector<std::string>, bool>;
  const std::string read = "ld.global.b32 %w4, [%d20+16384];\n";
  CHECK(checks_of(read + "trap;\n" + read) == Checked{{"out-of-bounds", "trap"}, false});
  CHECK(checks_of(read + "setp.lt.u32 %p1, %w1, 3; @%p1 bar.sync 0;\n" + read) ==
        Checked{{"out-of-bounds", "divergent-collective"}, false});
  std::string many;
  for (int i = 0; i < 17; ++i) many += read;
  const Checked truncated = checks_of(many);
  CHECK(truncated.first.size() == 16);
  CHECK(truncated.second);
  // Undefined data that decide how long a loop runs do not keep the launch for long.
  const Checked loop =
      checks_of("$loop: sub.u32 %w9, %w9, 1; setp.ne.u32 %p1, %w9, 0;\n@%p1 bra $loop;\n");
  CHECK(loop == Checked{{"uninitialized"}, true});
  // Of several CTAs each finding is told once, from the first that has it.
  CHECK(checks_of("setp.gt.u32 %p1, %w2, 1; @%p1 ld.global.b32 %w4, [%d20+16384];\n" + read, 5) ==
        Checked{{"out-of-bounds", "out-of-bounds"}, false});
}

TEST_CASE("several findings are the same for any number of host threads") {
  const auto run = [](int threads) {
    Bench bench;
    bench.options.threads = threads;
    bench.kernel(std::string(kPreamble) + R"(
      setp.gt.u32 %p1, %w2, 4; setp.eq.u32 %p2, %w2, 9; setp.eq.u32 %p3, %w2, 11;
      @%p1 ld.global.b32 %w4, [%d20+16384];
      @%p2 ld.global.b32 %w4, [%d20+16388];
      @%p3 ld.global.b32 %w4, [%d20+16392];
      @%p2 trap;
      @%p3 trap;)",
                 1, ".shared .align 16 .b8 s[16384];");
    return messages(bench.run(20, 32, {bench.upload(std::vector<u32>(4096, 9))}));
  };
  const std::string expected = run(1);
  CHECK_THAT(expected, Catch::Contains("trap") && !Catch::Contains("16392"));
  for (int i = 0; i < 20; ++i) CHECK(run(2) == expected);
}

}  // namespace sagegen::emulator::test
