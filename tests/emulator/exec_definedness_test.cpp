// Undefined data: where they are a finding, and which operands decide whether a result is defined.

#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "tests/emulator/checks_body.h"

namespace sagegen::emulator::test {

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

TEST_CASE("an undefined half of a pack leaves the other halves as they are") {
  CHECK(check_of("mov.b16 %h1, 5; mov.b32 %w4, {%h9, %h1}; shr.u32 %w5, %w4, 16; "
                 "setp.ne.u32 %p1, %w5, 5; @%p1 trap; st.global.b32 [%d2], %w5;") == "");
  CHECK(check_of("mov.b16 %h1, 5; mov.b64 %d9, {%h9, %h1, %h9, %h1}; shr.u64 %d9, %d9, 48; "
                 "cvt.u32.u64 %w5, %d9; setp.ne.u32 %p1, %w5, 5; @%p1 trap; "
                 "st.global.b32 [%d2], %w5;") == "");
  CHECK(check_of("mov.b16 %h1, 5; mov.b32 %w4, {%h9, %h1}; st.global.b32 [%d2], %w4;") ==
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

}  // namespace sagegen::emulator::test
