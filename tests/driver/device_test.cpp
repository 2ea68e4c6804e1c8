// Device, Buffer, Stream, Event and Kernel on the fake driver: ownership, moves, contexts,
// refusals.
#include <algorithm>
#include <catch2/catch.hpp>
#include <utility>
#include <vector>

#include "sagegen/runtime/device.h"
#include "sagegen/runtime/ptx_entry.h"
#include "tests/driver/fake_driver.h"

using namespace sagegen;
using namespace sagegen::test;
using Catch::Matchers::Contains;

namespace {

std::vector<std::byte> bytes(std::initializer_list<int> values) {
  std::vector<std::byte> result;
  for (const int value : values) result.push_back(static_cast<std::byte>(value));
  return result;
}

auto count_of(const FakeDriver& driver, const std::string& call) {
  return std::count(driver.calls().begin(), driver.calls().end(), call);
}

}  // namespace

TEST_CASE("a device that does not exist is an argument error") {
  const auto driver = std::make_shared<FakeDriver>();
  driver->set_devices(2);
  CHECK_THROWS_AS(Device(driver, 2), ArgumentError);
  CHECK_THROWS_AS(Device(driver, -1), ArgumentError);
  CHECK_THROWS_WITH(Device(driver, 5), Contains("device 5") && Contains("2 devices"));
  CHECK_THROWS_AS(Device(nullptr, 0), ArgumentError);
  CHECK_NOTHROW(Device(driver, 1));
  CHECK(driver->live().empty());
}

TEST_CASE("copies of a device share one context, released with the last") {
  const auto driver = std::make_shared<FakeDriver>();
  driver->set_compute_capability(121);
  {
    Buffer buffer;
    {
      const Device device(driver, 0);
      const Device copy = device;
      CHECK(copy.compute_capability() == 121);
      CHECK(copy.name() == "Fake GPU");
      CHECK(copy.total_memory() == std::size_t{24} << 30);
      buffer = Buffer(copy, 16);
    }
    CHECK(driver->live().size() == 2);  // the buffer keeps its context
    buffer.upload(bytes({1, 2, 3}));
  }
  CHECK(count_of(*driver, "cuDevicePrimaryCtxRetain") == 1);
  CHECK(driver->live().empty());
  CHECK(driver->misuse().empty());
}

TEST_CASE("a moved-from device still works, because it was copied") {
  const auto driver = std::make_shared<FakeDriver>();
  Device first(driver, 0);
  const Device second = std::move(first);
  CHECK(first.compute_capability() == second.compute_capability());
}

TEST_CASE("buffers move their memory, free it once and copy whole spans") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  Buffer a(device, 4);
  a.upload(bytes({1, 2, 3, 4}));
  const DevicePtr address = a.data();
  Buffer b(std::move(a));
  CHECK(b.data() == address);
  CHECK(b.bytes() == 4);
  CHECK(a.data() == 0);
  CHECK(a.bytes() == 0);

  Buffer c(device, 8);
  c = std::move(b);
  CHECK(c.data() == address);
  CHECK(b.data() == 0);
  CHECK(count_of(*driver, "cuMemFree") == 1);  // what c held before
  Buffer& alias = c;
  c = std::move(alias);
  CHECK(c.data() == address);

  auto host = bytes({9, 9, 9});
  c.download(host);
  CHECK(host == bytes({1, 2, 3}));
  c.fill(7);
  auto all = bytes({0, 0, 0, 0});
  c.download(all);
  CHECK(all == bytes({7, 7, 7, 7}));
  CHECK(driver->misuse().empty());
}

TEST_CASE("a span that is larger than its buffer is refused before the driver is asked") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  Buffer buffer(device, 2);
  Buffer moved_from(device, 2);
  const Buffer taker(std::move(moved_from));
  Buffer empty;
  auto three = bytes({1, 2, 3});
  const int before = driver->call_count();
  CHECK_THROWS_WITH(buffer.upload(three), Contains("3 bytes") && Contains("holds 2"));
  CHECK_THROWS_AS(buffer.download(three), ArgumentError);
  CHECK_THROWS_AS(moved_from.upload(three), ArgumentError);
  CHECK_THROWS_AS(empty.download(three), ArgumentError);
  CHECK_NOTHROW(empty.upload({}));
  CHECK_NOTHROW(empty.fill(3));
  CHECK(driver->call_count() == before);
}

TEST_CASE("a buffer of no bytes is no allocation") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  const Buffer buffer(device, 0);
  CHECK(buffer.data() == 0);
  CHECK(count_of(*driver, "cuMemAlloc") == 0);
}

TEST_CASE("streams, events and kernels move without a second release") {
  const auto driver = std::make_shared<FakeDriver>();
  {
    const Device device(driver, 0);
    Stream stream(device);
    const Stream other(std::move(stream));
    CHECK(stream.handle() == nullptr);
    CHECK_THROWS_WITH(stream.synchronize(), Contains("moved from"));
    CHECK_NOTHROW(other.synchronize());

    Event event(device);
    Event later(std::move(event));
    CHECK_THROWS_WITH(event.record(nullptr), Contains("moved from"));
    CHECK_THROWS_AS(event.synchronize(), ArgumentError);
    CHECK_THROWS_AS(later.milliseconds_since(event), ArgumentError);
    later.record(other.handle());

    Kernel kernel(device, fake_ptx("k", 8), "k", 64, 0, 8);
    const Kernel moved(std::move(kernel));
    CHECK(moved.name() == "k");
    CHECK(moved.attribute(FunctionAttribute::num_regs) == 42);
  }
  CHECK(driver->live().empty());
  CHECK(driver->misuse().empty());
}

TEST_CASE("the caller's context is restored, and not touched when it is the right one") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  driver->set_current(driver->foreign_context());
  Buffer buffer(device, 16);
  CHECK(driver->current() == driver->foreign_context());
  buffer.fill(0);
  CHECK(driver->current() == driver->foreign_context());
  {
    const Device::Scope scope(device);
    CHECK(driver->current() != driver->foreign_context());
    const auto before = count_of(*driver, "cuCtxSetCurrent");
    buffer.fill(0);
    CHECK(count_of(*driver, "cuCtxSetCurrent") == before);
  }
  CHECK(driver->current() == driver->foreign_context());
}

TEST_CASE("a launch passes the parameter block, the block size and the shared memory") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  const Stream stream(device);
  const Kernel small(device, fake_ptx("small", 8), "small", 96, 48 * 1024, 8);
  CHECK(driver->smem_allowed().empty());  // 48 KiB need no permission
  const Kernel large(device, fake_ptx("large", 8), "large", 96, 48 * 1024 + 16, 8);
  CHECK(driver->smem_allowed().at("large") == 48 * 1024 + 16);
  large.launch(Dim3{7, 5, 3}, std::uint64_t{0x1122334455667788}, stream.handle());
  REQUIRE(driver->launches().size() == 1);
  const FakeLaunch& launch = driver->launches()[0];
  CHECK(launch.kernel == "large");
  CHECK((launch.grid.x == 7 && launch.grid.y == 5 && launch.grid.z == 3));
  CHECK((launch.block.x == 96 && launch.block.y == 1 && launch.block.z == 1));
  CHECK(launch.dynamic_smem == 48 * 1024 + 16);
  CHECK(launch.stream == stream.handle());
  CHECK(launch.params == bytes({0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11}));
  CHECK_THROWS_WITH(small.launch(Dim3{}, std::uint32_t{0}, nullptr),
                    Contains("4 bytes") && Contains("one of 8"));
}

TEST_CASE("PTX that does not fit the launch is refused") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  SECTION("a parameter block of another size") {
    CHECK_THROWS_AS(Kernel(device, fake_ptx("k", 24), "k", 64, 0, 16), SpecError);
    CHECK_THROWS_WITH(Kernel(device, fake_ptx("k", 24), "k", 64, 0, 16),
                      Contains("kernel k") && Contains("[24]") && Contains("16 bytes"));
  }
  SECTION("another entry") {
    CHECK_THROWS_WITH(Kernel(device, fake_ptx("other", 16), "k", 64, 0, 16),
                      Contains("no entry") && Contains("other"));
  }
  SECTION("no entry at all") {
    CHECK_THROWS_WITH(Kernel(device, ".version 8.4", "k", 64, 0, 16), Contains("it has: none"));
  }
  SECTION("more shared memory than the device has") {
    driver->set_smem_optin(1000);
    CHECK_THROWS_WITH(Kernel(device, fake_ptx("k", 16), "k", 64, 1001, 16),
                      Contains("1001 bytes") && Contains("allows 1000"));
  }
  SECTION("more threads than the device runs the kernel with") {
    driver->set_threads_per_block(63);
    CHECK_THROWS_WITH(Kernel(device, fake_ptx("k", 16), "k", 64, 0, 16),
                      Contains("64 threads") && Contains("at most 63"));
  }
  CHECK(driver->live() == std::vector<std::string>{"primary context"});
}

TEST_CASE("entries and parameter sizes are read from PTX as compilers print it") {
  using Sizes = std::vector<std::size_t>;
  const auto entries = ptx_entries(R"ptx(
//
// .entry not_me( .param .u64 x )
/* .entry nor_me( .param .u64 x ) */
.version 9.0
.target sm_120f
.address_size 64
.file 1 "a // .entry b(.param .u32 y)"
	.func (.param .b32 r) helper (.param .b32 a) { ret; }
	// .globl first
.visible .entry first(
	.param .align 8 .b8 first_param_0[168] // comment
)
.reqntid 128, 1, 1
{ ret; }
.weak .entry second (.param .u64 .ptr .global .align 16 a, .param .f32 b, .param .align 4 .b8 c [12]
) { ret; }
.entry third ( ) { }
.entry fourth
{ }
)ptx");
  REQUIRE(entries.size() == 4);
  CHECK(entries[0].name == "first");
  CHECK(entries[0].parameter_bytes() == Sizes{168});
  CHECK(entries[1].name == "second");
  CHECK(entries[1].parameter_bytes() == Sizes{8, 4, 12});
  CHECK(entries[2].name == "third");
  CHECK(entries[2].parameters.empty());
  CHECK(entries[3].name == "fourth");
  CHECK(entries[3].parameters.empty());
}

TEST_CASE("text that is no PTX gives no entries and no crash") {
  const std::string whole = fake_ptx("kernel", 64);
  for (std::size_t length = 0; length <= whole.size(); ++length) {
    const auto entries = ptx_entries(std::string_view(whole).substr(0, length));
    CHECK(entries.size() <= 1);
  }
  CHECK(ptx_entries(".entry").size() == 1);
  CHECK(ptx_entries(".entry x(.param .b8 y[99999999999999999999])")[0].parameters[0].bytes == 0);
}

TEST_CASE("a tensor map is made in the device's context") {
  const auto driver = std::make_shared<FakeDriver>();
  driver->set_compute_capability(90);
  const Device device(driver, 0);
  const TensorMap map =
      make_tensor_map(device, {.rank = 1, .base = 0x40, .shape = {9}, .box = {16}});
  CHECK(map.opaque[0] == 0x40);  // what the fake writes
  CHECK(driver->misuse().empty());
  // The third call, after two for the context.
  driver->fail_call(driver->call_count() + 3, Result::not_supported);
  CHECK_THROWS_WITH(make_tensor_map(device, {.rank = 1, .base = 0x40, .shape = {9}, .box = {16}}),
                    Contains("cuTensorMapEncodeTiled") && Contains("CUDA 12.0"));
}

TEST_CASE("a tensor map that breaks a rule is refused with the rule, before the driver is asked") {
  const auto driver = std::make_shared<FakeDriver>();
  driver->set_compute_capability(90);
  const Device device(driver, 0);
  const TensorMapLayout good{.type = TensorMapType::f16,
                             .rank = 3,
                             .base = 0x1000,
                             .shape = {128, 1000, 8},
                             .strides = {256, 256000},
                             .box = {64, 256, 1},
                             .swizzle = TensorMapSwizzle::span_128,
                             .fill = TensorMapFill::nan};
  CHECK_NOTHROW(make_tensor_map(device, good));
  for (const int value : {-1, 9, 1 << 30}) {
    TensorMapLayout odd = good;
    odd.swizzle = static_cast<TensorMapSwizzle>(value);
    CHECK_THROWS_WITH(make_tensor_map(device, odd), Contains("unknown swizzle"));
    odd = good;
    odd.promotion = static_cast<TensorMapPromotion>(value);
    CHECK_THROWS_WITH(make_tensor_map(device, odd), Contains("unknown promotion"));
    odd = good;
    odd.fill = static_cast<TensorMapFill>(value);
    CHECK_THROWS_WITH(make_tensor_map(device, odd), Contains("unknown fill"));
  }
  const auto refused = [&](auto change, const std::string& reason) {
    TensorMapLayout layout = good;
    change(layout);
    INFO(reason);
    CHECK_THROWS_AS(make_tensor_map(device, layout), ArgumentError);
    CHECK_THROWS_WITH(make_tensor_map(device, layout), Contains(reason));
  };
  refused([](auto& l) { l.rank = 0; }, "rank 0; it must be 1 to 5");
  refused([](auto& l) { l.rank = 6; }, "rank 6");
  refused([](auto& l) { l.base = 0x1008; }, "starts at 0x1008");
  refused([](auto& l) { l.base = 0; }, "starts at 0x0");
  refused([](auto& l) { l.shape[2] = 0; }, "dimension 2 has 0 elements");
  refused([](auto& l) { l.shape[1] = (std::uint64_t{1} << 32) + 1; }, "dimension 1 has 4294967297");
  refused([](auto& l) { l.box[1] = 257; }, "the box has 257 elements in dimension 1");
  refused([](auto& l) { l.box[2] = 0; }, "the box has 0 elements in dimension 2");
  refused([](auto& l) { l.strides[0] = 264; }, "stride of dimension 1 is 264 bytes");
  refused([](auto& l) { l.strides[1] = std::uint64_t{1} << 40; }, "stride of dimension 2");
  refused([](auto& l) { l.box[0] = 36; }, "36 elements wide, 72 bytes; the width must be");
  refused([](auto& l) { l.box[0] = 72; }, "144 bytes; with 128-byte swizzle at most 128");
  refused([](auto& l) { l.swizzle = TensorMapSwizzle::span_64; }, "64-byte swizzle");
  refused([](auto& l) { l.swizzle = TensorMapSwizzle::span_32; }, "32-byte swizzle");
  refused([](auto& l) { l.type = TensorMapType::s32; }, "256 bytes; with 128-byte swizzle");
  refused([](auto& l) { l.type = TensorMapType::u8; }, "NaN only in f16, bf16 and f32");
  refused([](auto& l) { l.type = TensorMapType{77}; }, "data type 77");
  CHECK(count_of(*driver, "cuTensorMapEncodeTiled") == 1);

  // Rows that are not read may hold anything.
  TensorMapLayout narrow = good;
  narrow.rank = 1;
  narrow.strides[0] = 3;
  narrow.box[1] = 0;
  CHECK_NOTHROW(make_tensor_map(device, narrow));

  const auto ada = std::make_shared<FakeDriver>();
  CHECK_THROWS_WITH(make_tensor_map(Device(ada, 0), good),
                    Contains("compute capability 8.9") && Contains("9.0"));
}
