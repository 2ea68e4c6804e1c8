// Kernels of PTX from anywhere: lists of parameters, block sizes and shared memory at the launch, on the
// fake driver (what arrives there, what is refused before) and in the emulator (what is computed).
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "sagegen/runtime/device.h"
#include "sagegen/runtime/emulator.h"
#include "tests/driver/buffers.h"
#include "tests/driver/fake_driver.h"

using namespace sagegen;
using namespace sagegen::test;
using Catch::Matchers::Contains;

namespace {

struct Pair {
  float factor;
  std::int32_t shift;
};

// y[i] = x[i] * pair.factor + pair.shift + bias for i < n, by way of shared memory.
std::string scale_ptx(const std::string& directives = "") {
  return R"ptx(.version 8.0
.target sm_80
.address_size 64
.visible .entry scale(
	.param .u64 x,
	.param .u64 .ptr .global .align 4 y,
	.param .u32 n,
	.param .align 4 .b8 pair[8],
	.param .f64 bias,
	.param .u8 on
) )ptx" + directives +
         R"ptx(
{
	.reg .pred %p<3>;
	.reg .b16 %h<2>;
	.reg .f32 %f<5>;
	.reg .f64 %d<2>;
	.reg .b32 %r<8>;
	.reg .b64 %rd<8>;
	.shared .align 4 .b8 held[1024];
	mov.u32 %r1, %ctaid.x;
	mov.u32 %r2, %ntid.x;
	mov.u32 %r3, %tid.x;
	mad.lo.s32 %r4, %r1, %r2, %r3;
	ld.param.u32 %r5, [n];
	ld.param.u8 %h1, [on];
	setp.ge.u32 %p1, %r4, %r5;
	setp.eq.u16 %p2, %h1, 0;
	@%p1 bra DONE;
	@%p2 bra DONE;
	ld.param.u64 %rd1, [x];
	ld.param.u64 %rd2, [y];
	mul.wide.u32 %rd3, %r4, 4;
	add.s64 %rd4, %rd1, %rd3;
	add.s64 %rd5, %rd2, %rd3;
	ld.global.f32 %f1, [%rd4];
	ld.param.f32 %f2, [pair];
	ld.param.s32 %r6, [pair+4];
	cvt.rn.f32.s32 %f3, %r6;
	fma.rn.f32 %f4, %f1, %f2, %f3;
	ld.param.f64 %d1, [bias];
	cvt.rn.f32.f64 %f3, %d1;
	add.f32 %f4, %f4, %f3;
	mul.wide.u32 %rd6, %r3, 4;
	mov.u64 %rd7, held;
	add.s64 %rd6, %rd7, %rd6;
	st.shared.f32 [%rd6], %f4;
	ld.shared.f32 %f1, [%rd6];
	st.global.f32 [%rd5], %f1;
DONE:
	ret;
}
)ptx";
}

// out[tid] = tid, by way of the last word of dynamic shared memory that each thread has.
constexpr const char* kDynamic = R"ptx(.version 8.0
.target sm_80
.address_size 64
.extern .shared .align 4 .b8 dynamic[];
.visible .entry through(.param .u64 out, .param .u32 at)
{
	.reg .b32 %r<5>;
	.reg .b64 %rd<4>;
	mov.u32 %r1, %tid.x;
	ld.param.u64 %rd1, [out];
	ld.param.u32 %r2, [at];
	shl.b32 %r3, %r1, 2;
	mov.u32 %r4, dynamic;
	add.u32 %r4, %r4, %r2;
	add.u32 %r4, %r4, %r3;
	st.shared.u32 [%r4], %r1;
	ld.shared.u32 %r2, [%r4];
	cvt.u64.u32 %rd2, %r3;
	add.s64 %rd3, %rd1, %rd2;
	st.global.u32 [%rd3], %r2;
	ret;
}
)ptx";

std::vector<float> iota(std::size_t count) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i);
  return values;
}

template <typename... Values>
std::vector<std::byte> joined(const Values&... values) {
  std::vector<std::byte> bytes;
  const auto append = [&](const auto& value) {
    const auto* const from = reinterpret_cast<const std::byte*>(&value);
    bytes.insert(bytes.end(), from, from + sizeof value);
  };
  (append(values), ...);
  return bytes;
}

}  // namespace

TEST_CASE("a list of arguments arrives in the driver, each as large as its parameter") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  const Stream stream(device);
  const Kernel kernel(device, scale_ptx(), "scale");
  CHECK(kernel.name() == "scale");
  REQUIRE(kernel.parameters().size() == 6);
  CHECK(kernel.parameters()[4].name == "bias");
  CHECK(kernel.parameters()[4].offset == 32);

  const Pair pair{.factor = 2.0F, .shift = 3};
  const LaunchSize size{.grid = Dim3{5, 2, 1}, .block = Dim3{32, 4, 1}};
  kernel.launch(size, stream.handle(), DevicePtr{0x1000}, DevicePtr{0x2000}, 7, pair, 1.5, true);
  REQUIRE(driver->launches().size() == 1);
  const FakeLaunch& launch = driver->launches()[0];
  CHECK(launch.kernel == "scale");
  CHECK((launch.grid.x == 5 && launch.grid.y == 2 && launch.block.x == 32 && launch.block.y == 4));
  CHECK(launch.dynamic_smem == 0);
  CHECK(launch.stream == stream.handle());
  const std::vector<std::byte> expected =
      joined(DevicePtr{0x1000}, DevicePtr{0x2000}, 7, pair, 1.5, true);
  CHECK(launch.params == expected);

  DevicePtr x = 0x1000, y = 0x2000;
  int n = 7;
  Pair copy = pair;
  double bias = 1.5;
  bool on = true;
  void* const pointers[] = {&x, &y, &n, &copy, &bias, &on};
  kernel.launch_pointers(size, stream.handle(), pointers);
  REQUIRE(driver->launches().size() == 2);
  CHECK(driver->launches()[1].params == expected);
  CHECK(driver->misuse().empty());
}

TEST_CASE("arguments that do not fit the entry are refused before the launch, in words") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  const Kernel kernel(device, scale_ptx(), "scale", {.block = {.x = 32}});
  const DevicePtr a = 0x1000;
  const Pair pair{};
  const auto refused = [&](const std::string& why, const auto&... arguments) {
    INFO(why);
    CHECK_THROWS_AS(kernel.launch(Dim3{}, nullptr, arguments...), ArgumentError);
    CHECK_THROWS_WITH(kernel.launch(Dim3{}, nullptr, arguments...),
                      Contains("kernel scale") && Contains(why) && Contains("pair (8 bytes)") &&
                          Contains("bias (.f64)"));
  };
  refused("launched with 2 arguments; it takes 6", a, a);
  refused("launched with 7 arguments; it takes 6", a, a, 1, pair, 1.0, true, 0);
  refused("launched with 0 arguments");
  refused("argument 2 is of 8 bytes, and the parameter n has 4", a, a, 1L, pair, 1.0, true);
  refused("argument 3 is of 4 bytes, and the parameter pair has 8", a, a, 1, 1.0F, 1.0, true);
  refused("argument 5 is of 4 bytes, and the parameter on has 1", a, a, 1, pair, 1.0, 1);
  refused("argument 2 is a floating-point number, and the parameter n is a whole one", a, a, 1.0F,
          pair, 1.0, true);
  refused("argument 4 is a whole number, and the parameter bias is a floating-point one", a, a, 1,
          pair, 1L, true);
  void* const pointers[] = {nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
  CHECK_THROWS_WITH(kernel.launch_pointers({}, nullptr, pointers),
                    Contains("argument 0 is a null pointer"));
  CHECK_THROWS_WITH(kernel.launch_pointers({}, nullptr, std::span(pointers).first(3)),
                    Contains("launched with 3 arguments"));
  CHECK_THROWS_WITH(kernel.launch(Dim3{}, pair, nullptr), Contains("loaded for one of 8 and one"));
  CHECK(driver->launches().empty());
}

TEST_CASE("the block size is that of the launch, of the loading or of .reqntid") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  const std::string ptx = ".entry k(.param .u32 x) { }";
  const std::string strict = ".entry k(.param .u32 x) .reqntid 8, 4 { }";
  const auto block_of = [&](const Kernel& kernel, const LaunchSize& size) {
    kernel.launch(size, nullptr, 1);
    return driver->launches().back().block;
  };
  SECTION("none is an error that says what to do") {
    CHECK_THROWS_WITH(Kernel(device, ptx, "k").launch(Dim3{}, nullptr, 1),
                      Contains("no .reqntid") && Contains("load it with a block size"));
  }
  SECTION("as loaded, unless the launch says another") {
    const Kernel kernel(device, ptx, "k", {.block = {.x = 96}});
    CHECK(block_of(kernel, {}).x == 96);
    CHECK(block_of(kernel, {.grid = {}, .block = Dim3{16, 16, 1}}).y == 16);
  }
  SECTION("what the kernel requires, and nothing else") {
    const Kernel kernel(device, strict, "k");
    CHECK(block_of(kernel, {}).x == 8);
    CHECK(block_of(kernel, {}).y == 4);
    CHECK_THROWS_WITH(kernel.launch({.grid = {}, .block = Dim3{32, 1, 1}}, nullptr, 1),
                      Contains("(32, 1, 1)") && Contains(".reqntid is (8, 4, 1)"));
    CHECK_THROWS_AS(Kernel(device, strict, "k", {.block = {.x = 32}}), SpecError);
    CHECK_THROWS_AS(Kernel(device, strict, "k", 32, 0, 4), SpecError);
  }
  SECTION("at most what the device runs") {
    driver->set_threads_per_block(64);
    const Kernel kernel(device, ptx, "k");
    CHECK_THROWS_WITH(kernel.launch({.grid = {}, .block = Dim3{8, 9, 1}}, nullptr, 1),
                      Contains("(8, 9, 1)") && Contains("72 in all") && Contains("1 to 64"));
    CHECK_THROWS_WITH(kernel.launch({.grid = {}, .block = Dim3{8, 0, 1}}, nullptr, 1),
                      Contains("(8, 0, 1)"));
    constexpr unsigned kLargest = 0xffffffffu;
    CHECK_THROWS_AS(kernel.launch({.grid = {}, .block = Dim3{kLargest, kLargest, 2}}, nullptr, 1),
                    ArgumentError);
    CHECK_THROWS_AS(Kernel(device, ptx, "k", {.block = {.x = 65}}), SpecError);
  }
  CHECK(driver->misuse().empty());
}

TEST_CASE("shared memory of a kernel's own counts towards what has to be asked for") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  const std::string ptx =
      ".entry k(.param .u32 x) .reqntid 32 { .shared .align 16 .b8 own[1024]; }";
  constexpr int kFree = 48 * 1024 - 1024;
  const Kernel small(device, ptx, "k", {.dynamic_smem = kFree});
  CHECK(driver->smem_allowed().empty());
  small.launch(Dim3{}, nullptr, 1);
  CHECK(driver->launches().back().dynamic_smem == kFree);
  small.launch({.grid = {}, .dynamic_smem = 100}, nullptr, 1);
  CHECK(driver->launches().back().dynamic_smem == 100);
  CHECK_THROWS_WITH(small.launch({.grid = {}, .dynamic_smem = kFree + 1}, nullptr, 1),
                    Contains("launched with 48129 bytes") && Contains("loaded for 0 to 48128"));
  CHECK_THROWS_AS(small.launch({.grid = {}, .dynamic_smem = -1}, nullptr, 1), ArgumentError);

  const Kernel large(device, ptx, "k", {.dynamic_smem = kFree + 4});
  CHECK(driver->smem_allowed().at("k") == kFree + 4);
  large.launch(Dim3{}, nullptr, 1);
  driver->set_smem_optin(50000);
  CHECK_THROWS_WITH(Kernel(device, ptx, "k", {.dynamic_smem = 49000}),
                    Contains("50024 bytes") && Contains("1024 of its own, 49000 at the launch") &&
                        Contains("allows 50000"));
  CHECK_THROWS_AS(Kernel(device, ptx, "k", {.dynamic_smem = -1}), SpecError);
  CHECK(driver->misuse().empty());
}

TEST_CASE("an entry is found by its name, or by being the only one") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  const std::string one = ".entry k(.param .u32 x) { }";
  CHECK(Kernel(device, one, "").name() == "k");
  CHECK_THROWS_WITH(Kernel(device, one + " .entry l(.param .u32 x) { }", ""),
                    Contains("k, l") && Contains("name the one to load"));
  CHECK_THROWS_WITH(Kernel(device, one, "z"), Contains("it has: k"));
  CHECK_THROWS_WITH(Kernel(device, ".version 8.0", ""), Contains("none"));
  CHECK_THROWS_WITH(Kernel(device, ".entry k(.param .texref t) { }", "k"),
                    Contains("its parameter t is not understood"));
  // One block was asked for, and the PTX has a list: nobody guesses where it comes from.
  CHECK_THROWS_WITH(Kernel(device, scale_ptx(), "scale", 32, 0, 40),
                    Contains("[8, 8, 4, 8, 8, 1]") && Contains("40 bytes") &&
                        Contains("if sagegen made the PTX") && Contains("list of arguments"));
  CHECK(driver->live() == std::vector<std::string>{"primary context"});
}

TEST_CASE("a foreign kernel with scalars, pointers and a struct runs in the emulator") {
  for (const std::string directives : {"", ".reqntid 64, 1, 1"}) {
    INFO(directives);
    const auto emulator = make_emulator();
    const Device device(emulator, 2);
    const Kernel kernel(device, scale_ptx(directives), "");
    CHECK(kernel.attribute(FunctionAttribute::shared_size_bytes) == 1024);
    constexpr std::uint32_t kCount = 150;
    const Buffer x = upload(device, iota(kCount));
    Buffer y(device, kCount * sizeof(float));
    const Stream stream(device);
    const LaunchSize size{.grid = {.x = 3}, .block = {.x = 64, .y = 1, .z = 1}};
    const Pair pair{.factor = 0.5F, .shift = -4};
    kernel.launch(size, stream.handle(), x.data(), y.data(), kCount, pair, 0.25, true);
    stream.synchronize();
    const auto values = download<float>(y);
    for (std::size_t i = 0; i < kCount; ++i) {
      CHECK(values[i] == 0.5F * static_cast<float>(i) - 4 + 0.25F);
    }
    CHECK(emulator->findings().empty());
    // One less than is there, so the last element stays undefined.
    Buffer short_y(device, kCount * sizeof(float));
    kernel.launch(size, stream.handle(), x.data(), short_y.data(), kCount - 1, pair, 0.25, true);
    download<float>(short_y);
    REQUIRE(emulator->findings().size() == 1);
    CHECK(emulator->findings()[0].check == "uninitialized");
  }
}

TEST_CASE("dynamic shared memory beyond 48 KiB is there in the emulator") {
  const auto emulator = make_emulator();
  const Device device(emulator, 2);
  constexpr int kBytes = 64 * 1024;
  const Kernel kernel(device, kDynamic, "through", {.block = {.x = 32}, .dynamic_smem = kBytes});
  Buffer out(device, 32 * sizeof(std::uint32_t));
  kernel.launch(Dim3{}, nullptr, out.data(), kBytes - 128);
  device.synchronize();
  const auto values = download<std::uint32_t>(out);
  for (std::uint32_t i = 0; i < 32; ++i) CHECK(values[i] == i);
  CHECK(emulator->findings().empty());
  CHECK_THROWS_AS(
      kernel.launch({.grid = {}, .dynamic_smem = kBytes - 4}, nullptr, out.data(), kBytes - 128),
      DriverError);
  REQUIRE_FALSE(emulator->findings().empty());
  CHECK(emulator->findings()[0].check == "out-of-bounds");
}
