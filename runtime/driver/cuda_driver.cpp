#include "runtime/driver/cuda_driver.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "runtime/driver/cuda_functions.h"

namespace sagegen::runtime {
namespace {

// The size of an option travels in the pointer that holds its value (CUDA driver API,
// cuModuleLoadDataEx).
void* as_option(std::size_t value) {
  return reinterpret_cast<void*>(static_cast<std::uintptr_t>(value));
}

// What the compiler in the driver says while it works on options().
class JitLog {
 public:
  static constexpr unsigned kOptions = 4;
  int* options() { return options_.data(); }
  void** values() { return values_.data(); }
  std::string text() const {
    const bool both = errors_[0] != '\0' && messages_[0] != '\0';
    return fmt::format("{}{}{}", errors_.data(), both ? "\n" : "", messages_.data());
  }

 private:
  std::array<char, 16384> errors_{}, messages_{};
  std::array<int, kOptions> options_{
      cuda_constant::kJitErrorLogBuffer, cuda_constant::kJitErrorLogBufferBytes,
      cuda_constant::kJitInfoLogBuffer, cuda_constant::kJitInfoLogBufferBytes};
  std::array<void*, kOptions> values_{errors_.data(), as_option(errors_.size() - 1),
                                      messages_.data(), as_option(messages_.size() - 1)};
};

class CudaDriver final : public DriverApi {
 public:
  CudaDriver(const CudaFunctions& functions, std::string build)
      : cuda_(functions), build_(std::move(build)) {}

  std::string name() const override { return "cuda"; }

  Result init() override { return Result{cuda_.init(0)}; }
  Result driver_version(int* version) override { return Result{cuda_.driver_get_version(version)}; }
  Result device_count(int* count) override { return Result{cuda_.device_get_count(count)}; }

  Result device_name(char* name, int length, DeviceOrdinal ordinal) override {
    return with_device(ordinal, [&](int d) { return cuda_.device_get_name(name, length, d); });
  }
  Result device_attribute(int* value, DeviceAttribute attribute, DeviceOrdinal ordinal) override {
    return with_device(ordinal, [&](int d) {
      return cuda_.device_get_attribute(value, static_cast<int>(attribute), d);
    });
  }
  Result device_total_memory(std::size_t* bytes, DeviceOrdinal ordinal) override {
    return with_device(ordinal, [&](int d) { return cuda_.device_total_mem(bytes, d); });
  }

  Result primary_context_retain(ContextHandle* context, DeviceOrdinal ordinal) override {
    return with_device(ordinal, [&](int d) { return cuda_.device_primary_ctx_retain(context, d); });
  }
  Result primary_context_release(DeviceOrdinal ordinal) override {
    return with_device(ordinal, [&](int d) { return cuda_.device_primary_ctx_release(d); });
  }
  Result set_current(ContextHandle context) override {
    return Result{cuda_.ctx_set_current(context)};
  }
  Result get_current(ContextHandle* context) override {
    return Result{cuda_.ctx_get_current(context)};
  }
  Result context_synchronize() override { return Result{cuda_.ctx_synchronize()}; }

  Result module_load(ModuleHandle* module, const char* ptx, std::string* log) override {
    JitLog jit;
    const Result result{
        cuda_.module_load_data_ex(module, ptx, JitLog::kOptions, jit.options(), jit.values())};
    if (log != nullptr) *log = jit.text();
    return result;
  }
  bool takes_machine_code() const override { return true; }
  bool can_compile() const override {
    return cuda_.link_create != nullptr && cuda_.link_add_data != nullptr &&
           cuda_.link_complete != nullptr && cuda_.link_destroy != nullptr;
  }
  Result compile(std::string* code, const char* ptx, std::string* log) override {
    if (!can_compile()) return Result::not_supported;
    JitLog jit;  // written to until the link is destroyed
    LinkHandle link = nullptr;
    Result result{cuda_.link_create(JitLog::kOptions, jit.options(), jit.values(), &link)};
    if (result == Result::success) {
      const auto destroy = [this](LinkTag* handle) { cuda_.link_destroy(handle); };
      const std::unique_ptr<LinkTag, decltype(destroy)> owner(link, destroy);
      result = Result{cuda_.link_add_data(link, cuda_constant::kJitInputPtx,
                                          const_cast<char*>(ptx),  // the driver only reads it
                                          std::strlen(ptx) + 1, "kernel", 0, nullptr, nullptr)};
      void* image = nullptr;  // the link's
      std::size_t bytes = 0;
      if (result == Result::success)
        result = Result{cuda_.link_complete(link, &image, &bytes)};
      if (result == Result::success) code->assign(static_cast<const char*>(image), bytes);
    }
    if (log != nullptr) *log = jit.text();
    return result;
  }
  Result module_unload(ModuleHandle module) override { return Result{cuda_.module_unload(module)}; }
  Result module_function(FunctionHandle* function, ModuleHandle module, const char* name) override {
    return Result{cuda_.module_get_function(function, module, name)};
  }
  Result function_attribute(int* value, FunctionAttribute attribute,
                            FunctionHandle function) override {
    return Result{cuda_.func_get_attribute(value, static_cast<int>(attribute), function)};
  }
  Result function_set_attribute(FunctionHandle function, FunctionAttribute attribute,
                                int value) override {
    return Result{cuda_.func_set_attribute(function, static_cast<int>(attribute), value)};
  }
  Result launch(FunctionHandle function, Dim3 grid, Dim3 block, unsigned dynamic_smem_bytes,
                StreamHandle stream, void** params) override {
    return Result{cuda_.launch_kernel(function, grid.x, grid.y, grid.z, block.x, block.y, block.z,
                                      dynamic_smem_bytes, stream, params, nullptr)};
  }

  Result mem_alloc(DevicePtr* ptr, std::size_t bytes) override {
    return Result{cuda_.mem_alloc(ptr, bytes)};
  }
  Result mem_free(DevicePtr ptr) override { return Result{cuda_.mem_free(ptr)}; }
  Result copy_to_device(DevicePtr dst, const void* src, std::size_t bytes,
                        StreamHandle stream) override {
    return Result{cuda_.memcpy_htod_async(dst, src, bytes, stream)};
  }
  Result copy_to_host(void* dst, DevicePtr src, std::size_t bytes, StreamHandle stream) override {
    return Result{cuda_.memcpy_dtoh_async(dst, src, bytes, stream)};
  }
  Result copy_on_device(DevicePtr dst, DevicePtr src, std::size_t bytes,
                        StreamHandle stream) override {
    return Result{cuda_.memcpy_dtod_async(dst, src, bytes, stream)};
  }
  Result fill_bytes(DevicePtr dst, unsigned char value, std::size_t count,
                    StreamHandle stream) override {
    return Result{cuda_.memset_d8_async(dst, value, count, stream)};
  }

  Result tensor_map_encode_tiled(TensorMap* map, const TensorMapLayout& layout) override {
    if (cuda_.tensor_map_encode_tiled == nullptr) return Result::not_supported;
    constexpr unsigned kEveryElement[] = {1, 1, 1, 1, 1};
    return Result{cuda_.tensor_map_encode_tiled(
        map, static_cast<int>(layout.type), static_cast<unsigned>(layout.rank),
        reinterpret_cast<void*>(static_cast<std::uintptr_t>(layout.base)), layout.shape.data(),
        layout.strides.data(), layout.box.data(), kEveryElement,
        cuda_constant::kTensorMapInterleaveNone, static_cast<int>(layout.swizzle),
        static_cast<int>(layout.promotion), static_cast<int>(layout.fill))};
  }

  Result stream_create(StreamHandle* stream) override {
    return Result{cuda_.stream_create(stream, cuda_constant::kStreamNonBlocking)};
  }
  Result stream_destroy(StreamHandle stream) override {
    return Result{cuda_.stream_destroy(stream)};
  }
  Result stream_synchronize(StreamHandle stream) override {
    return Result{cuda_.stream_synchronize(stream)};
  }
  Result event_create(EventHandle* event) override {
    return Result{cuda_.event_create(event, cuda_constant::kEventDefault)};
  }
  Result event_destroy(EventHandle event) override { return Result{cuda_.event_destroy(event)}; }
  Result event_record(EventHandle event, StreamHandle stream) override {
    return Result{cuda_.event_record(event, stream)};
  }
  Result event_synchronize(EventHandle event) override {
    return Result{cuda_.event_synchronize(event)};
  }
  Result event_elapsed_ms(float* ms, EventHandle start, EventHandle end) override {
    return Result{cuda_.event_elapsed_time(ms, start, end)};
  }

  Result stream_begin_capture(StreamHandle stream) override {
    return optional(cuda_.stream_begin_capture, stream, cuda_constant::kCaptureThreadLocal);
  }
  Result stream_end_capture(StreamHandle stream, GraphHandle* graph) override {
    return optional(cuda_.stream_end_capture, stream, graph);
  }
  Result graph_destroy(GraphHandle graph) override { return optional(cuda_.graph_destroy, graph); }
  Result graph_instantiate(GraphExecutableHandle* executable, GraphHandle graph) override {
    return optional(cuda_.graph_instantiate, executable, graph, 0ull);
  }
  Result graph_executable_destroy(GraphExecutableHandle executable) override {
    return optional(cuda_.graph_exec_destroy, executable);
  }
  Result graph_launch(GraphExecutableHandle executable, StreamHandle stream) override {
    return optional(cuda_.graph_launch, executable, stream);
  }

  std::string result_name(Result result) const override {
    const char* text = nullptr;
    const int value = static_cast<int>(result);
    if (cuda_.get_error_name(value, &text) == 0 && text != nullptr) return text;
    return fmt::format("unknown result {}", value);
  }
  std::string build() const override { return build_; }

 private:
  template <typename Function, typename... Arguments>
  static Result optional(Function function, Arguments... arguments) {
    return function == nullptr ? Result::not_supported : Result{function(arguments...)};
  }

  template <typename Call>
  Result with_device(DeviceOrdinal ordinal, Call call) {
    int device = 0;
    const int result = cuda_.device_get(&device, ordinal);
    return Result{result == 0 ? call(device) : result};
  }

  const CudaFunctions cuda_;
  const std::string build_;
};

// The name of the file behind the links that a library was found by, which the driver's version is part of.
std::string file_name_of(const CudaFunctions& functions) {
  Dl_info info{};
  void* address = nullptr;
  std::memcpy(&address, &functions.init, sizeof address);
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code error;
  const std::filesystem::path file = std::filesystem::canonical(info.dli_fname, error);
  return error ? std::string() : file.filename().string();
}

// Fills the table; the name of the first function that is missing, or null.
const char* resolve(void* library, CudaFunctions& functions) {
#define SAGEGEN_RESOLVE(name, symbol, ...)                           \
  if (void* address = dlsym(library, #symbol); address != nullptr) { \
    std::memcpy(&functions.name, &address, sizeof address);          \
  } else {                                                           \
    return #symbol;                                                  \
  }
  SAGEGEN_CUDA_FUNCTIONS(SAGEGEN_RESOLVE)
#undef SAGEGEN_RESOLVE
#define SAGEGEN_RESOLVE(name, symbol, ...)                           \
  if (void* address = dlsym(library, #symbol); address != nullptr) { \
    std::memcpy(&functions.name, &address, sizeof address);          \
  }
  SAGEGEN_OPTIONAL_CUDA_FUNCTIONS(SAGEGEN_RESOLVE)
#undef SAGEGEN_RESOLVE
  return nullptr;
}

// `exists`: whether there is such a library at all.
std::shared_ptr<DriverApi> open(const char* library, std::string& why, bool& exists) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  exists = handle != nullptr;
  if (handle == nullptr) {
    const char* reason = dlerror();
    why = fmt::format("The CUDA driver was not found: {}.", reason != nullptr ? reason : library);
    return nullptr;
  }
  CudaFunctions functions;
  if (const char* missing = resolve(handle, functions); missing != nullptr) {
    dlclose(handle);
    why = fmt::format("The CUDA driver {} is too old or not a CUDA driver: it lacks {}.", library,
                      missing);
    return nullptr;
  }
  // From here on the library stays loaded: cuInit starts threads and exit handlers that live in it.
  auto driver = std::make_shared<CudaDriver>(functions, file_name_of(functions));
  const auto failed = [&](const char* call, Result result) {
    why = fmt::format("The CUDA driver {} cannot be used: {} failed with {} ({}).", library, call,
                      driver->result_name(result), static_cast<int>(result));
    return nullptr;
  };
  if (const Result result = driver->init(); result != Result::success) {
    failed("cuInit", result);
    if (result == Result::stub_library) {
      why +=
          " It is the CUDA toolkit's stub, which programs are linked with and nothing more; the "
          "driver "
          "brings the real one: take the toolkit's stubs folder out of LD_LIBRARY_PATH.";
    }
    return nullptr;
  }
  int count = 0;
  if (const Result result = driver->device_count(&count); result != Result::success) {
    return failed("cuDeviceGetCount", result);
  }
  if (count == 0) {
    why = fmt::format("The CUDA driver {} is installed, but it finds no device.", library);
    return nullptr;
  }
  return driver;
}

}  // namespace

std::shared_ptr<DriverApi> load_cuda_library(const char* library, std::string* why) noexcept {
  return load_cuda_library(std::span<const char* const>(&library, 1), why);
}

std::shared_ptr<DriverApi> load_cuda_library(std::span<const char* const> libraries,
                                             std::string* why) noexcept {
  try {
    std::string told;
    bool told_of_one = false;  // that exists
    for (const char* library : libraries) {
      std::string reason;
      bool exists = false;
      if (std::shared_ptr<DriverApi> driver = open(library, reason, exists)) {
        if (why != nullptr) why->clear();
        return driver;
      }
      if (told.empty() || (exists && !told_of_one)) {
        told = std::move(reason);
      } else if (!told_of_one) {
        told += fmt::format(" Nor is there {}.", library);
      }
      told_of_one = told_of_one || exists;
    }
    if (why != nullptr) *why = std::move(told);
    return nullptr;
  } catch (const std::exception&) {  // out of memory: there is no room for a sentence either
    return nullptr;
  }
}

std::shared_ptr<DriverApi> load_cuda(std::string* why) {
  // WSL keeps the library of the Windows driver where the loader does not look by itself.
  static constexpr std::array<const char*, 2> kNames{"libcuda.so.1",
                                                     "/usr/lib/wsl/lib/libcuda.so.1"};
  return load_cuda_library(kNames, why);
}

}  // namespace sagegen::runtime
