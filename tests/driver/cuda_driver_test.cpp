// load_cuda() against stand-ins for libcuda: what it finds missing, and that every function of the
// seam reaches the right symbol with its arguments in the right order.
#include <dlfcn.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <initializer_list>
#include <span>
#include <string>

#include "runtime/driver/cuda_driver.h"

using namespace sagegen::runtime;
using Catch::Matchers::Contains;
using Catch::Matchers::EndsWith;

namespace {

// The log of the stand-in that is already loaded under this path.
class Log {
 public:
  explicit Log(const char* library) : handle_(dlopen(library, RTLD_NOW | RTLD_NOLOAD)) {
    REQUIRE(handle_ != nullptr);
    read_ = reinterpret_cast<const char* (*)()>(dlsym(handle_, "fake_libcuda_log"));
    clear_ = reinterpret_cast<void (*)()>(dlsym(handle_, "fake_libcuda_clear"));
  }
  ~Log() { dlclose(handle_); }
  std::string take() {
    std::string text = read_();
    clear_();
    return text;
  }

 private:
  void* handle_;
  const char* (*read_)();
  void (*clear_)();
};

template <typename Handle>
Handle handle(std::uintptr_t value) {
  return reinterpret_cast<Handle>(value);
}

}  // namespace

TEST_CASE("a driver that cannot be used is refused with a sentence") {
  std::string why;
  SECTION("no such library") {
    CHECK(load_cuda_library("libsagegen_no_such_driver.so", &why) == nullptr);
    CHECK_THAT(why, Contains("not found") && Contains("libsagegen_no_such_driver.so"));
  }
  SECTION("a function is missing") {
    CHECK(load_cuda_library(FAKE_LIBCUDA_WITHOUT_MEMSET, &why) == nullptr);
    CHECK_THAT(why, Contains("lacks cuMemsetD8Async"));
  }
  SECTION("it does not initialize") {
    CHECK(load_cuda_library(FAKE_LIBCUDA_INIT_FAILS, &why) == nullptr);
    CHECK_THAT(why, Contains("cuInit failed with CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"));
  }
  SECTION("it is the toolkit's stub") {
    CHECK(load_cuda_library(FAKE_LIBCUDA_STUB, &why) == nullptr);
    CHECK_THAT(why, Contains("(34)") && Contains("toolkit's stub") && Contains("LD_LIBRARY_PATH"));
  }
  SECTION("it has no device") {
    CHECK(load_cuda_library(FAKE_LIBCUDA_NO_DEVICE, &why) == nullptr);
    CHECK_THAT(why, Contains("no device"));
  }
  SECTION("nobody wants to know why") {
    CHECK(load_cuda_library("libsagegen_no_such_driver.so", nullptr) == nullptr);
  }
}

TEST_CASE("the first library that can be used is used, and the first that exists is explained") {
  constexpr const char* kMissing = "libsagegen_no_such_driver.so";
  std::string why = "untouched";
  const auto load = [&](std::initializer_list<const char*> libraries) {
    return load_cuda_library(std::span(libraries.begin(), libraries.size()), &why);
  };
  for (const char* first : {kMissing, FAKE_LIBCUDA_STUB, FAKE_LIBCUDA_INIT_FAILS}) {
    CHECK(load({first, FAKE_LIBCUDA_WITHOUT_GRAPHS}) != nullptr);
    CHECK(why.empty());
  }
  CHECK(load({kMissing, FAKE_LIBCUDA_STUB}) == nullptr);
  CHECK_THAT(why, Contains("stub"));
  CHECK(load({FAKE_LIBCUDA_INIT_FAILS, FAKE_LIBCUDA_STUB}) == nullptr);
  CHECK_THAT(why, Contains("803"));
  CHECK(load({kMissing, "libsagegen_nor_this.so"}) == nullptr);
  CHECK_THAT(why, Contains("not found") && Contains(kMissing) &&
                      EndsWith(". Nor is there libsagegen_nor_this.so."));
}

TEST_CASE("load_cuda returns a driver or a reason on every machine") {
  std::string why = "untouched";
  const std::shared_ptr<DriverApi> driver = load_cuda(&why);
  CHECK((driver == nullptr) == !why.empty());
  if (driver != nullptr) CHECK(driver->name() == "cuda");
}

TEST_CASE("every call reaches its symbol with its arguments in order") {
  std::string why;
  const std::shared_ptr<DriverApi> driver = load_cuda_library(FAKE_LIBCUDA, &why);
  REQUIRE(driver != nullptr);
  CHECK(why.empty());
  Log log(FAKE_LIBCUDA);
  CHECK(log.take() == "init 0\ndevice_count\n");
  const auto returns_and_logs = [&](Result result, const std::string& expected) {
    CHECK(result == Result::success);
    CHECK(log.take() == expected);
  };

  int value = 0;
  returns_and_logs(driver->init(), "init 0\n");
  returns_and_logs(driver->driver_version(&value), "driver_version\n");
  CHECK(value == 12080);
  returns_and_logs(driver->device_count(&value), "device_count\n");
  CHECK(value == 1);
  char name[16];
  returns_and_logs(driver->device_name(name, sizeof name, 0), "device_name 16 70\n");
  CHECK(std::string(name) == "Fake 70");
  returns_and_logs(
      driver->device_attribute(&value, DeviceAttribute::max_shared_memory_per_block_optin, 0),
      "device_attribute 97 70\n");
  CHECK(value == 1097);
  std::size_t bytes = 0;
  returns_and_logs(driver->device_total_memory(&bytes, 0), "device_total_memory 70\n");
  CHECK(bytes == std::size_t{5} << 32);
  CHECK(driver->device_total_memory(&bytes, 1) == Result::invalid_device);
  CHECK(log.take().empty());

  ContextHandle context = nullptr;
  returns_and_logs(driver->primary_context_retain(&context, 0), "retain 70\n");
  CHECK(context == handle<ContextHandle>(0xc0));
  returns_and_logs(driver->set_current(context), "set_current 0xc0\n");
  returns_and_logs(driver->get_current(&context), "get_current\n");
  CHECK(context == handle<ContextHandle>(0xabc));
  returns_and_logs(driver->context_synchronize(), "synchronize\n");
  returns_and_logs(driver->primary_context_release(0), "release 70\n");

  ModuleHandle module = nullptr;
  FunctionHandle function = nullptr;
  std::string text, code;
  CHECK(driver->can_compile());
  returns_and_logs(driver->compile(&code, "good", &text),
                   "link_create 4\nlink_add 0x70 1 good 5 kernel 0 0 0\nlink_complete 0x70\n"
                   "link_destroy 0x70\n");
  CHECK(text == "info: 12 registers");
  CHECK(code == std::string("\x7f"
                            "ELF\0code",
                            9));  // bytes, not a C string
  CHECK(driver->compile(&code, "bad", &text) == Result::invalid_ptx);
  CHECK(text == "error in bad");
  CHECK(log.take() == "link_create 4\nlink_add 0x70 1 bad 4 kernel 0 0 0\nlink_destroy 0x70\n");
  returns_and_logs(driver->module_load(&module, "good", &text),
                   "module_load option 5 has 1 bytes\nmodule_load option 3 has 1 bytes\n"
                   "module_load good\n");
  CHECK(text == "error in good\ninfo: 12 registers");
  returns_and_logs(driver->module_function(&function, module, "entry"),
                   "module_function 0x30 entry\n");
  returns_and_logs(driver->function_attribute(&value, FunctionAttribute::num_regs, function),
                   "function_attribute 4 0x31\n");
  CHECK(value == 55);
  returns_and_logs(driver->function_set_attribute(
                       function, FunctionAttribute::max_dynamic_shared_size_bytes, 65536),
                   "function_set_attribute 0x31 8 65536\n");
  int argument = -17;
  void* params[] = {&argument};
  returns_and_logs(
      driver->launch(function, Dim3{1, 2, 3}, Dim3{4, 5, 6}, 7, handle<StreamHandle>(0x40), params),
      "launch 0x31 (1 2 3) (4 5 6) 7 0x40 -17 0\n");
  returns_and_logs(driver->module_unload(module), "module_unload 0x30\n");

  DevicePtr ptr = 0;
  returns_and_logs(driver->mem_alloc(&ptr, 4096), "mem_alloc 4096\n");
  CHECK(ptr == 0x7f0000001000);
  CHECK(driver->mem_alloc(&ptr, std::size_t{1} << 41) == Result::out_of_memory);
  const auto* source = handle<const void*>(0x61);
  auto* target = handle<void*>(0x62);
  const auto stream = handle<StreamHandle>(0x63);
  returns_and_logs(driver->copy_to_device(ptr, source, 10, stream),
                   "htod 0x7f0000001000 0x61 10 0x63\n");
  returns_and_logs(driver->copy_to_host(target, ptr, 11, stream),
                   "dtoh 0x62 0x7f0000001000 11 0x63\n");
  returns_and_logs(driver->copy_on_device(ptr, ptr + 256, 13, stream),
                   "dtod 0x7f0000001000 0x7f0000001100 13 0x63\n");
  returns_and_logs(driver->fill_bytes(ptr, 200, 12, stream), "fill 0x7f0000001000 200 12 0x63\n");
  returns_and_logs(driver->mem_free(ptr), "mem_free 0x7f0000001000\n");

  TensorMap map;
  returns_and_logs(driver->tensor_map_encode_tiled(&map, {.type = TensorMapType::bf16,
                                                          .rank = 3,
                                                          .base = 0x7000,
                                                          .shape = {64, 100, 7},
                                                          .strides = {128, 12800},
                                                          .box = {32, 16, 1},
                                                          .swizzle = TensorMapSwizzle::span_64,
                                                          .promotion = TensorMapPromotion::l2_256,
                                                          .fill = TensorMapFill::nan}),
                   "tensor_map type 9 at 0x7000: 64/32/1/128 100/16/1/12800 7/1/1; 0 2 3 1\n");
  CHECK(map.opaque[0] == 0x7e);
  CHECK(map.opaque[15] == 0x7f);

  StreamHandle created = nullptr;
  returns_and_logs(driver->stream_create(&created), "stream_create 1\n");  // non-blocking
  returns_and_logs(driver->stream_synchronize(created), "stream_synchronize 0x40\n");
  returns_and_logs(driver->stream_destroy(created), "stream_destroy 0x40\n");
  EventHandle event = nullptr;
  returns_and_logs(driver->event_create(&event), "event_create 0\n");  // with timing
  returns_and_logs(driver->event_record(event, stream), "event_record 0x50 0x63\n");
  returns_and_logs(driver->event_synchronize(event), "event_synchronize 0x50\n");
  float milliseconds = 0;
  returns_and_logs(
      driver->event_elapsed_ms(&milliseconds, handle<EventHandle>(0x71), handle<EventHandle>(0x72)),
      "event_elapsed 0x71 0x72\n");
  CHECK(milliseconds == 2.5f);
  returns_and_logs(driver->event_destroy(event), "event_destroy 0x50\n");

  returns_and_logs(driver->stream_begin_capture(stream), "begin_capture 0x63 1\n");  // thread-local
  GraphHandle graph = nullptr;
  returns_and_logs(driver->stream_end_capture(stream, &graph), "end_capture 0x63\n");
  GraphExecutableHandle executable = nullptr;
  returns_and_logs(driver->graph_instantiate(&executable, graph), "graph_instantiate 0x60 0\n");
  returns_and_logs(driver->graph_destroy(graph), "graph_destroy 0x60\n");
  returns_and_logs(driver->graph_launch(executable, stream), "graph_launch 0x61 0x63\n");
  returns_and_logs(driver->graph_executable_destroy(executable), "graph_exec_destroy 0x61\n");
}

TEST_CASE("a driver without tensor maps is used without them") {
  std::string why;
  const std::shared_ptr<DriverApi> driver =
      load_cuda_library(FAKE_LIBCUDA_WITHOUT_TENSOR_MAP, &why);
  REQUIRE(driver != nullptr);
  TensorMap map;
  CHECK(driver->tensor_map_encode_tiled(&map, {}) == Result::not_supported);
}

TEST_CASE("a driver that lacks a function of the linker does not compile") {
  std::string why;
  const std::shared_ptr<DriverApi> driver = load_cuda_library(FAKE_LIBCUDA_WITHOUT_LINKER, &why);
  REQUIRE(driver != nullptr);
  CHECK_FALSE(driver->can_compile());
  CHECK(driver->takes_machine_code());
  std::string code;
  CHECK(driver->compile(&code, "good", nullptr) == Result::not_supported);
}

TEST_CASE("a driver says which file it is, behind links") {
  std::string why;
  const std::shared_ptr<DriverApi> driver = load_cuda_library(FAKE_LIBCUDA, &why);
  REQUIRE(driver != nullptr);
  CHECK(driver->build() == std::filesystem::canonical(FAKE_LIBCUDA).filename());
}

TEST_CASE("a driver without graphs is used without them") {
  std::string why;
  const std::shared_ptr<DriverApi> driver = load_cuda_library(FAKE_LIBCUDA_WITHOUT_GRAPHS, &why);
  REQUIRE(driver != nullptr);
  GraphHandle graph = nullptr;
  GraphExecutableHandle executable = nullptr;
  CHECK(driver->stream_begin_capture(nullptr) == Result::not_supported);
  CHECK(driver->stream_end_capture(nullptr, &graph) == Result::not_supported);
  CHECK(driver->graph_instantiate(&executable, graph) == Result::not_supported);
  CHECK(driver->graph_launch(executable, nullptr) == Result::not_supported);
  CHECK(driver->graph_destroy(graph) == Result::not_supported);
  CHECK(driver->graph_executable_destroy(executable) == Result::not_supported);
}

TEST_CASE("results have the driver's names, and the log of a failed module survives") {
  std::string why;
  const std::shared_ptr<DriverApi> driver = load_cuda_library(FAKE_LIBCUDA, &why);
  REQUIRE(driver != nullptr);
  CHECK(driver->result_name(Result::out_of_memory) == "CUDA_ERROR_OUT_OF_MEMORY");
  CHECK(driver->result_name(Result{1234}) == "unknown result 1234");
  ModuleHandle module = nullptr;
  std::string text;
  CHECK(driver->module_load(&module, "bad", &text) == Result::invalid_ptx);
  CHECK_THAT(text, Contains("error in bad"));
}
