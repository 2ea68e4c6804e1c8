// A stand-in for libcuda.so.1, loaded with dlopen like the real one. Its exports are written from
// the CUDA driver API reference, not from sagegen's table. Compile-time switches make the broken
// ones:
//   FAKE_WITHOUT_MEMSET   lacks cuMemsetD8Async
//   FAKE_WITHOUT_TENSOR_MAP   lacks cuTensorMapEncodeTiled, as drivers before CUDA 12.0
//   FAKE_WITHOUT_GRAPHS   lacks the functions of graphs
//   FAKE_WITHOUT_LINKER   lacks cuLinkComplete
//   FAKE_INIT_RESULT=N    cuInit fails with N
//   FAKE_DEVICE_COUNT=N   number of devices
//   FAKE_CUDA_VERSION=N   what cuDriverGetVersion says
// Every call is appended to a log that the test reads through fake_libcuda_log().
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#ifndef FAKE_INIT_RESULT
#define FAKE_INIT_RESULT 0
#endif
#ifndef FAKE_DEVICE_COUNT
#define FAKE_DEVICE_COUNT 1
#endif
#ifndef FAKE_CUDA_VERSION
#define FAKE_CUDA_VERSION 12080
#endif

namespace {

std::string log_text;
char* link_errors = nullptr;
char* link_messages = nullptr;

template <typename... Args>
int logged(const char* format, Args... args) {
  char line[256];
  std::snprintf(line, sizeof line, format, args...);
  log_text += line;
  log_text += '\n';
  return 0;
}

unsigned long number(const void* handle) { return reinterpret_cast<unsigned long>(handle); }

}  // namespace

extern "C" {

const char* fake_libcuda_log() { return log_text.c_str(); }
void fake_libcuda_clear() { log_text.clear(); }

int cuInit(unsigned flags) {
  logged("init %u", flags);
  return FAKE_INIT_RESULT;
}
int cuDriverGetVersion(int* version) {
  *version = FAKE_CUDA_VERSION;
  return logged("driver_version");
}
int cuGetErrorName(int error, const char** text) {
  if (error == 0) *text = "CUDA_SUCCESS";
  if (error == 2) *text = "CUDA_ERROR_OUT_OF_MEMORY";
  if (error == 34) *text = "CUDA_ERROR_STUB_LIBRARY";
  if (error == 218) *text = "CUDA_ERROR_INVALID_PTX";
  if (error == 803) *text = "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH";
  return error == 0 || error == 2 || error == 34 || error == 218 || error == 803 ? 0 : 1;
}
// Handles of devices need not be ordinals, so these are not.
int cuDeviceGet(int* device, int ordinal) {
  if (ordinal >= FAKE_DEVICE_COUNT) return 101;
  *device = 70 + ordinal;
  return 0;
}
int cuDeviceGetCount(int* count) {
  *count = FAKE_DEVICE_COUNT;
  return logged("device_count");
}
int cuDeviceGetName(char* name, int length, int device) {
  std::snprintf(name, static_cast<std::size_t>(length), "Fake %d", device);
  return logged("device_name %d %d", length, device);
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 9 : 1000 + attribute;
  return logged("device_attribute %d %d", attribute, device);
}
int cuDeviceTotalMem_v2(std::size_t* bytes, int device) {
  *bytes = std::size_t{5} << 32;
  return logged("device_total_memory %d", device);
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = reinterpret_cast<void*>(0xc0);
  return logged("retain %d", device);
}
int cuDevicePrimaryCtxRelease_v2(int device) { return logged("release %d", device); }
int cuCtxSetCurrent(void* context) { return logged("set_current %#lx", number(context)); }
int cuCtxGetCurrent(void** context) {
  *context = reinterpret_cast<void*>(0xabc);
  return logged("get_current");
}
int cuCtxSynchronize() { return logged("synchronize"); }

int cuModuleLoadDataEx(void** module, const void* image, unsigned count, int* options,
                       void** values) {
  const char* text = static_cast<const char*>(image);
  for (unsigned i = 0; i < count; ++i) {
    // 3, 5: log buffers; 4, 6: their sizes, carried in the pointer itself.
    if (options[i] == 3 || options[i] == 5) {
      const int size_option = options[i] + 1;
      for (unsigned j = 0; j < count; ++j) {
        if (options[j] != size_option) continue;
        const auto size = reinterpret_cast<std::uintptr_t>(values[j]);
        const std::string message =
            options[i] == 3 ? "info: 12 registers" : std::string("error in ") + text;
        std::strncpy(static_cast<char*>(values[i]), message.c_str(), size);
        logged("module_load option %d has %d bytes", options[i], size > 1000 ? 1 : 0);
      }
    }
  }
  *module = reinterpret_cast<void*>(0x30);
  logged("module_load %s", text);
  return std::strcmp(text, "bad") == 0 ? 218 : 0;
}
// Options and buffers are as those of cuModuleLoadDataEx; they are written to by later calls.
int cuLinkCreate_v2(unsigned count, int* options, void** values, void** link) {
  link_errors = link_messages = nullptr;
  for (unsigned i = 0; i < count; ++i) {
    if (options[i] == 3) link_messages = static_cast<char*>(values[i]);
    if (options[i] == 5) link_errors = static_cast<char*>(values[i]);
  }
  *link = reinterpret_cast<void*>(0x70);
  return logged("link_create %u", count);
}
int cuLinkAddData_v2(void* link, int type, void* data, std::size_t bytes, const char* name,
                     unsigned count, int* options, void** values) {
  const char* text = static_cast<const char*>(data);
  logged("link_add %#lx %d %s %zu %s %u %#lx %#lx", number(link), type, text, bytes, name, count,
         number(options), number(values));
  if (std::strcmp(text, "bad") != 0) return 0;
  if (link_errors != nullptr) std::strcpy(link_errors, "error in bad");
  return 218;
}
#ifndef FAKE_WITHOUT_LINKER
int cuLinkComplete(void* link, void** code, std::size_t* bytes) {
  static char machine_code[] = "\x7f"
                               "ELF\0code";
  *code = machine_code;
  *bytes = sizeof machine_code - 1;
  if (link_messages != nullptr) std::strcpy(link_messages, "info: 12 registers");
  return logged("link_complete %#lx", number(link));
}
#endif
int cuLinkDestroy(void* link) {
  link_errors = link_messages = nullptr;
  return logged("link_destroy %#lx", number(link));
}
int cuModuleUnload(void* module) { return logged("module_unload %#lx", number(module)); }
int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = reinterpret_cast<void*>(0x31);
  return logged("module_function %#lx %s", number(module), name);
}
int cuFuncGetAttribute(int* value, int attribute, void* function) {
  *value = 55;
  return logged("function_attribute %d %#lx", attribute, number(function));
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
  return logged("function_set_attribute %#lx %d %d", number(function), attribute, value);
}
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned smem, void* stream, void** params, void** extra) {
  return logged("launch %#lx (%u %u %u) (%u %u %u) %u %#lx %d %#lx", number(function), gx, gy, gz,
                bx, by, bz, smem, number(stream), *static_cast<int*>(params[0]), number(extra));
}
int cuMemAlloc_v2(std::uint64_t* ptr, std::size_t bytes) {
  if (bytes > std::size_t{1} << 40) return 2;
  *ptr = 0x7f0000001000;
  return logged("mem_alloc %zu", bytes);
}
int cuMemFree_v2(std::uint64_t ptr) {
  return logged("mem_free %#lx", static_cast<unsigned long>(ptr));
}
int cuMemcpyHtoDAsync_v2(std::uint64_t dst, const void* src, std::size_t bytes, void* stream) {
  return logged("htod %#lx %#lx %zu %#lx", static_cast<unsigned long>(dst), number(src), bytes,
                number(stream));
}
int cuMemcpyDtoHAsync_v2(void* dst, std::uint64_t src, std::size_t bytes, void* stream) {
  return logged("dtoh %#lx %#lx %zu %#lx", number(dst), static_cast<unsigned long>(src), bytes,
                number(stream));
}
int cuMemcpyDtoDAsync_v2(std::uint64_t dst, std::uint64_t src, std::size_t bytes, void* stream) {
  return logged("dtod %#lx %#lx %zu %#lx", static_cast<unsigned long>(dst),
                static_cast<unsigned long>(src), bytes, number(stream));
}
#ifndef FAKE_WITHOUT_MEMSET
int cuMemsetD8Async(std::uint64_t dst, unsigned char value, std::size_t count, void* stream) {
  return logged("fill %#lx %d %zu %#lx", static_cast<unsigned long>(dst), value, count,
                number(stream));
}
#endif
#ifndef FAKE_WITHOUT_TENSOR_MAP
int cuTensorMapEncodeTiled(std::uint64_t* map, int type, unsigned rank, void* address,
                           const std::uint64_t* shape, const std::uint64_t* strides,
                           const unsigned* box, const unsigned* element_strides, int interleave,
                           int swizzle, int promotion, int fill) {
  map[0] = 0x7e;
  map[15] = 0x7f;
  std::string sizes;
  for (unsigned i = 0; i < rank; ++i) {
    sizes += " " + std::to_string(shape[i]) + "/" + std::to_string(box[i]) + "/" +
             std::to_string(element_strides[i]);
    if (i + 1 < rank) sizes += "/" + std::to_string(strides[i]);
  }
  return logged("tensor_map type %d at %#lx:%s; %d %d %d %d", type, number(address), sizes.c_str(),
                interleave, swizzle, promotion, fill);
}
#endif
int cuStreamCreate(void** stream, unsigned flags) {
  *stream = reinterpret_cast<void*>(0x40);
  return logged("stream_create %u", flags);
}
int cuStreamDestroy_v2(void* stream) { return logged("stream_destroy %#lx", number(stream)); }
int cuStreamSynchronize(void* stream) { return logged("stream_synchronize %#lx", number(stream)); }
#ifndef FAKE_WITHOUT_GRAPHS
int cuStreamBeginCapture_v2(void* stream, int mode) {
  return logged("begin_capture %#lx %d", number(stream), mode);
}
int cuStreamEndCapture(void* stream, void** graph) {
  *graph = reinterpret_cast<void*>(0x60);
  return logged("end_capture %#lx", number(stream));
}
int cuGraphDestroy(void* graph) { return logged("graph_destroy %#lx", number(graph)); }
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
  *executable = reinterpret_cast<void*>(0x61);
  return logged("graph_instantiate %#lx %llu", number(graph), flags);
}
int cuGraphExecDestroy(void* executable) {
  return logged("graph_exec_destroy %#lx", number(executable));
}
int cuGraphLaunch(void* executable, void* stream) {
  return logged("graph_launch %#lx %#lx", number(executable), number(stream));
}
#endif
int cuEventCreate(void** event, unsigned flags) {
  *event = reinterpret_cast<void*>(0x50);
  return logged("event_create %u", flags);
}
int cuEventDestroy_v2(void* event) { return logged("event_destroy %#lx", number(event)); }
int cuEventRecord(void* event, void* stream) {
  return logged("event_record %#lx %#lx", number(event), number(stream));
}
int cuEventSynchronize(void* event) { return logged("event_synchronize %#lx", number(event)); }
int cuEventElapsedTime(float* ms, void* start, void* end) {
  *ms = 2.5f;
  return logged("event_elapsed %#lx %#lx", number(start), number(end));
}
}
