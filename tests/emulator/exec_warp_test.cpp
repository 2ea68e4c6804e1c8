// Exchanges between lanes and matrix instructions, against the index formulas of the PTX ISA.

#include <fmt/format.h>

#include <catch2/catch.hpp>

#include <algorithm>

#include "tests/emulator/exec_fixture.h"

namespace sagegen::emulator::test {
namespace {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using s32 = std::int32_t;

// One warp runs `body`, which leaves up to eight values per lane in %w10 to %w17. %w1 is the lane, %w2
// a value of its own.
std::vector<std::vector<u32>> run_warp_body(const std::string& body, int values,
                                            const std::vector<u32>& own,
                                            const std::string& shared = "",
                                            Profile profile = Profile::sm_89,
                                            HostLanes lanes = host_lanes()) {
  Bench bench(profile);
  bench.use_lanes(lanes);
  std::string text = R"(
    mov.u32 %w1, %tid.x; mul.wide.u32 %d1, %w1, 4; add.u64 %d2, %d20, %d1; ld.global.b32 %w2, [%d2];
    mul.wide.u32 %d3, %w1, 32; add.u64 %d3, %d3, %d21;
)" + body;
  for (int i = 0; i < values; ++i)
    text += fmt::format("\nst.global.b32 [%d3+{}], %w{};", 4 * i, 10 + i);
  bench.kernel(text, 2, shared);
  Address in = bench.upload(own), out = bench.memory.allocate(32 * 32);
  LaunchReport report = bench.run(1, 32, {in, out});
  INFO(messages(report));
  REQUIRE(report.findings.empty());
  std::vector<std::vector<u32>> result(32);
  for (int lane = 0; lane < 32; ++lane) {
    std::vector<u32> row(values);
    bench.memory.read(row.data(), out + 32 * lane, 4 * values);
    result[lane] = row;
  }
  return result;
}

std::vector<u32> random_words(int n, u32 seed) {
  std::mt19937 random(seed);
  std::vector<u32> words(n);
  for (u32& w : words) w = static_cast<u32>(random());
  return words;
}

}  // namespace

TEST_CASE("shfl, every mode, clamp and segment") {
  auto own = random_words(32, 1);
  for (const char* mode : {"up", "down", "bfly", "idx"}) {
    for (u32 segment : {0u, 16u, 24u, 28u, 30u, 31u, 5u}) {
      for (u32 clamp : {31u, 0u, 15u, 7u}) {
        for (int variant = 0; variant < 4; ++variant) {
          // Distances: a constant, or one per lane.
          std::string b = variant == 0 ? "1" : variant == 1 ? "16" : variant == 2 ? "35" : "%w3";
          u32 c = segment << 8 | clamp;
          std::string body = fmt::format(
              "mad.lo.u32 %w3, %w1, 7, 3; shfl.sync.{}.b32 %w10|%p1, %w2, {}, {}, -1; selp.b32 "
              "%w11, 1, 0, %p1;",
              mode, b, c);
          for (HostLanes lanes : usable_lanes()) {
            auto got = run_warp_body(body, 2, own, "", Profile::sm_89, lanes);
            for (int lane = 0; lane < 32; ++lane) {
              u32 distance = (variant == 0   ? 1u
                              : variant == 1 ? 16u
                              : variant == 2 ? 35u
                                             : static_cast<u32>(lane) * 7 + 3) &
                             31;
              int min_lane = lane & static_cast<int>(segment);
              int max_lane = min_lane | static_cast<int>(clamp & ~segment);
              std::string m = mode;
              int j = m == "up"     ? lane - static_cast<int>(distance)
                      : m == "down" ? lane + static_cast<int>(distance)
                      : m == "bfly" ? lane ^ static_cast<int>(distance)
                                    : min_lane | static_cast<int>(distance & ~segment);
              bool valid = m == "up" ? j >= max_lane : j <= max_lane;
              INFO(body << " lane " << lane);
              REQUIRE(got[lane][1] == (valid ? 1 : 0));
              REQUIRE(got[lane][0] == own[valid ? j : lane]);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("shfl in place, and inside a part of the warp") {
  auto own = random_words(32, 2);
  auto got =
      run_warp_body("shfl.sync.bfly.b32 %w2, %w2, 5, 31, 0xffffffff; mov.b32 %w10, %w2;", 1, own);
  for (int lane = 0; lane < 32; ++lane) CHECK(got[lane][0] == own[lane ^ 5]);
  got = run_warp_body(R"(
    mov.b32 %w10, 0; setp.lt.u32 %p1, %w1, 16; @!%p1 bra $high;
    shfl.sync.bfly.b32 %w10, %w2, 8, 31, 0x0000ffff; bra $end;
    $high: shfl.sync.idx.b32 %w10, %w2, 20, 31, 0xffff0000;
    $end:)",
                      1, own);
  for (int lane = 0; lane < 32; ++lane)
    CHECK(got[lane][0] == (lane < 16 ? own[lane ^ 8] : own[20]));
  // Two groups of members in one instruction.
  got = run_warp_body(
      "setp.lt.u32 %p1, %w1, 16; selp.b32 %w3, 0xffff, 0xffff0000, %p1; shfl.sync.bfly.b32 %w10, "
      "%w2, 3, 31, %w3;",
      1, own);
  for (int lane = 0; lane < 32; ++lane) CHECK(got[lane][0] == own[lane ^ 3]);
}

TEST_CASE("vote, match, redux, elect, activemask") {
  std::vector<u32> own = random_words(32, 3);
  for (int i = 0; i < 32; ++i) own[i] = own[i] % 5 == 0 ? 77 : own[i] % 3;
  u32 odd = 0;
  for (int i = 0; i < 32; ++i) odd |= (own[i] & 1) << i;
  auto got = run_warp_body(R"(
    and.b32 %w3, %w2, 1; setp.ne.u32 %p1, %w3, 0;
    vote.sync.ballot.b32 %w10, %p1, -1;
    vote.sync.all.pred %p2, %p1, -1; vote.sync.any.pred %p3, !%p1, -1; setp.ne.u32 %p5, 0, 0; vote.sync.uni.pred %p4, %p5, -1;
    selp.b32 %w11, 1, 0, %p2; selp.b32 %w12, 1, 0, %p3; selp.b32 %w13, 1, 0, %p4;
    match.any.sync.b32 %w14, %w2, -1;
    match.all.sync.b32 %w15|%p6, %w2, -1; match.all.sync.b32 %w16|%p7, 9, -1;
    selp.b32 %w17, 1, 0, %p7; @%p6 add.u32 %w17, %w17, 10;)",
                           8, own);
  for (int lane = 0; lane < 32; ++lane) {
    u32 same = 0;
    for (int i = 0; i < 32; ++i) same |= static_cast<u32>(own[i] == own[lane]) << i;
    CHECK(got[lane] == std::vector<u32>{odd, 0, 1, 1, same, 0, 0xffffffff, 1});
  }
  own = random_words(32, 4);
  got = run_warp_body(R"(
    redux.sync.add.u32 %w10, %w2, -1; redux.sync.min.s32 %w11, %w2, -1; redux.sync.max.u32 %w12, %w2, -1;
    redux.sync.and.b32 %w13, %w2, -1; redux.sync.or.b32 %w14, %w2, -1; redux.sync.xor.b32 %w15, %w2, -1;
    elect.sync _|%p1, -1; selp.b32 %w16, 1, 0, %p1;
    mov.b32 %w17, 0; setp.gt.u32 %p2, %w1, 20; @%p2 activemask.b32 %w17;)",
                      8, own);
  u32 sum = 0, biggest = 0, all = ~0u, any = 0, parity = 0;
  s32 least = 0x7fffffff;
  for (u32 x : own) {
    sum += x, biggest = std::max(biggest, x), all &= x, any |= x, parity ^= x;
    least = std::min(least, static_cast<s32>(x));
  }
  for (u32 lane = 0; lane < 32; ++lane) {
    CHECK(got[lane] == std::vector<u32>{sum, static_cast<u32>(least), biggest, all, any, parity,
                                        lane == 0 ? 1u : 0u, lane > 20 ? 0xffe00000 : 0});
  }
}

TEST_CASE("ldmatrix: rows by address lanes, fragments by lane, transposed or not") {
  // Four matrices of 8 x 8 halves in shared memory; element (m, r, c) = 100 m + 10 r + c, rows spread out
  // by a stride of 48 bytes so that no row follows from another.
  for (int matrices : {1, 2, 4}) {
    for (bool transposed : {false, true}) {
      std::string list;
      for (int i = 0; i < matrices; ++i) list += fmt::format("{}%w{}", i > 0 ? ", " : "", 10 + i);
      std::string body = fmt::format(R"(
        mov.b64 %d4, s; mul.wide.u32 %d5, %w1, 48; add.u64 %d5, %d5, %d4;    // row l of all 32
        shr.u32 %w3, %w1, 3; and.b32 %w4, %w1, 7; mul.lo.u32 %w5, %w3, 100; mad.lo.u32 %w5, %w4, 10, %w5;
        mov.b32 %w6, 0; mov.b64 %d6, %d5;
        $fill: add.u32 %w7, %w5, %w6; cvt.u16.u32 %h1, %w7; st.shared.b16 [%d6], %h1; add.u64 %d6, %d6, 2;
        add.u32 %w6, %w6, 1; setp.lt.u32 %p1, %w6, 8; @%p1 bra $fill;
        bar.warp.sync -1;
        ldmatrix.sync.aligned.m8n8.x{}{}.shared.b16 {{{}}}, [%d5];)",
                                     matrices, transposed ? ".trans" : "", list);
      auto got =
          run_warp_body(body, matrices, random_words(32, 5), ".shared .align 16 .b8 s[1536];");
      for (int lane = 0; lane < 32; ++lane) {
        int g = lane >> 2, t = lane & 3;
        for (int m = 0; m < matrices; ++m) {
          auto element = [&](int row, int column) {
            return static_cast<u32>(100 * m + 10 * row + column);
          };
          u32 low = transposed ? element(2 * t, g) : element(g, 2 * t);
          u32 high = transposed ? element(2 * t + 1, g) : element(g, 2 * t + 1);
          REQUIRE(got[lane][m] == (low | high << 16));
        }
      }
    }
  }
}

TEST_CASE("stmatrix undoes ldmatrix, movmatrix transposes") {
  auto own = random_words(32, 6);
  for (bool transposed : {false, true}) {
    std::string trans = transposed ? ".trans" : "";
    auto got = run_warp_body(fmt::format(R"(
      mov.b64 %d4, s; mul.wide.u32 %d5, %w1, 16; add.u64 %d5, %d5, %d4;
      xor.b32 %w3, %w2, 0x12345678; not.b32 %w4, %w2; add.u32 %w5, %w2, 17;
      stmatrix.sync.aligned.m8n8.x4{0}.shared.b16 [%d5], {{%w2, %w3, %w4, %w5}};
      bar.warp.sync -1;
      ldmatrix.sync.aligned.m8n8.x4{0}.shared.b16 {{%w10, %w11, %w12, %w13}}, [%d5];)",
                                         trans),
                             4, own, ".shared .align 16 .b8 s[512];");
    for (int lane = 0; lane < 32; ++lane) {
      u32 x = own[lane];
      CHECK(got[lane] == std::vector<u32>{x, x ^ 0x12345678, ~x, x + 17});
    }
  }
  auto got = run_warp_body("movmatrix.sync.aligned.m8n8.trans.b16 %w10, %w2;", 1, own);
  auto element = [&](int row, int column) {
    return own[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
  };
  for (int lane = 0; lane < 32; ++lane) {
    int g = lane >> 2, t = lane & 3;
    CHECK(got[lane][0] == (element(2 * t, g) | element(2 * t + 1, g) << 16));
  }
}

TEST_CASE("ldmatrix of tagged tiles, then mma, is a matrix product") {
  // A is 16 x 32 bytes, B is 8 columns of 32 bytes (column-major, so ldmatrix without .trans).
  std::mt19937 random(8);
  std::vector<std::int8_t> a(16 * 32), b(8 * 32);
  for (auto& x : a) x = static_cast<std::int8_t>(random());
  for (auto& x : b) x = static_cast<std::int8_t>(random());
  Bench bench;
  bench.kernel(R"(
    mov.u32 %w1, %tid.x; mov.b64 %d1, s;
    mul.wide.u32 %d2, %w1, 16; add.u64 %d3, %d2, %d20; add.u64 %d4, %d2, %d1;
    ld.global.v4.b32 {%w2, %w3, %w4, %w5}, [%d3]; st.shared.v4.b32 [%d4], {%w2, %w3, %w4, %w5};
    and.b32 %w6, %w1, 15; mul.wide.u32 %d2, %w6, 16; add.u64 %d3, %d2, %d21; add.u64 %d4, %d2, %d1;
    ld.global.v4.b32 {%w2, %w3, %w4, %w5}, [%d3];
    setp.lt.u32 %p1, %w1, 16; @%p1 st.shared.v4.b32 [%d4+512], {%w2, %w3, %w4, %w5};
    bar.warp.sync -1;
    // Matrices of A: rows 0-7 and 8-15 of bytes 0-15, then of bytes 16-31.
    and.b32 %w6, %w1, 15; shr.u32 %w7, %w1, 4; mul.lo.u32 %w8, %w6, 32; mad.lo.u32 %w8, %w7, 16, %w8; cvt.u64.u32 %d5, %w8; add.u64 %d5, %d5, %d1;
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%w20, %w21, %w22, %w23}, [%d5];
    and.b32 %w6, %w1, 7; shr.u32 %w7, %w1, 3; and.b32 %w7, %w7, 1; mul.lo.u32 %w8, %w6, 32; mad.lo.u32 %w8, %w7, 16, %w8; cvt.u64.u32 %d5, %w8; add.u64 %d5, %d5, %d1;
    ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%w24, %w25}, [%d5+512];
    mul.lo.u32 %w10, %w1, 1000;
    mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%w10, %w11, %w12, %w13}, {%w20, %w21, %w22, %w23}, {%w24, %w25}, {%w10, 1, 2, 3};
    mul.wide.u32 %d2, %w1, 16; add.u64 %d3, %d2, %d22; st.global.v4.b32 [%d3], {%w10, %w11, %w12, %w13};)",
               3, ".shared .align 16 .b8 s[768];");
  Address in_a = bench.upload(a), in_b = bench.upload(b), out = bench.memory.allocate(512);
  LaunchReport report = bench.run(1, 32, {in_a, in_b, out});
  INFO(messages(report));
  REQUIRE(report.findings.empty());
  auto d = bench.download<s32>(out, 128);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      int row = (lane >> 2) + (i >= 2 ? 8 : 0), column = 2 * (lane & 3) + i % 2;
      s32 sum = i == 0 ? lane * 1000 : i;
      for (int k = 0; k < 32; ++k) sum += s32{a[row * 32 + k]} * b[column * 32 + k];
      REQUIRE(d[lane * 4 + i] == sum);
    }
  }
}

TEST_CASE("mma passes fragments to the numerics unchanged, every shape") {
  struct Case {
    const char* text;
    int d, a, b;
    MmaShape shape;
  };
  for (const Case& c :
       {Case{"m16n8k16.row.col.f32.f16.f16.f32", 4, 4, 2, {MmaType::f16, MmaType::f16, 16}},
        Case{"m16n8k8.row.col.f32.f16.f16.f32", 4, 2, 1, {MmaType::f16, MmaType::f16, 8}},
        Case{"m16n8k16.row.col.f16.f16.f16.f16", 2, 4, 2, {MmaType::f16, MmaType::f16, 16, true}},
        Case{"m16n8k16.row.col.f32.bf16.bf16.f32", 4, 4, 2, {MmaType::bf16, MmaType::bf16, 16}},
        Case{"m16n8k32.row.col.f32.e4m3.e5m2.f32", 4, 4, 2, {MmaType::e4m3, MmaType::e5m2, 32}},
        Case{"m16n8k32.row.col.f16.e4m3.e4m3.f16",
             2,
             4,
             2,
             {MmaType::e4m3, MmaType::e4m3, 32, true}},
        Case{"m16n8k16.row.col.s32.s8.u8.s32", 4, 2, 1, {MmaType::s8, MmaType::u8, 16}},
        Case{"m16n8k32.row.col.satfinite.s32.u8.s8.s32",
             4,
             4,
             2,
             {MmaType::u8, MmaType::s8, 32, false, true}},
        Case{"m16n8k64.row.col.s32.s4.s4.s32", 4, 4, 2, {MmaType::s4, MmaType::s4, 64}},
        Case{"m16n8k32.row.col.s32.u4.s4.s32", 4, 2, 1, {MmaType::u4, MmaType::s4, 32}},
        Case{"m16n8k8.row.col.f32.tf32.tf32.f32", 4, 4, 2, {MmaType::tf32, MmaType::tf32, 8}},
        Case{"m16n8k4.row.col.f32.tf32.tf32.f32", 4, 2, 1, {MmaType::tf32, MmaType::tf32, 4}},
        Case{"m16n8k256.row.col.s32.b1.b1.s32.and.popc",
             4,
             4,
             2,
             {.a = MmaType::b1, .b = MmaType::b1, .k = 256, .conjunction = true}},
        Case{"m16n8k128.row.col.s32.b1.b1.s32.xor.popc",
             4,
             2,
             1,
             {.a = MmaType::b1, .b = MmaType::b1, .k = 128}},
        Case{"m8n8k128.row.col.s32.b1.b1.s32.xor.popc",
             2,
             1,
             1,
             {.a = MmaType::b1, .b = MmaType::b1, .k = 128, .m = 8}},
        Case{"m8n8k16.row.col.s32.s8.u8.s32",
             2,
             1,
             1,
             {.a = MmaType::s8, .b = MmaType::u8, .k = 16, .m = 8}},
        Case{"m8n8k32.row.col.satfinite.s32.s4.s4.s32",
             2,
             1,
             1,
             {.a = MmaType::s4, .b = MmaType::s4, .k = 32, .saturate = true, .m = 8}}}) {
    INFO(c.text);
    MmaRegisters r = {};
    auto words = random_words(32 * 10, 9);
    // Registers 20.. are A, 24.. B, 26.. C; values of one lane follow from its own word by known steps.
    std::string body, a, b, d, e;
    auto value = [&](int lane, int i) {
      return words[lane] * (2 * i + 3) ^ static_cast<u32>(i) * 0x01010101;
    };
    for (int i = 0; i < 10; ++i)
      body += fmt::format("mul.lo.u32 %w{0}, %w2, {1}; xor.b32 %w{0}, %w{0}, {2};\n", 20 + i,
                          2 * i + 3, i * 0x01010101);
    for (int i = 0; i < c.a; ++i) a += fmt::format("{}%w{}", i > 0 ? ", " : "", 20 + i);
    for (int i = 0; i < c.b; ++i) b += fmt::format("{}%w{}", i > 0 ? ", " : "", 24 + i);
    for (int i = 0; i < c.d; ++i) e += fmt::format("{}%w{}", i > 0 ? ", " : "", 26 + i);
    for (int i = 0; i < c.d; ++i) d += fmt::format("{}%w{}", i > 0 ? ", " : "", 10 + i);
    body += fmt::format("mma.sync.aligned.{} {{{}}}, {{{}}}, {{{}}}, {{{}}};", c.text, d, a, b, e);
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) r.a[i][lane] = value(lane, i);
      for (int i = 0; i < 2; ++i) r.b[i][lane] = value(lane, 4 + i);
      for (int i = 0; i < 4; ++i) r.c[i][lane] = value(lane, 6 + i);
    }
    auto got = run_warp_body(body, c.d, std::vector<u32>(words.begin(), words.begin() + 32));
    mma_function(Profile::sm_89, c.shape)(r);
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < c.d; ++i) REQUIRE(got[lane][i] == r.d[i][lane]);
    }
  }
}

}  // namespace sagegen::emulator::test
