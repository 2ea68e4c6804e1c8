// Every verb prints the instruction that its comment promises, with its modifiers, and nothing else.
#include <catch2/catch.hpp>

#include "tests/golden/golden.h"

namespace sagegen::golden {
namespace {

using namespace dsl;
using Lines = std::vector<std::string>;

constexpr Target kAmpere{.sm = 80};
constexpr Target kAda{.sm = 89};
constexpr Target kBlackwell{.sm = 120};

struct Case {
  const char* verb;
  Build build;
  Lines expected;
  Target target = kAmpere;
};

void check(const std::vector<Case>& cases) {
  for (const Case& test : cases) {
    DYNAMIC_SECTION(test.verb) {
      const std::string ptx = ptx_of(test.target, test.build);
      INFO(ptx);
      CHECK(verb_instructions(ptx) == test.expected);
    }
  }
}

TEST_CASE("f32 arithmetic rounds to nearest and is never fused") {
  check({
      {"add", [](Kernel& t) { t.keep(t.x + t.y); }, {"add.rn.f32 %, %, %;"}},
      {"sub", [](Kernel& t) { t.keep(t.x - t.y); }, {"sub.rn.f32 %, %, %;"}},
      {"mul", [](Kernel& t) { t.keep(t.x * t.y); }, {"mul.rn.f32 %, %, %;"}},
      {"div", [](Kernel& t) { t.keep(t.x / t.y); }, {"div.rn.f32 %, %, %;"}},
      {"constant right", [](Kernel& t) { t.keep(t.x * 3.0f); }, {"mul.rn.f32 %, %, 0f40400000;"}},
      {"constant left", [](Kernel& t) { t.keep(1.0f / t.x); }, {"rcp.rn.f32 %, %;"}},
      {"neg", [](Kernel& t) { t.keep(-t.x); }, {"neg.f32 %, %;"}},
      {"abs", [](Kernel& t) { t.keep(t.k.abs(t.x)); }, {"abs.f32 %, %;"}},
      {"min", [](Kernel& t) { t.keep(t.k.min(t.x, t.y)); }, {"min.f32 %, %, %;"}},
      {"max", [](Kernel& t) { t.keep(t.k.max(t.x, t.y)); }, {"max.f32 %, %, %;"}},
      {"fma", [](Kernel& t) { t.keep(t.k.fma(t.x, t.y, t.z)); }, {"fma.rn.f32 %, %, %, %;"}},
      {"fma_ftz",
       [](Kernel& t) { t.keep(t.k.fma_ftz(t.x, t.y, t.z)); },
       {"fma.rn.ftz.f32 %, %, %, %;"}},
      {"fma_up", [](Kernel& t) { t.keep(t.k.fma_up(t.x, t.y, t.z)); }, {"fma.rp.f32 %, %, %, %;"}},
      {"fma_down",
       [](Kernel& t) { t.keep(t.k.fma_down(t.x, t.y, t.z)); },
       {"fma.rm.f32 %, %, %, %;"}},
      {"mul then add stay two",
       [](Kernel& t) { t.keep(t.x * t.y + t.z); },
       {"mul.rn.f32 %, %, %;", "add.rn.f32 %, %, %;"}},
      {"mul then sub stay two",
       [](Kernel& t) { t.keep(t.z - t.x * t.y); },
       {"mul.rn.f32 %, %, %;", "sub.rn.f32 %, %, %;"}},
  });
}

TEST_CASE("approximate functions of the special function unit") {
  check({
      {"exp2", [](Kernel& t) { t.keep(t.k.exp2(t.x)); }, {"ex2.approx.ftz.f32 %, %;"}},
      {"log2", [](Kernel& t) { t.keep(t.k.log2(t.x)); }, {"lg2.approx.ftz.f32 %, %;"}},
      {"sqrt is not approximate", [](Kernel& t) { t.keep(t.k.sqrt(t.x)); }, {"sqrt.rn.f32 %, %;"}},
      {"rsqrt", [](Kernel& t) { t.keep(t.k.rsqrt(t.x)); }, {"rsqrt.approx.ftz.f32 %, %;"}},
      {"tanh", [](Kernel& t) { t.keep(t.k.tanh(t.x)); }, {"tanh.approx.f32 %, %;"}},
      {"reciprocal", [](Kernel& t) { t.keep(t.k.reciprocal(t.x)); }, {"rcp.approx.ftz.f32 %, %;"}},
  });
}

TEST_CASE("conversions") {
  check({
      {"to_f32", [](Kernel& t) { t.keep(t.k.to_f32(t.a)); }, {"cvt.rn.f32.s32 %, %;"}},
      {"round_to_s32", [](Kernel& t) { t.keep(t.k.round_to_s32(t.x)); }, {"cvt.rni.s32.f32 %, %;"}},
      {"to_f32 of I64", [](Kernel& t) { t.keep(t.k.to_f32(t.wide)); }, {"cvt.rn.f32.s64 %, %;"}},
      {"truncate_to_s32",
       [](Kernel& t) { t.keep(t.k.truncate_to_s32(t.x)); },
       {"cvt.rzi.s32.f32 %, %;"}},
      {"round_to_s64",
       [](Kernel& t) { t.k.store(t.out, t.k.round_to_s64(t.x)); },
       {"cvt.rni.s64.f32 %, %;", "st.global.b64 [%], %;"}},
      {"to_i64",
       [](Kernel& t) { t.k.store(t.out, t.k.to_i64(t.a)); },
       {"cvt.s64.s32 %, %;", "st.global.b64 [%], %;"}},
      {"to_i64_unsigned",
       [](Kernel& t) { t.k.store(t.out, t.k.to_i64_unsigned(t.a)); },
       {"cvt.u64.u32 %, %;", "st.global.b64 [%], %;"}},
      {"to_i32", [](Kernel& t) { t.keep(t.k.to_i32(t.wide * t.wide)); }, {"mul.lo.s64 %, %, %;"}},
      {"as_bits is free", [](Kernel& t) { t.keep(t.k.as_bits(t.x)); }, {}},
      {"as_f32 is free", [](Kernel& t) { t.keep(t.k.as_f32(t.a)); }, {}},
      {"pack2 f16, low half last",
       [](Kernel& t) { t.keep(t.k.pack2(DType::f16, t.x, t.y)); },
       {"cvt.rn.f16x2.f32 %, %, %;"}},
      {"pack2 bf16",
       [](Kernel& t) { t.keep(t.k.pack2(DType::bf16, t.x, t.y)); },
       {"cvt.rn.bf16x2.f32 %, %, %;"}},
      {"unpack2 f16",
       [](Kernel& t) {
         const auto pair = t.k.unpack2(DType::f16, t.a);
         t.keep(pair[0]);
         t.keep(pair[1]);
       },
       {"mov.b32 {%, %}, %;", "cvt.f32.f16 %, %;", "cvt.f32.f16 %, %;"}},
      {"unpack2 bf16",
       [](Kernel& t) {
         const auto pair = t.k.unpack2(DType::bf16, t.a);
         t.keep(pair[0]);
         t.keep(pair[1]);
       },
       {"shl.b32 %, %, 16;", "and.b32 %, %, -65536;"}},
      {"multiply2",
       [](Kernel& t) { t.keep(t.k.multiply2(DType::f16, t.a, t.b)); },
       {"mul.rn.f16x2 %, %, %;"}},
      {"subtract2",
       [](Kernel& t) { t.keep(t.k.subtract2(DType::f16, t.a, t.b)); },
       {"sub.rn.f16x2 %, %, %;"}},
      {"pack4 e4m3",
       [](Kernel& t) { t.keep(t.k.pack4(DType::e4m3, t.x, t.y, t.z, t.w) ^ t.a); },
       {"cvt.rn.satfinite.e4m3x2.f32 %, %, %;", "cvt.rn.satfinite.e4m3x2.f32 %, %, %;",
        "mov.b32 %, {%, %};", "xor.b32 %, %, %;"},
       kAda},
      {"pack4 s8",
       [](Kernel& t) { t.keep(t.k.pack4(DType::s8, t.x, t.y, t.z, t.w)); },
       {"add.rn.f32 %, %, 0f4B400000;", "add.rn.f32 %, %, 0f4B400000;",
        "prmt.b32 %, %, %, 0x4040U;", "add.rn.f32 %, %, 0f4B400000;",
        "add.rn.f32 %, %, 0f4B400000;", "prmt.b32 %, %, %, 0x4040U;",
        "prmt.b32 %, %, %, 0x5410U;"}},
      {"permute_bytes",
       [](Kernel& t) {
         t.keep(t.k.permute_bytes(t.a, t.b, {7, 0, 3, 4}));
       },
       {"prmt.b32 %, %, %, 0x4307U;"}},
  });
}

TEST_CASE("integers") {
  check({
      {"add", [](Kernel& t) { t.keep(t.a + t.b); }, {"add.s32 %, %, %;"}},
      {"sub", [](Kernel& t) { t.keep(t.a - t.b); }, {"sub.s32 %, %, %;"}},
      {"mul", [](Kernel& t) { t.keep(t.a * t.b); }, {"mul.lo.s32 %, %, %;"}},
      {"div is unsigned", [](Kernel& t) { t.keep(t.a / t.b); }, {"div.u32 %, %, %;"}},
      {"div by a power of two", [](Kernel& t) { t.keep(t.a / 8); }, {"shr.u32 %, %, 3;"}},
      {"rem by a power of two", [](Kernel& t) { t.keep(t.a % 8); }, {"and.b32 %, %, 7;"}},
      {"and", [](Kernel& t) { t.keep(t.a & t.b); }, {"and.b32 %, %, %;"}},
      {"or", [](Kernel& t) { t.keep(t.a | t.b); }, {"or.b32 %, %, %;"}},
      {"xor", [](Kernel& t) { t.keep(t.a ^ t.b); }, {"xor.b32 %, %, %;"}},
      {"shl", [](Kernel& t) { t.keep(t.a << 3); }, {"shl.b32 %, %, 3;"}},
      {"shr is unsigned", [](Kernel& t) { t.keep(t.a >> 3); }, {"shr.u32 %, %, 3;"}},
      {"min is signed", [](Kernel& t) { t.keep(t.k.min(t.a, t.b)); }, {"min.s32 %, %, %;"}},
      {"max is signed", [](Kernel& t) { t.keep(t.k.max(t.a, t.b)); }, {"max.s32 %, %, %;"}},
      {"neg", [](Kernel& t) { t.keep(-t.a); }, {"neg.s32 %, %;"}},
      {"not", [](Kernel& t) { t.keep(~t.a); }, {"not.b32 %, %;"}},
      {"abs", [](Kernel& t) { t.keep(t.k.abs(t.a)); }, {"abs.s32 %, %;"}},
      {"popcount", [](Kernel& t) { t.keep(t.k.popcount(t.a)); }, {"popc.b32 %, %;"}},
      {"shift_right_signed",
       [](Kernel& t) { t.keep(t.k.shift_right_signed(t.a, t.b)); },
       {"shr.s32 %, %, %;"}},
      {"divide_signed",
       [](Kernel& t) { t.keep(t.k.divide_signed(t.a, t.b)); },
       {"div.s32 %, %, %;"}},
      {"remainder_signed",
       [](Kernel& t) { t.keep(t.k.remainder_signed(t.a, t.b)); },
       {"rem.s32 %, %, %;"}},
      {"64 bits: sub",
       [](Kernel& t) { t.k.store(t.out, t.wide - t.k.to_i64(t.a)); },
       {"cvt.s64.s32 %, %;", "sub.s64 %, %, %;", "st.global.b64 [%], %;"}},
      {"64 bits: compare",
       [](Kernel& t) { t.keep(t.k.select(t.wide < 5, t.a, t.b)); },
       {"setp.lt.s64 %, %, 5;", "selp.b32 %, %, %, %;"}},
      {"select",
       [](Kernel& t) { t.keep(t.k.select(t.a < t.b, t.c, t.d)); },
       {"setp.lt.s32 %, %, %;", "selp.b32 %, %, %, %;"}},
      {"compare of floats",
       [](Kernel& t) { t.keep(t.k.select(t.x >= t.y, t.z, t.w)); },
       {"setp.ge.f32 %, %, %;", "selp.f32 %, %, %, %;"}},
      {"not equal holds for NaN",
       [](Kernel& t) { t.keep(t.k.select(t.x != t.y, t.z, t.w)); },
       {"setp.neu.f32 %, %, %;", "selp.f32 %, %, %, %;"}},
      {"both conditions",
       [](Kernel& t) { t.keep(t.k.select(t.a < t.b && t.c < t.d, t.x, t.y)); },
       {"setp.lt.s32 %, %, %;", "setp.lt.s32 %, %, %;", "selp.f32 %, %, %, %;",
        "selp.f32 %, %, %, %;"}},
  });
}

TEST_CASE("special registers") {
  check({
      {"thread_idx", [](Kernel& t) { t.keep(t.k.thread_idx()); }, {"mov.u32 %, %tid.x;"}},
      {"block_idx y", [](Kernel& t) { t.keep(t.k.block_idx(1)); }, {"mov.u32 %, %ctaid.y;"}},
      {"grid_dim x", [](Kernel& t) { t.keep(t.k.grid_dim(0)); }, {"mov.u32 %, %nctaid.x;"}},
      {"lane_idx",
       [](Kernel& t) { t.keep(t.k.lane_idx()); },
       {"mov.u32 %, %tid.x;", "and.b32 %, %, 31;"}},
      {"warp_idx",
       [](Kernel& t) { t.keep(t.k.warp_idx()); },
       {"mov.u32 %, %tid.x;", "shr.u32 %, %, 5;"}},
  });
}

TEST_CASE("memory") {
  check({
      {"load of f32", [](Kernel& t) { t.keep(t.k.load<F32>(t.in)); }, {"ld.global.b32 %, [%];"}},
      {"load at constant distances shares one address",
       [](Kernel& t) {
         const GlobalPtr row = t.in + t.wide;
         t.keep(t.k.load<I32>(row + 64));
         t.keep(t.k.load<I32>(row + 128));
         t.keep(t.k.load<I32>(t.in + 4096 + t.wide));
       },
       {"add.s64 %, %, %;", "ld.global.b32 %, [%+64];", "ld.global.b32 %, [%+128];",
        "ld.global.b32 %, [%+4096];"}},
      {"32-bit index into global memory",
       [](Kernel& t) {
         t.keep(t.k.load<I32>(t.in + t.a));
         t.keep(t.k.load<I32>(t.in + (t.a + 16)));
       },
       {"cvt.s64.s32 %, %;", "add.s64 %, %, %;", "ld.global.b32 %, [%];",
        "ld.global.b32 %, [%+16];"}},
      {"load_v4",
       [](Kernel& t) { t.keep(t.k.load_v4(t.in)); },
       {"ld.global.v4.b32 {%, %, %, %}, [%];"}},
      {"load_v2", [](Kernel& t) { t.keep(t.k.load_v2(t.in)); }, {"ld.global.v2.b32 {%, %}, [%];"}},
      {"load of I64",
       [](Kernel& t) { t.k.store(t.out, t.k.load<I64>(t.in)); },
       {"ld.global.b64 %, [%];", "st.global.b64 [%], %;"}},
      {"load_u8", [](Kernel& t) { t.keep(t.k.load_u8(t.in)); }, {"ld.global.b8 %, [%];"}},
      {"load_s8", [](Kernel& t) { t.keep(t.k.load_s8(t.in)); }, {"ld.global.s8 %, [%];"}},
      {"load_u16", [](Kernel& t) { t.keep(t.k.load_u16(t.in)); }, {"ld.global.b16 %, [%];"}},
      {"load_s16", [](Kernel& t) { t.keep(t.k.load_s16(t.in)); }, {"ld.global.s16 %, [%];"}},
      {"store_8", [](Kernel& t) { t.k.store_8(t.out, t.a); }, {"st.global.b8 [%], %;"}},
      {"store_16", [](Kernel& t) { t.k.store_16(t.out, t.a); }, {"st.global.b16 [%], %;"}},
      {"store_v2",
       [](Kernel& t) {
         t.k.store_v2(t.out, {t.a, t.b});
       },
       {"st.global.v2.b32 [%], {%, %};"}},
      {"store_v4",
       [](Kernel& t) { t.k.store_v4(t.out, t.ints()); },
       {"st.global.v4.b32 [%], {%, %, %, %};"}},
      {"shared addresses have 32 bits",
       [](Kernel& t) {
         const SharedPtr s = t.k.shared(1024, 128) + t.k.thread_idx() * 4;
         t.k.store(s, t.x);
         t.k.barrier();
         t.keep(t.k.load<F32>(s + 64));
       },
       {"mov.u32 %, %tid.x;", "shl.b32 %, %, 2;", "mov.b32 %, shared_memory;", "add.s32 %, %, %;",
        "st.shared.b32 [%], %;", "bar.sync 0;", "ld.shared.b32 %, [%+64];"}},
      {"is_null",
       [](Kernel& t) { t.keep(t.k.select(t.k.is_null(t.in), t.a, t.b)); },
       {"setp.eq.b64 %, %, 0;", "selp.b32 %, %, %, %;"}},
  });
}

TEST_CASE("asynchronous copies") {
  const auto at_thread = [](Kernel& t) { return t.k.shared(1024, 128) + t.a; };
  check({
      {"cp_async_16",
       [&](Kernel& t) {
         t.k.cp_async_16(at_thread(t) + 256, t.in + 32);
         t.k.cp_async_commit();
         t.k.cp_async_wait(1);
       },
       {"mov.b32 %, shared_memory;", "add.s32 %, %, %;",
        "cp.async.cg.shared.global [%+256], [%+32], 16;", "cp.async.commit_group;",
        "cp.async.wait_group 1;"}},
      {"cp_async_16_zfill",
       [&](Kernel& t) { t.k.cp_async_16_zfill(at_thread(t), t.in, t.b); },
       {"mov.b32 %, shared_memory;", "add.s32 %, %, %;",
        "cp.async.cg.shared.global [%], [%], 16, %;"}},
  });
}

TEST_CASE(
    "atomics are relaxed, for the device in global memory and for the block in shared memory") {
  check({
      {"add",
       [](Kernel& t) { t.keep(t.k.atomic_add(t.in, t.a)); },
       {"atom.global.add.u32 %, [%], %;"}},
      {"add of f32",
       [](Kernel& t) { t.keep(t.k.atomic_add(t.in, t.x)); },
       {"atom.global.add.f32 %, [%], %;"}},
      {"min",
       [](Kernel& t) { t.keep(t.k.atomic_min(t.in, t.a)); },
       {"atom.global.min.s32 %, [%], %;"}},
      {"max",
       [](Kernel& t) { t.keep(t.k.atomic_max(t.in, t.a)); },
       {"atom.global.max.s32 %, [%], %;"}},
      {"exchange",
       [](Kernel& t) { t.keep(t.k.atomic_exchange(t.in, t.a)); },
       {"atom.global.exch.b32 %, [%], %;"}},
      {"compare and exchange",
       [](Kernel& t) { t.keep(t.k.atomic_compare_exchange(t.in, t.a, t.b)); },
       {"atom.relaxed.gpu.global.cas.b32 %, [%], %, %;"}},
      {"add in shared memory",
       [](Kernel& t) { t.keep(t.k.atomic_add(t.k.shared(64, 16), t.a)); },
       {"atom.shared.add.u32 %, [shared_memory], %;"}},
      {"compare and exchange in shared memory",
       [](Kernel& t) { t.keep(t.k.atomic_compare_exchange(t.k.shared(64, 16), t.a, t.b)); },
       {"atom.relaxed.cta.shared.cas.b32 %, [shared_memory], %, %;"}},
      {"a fence is for the device", [](Kernel& t) { t.k.fence(); }, {"fence.acq_rel.gpu;"}},
      {"what nobody reads still happens",
       [](Kernel& t) { t.k.atomic_max(t.in, t.a); },
       {"atom.global.max.s32 %, [%], %;"}},
  });
}

TEST_CASE("what lanes do together") {
  const auto row = [](Kernel& t) { return t.k.shared(1024, 128) + t.a; };
  check({
      {"barrier", [](Kernel& t) { t.k.barrier(); }, {"bar.sync 0;"}},
      {"barrier of some warps", [](Kernel& t) { t.k.barrier(3, 64); }, {"bar.sync 3, 64;"}},
      {"barrier_arrive", [](Kernel& t) { t.k.barrier_arrive(15, 32); }, {"bar.arrive 15, 32;"}},
      {"warp_barrier", [](Kernel& t) { t.k.warp_barrier(); }, {"bar.warp.sync -1;"}},
      {"any",
       [](Kernel& t) { t.keep(t.k.select(t.k.any(t.a < t.b), t.c, t.d)); },
       {"setp.lt.s32 %, %, %;", "vote.sync.any.pred %, %, -1;", "selp.b32 %, %, %, %;"}},
      {"all",
       [](Kernel& t) { t.keep(t.k.select(t.k.all(t.a < t.b), t.c, t.d)); },
       {"setp.lt.s32 %, %, %;", "vote.sync.all.pred %, %, -1;", "selp.b32 %, %, %, %;"}},
      {"ballot",
       [](Kernel& t) { t.keep(t.k.ballot(t.a < t.b)); },
       {"setp.lt.s32 %, %, %;", "vote.sync.ballot.b32 %, %, -1;"}},
      {"warp_sum",
       [](Kernel& t) { t.keep(t.k.warp_sum(t.a)); },
       {"mov.b32 %, -1;", "redux.sync.add.s32 %, %, %;"}},
      {"warp_max",
       [](Kernel& t) { t.keep(t.k.warp_max(t.a)); },
       {"mov.b32 %, -1;", "redux.sync.max.s32 %, %, %;"}},
      {"shuffle",
       [](Kernel& t) { t.keep(t.k.shuffle(t.a, t.b)); },
       {"shfl.sync.idx.b32 %, %, %, 31, -1;"}},
      {"shuffle_xor of bits",
       [](Kernel& t) { t.keep(t.k.shuffle_xor(t.a, 2)); },
       {"shfl.sync.bfly.b32 %, %, 2, 31, -1;"}},
      {"shuffle_xor of f32",
       [](Kernel& t) { t.keep(t.k.shuffle_xor(t.x, 1)); },
       {"shfl.sync.bfly.b32 %, %, 1, 31, -1;"}},
      {"ldmatrix_x4",
       [&](Kernel& t) { t.keep(t.k.ldmatrix_x4(row(t) + 512, Transpose::no)); },
       {"mov.b32 %, shared_memory;", "add.s32 %, %, %;",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%, %, %, %}, [%+512];"}},
      {"ldmatrix_x4 transposed",
       [&](Kernel& t) { t.keep(t.k.ldmatrix_x4(row(t), Transpose::yes)); },
       {"mov.b32 %, shared_memory;", "add.s32 %, %, %;",
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%, %, %, %}, [%];"}},
      {"ldmatrix_x2",
       [&](Kernel& t) { t.keep(t.k.ldmatrix_x2(row(t), Transpose::no)); },
       {"mov.b32 %, shared_memory;", "add.s32 %, %, %;",
        "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%, %}, [%];"}},
      {"ldmatrix_x2 transposed",
       [&](Kernel& t) { t.keep(t.k.ldmatrix_x2(row(t), Transpose::yes)); },
       {"mov.b32 %, shared_memory;", "add.s32 %, %, %;",
        "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%, %}, [%];"}},
  });
}

TEST_CASE("tensor cores") {
  const auto mma = [](DType type) {
    return [type](Kernel& t) {
      t.keep(t.k.mma({type, t.ints()}, {type, {t.a, t.b}},
                     {t.k.as_bits(t.x), t.k.as_bits(t.y), t.c, t.d}));
    };
  };
  const auto line = [](const std::string& instruction) {
    return Lines{instruction + " {%, %, %, %}, {%, %, %, %}, {%, %}, {%, %, %, %};"};
  };
  check({
      {"s8", mma(DType::s8), line("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32")},
      {"s4", mma(DType::s4), line("mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32")},
      {"f16", mma(DType::f16), line("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")},
      {"bf16", mma(DType::bf16), line("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")},
      {"e4m3 sm_89", mma(DType::e4m3), line("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32"),
       kAda},
      {"e4m3 sm_120", mma(DType::e4m3), line("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32"),
       kBlackwell},
      {"s8 x u8",
       [](Kernel& t) {
         t.keep(t.k.mma({DType::s8, t.ints()}, MmaUnsignedB(t.a, t.b), {t.a, t.b, t.c, t.d}));
       },
       line("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32")},
      {"f16, half as long",
       [](Kernel& t) {
         t.keep(t.k.mma_k8(MmaShortA(DType::f16, {t.a, t.b}), MmaShortB(DType::f16, {t.c}),
                           {t.k.as_bits(t.x), t.k.as_bits(t.y), t.c, t.d}));
       },
       {"mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%, %, %, %}, {%, %}, {%}, {%, %, %, "
        "%};"}},
  });

  const auto half = [](DType type, Mma kind) {
    return [type, kind](Kernel& t) {
      const MmaHalfC sum = t.k.mma(kind, {type, t.ints()}, {type, {t.a, t.b}}, MmaHalfC(t.c, t.d));
      t.keep(sum[0]);
      t.keep(sum[1]);
    };
  };
  const auto half_line = [](const std::string& instruction) {
    return Lines{instruction + " {%, %}, {%, %, %, %}, {%, %}, {%, %};"};
  };
  check({
      {"f16 in f16", half(DType::f16, Mma::f16),
       half_line("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16")},
      {"e4m3 in f16 sm_89", half(DType::e4m3, Mma::e4m3),
       half_line("mma.sync.aligned.m16n8k32.row.col.f16.e4m3.e4m3.f16"), kAda},
      {"e4m3 in f16 sm_120", half(DType::e4m3, Mma::e4m3),
       half_line("mma.sync.aligned.m16n8k32.row.col.f16.e4m3.e4m3.f16"), kBlackwell},
  });
}

}  // namespace
}  // namespace sagegen::golden
