// The public way from a builder to PTX: one call, and misuse around it is an error with the caller's line.
#include "sagegen/dsl/emit.h"

#include <catch2/catch.hpp>
#include <span>
#include <stdexcept>
#include <vector>

#include "sagegen/dsl/reduce.h"
#include "sagegen/error.h"
#include "sagegen/runtime/device.h"
#include "sagegen/runtime/emulator.h"
#include "tests/golden/golden.h"

namespace sagegen::golden {
namespace {

using namespace dsl;
using Catch::Contains;

constexpr Target kTarget{.sm = 89};

struct Scale {
  std::uint64_t x;
  float factor;
};

// Prvalues: a builder does not move.
KernelBuilder scale() { return KernelBuilder("scale", kTarget, 96, sizeof(Scale)); }

void build(KernelBuilder& k) {
  const auto p = k.params<Scale>();
  const GlobalPtr x = p(&Scale::x) + k.thread_idx() * 4;
  const SharedPtr s = k.shared(384, 16) + k.thread_idx() * 4;
  k.store(s, k.load<F32>(x) * p(&Scale::factor));
  k.store(x, k.load<F32>(s));
}

std::string here(int line) { return "golden/emit_test.cpp:" + std::to_string(line) + ": "; }

TEST_CASE("one call makes PTX and says what a launch needs") {
  KernelBuilder k = scale();
  build(k);
  const Emitted kernel = emit(k);
  CHECK(kernel.entry == "scale");
  CHECK(kernel.target == kTarget);
  CHECK(kernel.threads == 96);
  CHECK(kernel.shared_bytes == 384);
  CHECK(kernel.param_bytes == sizeof(Scale));
  CHECK_THAT(kernel.ptx, Contains(".target sm_89\n") && Contains(".reqntid 96") &&
                             Contains(".visible .entry scale(") && Contains("mul.rn.f32"));
  CHECK(ptxas_complaint(kernel.ptx, kTarget).empty());

  KernelBuilder again = scale();
  build(again);
  CHECK(emit(again).ptx == kernel.ptx);
}

TEST_CASE("every verb can be emitted for every target, and ptxas takes it") {
  for (const TargetInfo& info : supported_targets()) {
    INFO(info.name);
    Kernel t(info.target);
    KernelBuilder& k = t.k;
    const SharedPtr s = k.shared(4096, 128) + k.lane_idx() * 16;
    for (const F32 x : {k.sqrt(t.x),
                        k.rsqrt(t.x),
                        k.tanh(t.x),
                        k.exp2(t.x),
                        k.log2(t.x),
                        k.reciprocal(t.x),
                        k.abs(t.x),
                        k.min(t.x, t.y),
                        k.fma_ftz(t.x, t.y, t.z),
                        k.fma_up(t.x, t.y, t.z),
                        k.fma_down(t.x, t.y, t.z),
                        t.x / t.y,
                        -t.x,
                        k.to_f32(t.wide),
                        warp_sum(k, t.x),
                        warp_max(k, t.y),
                        block_sum(k, t.z),
                        block_max(k, t.w),
                        k.atomic_add(t.in, t.x),
                        k.atomic_add(s, t.x),
                        k.load<F32>(s)}) {
      t.keep(x);
    }
    for (const I32 i : {t.a / t.b,
                        t.a % 7,
                        t.a << t.b,
                        t.a >> t.b,
                        ~t.a,
                        k.abs(t.a),
                        k.popcount(t.a),
                        k.shift_right_signed(t.a, t.b),
                        k.divide_signed(t.a, t.b),
                        k.remainder_signed(t.a, t.b),
                        k.round_to_s32(t.x),
                        k.truncate_to_s32(t.x),
                        k.to_i32(k.round_to_s64(t.x)),
                        k.to_i32(-t.wide / 9 % 5 >> 2 << 1),
                        k.load_u8(t.in),
                        k.load_s8(s),
                        k.load_u16(s),
                        k.load_s16(t.in),
                        k.atomic_add(s, t.a),
                        k.atomic_min(t.in, t.a),
                        k.atomic_max(s, t.b),
                        k.atomic_exchange(t.in, t.c),
                        k.atomic_compare_exchange(s, t.a, t.b),
                        k.atomic_compare_exchange(t.in, t.a, t.b),
                        k.ballot(t.a < t.b),
                        k.shuffle(t.a, t.b),
                        k.shuffle_xor(t.a, 3),
                        k.warp_sum(t.a),
                        k.warp_max(t.a),
                        block_sum(k, t.a),
                        block_max(k, t.b)}) {
      t.keep(i);
    }
    for (const DType type : {DType::f16, DType::bf16}) {
      const auto pair = k.unpack2(type, t.a);
      t.keep(k.pack2(type, pair[0] + t.x, pair[1]));
      t.keep(k.mma({type, t.ints()}, {type, {t.a, t.b}}, {t.a, t.b, t.c, t.d}));
    }
    t.keep(k.pack4(DType::s8, t.x, t.y, t.z, t.w));
    t.keep(k.mma({DType::s8, t.ints()}, {DType::s8, {t.a, t.b}}, {t.a, t.b, t.c, t.d}));
    t.keep(k.ldmatrix_x4(s, Transpose::yes));
    t.keep(k.ldmatrix_x2(s, Transpose::no));
    k.store(s, k.load<I64>(t.in));
    k.store_8(s, t.a), k.store_16(t.in, t.b), k.store_v2(s, k.load_v2(t.in));
    k.barrier(), k.barrier(1, 32), k.barrier_arrive(2, 64), k.warp_barrier();
    const Var<I32> i = k.var(t.a);
    k.while_([&] { return k.any(i.get() < t.b) && k.all(i.get() < t.c); }, [&] { i = i + 1; });
    t.keep(i.get());

    const Emitted kernel = emit(k);
    INFO(kernel.ptx);
    CHECK(ptxas_complaint(kernel.ptx, info.target).empty());
  }
}

TEST_CASE("a kernel without parameters has none in PTX") {
  KernelBuilder k("empty", kTarget, 32, 0);
  k.barrier();
  const Emitted kernel = emit(k);
  CHECK(kernel.param_bytes == 0);
  CHECK_THAT(kernel.ptx, Contains(".entry empty()") && !Contains(".param"));
  CHECK(ptxas_complaint(kernel.ptx, kTarget).empty());
}

TEST_CASE("structs one after the other are read by their place") {
  KernelBuilder k("blocks", kTarget, 32, 2 * sizeof(Scale));
  const auto second = k.param_block<Scale>(sizeof(Scale));
  k.store(second(&Scale::x), second(&Scale::factor));
  CHECK_THAT(emit(k).ptx, Contains("[blocks_param_0+16]") && Contains("[blocks_param_0+24]"));

  KernelBuilder other("blocks", kTarget, 32, sizeof(Scale));
  CHECK_THROWS_WITH(other.param_block<Scale>(8), Contains(here(__LINE__)) &&
                                                     Contains("16 bytes of parameters") &&
                                                     Contains("16 at byte 8 does not fit"));
}

TEST_CASE("a kernel may take an ordinary list of parameters") {
  const std::vector<Param> list{Param::address, Param::i32, Param::f32, Param::i64, Param::address};
  KernelBuilder k("list", kTarget, 32, list);
  const Var<F32> sum = k.var(k.param<F32>(2));
  k.for_range(k.i32(0), k.param<I32>(1), 1, [&](I32 i) {
    sum = sum + k.load<F32>(k.param<GlobalPtr>(0) + k.to_i64(i) * k.param<I64>(3));
  });
  k.store(k.param<GlobalPtr>(4), sum.get());
  CHECK_THROWS_WITH(k.param<I32>(5), Contains(here(__LINE__)) && Contains("list of 5 parameters"));
  CHECK_THROWS_WITH(k.param<I32>(-1), Contains("no parameter -1"));
  CHECK_THROWS_WITH(k.param<I64>(1), Contains("parameter 1 is of type i32, not i64"));
  CHECK_THROWS_WITH(k.params<Scale>(), Contains("not with a struct; use param()"));
  CHECK_THROWS_WITH(k.param_block<Scale>(0), Contains("not with a struct; use param()"));
  const Emitted kernel = emit(k);
  INFO(kernel.ptx);
  CHECK(kernel.param_bytes == 32);
  CHECK(ptxas_complaint(kernel.ptx, kTarget).empty());

  // Three numbers, 4 bytes apart, and what they are added to.
  const auto driver = runtime::make_emulator();
  const runtime::Device device(driver, static_cast<int>(runtime::EmulatorProfile::sm_89));
  const std::vector<float> in{1.0f, 2.0f, 4.0f};
  runtime::Buffer from(device, 12), to(device, 4);
  from.upload(std::as_bytes(std::span(in)));
  const runtime::Device::Scope scope(device);
  const runtime::Stream stream(device);
  runtime::ModuleHandle module = nullptr;
  runtime::FunctionHandle function = nullptr;
  std::string log;
  REQUIRE(driver->module_load(&module, kernel.ptx.c_str(), &log) == runtime::Result::success);
  REQUIRE(driver->module_function(&function, module, "list") == runtime::Result::success);
  runtime::DevicePtr in_address = from.data(), out_address = to.data();
  std::int32_t count = 3;
  float start = 0.5f;
  std::int64_t stride = 4;
  void* arguments[] = {&in_address, &count, &start, &stride, &out_address};
  CHECK(driver->launch(function, {}, {.x = 32}, 0, stream.handle(), arguments) ==
        runtime::Result::success);
  stream.synchronize();
  float out = 0;
  to.download(std::as_writable_bytes(std::span(&out, 1)));
  CHECK(out == 7.5f);
  driver->module_unload(module);

  KernelBuilder padded("padded", kTarget, 32, {Param::f32, Param::i64});
  CHECK(emit(padded).param_bytes == 16);
  KernelBuilder other("blocks", kTarget, 32, sizeof(Scale));
  CHECK_THROWS_WITH(other.param<I32>(0), Contains("a list of 0 parameters"));
}

TEST_CASE("a kernel is emitted once") {
  KernelBuilder k = scale();
  build(k);
  emit(k);
  CHECK_THROWS_WITH(emit(k), Contains(here(__LINE__)) && Contains("nothing can follow"));
  CHECK_THROWS_WITH(k.barrier(), Contains("nothing can follow"));
}

TEST_CASE("what an exception left half built is refused") {
  KernelBuilder k = scale();
  CHECK_THROWS_AS(k.if_(k.thread_idx() < 5, [] { throw std::out_of_range("mine"); }),
                  std::out_of_range);
  CHECK_THROWS_WITH(emit(k), Contains(here(__LINE__)) && Contains("half built"));
}

TEST_CASE("control flow without a body is refused before anything is built") {
  KernelBuilder k = scale();
  CHECK_THROWS_WITH(k.for_range(k.i32(0), k.thread_idx(), 1, nullptr),
                    Contains(here(__LINE__ - 1)) && Contains("no body"));
  CHECK_THROWS_WITH(k.if_(k.thread_idx() < 5, nullptr),
                    Contains(here(__LINE__ - 1)) && Contains("no body"));
  CHECK_NOTHROW(emit(k));
}

TEST_CASE("kernels that PTX has no words for are refused when they are opened") {
  for (const char* name : {"", "1st", "a-b", "a b", "_", "$", "%x", "\xc3\xa4"}) {
    INFO(name);
    CHECK_THROWS_WITH(KernelBuilder(name, kTarget, 32, 8),
                      Contains(here(__LINE__ - 1)) && Contains("cannot name a kernel"));
  }
  for (const char* name : {"a", "_a", "$1", "a$b_1"})
    CHECK_NOTHROW(KernelBuilder(name, kTarget, 32, 8));
  CHECK_THROWS_WITH(KernelBuilder("big", {.sm = 80}, 32, 4353),
                    Contains("4353 bytes of parameters") && Contains("4352"));
  CHECK_NOTHROW(KernelBuilder("big", {.sm = 89}, 32, 32764));
  CHECK_THROWS_WITH(KernelBuilder("big", {.sm = 89}, 32, 32765), Contains("32764"));
}

}  // namespace
}  // namespace sagegen::golden
