// libcuda.so.1 made of the fake driver: the functions that sagegen calls, for what opens CUDA by itself. A program
// that is linked with it finds it wherever it opens libcuda.so.1.
#include "tests/driver/fake_cuda.h"

#include <cstring>

namespace sagegen::test {

FakeDriver& fake_cuda() {
  static FakeDriver driver;
  return driver;
}

}  // namespace sagegen::test

using namespace sagegen::test;

namespace {

int number(Result result) { return static_cast<int>(result); }
std::uintptr_t link_of(void* link) { return reinterpret_cast<std::uintptr_t>(link); }

// Where the options of the JIT say that its errors go.
char* error_buffer(unsigned count, const int* options, void** values) {
  for (unsigned i = 0; i < count; ++i) {
    if (options[i] == 5) return static_cast<char*>(values[i]);
  }
  return nullptr;
}
void tell(char* buffer, const std::string& log) {
  if (buffer != nullptr) std::strncpy(buffer, log.c_str(), 1000);
}
char* link_errors = nullptr;

}  // namespace

extern "C" {

int cuInit(unsigned) { return number(fake_cuda().init()); }
int cuDriverGetVersion(int* version) { return number(fake_cuda().driver_version(version)); }
int cuGetErrorName(int error, const char** text) {
  thread_local std::string name;
  name = fake_cuda().result_name(Result{error});
  *text = name.c_str();
  return 0;
}
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetCount(int* count) { return number(fake_cuda().device_count(count)); }
int cuDeviceGetName(char* name, int length, int device) {
  return number(fake_cuda().device_name(name, length, device));
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  return number(fake_cuda().device_attribute(value, DeviceAttribute{attribute}, device));
}
int cuDeviceTotalMem_v2(std::size_t* bytes, int device) {
  return number(fake_cuda().device_total_memory(bytes, device));
}
int cuDevicePrimaryCtxRetain(ContextHandle* context, int device) {
  return number(fake_cuda().primary_context_retain(context, device));
}
int cuDevicePrimaryCtxRelease_v2(int device) {
  return number(fake_cuda().primary_context_release(device));
}
int cuCtxSetCurrent(ContextHandle context) { return number(fake_cuda().set_current(context)); }
int cuCtxGetCurrent(ContextHandle* context) { return number(fake_cuda().get_current(context)); }
int cuCtxSynchronize() { return number(fake_cuda().context_synchronize()); }
int cuModuleLoadDataEx(ModuleHandle* module, const void* image, unsigned count, int* options,
                       void** values) {
  std::string log;
  const Result result = fake_cuda().module_load(module, static_cast<const char*>(image), &log);
  tell(error_buffer(count, options, values), log);
  return number(result);
}
int cuModuleUnload(ModuleHandle module) { return number(fake_cuda().module_unload(module)); }
int cuModuleGetFunction(FunctionHandle* function, ModuleHandle module, const char* name) {
  return number(fake_cuda().module_function(function, module, name));
}
int cuFuncGetAttribute(int* value, int attribute, FunctionHandle function) {
  return number(fake_cuda().function_attribute(value, FunctionAttribute{attribute}, function));
}
int cuFuncSetAttribute(FunctionHandle function, int attribute, int value) {
  return number(fake_cuda().function_set_attribute(function, FunctionAttribute{attribute}, value));
}
int cuLaunchKernel(FunctionHandle function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                   unsigned by, unsigned bz, unsigned smem, StreamHandle stream, void** params,
                   void**) {
  return number(
      fake_cuda().launch(function, Dim3{gx, gy, gz}, Dim3{bx, by, bz}, smem, stream, params));
}
int cuMemAlloc_v2(DevicePtr* ptr, std::size_t bytes) {
  return number(fake_cuda().mem_alloc(ptr, bytes));
}
int cuMemFree_v2(DevicePtr ptr) { return number(fake_cuda().mem_free(ptr)); }
int cuMemcpyHtoDAsync_v2(DevicePtr dst, const void* src, std::size_t bytes, StreamHandle stream) {
  return number(fake_cuda().copy_to_device(dst, src, bytes, stream));
}
int cuMemcpyDtoHAsync_v2(void* dst, DevicePtr src, std::size_t bytes, StreamHandle stream) {
  return number(fake_cuda().copy_to_host(dst, src, bytes, stream));
}
int cuMemcpyDtoDAsync_v2(DevicePtr dst, DevicePtr src, std::size_t bytes, StreamHandle stream) {
  return number(fake_cuda().copy_on_device(dst, src, bytes, stream));
}
int cuMemsetD8Async(DevicePtr dst, unsigned char value, std::size_t count, StreamHandle stream) {
  return number(fake_cuda().fill_bytes(dst, value, count, stream));
}
int cuStreamCreate(StreamHandle* stream, unsigned) {
  return number(fake_cuda().stream_create(stream));
}
int cuStreamDestroy_v2(StreamHandle stream) { return number(fake_cuda().stream_destroy(stream)); }
int cuStreamSynchronize(StreamHandle stream) {
  return number(fake_cuda().stream_synchronize(stream));
}
int cuEventCreate(EventHandle* event, unsigned) { return number(fake_cuda().event_create(event)); }
int cuEventDestroy_v2(EventHandle event) { return number(fake_cuda().event_destroy(event)); }
int cuEventRecord(EventHandle event, StreamHandle stream) {
  return number(fake_cuda().event_record(event, stream));
}
int cuEventSynchronize(EventHandle event) { return number(fake_cuda().event_synchronize(event)); }
int cuEventElapsedTime(float* ms, EventHandle start, EventHandle end) {
  return number(fake_cuda().event_elapsed_ms(ms, start, end));
}
int cuLinkCreate_v2(unsigned count, int* options, void** values, void** link) {
  link_errors = error_buffer(count, options, values);
  std::uintptr_t made = 0;
  const Result result = fake_cuda().link_create(&made);
  if (result == Result::success) *link = reinterpret_cast<void*>(made);
  return number(result);
}
int cuLinkAddData_v2(void* link, int, void* data, std::size_t, const char*, unsigned, int*,
                     void**) {
  std::string log;
  const Result result = fake_cuda().link_add(link_of(link), static_cast<char*>(data), &log);
  tell(link_errors, log);
  return number(result);
}
int cuLinkComplete(void* link, void** code, std::size_t* bytes) {
  const std::string* made = nullptr;
  const Result result = fake_cuda().link_complete(link_of(link), &made);
  if (result == Result::success) {
    *code = const_cast<char*>(made->data());
    *bytes = made->size();
  }
  return number(result);
}
int cuLinkDestroy(void* link) { return number(fake_cuda().link_destroy(link_of(link))); }
}
