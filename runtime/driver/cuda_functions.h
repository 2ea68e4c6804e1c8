// The functions of libcuda that sagegen calls: X(name, symbol, parameter types). The symbol is what
// the library exports for that signature: functions whose types changed since CUDA 2 carry a suffix
// that cuda.h hides behind a macro. Handles and enums have the size of cuda.h's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sagegen/runtime/driver_api.h"

// clang-format off
#define SAGEGEN_CUDA_FUNCTIONS(X)                                                                 \
  X(init, cuInit, unsigned)                                                                       \
  X(driver_get_version, cuDriverGetVersion, int*)                                                 \
  X(get_error_name, cuGetErrorName, int, const char**)                                            \
  X(device_get, cuDeviceGet, int*, int)                                                           \
  X(device_get_count, cuDeviceGetCount, int*)                                                     \
  X(device_get_name, cuDeviceGetName, char*, int, int)                                            \
  X(device_get_attribute, cuDeviceGetAttribute, int*, int, int)                                   \
  X(device_total_mem, cuDeviceTotalMem_v2, std::size_t*, int)                                     \
  X(device_primary_ctx_retain, cuDevicePrimaryCtxRetain, ContextHandle*, int)                     \
  X(device_primary_ctx_release, cuDevicePrimaryCtxRelease_v2, int)                                \
  X(ctx_set_current, cuCtxSetCurrent, ContextHandle)                                              \
  X(ctx_get_current, cuCtxGetCurrent, ContextHandle*)                                             \
  X(ctx_synchronize, cuCtxSynchronize)                                                            \
  X(module_load_data_ex, cuModuleLoadDataEx, ModuleHandle*, const void*, unsigned, int*, void**)  \
  X(module_unload, cuModuleUnload, ModuleHandle)                                                  \
  X(module_get_function, cuModuleGetFunction, FunctionHandle*, ModuleHandle, const char*)         \
  X(func_get_attribute, cuFuncGetAttribute, int*, int, FunctionHandle)                            \
  X(func_set_attribute, cuFuncSetAttribute, FunctionHandle, int, int)                             \
  X(launch_kernel, cuLaunchKernel, FunctionHandle, unsigned, unsigned, unsigned, unsigned,         \
    unsigned, unsigned, unsigned, StreamHandle, void**, void**)                                   \
  X(mem_alloc, cuMemAlloc_v2, DevicePtr*, std::size_t)                                            \
  X(mem_free, cuMemFree_v2, DevicePtr)                                                            \
  X(memcpy_htod_async, cuMemcpyHtoDAsync_v2, DevicePtr, const void*, std::size_t, StreamHandle)   \
  X(memcpy_dtoh_async, cuMemcpyDtoHAsync_v2, void*, DevicePtr, std::size_t, StreamHandle)         \
  X(memcpy_dtod_async, cuMemcpyDtoDAsync_v2, DevicePtr, DevicePtr, std::size_t, StreamHandle)     \
  X(memset_d8_async, cuMemsetD8Async, DevicePtr, unsigned char, std::size_t, StreamHandle)        \
  X(stream_create, cuStreamCreate, StreamHandle*, unsigned)                                       \
  X(stream_destroy, cuStreamDestroy_v2, StreamHandle)                                             \
  X(stream_synchronize, cuStreamSynchronize, StreamHandle)                                        \
  X(event_create, cuEventCreate, EventHandle*, unsigned)                                          \
  X(event_destroy, cuEventDestroy_v2, EventHandle)                                                \
  X(event_record, cuEventRecord, EventHandle, StreamHandle)                                       \
  X(event_synchronize, cuEventSynchronize, EventHandle)                                           \
  X(event_elapsed_time, cuEventElapsedTime, float*, EventHandle, EventHandle)

// Younger than the oldest driver that runs sagegen's kernels: null where a driver lacks them.
#define SAGEGEN_OPTIONAL_CUDA_FUNCTIONS(X)                                                        \
  X(tensor_map_encode_tiled, cuTensorMapEncodeTiled, TensorMap*, int, unsigned, void*,            \
    const std::uint64_t*, const std::uint64_t*, const unsigned*, const unsigned*, int, int, int,  \
    int)                                                                                          \
  X(link_create, cuLinkCreate_v2, unsigned, int*, void**, LinkHandle*)                            \
  X(link_add_data, cuLinkAddData_v2, LinkHandle, int, void*, std::size_t, const char*, unsigned,  \
    int*, void**)                                                                                 \
  X(link_complete, cuLinkComplete, LinkHandle, void**, std::size_t*)                              \
  X(link_destroy, cuLinkDestroy, LinkHandle)                                                      \
  X(stream_begin_capture, cuStreamBeginCapture_v2, StreamHandle, int)                             \
  X(stream_end_capture, cuStreamEndCapture, StreamHandle, GraphHandle*)                           \
  X(graph_destroy, cuGraphDestroy, GraphHandle)                                                   \
  X(graph_instantiate, cuGraphInstantiateWithFlags, GraphExecutableHandle*, GraphHandle,          \
    unsigned long long)                                                                           \
  X(graph_exec_destroy, cuGraphExecDestroy, GraphExecutableHandle)                                \
  X(graph_launch, cuGraphLaunch, GraphExecutableHandle, StreamHandle)
// clang-format on

namespace sagegen::runtime {

struct LinkTag;
using LinkHandle = LinkTag*;  // CUlinkState

struct CudaFunctions {
#define SAGEGEN_DECLARE(name, symbol, ...) int (*name)(__VA_ARGS__) = nullptr;
  SAGEGEN_CUDA_FUNCTIONS(SAGEGEN_DECLARE)
  SAGEGEN_OPTIONAL_CUDA_FUNCTIONS(SAGEGEN_DECLARE)
#undef SAGEGEN_DECLARE
};

// Values of cuda.h's enums that no public type carries.
namespace cuda_constant {
inline constexpr int kJitInfoLogBuffer = 3;
inline constexpr int kJitInfoLogBufferBytes = 4;
inline constexpr int kJitErrorLogBuffer = 5;
inline constexpr int kJitErrorLogBufferBytes = 6;
inline constexpr int kJitInputPtx = 1;
inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr unsigned kEventDefault = 0;  // with timing
inline constexpr int kTensorMapInterleaveNone = 0;
inline constexpr int kCaptureThreadLocal = 1;
}  // namespace cuda_constant

}  // namespace sagegen::runtime
