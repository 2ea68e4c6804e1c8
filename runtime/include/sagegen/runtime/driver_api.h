// The driver seam: the few functions of the CUDA driver API that sagegen calls, as one interface. It is
// implemented by the real libcuda (load_cuda), by the emulator (sagegen/runtime/emulator.h) and, in
// tests, by a fake that fails on demand. Everything above it is one code for all of them.
//
// Types mirror cuda.h so that no CUDA toolkit is needed to build. Semantics, units and error codes are
// those of the CUDA driver API reference. Calls act on the context that set_current made current in the
// calling thread, as in CUDA.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace sagegen::runtime {

using DeviceOrdinal = int;
using DevicePtr = std::uint64_t;
struct ContextTag;
struct ModuleTag;
struct FunctionTag;
struct StreamTag;
struct EventTag;
struct GraphTag;
struct GraphExecutableTag;
using ContextHandle = ContextTag*;
using ModuleHandle = ModuleTag*;
using FunctionHandle = FunctionTag*;
using StreamHandle = StreamTag*;  // nullptr: the default stream
using EventHandle = EventTag*;
using GraphHandle = GraphTag*;
using GraphExecutableHandle = GraphExecutableTag*;

// The CUresult values that sagegen tells apart; any other value is passed through.
enum class Result : int {
  success = 0,
  invalid_value = 1,
  out_of_memory = 2,
  not_initialized = 3,
  deinitialized = 4,
  stub_library = 34,
  no_device = 100,
  invalid_device = 101,
  invalid_image = 200,
  invalid_context = 201,
  no_binary_for_gpu = 209,
  invalid_ptx = 218,
  unsupported_ptx_version = 222,
  not_found = 500,
  not_ready = 600,
  illegal_address = 700,
  launch_out_of_resources = 701,
  launch_failed = 719,
  not_supported = 801,
};

// CUdevice_attribute and CUfunction_attribute values that sagegen asks for.
enum class DeviceAttribute : int {
  max_threads_per_block = 1,
  clock_rate = 13,  // kHz
  multiprocessor_count = 16,
  compute_mode = 20,  // CUcomputemode
  pci_bus_id = 33,
  pci_device_id = 34,
  memory_clock_rate = 36,        // kHz
  global_memory_bus_width = 37,  // bits
  l2_cache_size = 38,            // bytes
  compute_capability_major = 75,
  compute_capability_minor = 76,
  pci_domain_id = 50,
  max_shared_memory_per_multiprocessor = 81,
  max_shared_memory_per_block_optin = 97,
};
enum class FunctionAttribute : int {
  max_threads_per_block = 0,
  shared_size_bytes = 1,
  local_size_bytes = 3,
  num_regs = 4,
  max_dynamic_shared_size_bytes = 8,
};

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// What a bulk tensor copy (cp.async.bulk.tensor, compute capability 9.0 and later) has to know: a
// tensor in global memory and the box of it that one copy moves. Innermost dimension first; entries
// from `rank` on are not read. The rules are in the driver API reference of cuTensorMapEncodeTiled;
// make_tensor_map (device.h) checks them.
enum class TensorMapType : int {  // CUtensorMapDataType; FP8 is u8
  u8 = 0,
  u16 = 1,
  u32 = 2,
  s32 = 3,
  f16 = 6,
  f32 = 7,
  bf16 = 9,
};
// 16-byte chunks of a row of so many bytes are permuted by the row (PTX ISA, swizzling modes).
enum class TensorMapSwizzle : int { none = 0, span_32 = 1, span_64 = 2, span_128 = 3 };
// The L2 cache fetches so many bytes at once.
enum class TensorMapPromotion : int { none = 0, l2_64 = 1, l2_128 = 2, l2_256 = 3 };
// Elements outside of the tensor; NaN for types of floating-point numbers only.
enum class TensorMapFill : int { zeros = 0, nan = 1 };
struct TensorMapLayout {
  TensorMapType type = TensorMapType::u8;
  int rank = 1;
  DevicePtr base = 0;
  std::array<std::uint64_t, 5> shape{};    // elements
  std::array<std::uint64_t, 4> strides{};  // bytes from one element of dimension i + 1 to the next
  std::array<std::uint32_t, 5> box{};      // elements
  TensorMapSwizzle swizzle = TensorMapSwizzle::none;
  TensorMapPromotion promotion = TensorMapPromotion::none;
  TensorMapFill fill = TensorMapFill::zeros;
};

// CUtensorMap: opaque, passed to kernels by value at an offset that is a multiple of 64.
struct alignas(64) TensorMap {
  std::array<std::uint64_t, 16> opaque{};
};

class DriverApi {
 public:
  virtual ~DriverApi() = default;

  virtual std::string name() const = 0;  // "cuda" or "emulator", for reports

  virtual Result init() = 0;
  virtual Result driver_version(int* version) = 0;
  virtual Result device_count(int* count) = 0;
  virtual Result device_name(char* name, int length, DeviceOrdinal device) = 0;
  virtual Result device_attribute(int* value, DeviceAttribute attribute, DeviceOrdinal device) = 0;
  virtual Result device_total_memory(std::size_t* bytes, DeviceOrdinal device) = 0;

  virtual Result primary_context_retain(ContextHandle* context, DeviceOrdinal device) = 0;
  virtual Result primary_context_release(DeviceOrdinal device) = 0;
  virtual Result set_current(ContextHandle context) = 0;
  virtual Result get_current(ContextHandle* context) = 0;
  virtual Result context_synchronize() = 0;

  // ptx: NUL-terminated text, or with the real driver a cubin. log: receives the JIT's messages, also on success.
  virtual Result module_load(ModuleHandle* module, const char* ptx, std::string* log) = 0;
  virtual Result module_unload(ModuleHandle module) = 0;
  // Whether module_load takes machine code; the emulator does not.
  virtual bool takes_machine_code() const { return false; }
  // The machine code that module_load would make of PTX for the device of the current context (cuLinkCreate,
  // cuLinkAddData, cuLinkComplete). log: as of module_load. not_supported, as can_compile() says beforehand: the
  // emulator, and drivers without a linker.
  virtual bool can_compile() const { return false; }
  virtual Result compile(std::string* /*code*/, const char* /*ptx*/, std::string* /*log*/) {
    return Result::not_supported;
  }
  virtual Result module_function(FunctionHandle* function, ModuleHandle module,
                                 const char* name) = 0;
  virtual Result function_attribute(int* value, FunctionAttribute attribute,
                                    FunctionHandle function) = 0;
  virtual Result function_set_attribute(FunctionHandle function, FunctionAttribute attribute,
                                        int value) = 0;
  // params: pointers to the arguments, as cuLaunchKernel's kernelParams.
  virtual Result launch(FunctionHandle function, Dim3 grid, Dim3 block, unsigned dynamic_smem_bytes,
                        StreamHandle stream, void** params) = 0;

  virtual Result mem_alloc(DevicePtr* ptr, std::size_t bytes) = 0;
  virtual Result mem_free(DevicePtr ptr) = 0;
  virtual Result copy_to_device(DevicePtr dst, const void* src, std::size_t bytes,
                                StreamHandle stream) = 0;
  virtual Result copy_to_host(void* dst, DevicePtr src, std::size_t bytes, StreamHandle stream) = 0;
  // Between ranges that do not overlap.
  virtual Result copy_on_device(DevicePtr dst, DevicePtr src, std::size_t bytes,
                                StreamHandle stream) = 0;
  virtual Result fill_bytes(DevicePtr dst, unsigned char value, std::size_t count,
                            StreamHandle stream) = 0;

  // not_supported: the device has no bulk tensor copies, or the driver is older than CUDA 12.0.
  virtual Result tensor_map_encode_tiled(TensorMap* map, const TensorMapLayout& layout) = 0;

  virtual Result stream_create(StreamHandle* stream) = 0;  // non-blocking
  virtual Result stream_destroy(StreamHandle stream) = 0;
  virtual Result stream_synchronize(StreamHandle stream) = 0;
  virtual Result event_create(EventHandle* event) = 0;
  virtual Result event_destroy(EventHandle event) = 0;
  virtual Result event_record(EventHandle event, StreamHandle stream) = 0;
  virtual Result event_synchronize(EventHandle event) = 0;
  virtual Result event_elapsed_ms(float* ms, EventHandle start, EventHandle end) = 0;

  // Graphs of what a stream was given between begin and end, in thread-local capture mode; those of the emulator hold
  // launches, fills and copies on the device. not_supported: a driver older than CUDA 11.4.
  virtual Result stream_begin_capture(StreamHandle stream) = 0;
  virtual Result stream_end_capture(StreamHandle stream, GraphHandle* graph) = 0;
  virtual Result graph_destroy(GraphHandle graph) = 0;
  virtual Result graph_instantiate(GraphExecutableHandle* executable, GraphHandle graph) = 0;
  virtual Result graph_executable_destroy(GraphExecutableHandle executable) = 0;
  virtual Result graph_launch(GraphExecutableHandle executable, StreamHandle stream) = 0;

  // "CUDA_ERROR_ILLEGAL_ADDRESS"; "unknown result 1234" if the driver does not know it.
  virtual std::string result_name(Result result) const = 0;
  // What tells drivers of one CUDA version apart, "libcuda.so.580.65.06"; empty if nothing does.
  virtual std::string build() const { return {}; }
  // Detail of the calling thread's last failed call, where the implementation has more to say than the
  // code (the emulator's findings); otherwise empty.
  virtual std::string last_error_detail() const { return {}; }
};

// Loads libcuda.so.1 at run time, or /usr/lib/wsl/lib/libcuda.so.1, where WSL has it. Returns null and sets *why (a sentence: not found, no device, symbol
// missing) if this machine cannot run CUDA; never throws.
std::shared_ptr<DriverApi> load_cuda(std::string* why);

}  // namespace sagegen::runtime
