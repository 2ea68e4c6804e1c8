// sagegen's own declarations of the CUDA driver API against cuda.h. Built where a CUDA toolkit is.
#include <cuda.h>

#include <catch2/catch.hpp>
#include <type_traits>

#include "runtime/driver/cuda_driver.h"
#include "runtime/driver/cuda_functions.h"

using namespace sagegen::runtime;

namespace {

// Same size, and a pointer where the other has one: what the calling convention sees.
template <typename Ours, typename Theirs>
constexpr bool kSameShape =
    sizeof(Ours) == sizeof(Theirs) && std::is_pointer_v<Ours> == std::is_pointer_v<Theirs>;

template <typename Ours, typename Theirs>
constexpr bool kSameCall = false;
template <typename... Ours, typename... Theirs>
requires(sizeof...(Ours) ==
         sizeof...(Theirs)) constexpr bool kSameCall<int (*)(Ours...), CUresult (*)(Theirs...)> =
    sizeof(CUresult) == sizeof(int) && (kSameShape<Ours, Theirs> && ...);

#define SAGEGEN_COMPARE(name, symbol, ...) \
  static_assert(kSameCall<decltype(CudaFunctions::name), decltype(&symbol)>, #symbol);
SAGEGEN_CUDA_FUNCTIONS(SAGEGEN_COMPARE)
SAGEGEN_OPTIONAL_CUDA_FUNCTIONS(SAGEGEN_COMPARE)
#undef SAGEGEN_COMPARE

template <auto ours, auto theirs>
constexpr bool kSameValue = static_cast<int>(ours) == static_cast<int>(theirs);

static_assert(sizeof(DevicePtr) == sizeof(CUdeviceptr));
static_assert(kSameValue<Result::success, CUDA_SUCCESS>);
static_assert(kSameValue<Result::invalid_value, CUDA_ERROR_INVALID_VALUE>);
static_assert(kSameValue<Result::out_of_memory, CUDA_ERROR_OUT_OF_MEMORY>);
static_assert(kSameValue<Result::not_initialized, CUDA_ERROR_NOT_INITIALIZED>);
static_assert(kSameValue<Result::deinitialized, CUDA_ERROR_DEINITIALIZED>);
static_assert(kSameValue<Result::no_device, CUDA_ERROR_NO_DEVICE>);
static_assert(kSameValue<Result::invalid_device, CUDA_ERROR_INVALID_DEVICE>);
static_assert(kSameValue<Result::invalid_image, CUDA_ERROR_INVALID_IMAGE>);
static_assert(kSameValue<Result::no_binary_for_gpu, CUDA_ERROR_NO_BINARY_FOR_GPU>);
static_assert(kSameValue<Result::invalid_context, CUDA_ERROR_INVALID_CONTEXT>);
static_assert(kSameValue<Result::invalid_ptx, CUDA_ERROR_INVALID_PTX>);
static_assert(kSameValue<Result::unsupported_ptx_version, CUDA_ERROR_UNSUPPORTED_PTX_VERSION>);
static_assert(kSameValue<Result::not_found, CUDA_ERROR_NOT_FOUND>);
static_assert(kSameValue<Result::not_ready, CUDA_ERROR_NOT_READY>);
static_assert(kSameValue<Result::illegal_address, CUDA_ERROR_ILLEGAL_ADDRESS>);
static_assert(kSameValue<Result::launch_out_of_resources, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES>);
static_assert(kSameValue<Result::launch_failed, CUDA_ERROR_LAUNCH_FAILED>);
static_assert(kSameValue<Result::not_supported, CUDA_ERROR_NOT_SUPPORTED>);

using Device = DeviceAttribute;
static_assert(kSameValue<Device::max_threads_per_block, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK>);
static_assert(kSameValue<Device::multiprocessor_count, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT>);
static_assert(kSameValue<Device::clock_rate, CU_DEVICE_ATTRIBUTE_CLOCK_RATE>);
static_assert(kSameValue<Device::compute_mode, CU_DEVICE_ATTRIBUTE_COMPUTE_MODE>);
static_assert(kSameValue<Device::pci_bus_id, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID>);
static_assert(kSameValue<Device::pci_device_id, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID>);
static_assert(kSameValue<Device::pci_domain_id, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID>);
static_assert(kSameValue<Device::memory_clock_rate, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE>);
static_assert(
    kSameValue<Device::global_memory_bus_width, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH>);
static_assert(kSameValue<Device::l2_cache_size, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE>);
static_assert(
    kSameValue<Device::compute_capability_major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR>);
static_assert(
    kSameValue<Device::compute_capability_minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR>);
static_assert(kSameValue<Device::max_shared_memory_per_multiprocessor,
                         CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR>);
static_assert(kSameValue<Device::max_shared_memory_per_block_optin,
                         CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN>);

using Function = FunctionAttribute;
static_assert(kSameValue<Function::max_threads_per_block, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK>);
static_assert(kSameValue<Function::shared_size_bytes, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES>);
static_assert(kSameValue<Function::local_size_bytes, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES>);
static_assert(kSameValue<Function::num_regs, CU_FUNC_ATTRIBUTE_NUM_REGS>);
static_assert(kSameValue<Function::max_dynamic_shared_size_bytes,
                         CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES>);

static_assert(kSameValue<cuda_constant::kJitInfoLogBuffer, CU_JIT_INFO_LOG_BUFFER>);
static_assert(kSameValue<cuda_constant::kJitInfoLogBufferBytes, CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES>);
static_assert(kSameValue<cuda_constant::kJitErrorLogBuffer, CU_JIT_ERROR_LOG_BUFFER>);
static_assert(
    kSameValue<cuda_constant::kJitErrorLogBufferBytes, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES>);
static_assert(kSameValue<cuda_constant::kJitInputPtx, CU_JIT_INPUT_PTX>);
static_assert(kSameValue<cuda_constant::kStreamNonBlocking, CU_STREAM_NON_BLOCKING>);
static_assert(kSameValue<cuda_constant::kEventDefault, CU_EVENT_DEFAULT>);

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));
static_assert(kSameValue<TensorMapType::u8, CU_TENSOR_MAP_DATA_TYPE_UINT8>);
static_assert(kSameValue<TensorMapType::u16, CU_TENSOR_MAP_DATA_TYPE_UINT16>);
static_assert(kSameValue<TensorMapType::u32, CU_TENSOR_MAP_DATA_TYPE_UINT32>);
static_assert(kSameValue<TensorMapType::s32, CU_TENSOR_MAP_DATA_TYPE_INT32>);
static_assert(kSameValue<TensorMapType::f16, CU_TENSOR_MAP_DATA_TYPE_FLOAT16>);
static_assert(kSameValue<TensorMapType::f32, CU_TENSOR_MAP_DATA_TYPE_FLOAT32>);
static_assert(kSameValue<TensorMapType::bf16, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16>);
static_assert(kSameValue<TensorMapSwizzle::none, CU_TENSOR_MAP_SWIZZLE_NONE>);
static_assert(kSameValue<TensorMapSwizzle::span_32, CU_TENSOR_MAP_SWIZZLE_32B>);
static_assert(kSameValue<TensorMapSwizzle::span_64, CU_TENSOR_MAP_SWIZZLE_64B>);
static_assert(kSameValue<TensorMapSwizzle::span_128, CU_TENSOR_MAP_SWIZZLE_128B>);
static_assert(kSameValue<TensorMapPromotion::none, CU_TENSOR_MAP_L2_PROMOTION_NONE>);
static_assert(kSameValue<TensorMapPromotion::l2_64, CU_TENSOR_MAP_L2_PROMOTION_L2_64B>);
static_assert(kSameValue<TensorMapPromotion::l2_128, CU_TENSOR_MAP_L2_PROMOTION_L2_128B>);
static_assert(kSameValue<TensorMapPromotion::l2_256, CU_TENSOR_MAP_L2_PROMOTION_L2_256B>);
static_assert(kSameValue<TensorMapFill::zeros, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE>);
static_assert(kSameValue<TensorMapFill::nan, CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA>);
static_assert(kSameValue<cuda_constant::kTensorMapInterleaveNone, CU_TENSOR_MAP_INTERLEAVE_NONE>);
static_assert(kSameValue<cuda_constant::kCaptureThreadLocal, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL>);

}  // namespace

TEST_CASE("the toolkit's stub library has every symbol, and its cuInit fails") {
  std::string why;
  CHECK(load_cuda_library(SAGEGEN_CUDA_STUB, &why) == nullptr);
  INFO(why);
  CHECK(why.find("cuInit failed") != std::string::npos);
}
