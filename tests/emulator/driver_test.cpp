// The emulator as a driver: what a caller of the CUDA driver API may rely on, error codes included.
#include "sagegen/runtime/emulator.h"

#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

namespace sagegen::runtime {
namespace {

using Catch::Contains;
using Catch::StartsWith;

constexpr Result kInvalidHandle{400};
constexpr Result kContextIsDestroyed{709};

constexpr DeviceOrdinal ordinal(EmulatorProfile profile) { return static_cast<int>(profile); }

// out[i] = 3 i + seed for i < n; one block of up to 128 threads per 128 elements.
const char* const kFill = R"(
.version 8.0
.target sm_80
.address_size 64
.visible .global .align 4 .u32 offset = 1000;
.visible .entry fill(.param .u64 out, .param .u32 n, .param .u32 seed) .maxntid 128
{
  .reg .pred %p<2>; .reg .b32 %r<9>; .reg .b64 %rd<4>;
  ld.param.b64 %rd1, [out];
  ld.param.b32 %r1, [n];
  ld.param.b32 %r2, [seed];
  mov.u32 %r3, %tid.x;
  mov.u32 %r4, %ctaid.x;
  mad.lo.s32 %r5, %r4, 128, %r3;
  setp.ge.u32 %p1, %r5, %r1;
  @%p1 bra DONE;
  mad.lo.s32 %r6, %r5, 3, %r2;
  ld.global.b32 %r7, [offset];
  add.s32 %r6, %r6, %r7;
  mul.wide.u32 %rd2, %r5, 4;
  add.s64 %rd3, %rd1, %rd2;
  st.global.b32 [%rd3], %r6;
DONE:
  ret;
}
.extern .shared .align 16 .b8 dynamic[];
.visible .entry shared_user()
{
  .reg .b32 %r<2>;
  .shared .align 4 .b8 fixed[1024];
  mov.b32 %r1, fixed;
  ret;
}
)";

// An initialized driver with a context on `profile` current in this thread.
class OnDevice {
 public:
  explicit OnDevice(EmulatorProfile profile = EmulatorProfile::sm_89) : device_(ordinal(profile)) {
    REQUIRE(api->init() == Result::success);
    REQUIRE(api->primary_context_retain(&context, device_) == Result::success);
    REQUIRE(api->set_current(context) == Result::success);
  }
  ModuleHandle load(const std::string& ptx) const {
    ModuleHandle module = nullptr;
    std::string log;
    const Result result = api->module_load(&module, ptx.c_str(), &log);
    INFO(log);
    REQUIRE(result == Result::success);
    return module;
  }
  FunctionHandle function(ModuleHandle module, const char* name) const {
    FunctionHandle out = nullptr;
    REQUIRE(api->module_function(&out, module, name) == Result::success);
    return out;
  }
  DevicePtr allocate(std::size_t bytes) const {
    DevicePtr out = 0;
    REQUIRE(api->mem_alloc(&out, bytes) == Result::success);
    return out;
  }
  Result fill(FunctionHandle function, DevicePtr out, std::uint32_t n, std::uint32_t seed,
              Dim3 grid, Dim3 block = {.x = 128, .y = 1, .z = 1}) const {
    void* params[] = {&out, &n, &seed};
    return api->launch(function, grid, block, 0, nullptr, params);
  }

  std::shared_ptr<EmulatorDriver> api = make_emulator();
  ContextHandle context = nullptr;

 private:
  DeviceOrdinal device_;
};

std::string broken_module(const std::string& body) {
  return ".version 8.0\n.target sm_80\n.address_size 64\n.entry k(.param .u64 p) {\n"
         ".reg .b32 %r<9>; .reg .b64 %rd<9>; .shared .align 4 .b8 s[256];\n" +
         body + "\nret;\n}\n";  // body: line 6
}

// ---- devices and contexts -------------------------------------------------------------------------

TEST_CASE("calls before init are refused") {
  const auto api = make_emulator();
  int count = 0;
  CHECK(api->device_count(&count) == Result::not_initialized);
  CHECK_THAT(api->last_error_detail(), Contains("init()"));
  CHECK(api->set_current(nullptr) == Result::not_initialized);
  int version = 0;
  CHECK(api->driver_version(&version) == Result::success);  // allowed before init, as in CUDA
  CHECK(version == 13000);
  CHECK(api->init() == Result::success);
  CHECK(api->device_count(&count) == Result::success);
  CHECK(count == 6);
}

TEST_CASE("one device per profile, with the limits of its architecture") {
  const auto api = make_emulator();
  REQUIRE(api->init() == Result::success);
  struct Expected {
    EmulatorProfile profile;
    const char* name;
    int capability, shared_kib;
  };
  for (const Expected& e : {Expected{EmulatorProfile::sm_80, "emulated sm_80", 80, 163},
                            Expected{EmulatorProfile::sm_86, "emulated sm_86", 86, 99},
                            Expected{EmulatorProfile::sm_89, "emulated sm_89", 89, 99},
                            Expected{EmulatorProfile::sm_90, "emulated sm_90", 90, 227},
                            Expected{EmulatorProfile::sm_120, "emulated sm_120", 120, 99},
                            Expected{EmulatorProfile::ideal, "emulated ideal", 120, 99}}) {
    const auto attribute = [&](DeviceAttribute which) {
      int value = -1;
      CHECK(api->device_attribute(&value, which, ordinal(e.profile)) == Result::success);
      return value;
    };
    char name[64] = {};
    CHECK(api->device_name(name, sizeof name, ordinal(e.profile)) == Result::success);
    CHECK(std::string(name) == e.name);
    CHECK("emulated " + to_string(e.profile) == e.name);
    CHECK(attribute(DeviceAttribute::compute_capability_major) * 10 +
              attribute(DeviceAttribute::compute_capability_minor) ==
          e.capability);
    CHECK(attribute(DeviceAttribute::max_shared_memory_per_block_optin) == e.shared_kib * 1024);
    CHECK(attribute(DeviceAttribute::max_shared_memory_per_multiprocessor) ==
          (e.shared_kib + 1) * 1024);
    CHECK(attribute(DeviceAttribute::max_threads_per_block) == 1024);
    CHECK(attribute(DeviceAttribute::multiprocessor_count) > 0);
  }
  char small[6];
  CHECK(api->device_name(small, sizeof small, 0) == Result::success);
  CHECK(std::string(small) == "emula");
  CHECK(api->device_name(small, 0, 0) == Result::invalid_value);
  int value = 0;
  for (const DeviceOrdinal bad : {-1, 6, 1000}) {
    CHECK(api->device_attribute(&value, DeviceAttribute::multiprocessor_count, bad) ==
          Result::invalid_device);
  }
  CHECK(api->device_attribute(&value, DeviceAttribute{12345}, 0) == Result::invalid_value);
  CHECK(api->device_attribute(nullptr, DeviceAttribute::multiprocessor_count, 0) ==
        Result::invalid_value);
}

TEST_CASE("results have names") {
  const auto api = make_emulator();
  CHECK(api->name() == "emulator");
  CHECK(api->result_name(Result::success) == "CUDA_SUCCESS");
  CHECK(api->result_name(Result::illegal_address) == "CUDA_ERROR_ILLEGAL_ADDRESS");
  CHECK(api->result_name(kInvalidHandle) == "CUDA_ERROR_INVALID_HANDLE");
  CHECK(api->result_name(Result{1234}) == "unknown result 1234");
}

TEST_CASE("contexts are counted, and current per thread and per driver") {
  const auto api = make_emulator();
  REQUIRE(api->init() == Result::success);
  CHECK(api->context_synchronize() == Result::invalid_context);
  CHECK(api->primary_context_release(0) == Result::invalid_context);
  CHECK(api->set_current(reinterpret_cast<ContextHandle>(0x1230)) == Result::invalid_context);

  ContextHandle first = nullptr;
  ContextHandle again = nullptr;
  ContextHandle other = nullptr;
  REQUIRE(api->primary_context_retain(&first, 0) == Result::success);
  REQUIRE(api->primary_context_retain(&again, 0) == Result::success);
  REQUIRE(api->primary_context_retain(&other, 1) == Result::success);
  CHECK(first == again);
  CHECK(first != other);
  REQUIRE(api->set_current(first) == Result::success);

  ContextHandle elsewhere = first;
  std::thread([&] {
    CHECK(api->get_current(&elsewhere) == Result::success);
    CHECK(api->set_current(other) == Result::success);
  }).join();
  CHECK(elsewhere == nullptr);
  ContextHandle current = nullptr;
  CHECK(api->get_current(&current) == Result::success);
  CHECK(current == first);

  const auto second_driver = make_emulator();
  REQUIRE(second_driver->init() == Result::success);
  CHECK(second_driver->get_current(&current) == Result::success);
  CHECK(current == nullptr);

  DevicePtr ptr = 0;
  REQUIRE(api->mem_alloc(&ptr, 64) == Result::success);
  CHECK(api->primary_context_release(0) == Result::success);
  CHECK(api->context_synchronize() == Result::success);
  CHECK(api->primary_context_release(0) == Result::success);
  CHECK(api->context_synchronize() == kContextIsDestroyed);
  CHECK(api->set_current(first) == Result::invalid_context);
  // A new primary context starts empty.
  REQUIRE(api->primary_context_retain(&again, 0) == Result::success);
  REQUIRE(api->set_current(again) == Result::success);
  CHECK(api->mem_free(ptr) == Result::invalid_value);
}

TEST_CASE("details belong to the thread and to its last call") {
  const OnDevice device;
  CHECK(device.api->mem_free(1) == Result::invalid_value);
  const std::string detail = device.api->last_error_detail();
  CHECK_FALSE(detail.empty());
  std::thread([&] {
    CHECK(device.api->last_error_detail().empty());
    CHECK(device.api->context_synchronize() == Result::invalid_context);
  }).join();
  CHECK(device.api->last_error_detail() == detail);
  CHECK(device.api->context_synchronize() == Result::success);
  CHECK(device.api->last_error_detail().empty());
}

// ---- memory ---------------------------------------------------------------------------------------

TEST_CASE("copies and fills stay inside one live allocation") {
  const OnDevice device;
  DriverApi& api = *device.api;
  const DevicePtr ptr = device.allocate(256);
  std::array<unsigned char, 256> in;
  std::iota(in.begin(), in.end(), static_cast<unsigned char>(0));
  std::array<unsigned char, 256> out{};
  REQUIRE(api.copy_to_device(ptr, in.data(), in.size(), nullptr) == Result::success);
  REQUIRE(api.fill_bytes(ptr + 16, 0xaa, 8, nullptr) == Result::success);
  REQUIRE(api.copy_to_host(out.data(), ptr, out.size(), nullptr) == Result::success);
  std::fill_n(in.begin() + 16, 8, static_cast<unsigned char>(0xaa));
  CHECK(in == out);

  REQUIRE(api.copy_on_device(ptr + 128, ptr, 100, nullptr) == Result::success);
  REQUIRE(api.copy_to_host(out.data(), ptr, out.size(), nullptr) == Result::success);
  std::copy_n(in.begin(), 100, in.begin() + 128);
  CHECK(in == out);

  CHECK(api.copy_on_device(ptr + 128, ptr, 129, nullptr) == Result::invalid_value);
  CHECK(api.copy_on_device(ptr, ptr + 200, 57, nullptr) == Result::invalid_value);
  CHECK(api.copy_on_device(ptr + 50, ptr, 51, nullptr) == Result::invalid_value);
  CHECK_THAT(api.last_error_detail(), Contains("overlap"));
  CHECK(api.copy_on_device(ptr, 0, 4, nullptr) == Result::invalid_value);
  CHECK(api.copy_on_device(ptr, 0, 0, nullptr) == Result::success);
  CHECK(api.copy_to_device(ptr + 1, in.data(), 256, nullptr) == Result::invalid_value);
  CHECK(api.copy_to_host(out.data(), ptr - 1, 1, nullptr) == Result::invalid_value);
  CHECK(api.fill_bytes(ptr, 0, std::size_t{1} << 62, nullptr) == Result::invalid_value);
  CHECK(api.fill_bytes(ptr + 255, 0, ~std::size_t{0}, nullptr) == Result::invalid_value);
  CHECK(api.copy_to_host(out.data(), 0, 4, nullptr) == Result::invalid_value);
  CHECK(api.copy_to_host(nullptr, ptr, 4, nullptr) == Result::invalid_value);
  CHECK(api.copy_to_device(ptr, nullptr, 4, nullptr) == Result::invalid_value);
  CHECK(api.copy_to_device(ptr, nullptr, 0, nullptr) == Result::success);

  CHECK(api.mem_free(ptr + 16) == Result::invalid_value);  // not the start
  CHECK(api.mem_free(ptr) == Result::success);
  CHECK(api.mem_free(ptr) == Result::invalid_value);
  CHECK_THAT(api.last_error_detail(), Contains("freed"));
  CHECK(api.copy_to_host(out.data(), ptr, 4, nullptr) == Result::invalid_value);
  CHECK_THAT(api.last_error_detail(), Contains("freed"));
  CHECK(api.mem_free(0) == Result::invalid_value);
}

TEST_CASE("copying undefined bytes to the host is a finding, not a failure") {
  const OnDevice device;
  DriverApi& api = *device.api;
  const DevicePtr ptr = device.allocate(256);
  std::array<unsigned char, 256> out{};
  REQUIRE(api.fill_bytes(ptr, 1, 100, nullptr) == Result::success);
  CHECK(api.copy_to_host(out.data(), ptr, 100, nullptr) == Result::success);
  CHECK(device.api->findings().empty());
  CHECK(api.copy_to_host(out.data(), ptr + 50, 60, nullptr) == Result::success);
  REQUIRE(device.api->findings().size() == 1);
  CHECK(device.api->findings()[0].check == "uninitialized");
  CHECK_THAT(device.api->findings()[0].message, StartsWith("10 of 60 bytes"));
  device.api->clear_findings();
  REQUIRE(api.copy_on_device(ptr + 156, ptr + 96, 60, nullptr) == Result::success);
  CHECK(device.api->findings().empty());
  CHECK(api.copy_to_host(out.data(), ptr + 156, 60, nullptr) == Result::success);
  REQUIRE(device.api->findings().size() == 1);
  CHECK_THAT(device.api->findings()[0].message, StartsWith("56 of 60 bytes"));
  device.api->clear_findings();
  EmulatorOptions options;
  options.checks = Checks::off;
  device.api->configure(options);
  CHECK(api.copy_to_host(out.data(), ptr, 256, nullptr) == Result::success);
  CHECK(device.api->findings().empty());
}

TEST_CASE("allocations that cannot be") {
  const OnDevice device;
  DevicePtr ptr = 0;
  CHECK(device.api->mem_alloc(&ptr, 0) == Result::invalid_value);
  CHECK(device.api->mem_alloc(nullptr, 16) == Result::invalid_value);
  std::size_t total = 0;
  REQUIRE(device.api->device_total_memory(&total, 2) == Result::success);
  CHECK(device.api->mem_alloc(&ptr, total + 1) == Result::out_of_memory);
  CHECK_THAT(device.api->last_error_detail(), Contains(std::to_string(total)));
  CHECK(device.api->mem_alloc(&ptr, ~std::size_t{0}) == Result::out_of_memory);
}

// ---- modules --------------------------------------------------------------------------------------

TEST_CASE("modules that do not load say why in the log") {
  const OnDevice device(EmulatorProfile::sm_80);
  const auto refused = [&](const std::string& ptx) {
    ModuleHandle module = nullptr;
    std::string log;
    const Result result = device.api->module_load(&module, ptx.c_str(), &log);
    CHECK(result != Result::success);
    CHECK(module == nullptr);
    return std::pair(result, log);
  };
  const auto expect = [&](const std::string& ptx, Result result, const std::string& words) {
    const auto [got, log] = refused(ptx);
    CHECK(got == result);
    CHECK_THAT(log, Contains(words));
  };
  expect("hello", Result::invalid_ptx,
         "line 1: expected .version at the start of a module, found 'hello'");
  expect("", Result::invalid_ptx, "line 1: expected .version");
  expect(broken_module("frobnicate.b32 %r1, %r2;"), Result::invalid_ptx, "line 6: ");
  expect(broken_module("frobnicate.b32 %r1, %r2;"), Result::invalid_ptx, "frobnicate");
  expect(broken_module("add.rn.rz.f32 %r1, %r2, %r3;"), Result::invalid_ptx, "add.rn.rz.f32");
  expect(".version 9.4\n.target sm_80\n.address_size 64\n", Result::unsupported_ptx_version,
         "PTX version 9.4 is newer than 9.0");
  expect(".version 8.0\n.target sm_80\n.extern .global .b32 x;\n", Result::invalid_ptx,
         "line 3: 'x' is extern");
  std::string huge = ".version 8.0\n.target sm_80\n";
  for (int i = 0; i < 9; ++i) huge += ".global .b8 v" + std::to_string(i) + "[1073741824];\n";
  expect(huge, Result::out_of_memory, "variables of 9663676416 bytes");
  const std::string head = ".version 8.0\n.target sm_80\n";
  expect(head + ".entry k(.param .b8 p[32768]) { ret; }\n", Result::invalid_ptx,
         "line 3: 'k' has 32768 bytes of parameters; at most 32764");
  expect(head + ".entry k() { .reg .b32 %r<2>; .shared .b8 s[49156]; mov.b32 %r1, s; ret; }\n",
         Result::invalid_ptx, "at most 49152 are possible");
  expect(head + ".entry k() { .reg .b32 %r<2>; .local .b8 s[524292]; mov.b32 %r1, s; ret; }\n",
         Result::invalid_ptx, "of local memory per thread; at most 524288");
  CHECK(device.api->module_load(nullptr, kFill, nullptr) == Result::invalid_value);
  ModuleHandle module = nullptr;
  CHECK(device.api->module_load(&module, nullptr, nullptr) == Result::invalid_value);
}

TEST_CASE("PTX targets load where they load on hardware") {
  struct Case {
    EmulatorProfile device;
    const char* target;
    bool loads;
  };
  for (const Case& c :
       {Case{EmulatorProfile::sm_80, "sm_80", true}, Case{EmulatorProfile::sm_80, "sm_75", true},
        Case{EmulatorProfile::sm_80, "sm_86", false}, Case{EmulatorProfile::sm_80, "sm_89", false},
        Case{EmulatorProfile::sm_89, "sm_86", true}, Case{EmulatorProfile::sm_90, "sm_80", true},
        Case{EmulatorProfile::sm_90, "sm_89", true}, Case{EmulatorProfile::sm_90, "sm_90a", true},
        Case{EmulatorProfile::sm_120, "sm_90a", false},
        Case{EmulatorProfile::sm_120, "sm_120a", true},
        Case{EmulatorProfile::sm_120, "sm_120f", true},
        Case{EmulatorProfile::sm_120, "sm_100f", false},
        Case{EmulatorProfile::sm_120, "sm_121", false},
        Case{EmulatorProfile::sm_120, "sm_121f", false},
        Case{EmulatorProfile::ideal, "sm_120", true}, Case{EmulatorProfile::ideal, "sm_89", true},
        Case{EmulatorProfile::ideal, "sm_", false},
        Case{EmulatorProfile::ideal, "sm_89x", false}}) {
    INFO(c.target << " on " << to_string(c.device));
    const OnDevice device(c.device);
    ModuleHandle module = nullptr;
    std::string log;
    const std::string ptx = std::string(".version 8.8\n.target ") + c.target +
                            "\n.address_size 64\n.entry k() { ret; }\n";
    const Result result = device.api->module_load(&module, ptx.c_str(), &log);
    CHECK(result == (c.loads ? Result::success : Result::invalid_ptx));
    CHECK(log.empty() == c.loads);
  }
}

TEST_CASE("handles of modules and functions end with the module") {
  const OnDevice device;
  const ModuleHandle module = device.load(kFill);
  FunctionHandle function = nullptr;
  CHECK(device.api->module_function(&function, module, "nothing") == Result::not_found);
  CHECK_THAT(device.api->last_error_detail(), Contains("nothing"));
  function = device.function(module, "fill");
  CHECK(device.function(module, "fill") == function);
  CHECK(device.api->module_unload(module) == Result::success);
  CHECK(device.api->module_unload(module) == kInvalidHandle);
  CHECK(device.api->module_function(&function, module, "fill") == kInvalidHandle);
  CHECK(device.fill(function, 0, 0, 0, {.x = 1, .y = 1, .z = 1}) == kInvalidHandle);
  int value = 0;
  CHECK(device.api->function_attribute(&value, FunctionAttribute::num_regs, nullptr) ==
        kInvalidHandle);
}

TEST_CASE("function attributes, and shared memory that must be asked for") {
  const OnDevice device;
  const ModuleHandle module = device.load(kFill);
  const FunctionHandle fill = device.function(module, "fill");
  const FunctionHandle shared_user = device.function(module, "shared_user");
  const auto get = [&](FunctionHandle function, FunctionAttribute attribute) {
    int value = -1;
    CHECK(device.api->function_attribute(&value, attribute, function) == Result::success);
    return value;
  };
  CHECK(get(fill, FunctionAttribute::max_threads_per_block) == 128);
  CHECK(get(shared_user, FunctionAttribute::max_threads_per_block) == 1024);
  CHECK(get(fill, FunctionAttribute::shared_size_bytes) == 0);
  CHECK(get(shared_user, FunctionAttribute::shared_size_bytes) == 1024);
  CHECK(get(fill, FunctionAttribute::local_size_bytes) == 0);
  CHECK(get(fill, FunctionAttribute::num_regs) >= 4);
  CHECK(get(fill, FunctionAttribute::num_regs) <= 16);
  CHECK(get(shared_user, FunctionAttribute::max_dynamic_shared_size_bytes) == 47 * 1024);

  const auto launch = [&](unsigned bytes) {
    return device.api->launch(shared_user, {}, {.x = 32, .y = 1, .z = 1}, bytes, nullptr, nullptr);
  };
  const auto allow = [&](int bytes) {
    return device.api->function_set_attribute(
        shared_user, FunctionAttribute::max_dynamic_shared_size_bytes, bytes);
  };
  CHECK(launch(47 * 1024) == Result::success);
  CHECK(launch(47 * 1024 + 1) == Result::invalid_value);
  CHECK_THAT(device.api->last_error_detail(), Contains("max_dynamic_shared_size_bytes"));
  CHECK(allow(98 * 1024 + 1) == Result::invalid_value);  // 99 KiB with the static part
  CHECK(allow(-1) == Result::invalid_value);
  CHECK(allow(98 * 1024) == Result::success);
  CHECK(launch(98 * 1024) == Result::success);
  CHECK(launch(98 * 1024 + 1) == Result::invalid_value);
  CHECK(allow(100) == Result::success);
  CHECK(launch(101) == Result::invalid_value);
  CHECK(device.api->function_set_attribute(shared_user, FunctionAttribute::num_regs, 3) ==
        Result::invalid_value);
}

// ---- launches -------------------------------------------------------------------------------------

TEST_CASE("a launch computes, module variables included") {
  for (const EmulatorProfile profile : {EmulatorProfile::sm_80, EmulatorProfile::ideal}) {
    const OnDevice device(profile);
    const FunctionHandle fill = device.function(device.load(kFill), "fill");
    const DevicePtr out = device.allocate(1000 * 4);
    REQUIRE(device.fill(fill, out, 1000, 7, {.x = 8, .y = 1, .z = 1}) == Result::success);
    std::vector<std::uint32_t> host(1000);
    REQUIRE(device.api->copy_to_host(host.data(), out, 4000, nullptr) == Result::success);
    for (std::uint32_t i = 0; i < 1000; ++i) REQUIRE(host[i] == 3 * i + 7 + 1000);
    CHECK(device.api->findings().empty());
    CHECK(device.api->last_launch().warp_instructions > 8 * 4);
  }
}

TEST_CASE("counters of the last launch: what every instruction did, bank conflicts included") {
  // Lane i stores to word 2 i: two passes where one would do.
  const char* const text = R"(
.version 8.0
.target sm_80
.address_size 64
.visible .entry strided()
{
  .reg .b32 %r<5>;
  .shared .align 16 .b8 s[512];
  mov.u32 %r1, %tid.x;
  shl.b32 %r2, %r1, 3;
  mov.b32 %r3, s;
  add.s32 %r4, %r2, %r3;
  st.shared.b32 [%r4], %r1;
  ret;
}
)";
  const OnDevice device;
  const FunctionHandle strided = device.function(device.load(text), "strided");
  const auto launch = [&] {
    REQUIRE(device.api->launch(strided, {3, 1, 1}, {64, 1, 1}, 0, nullptr, nullptr) ==
            Result::success);
    return device.api->last_launch();
  };
  CHECK(launch().lines.empty());
  device.api->configure({.counting = Counting::on});
  const LaunchCounters counters = launch();
  REQUIRE(counters.lines.size() == 6);
  std::uint64_t executed = 0;
  for (const LineCount& line : counters.lines) executed += line.executed;
  CHECK(executed == counters.warp_instructions);
  const LineCount& store = counters.lines[4];
  CHECK(store.opcode == "st.shared.b32");
  CHECK(store.ptx_line == 13);
  CHECK(store.executed == 3 * 2);
  CHECK(store.shared_wavefronts == 3 * 2 * 2);
  CHECK(store.shared_wavefronts_ideal == 3 * 2);
}

TEST_CASE("launch limits") {
  const OnDevice device;
  const ModuleHandle module = device.load(kFill);
  const FunctionHandle fill = device.function(module, "fill");
  const FunctionHandle free_size = device.function(module, "shared_user");
  const DevicePtr out = device.allocate(4);
  const auto with = [&](Dim3 grid, Dim3 block) {
    return device.fill(fill, out, 1, 0, grid, block);
  };
  CHECK(with({1, 1, 1}, {128, 1, 1}) == Result::success);
  CHECK(with({1, 1, 1}, {129, 1, 1}) == Result::invalid_value);  // .maxntid 128
  CHECK(with({1, 1, 1}, {16, 16, 1}) == Result::invalid_value);
  for (const Dim3 grid : {Dim3{0, 1, 1}, Dim3{1, 0, 1}, Dim3{1, 1, 0}, Dim3{1, 65536, 1},
                          Dim3{1, 1, 65536}, Dim3{0x8000'0000, 1, 1}}) {
    CHECK(with(grid, {32, 1, 1}) == Result::invalid_value);
    CHECK_THAT(device.api->last_error_detail(), StartsWith("grid "));
  }
  const auto block_only = [&](Dim3 block) {
    return device.api->launch(free_size, {}, block, 0, nullptr, nullptr);
  };
  CHECK(block_only({1024, 1, 1}) == Result::success);
  CHECK(block_only({1, 16, 64}) == Result::success);
  for (const Dim3 block : {Dim3{0, 1, 1}, Dim3{1025, 1, 1}, Dim3{1, 1, 65}, Dim3{32, 33, 1},
                           Dim3{1024, 1024, 64}, Dim3{0xffff'ffff, 0xffff'ffff, 1}}) {
    CHECK(block_only(block) == Result::invalid_value);
    CHECK_THAT(device.api->last_error_detail(), StartsWith("block "));
  }
  CHECK(device.api->launch(fill, {}, {}, 0, nullptr, nullptr) == Result::invalid_value);
  void* hole[] = {nullptr, nullptr, nullptr};
  CHECK(device.api->launch(fill, {}, {}, 0, nullptr, hole) == Result::invalid_value);
}

TEST_CASE("an estimate of registers refuses no launch, the bounds of the text do") {
  // 160 values live at once in the text. How many registers that takes is the assembler's affair.
  std::string loads;
  std::string stores;
  for (int i = 0; i < 160; ++i) {
    const std::string r = "%q" + std::to_string(i);
    loads += "ld.global.b32 " + r + ", [%rd1+" + std::to_string(4 * i) + "];\n";
    stores += "st.global.b32 [%rd1+" + std::to_string(4 * (159 - i)) + "], " + r + ";\n";
  }
  const OnDevice device;
  const FunctionHandle k = device.function(
      device.load(broken_module(".reg .b32 %q<160>; .reg .pred %qp; .reg .b32 %qt;\n"
                                "mov.u32 %qt, %tid.x; setp.ne.u32 %qp, %qt, 0; @%qp ret;\n"
                                "ld.param.b64 %rd1, [p];\n" +
                                loads + stores)),
      "k");
  int value = 0;
  REQUIRE(device.api->function_attribute(&value, FunctionAttribute::num_regs, k) ==
          Result::success);
  CHECK(value >= 160);
  CHECK(value <= 170);
  REQUIRE(device.api->function_attribute(&value, FunctionAttribute::max_threads_per_block, k) ==
          Result::success);
  CHECK(value == 1024);
  DevicePtr p = device.allocate(640);
  REQUIRE(device.api->fill_bytes(p, 1, 640, nullptr) == Result::success);
  void* params[] = {&p};
  CHECK(device.api->launch(k, {}, {.x = 1024, .y = 1, .z = 1}, 0, nullptr, params) ==
        Result::success);

  const auto bounded = [&](const char* bound, unsigned threads) {
    const std::string text = std::string(".version 8.4\n.target sm_80\n.address_size 64\n") +
                             ".visible .entry b() " + bound + " { ret; }\n";
    const FunctionHandle b = device.function(device.load(text), "b");
    return device.api->launch(b, {}, {.x = threads, .y = 1, .z = 1}, 0, nullptr, nullptr);
  };
  CHECK(bounded(".maxntid 64", 64) == Result::success);
  CHECK(bounded(".maxntid 64", 32) == Result::success);
  CHECK(bounded(".maxntid 64", 96) == Result::invalid_value);
  CHECK_THAT(device.api->last_error_detail(), Contains("at most 64"));
  CHECK(bounded(".maxntid 512 .maxnreg 255", 512) == Result::success);
  CHECK(bounded(".reqntid 64", 64) == Result::success);
  CHECK(bounded(".reqntid 64", 96) == Result::invalid_value);
  CHECK(bounded(".reqntid 64", 32) == Result::invalid_value);
  CHECK_THAT(device.api->last_error_detail(), Contains("no fewer"));
}

TEST_CASE("findings that come again are counted, and their number is bounded") {
  const OnDevice device;
  const DevicePtr fresh = device.allocate(4096);
  std::vector<unsigned char> host(4096);
  for (int i = 0; i < 1000; ++i) {
    REQUIRE(device.api->copy_to_host(host.data(), fresh, 4096, nullptr) == Result::success);
  }
  REQUIRE(device.api->findings().size() == 1);
  CHECK(device.api->findings()[0].count == 1000);
  for (int i = 0; i < 1000; ++i) {  // each is another one
    REQUIRE(device.api->copy_to_host(host.data(), fresh + i, 1, nullptr) == Result::success);
  }
  CHECK(device.api->findings().size() == 256);
  device.api->clear_findings();

  const FunctionHandle k = device.function(
      device.load(broken_module("ld.param.b64 %rd1, [p];\nld.global.b32 %r1, [%rd1+4096];\n"
                                "st.global.b32 [%rd1+4097], %r1;")),
      "k");
  DevicePtr p = fresh;
  void* params[] = {&p};
  for (int i = 0; i < 3; ++i) {
    CHECK(device.api->launch(k, {}, {.x = 32, .y = 1, .z = 1}, 0, nullptr, params) ==
          Result::illegal_address);
    // All of them, in the order of the program.
    const std::string detail = device.api->last_error_detail();
    CHECK_THAT(detail, StartsWith("k, PTX line 7: out-of-bounds: ") && Contains("(32 times)") &&
                           Contains("\nk, PTX line 8: misaligned: "));
  }
  REQUIRE(device.api->findings().size() == 2);
  CHECK(device.api->findings()[0].count == 96);
}

TEST_CASE("devices and emulators have addresses of their own") {
  const OnDevice one;
  const OnDevice other;  // of another emulator
  const DevicePtr mine = one.allocate(256);
  const DevicePtr theirs = other.allocate(256);
  CHECK(mine != theirs);
  std::vector<unsigned char> host(256);
  CHECK(one.api->copy_to_host(host.data(), theirs, 256, nullptr) == Result::invalid_value);
  CHECK(one.api->mem_free(theirs) == Result::invalid_value);

  // Of one emulator, too: a kernel that gets the other device's tensor does not find it.
  ContextHandle context = nullptr;
  ContextHandle before = nullptr;
  REQUIRE(one.api->get_current(&before) == Result::success);
  REQUIRE(one.api->primary_context_retain(&context, 0) == Result::success);
  REQUIRE(one.api->set_current(context) == Result::success);
  DevicePtr second = 0;
  REQUIRE(one.api->mem_alloc(&second, 256) == Result::success);
  REQUIRE(one.api->set_current(before) == Result::success);
  CHECK(second != mine);
  const FunctionHandle k = one.function(
      one.load(broken_module("ld.param.b64 %rd1, [p];\nld.global.b32 %r1, [%rd1];")), "k");
  void* params[] = {&second};
  CHECK(one.api->launch(k, {}, {.x = 32, .y = 1, .z = 1}, 0, nullptr, params) ==
        Result::illegal_address);
  CHECK(one.api->primary_context_release(0) == Result::success);
}

TEST_CASE("findings make a launch fail, with the reports") {
  const OnDevice device;
  const auto run = [&](const std::string& body, DevicePtr p) {
    const FunctionHandle k = device.function(device.load(broken_module(body)), "k");
    void* params[] = {&p};
    return device.api->launch(k, {}, {.x = 32, .y = 1, .z = 1}, 0, nullptr, params);
  };
  const DevicePtr live = device.allocate(256);
  REQUIRE(device.api->fill_bytes(live, 0, 256, nullptr) == Result::success);

  CHECK(run("ld.param.b64 %rd1, [p];\nld.global.b32 %r1, [%rd1+256];", live) ==
        Result::illegal_address);
  REQUIRE(device.api->findings().size() == 1);
  const Finding finding = device.api->findings()[0];
  CHECK(finding.check == "out-of-bounds");
  CHECK(finding.kernel == "k");
  CHECK(finding.ptx_line == 7);
  CHECK_THAT(device.api->last_error_detail(),
             StartsWith("k, PTX line 7: out-of-bounds: ") && Contains("block (0, 0, 0)"));

  const DevicePtr freed = device.allocate(64);
  REQUIRE(device.api->mem_free(freed) == Result::success);
  CHECK(run("ld.param.b64 %rd1, [p];\nst.global.b32 [%rd1], 5;", freed) == Result::illegal_address);
  CHECK_THAT(device.api->last_error_detail(), Contains("freed"));

  CHECK(run("ld.shared.b32 %r1, [s];\nld.param.b64 %rd1, [p];\nadd.s32 %r1, %r1, 1;\n"
            "st.global.b32 [%rd1], %r1;",
            live) == Result::launch_failed);
  CHECK(device.api->findings().size() == 3);
  CHECK(device.api->findings().back().check == "uninitialized");

  // The device works on, and clear_findings forgets.
  CHECK(run("ld.param.b64 %rd1, [p];\nld.global.b32 %r1, [%rd1];", live) == Result::success);
  CHECK(device.api->last_error_detail().empty());
  device.api->clear_findings();
  CHECK(device.api->findings().empty());
}

TEST_CASE("checks can be switched off, except for bounds") {
  const OnDevice device;
  EmulatorOptions options;
  options.checks = Checks::off;
  device.api->configure(options);
  DevicePtr live = device.allocate(256);
  void* params[] = {&live};
  const auto run = [&](const std::string& body) {
    const FunctionHandle k = device.function(device.load(broken_module(body)), "k");
    return device.api->launch(k, {}, {.x = 32, .y = 1, .z = 1}, 0, nullptr, params);
  };
  CHECK(run("ld.shared.b32 %r1, [s];\nld.param.b64 %rd1, [p];\nst.global.b32 [%rd1], %r1;") ==
        Result::success);
  CHECK(run("ld.param.b64 %rd1, [p];\nld.global.b32 %r1, [%rd1+4096];") == Result::illegal_address);
}

// ---- streams, events, threads ---------------------------------------------------------------------

TEST_CASE("streams and events") {
  const OnDevice device;
  DriverApi& api = *device.api;
  StreamHandle stream = nullptr;
  REQUIRE(api.stream_create(&stream) == Result::success);
  REQUIRE(stream != nullptr);
  CHECK(api.stream_synchronize(stream) == Result::success);
  CHECK(api.stream_synchronize(nullptr) == Result::success);

  EventHandle start = nullptr;
  EventHandle end = nullptr;
  REQUIRE(api.event_create(&start) == Result::success);
  REQUIRE(api.event_create(&end) == Result::success);
  float ms = -1;
  CHECK(api.event_elapsed_ms(&ms, start, end) == kInvalidHandle);  // not recorded
  REQUIRE(api.event_record(start, stream) == Result::success);
  const FunctionHandle fill = device.function(device.load(kFill), "fill");
  REQUIRE(device.fill(fill, device.allocate(4), 1, 0, {.x = 1, .y = 1, .z = 1}) == Result::success);
  REQUIRE(api.event_record(end, stream) == Result::success);
  REQUIRE(api.event_synchronize(end) == Result::success);
  CHECK(api.event_elapsed_ms(&ms, start, end) == Result::success);
  CHECK(ms > 0);
  float back = 0;
  CHECK(api.event_elapsed_ms(&back, end, start) == Result::success);
  CHECK(back == -ms);

  CHECK(api.event_destroy(start) == Result::success);
  CHECK(api.event_destroy(start) == kInvalidHandle);
  CHECK(api.event_record(start, stream) == kInvalidHandle);
  CHECK(api.stream_destroy(stream) == Result::success);
  CHECK(api.stream_destroy(stream) == kInvalidHandle);
  CHECK(api.stream_synchronize(stream) == kInvalidHandle);
  CHECK(api.fill_bytes(device.allocate(4), 0, 4, stream) == kInvalidHandle);
  CHECK(api.launch(fill, {}, {}, 0, stream, nullptr) == kInvalidHandle);
}

TEST_CASE("a stream of one context does not work in another") {
  const OnDevice device;
  StreamHandle stream = nullptr;
  REQUIRE(device.api->stream_create(&stream) == Result::success);
  const FunctionHandle fill = device.function(device.load(kFill), "fill");
  ContextHandle other = nullptr;
  REQUIRE(device.api->primary_context_retain(&other, 0) == Result::success);
  REQUIRE(device.api->set_current(other) == Result::success);
  CHECK(device.api->stream_synchronize(stream) == kInvalidHandle);
  CHECK(device.fill(fill, 0, 0, 0, {.x = 1, .y = 1, .z = 1}) == Result::invalid_context);
}

TEST_CASE("several host threads share a device") {
  const OnDevice device;
  const FunctionHandle fill = device.function(device.load(kFill), "fill");
  constexpr int kThreads = 4;
  constexpr std::uint32_t kCount = 700;
  std::array<std::string, kThreads> problems;
  const auto work = [&](int index) {
    DriverApi& api = *device.api;
    std::string& problem = problems[static_cast<std::size_t>(index)];
    if (api.set_current(device.context) != Result::success) problem = "set_current";
    for (std::uint32_t round = 0; round < 20 && problem.empty(); ++round) {
      DevicePtr out = 0;
      std::vector<std::uint32_t> host(kCount);
      const std::uint32_t seed = 1000 * static_cast<std::uint32_t>(index) + round;
      if (api.mem_alloc(&out, kCount * 4) != Result::success) problem = "mem_alloc";
      if (device.fill(fill, out, kCount, seed, {.x = 6, .y = 1, .z = 1}) != Result::success) {
        problem = "launch: " + api.last_error_detail();
      }
      if (api.copy_to_host(host.data(), out, kCount * 4, nullptr) != Result::success)
        problem = "copy";
      for (std::uint32_t i = 0; i < kCount; ++i) {
        if (host[i] != 3 * i + seed + 1000) problem = "wrong value at " + std::to_string(i);
      }
      if (api.mem_free(out) != Result::success) problem = "mem_free";
      ModuleHandle module = nullptr;
      if (api.module_load(&module, kFill, nullptr) != Result::success ||
          api.module_unload(module) != Result::success) {
        problem = "module";
      }
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
  for (const std::string& problem : problems) CHECK(problem.empty());
}

TEST_CASE("tensor maps are refused with a reason until the emulator models them") {
  const OnDevice on(EmulatorProfile::sm_90);
  TensorMap map;
  CHECK(on.api->tensor_map_encode_tiled(&map, {}) == Result::not_supported);
  CHECK_THAT(on.api->last_error_detail(), Contains("bulk tensor copies"));
}

// A graph holds launches and their arguments; memory is what it is when the graph runs.
TEST_CASE("a captured stream is replayed with the memory of the time") {
  const OnDevice on(EmulatorProfile::sm_90);
  StreamHandle stream = nullptr;
  REQUIRE(on.api->stream_create(&stream) == Result::success);
  ModuleHandle module = nullptr;
  FunctionHandle add = nullptr;
  // p[0] += n
  const char* ptx =
      ".version 8.0\n.target sm_80\n.address_size 64\n"
      ".visible .entry add(.param .u64 p, .param .u32 n)\n{\n"
      " .reg .b64 %d<2>;\n .reg .b32 %r<4>;\n"
      " ld.param.u64 %d1, [p];\n ld.param.u32 %r1, [n];\n ld.global.u32 %r2, [%d1];\n"
      " add.s32 %r3, %r2, %r1;\n st.global.u32 [%d1], %r3;\n ret;\n}\n";
  REQUIRE(on.api->module_load(&module, ptx, nullptr) == Result::success);
  REQUIRE(on.api->module_function(&add, module, "add") == Result::success);
  DevicePtr memory = 0;
  REQUIRE(on.api->mem_alloc(&memory, 12) == Result::success);
  const auto value = [&](std::uint64_t at) {
    std::uint32_t number = 0;
    CHECK(on.api->copy_to_host(&number, memory + at, 4, nullptr) == Result::success);
    return number;
  };
  const auto set = [&](std::uint32_t number) {
    CHECK(on.api->copy_to_device(memory, &number, 4, nullptr) == Result::success);
  };
  GraphHandle graph = nullptr;
  CHECK(on.api->stream_end_capture(stream, &graph) == Result{401});
  CHECK(on.api->stream_begin_capture(nullptr) == Result{900});
  REQUIRE(on.api->stream_begin_capture(stream) == Result::success);
  CHECK(on.api->stream_begin_capture(stream) == Result{401});
  set(1);
  const auto launch = [&](std::uint32_t n) {
    void* params[] = {&memory, &n};
    return on.api->launch(add, {}, {}, 0, stream, params);
  };
  CHECK(launch(10) == Result::success);
  CHECK(launch(100) == Result::success);
  CHECK(on.api->fill_bytes(memory + 4, 7, 4, stream) == Result::success);
  CHECK(on.api->copy_on_device(memory + 8, memory, 4, stream) == Result::success);
  // What a capture cannot hold.
  std::uint32_t number = 0;
  CHECK(on.api->stream_synchronize(stream) == Result{900});
  CHECK(on.api->copy_to_host(&number, memory, 4, stream) == Result{900});
  CHECK(on.api->copy_to_device(memory, &number, 4, stream) == Result{900});
  CHECK_THAT(on.api->last_error_detail(), Contains("a copy on a stream that is being captured"));
  EventHandle event = nullptr;
  REQUIRE(on.api->event_create(&event) == Result::success);
  CHECK(on.api->event_record(event, stream) == Result{900});
  REQUIRE(on.api->stream_end_capture(stream, &graph) == Result::success);
  CHECK(value(0) == 1);  // nothing ran

  GraphExecutableHandle executable = nullptr;
  REQUIRE(on.api->graph_instantiate(&executable, graph) == Result::success);
  CHECK(on.api->graph_destroy(graph) == Result::success);
  CHECK(on.api->graph_destroy(graph) == Result{400});
  CHECK(on.api->graph_instantiate(&executable, graph) == Result{400});
  CHECK(on.api->graph_launch(executable, stream) == Result::success);
  CHECK(value(0) == 111);
  CHECK(value(4) == 0x07070707);
  CHECK(value(8) == 111);
  set(1000);
  CHECK(on.api->graph_launch(executable, nullptr) == Result::success);
  CHECK(on.api->graph_launch(executable, stream) == Result::success);
  CHECK(value(0) == 1220);
  CHECK(launch(1) == Result::success);  // no longer captured
  CHECK(value(0) == 1221);
  // A graph keeps its kernels, and a failure in it is that of the replay.
  CHECK(on.api->module_unload(module) == Result::success);
  CHECK(on.api->graph_launch(executable, stream) == Result::success);
  CHECK(value(0) == 1331);
  CHECK(on.api->mem_free(memory) == Result::success);
  CHECK(on.api->graph_launch(executable, stream) != Result::success);
  CHECK(on.api->graph_executable_destroy(executable) == Result::success);
  CHECK(on.api->graph_launch(executable, stream) == Result{400});
}

}  // namespace
}  // namespace sagegen::runtime
