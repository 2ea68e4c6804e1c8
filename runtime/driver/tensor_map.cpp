#include <fmt/format.h>

#include "runtime/driver/in_context.h"
#include "sagegen/runtime/device.h"

namespace sagegen::runtime {
namespace {

constexpr int kLeastComputeCapability = 90;
constexpr std::uint64_t kAlignment = 16;  // of the base, the strides and the box's rows, in bytes
constexpr std::uint64_t kMaxShape = std::uint64_t{1} << 32;
constexpr std::uint64_t kMaxStride = std::uint64_t{1} << 40;
constexpr std::uint32_t kMaxBox = 256;

std::uint64_t element_bytes(TensorMapType type) {
  switch (type) {
    case TensorMapType::u8:
      return 1;
    case TensorMapType::u16:
    case TensorMapType::f16:
    case TensorMapType::bf16:
      return 2;
    case TensorMapType::u32:
    case TensorMapType::s32:
    case TensorMapType::f32:
      return 4;
  }
  throw ArgumentError(fmt::format("tensor map: unknown data type {}", static_cast<int>(type)));
}

bool is_float(TensorMapType type) {
  return type == TensorMapType::f16 || type == TensorMapType::bf16 || type == TensorMapType::f32;
}

template <typename... Args>
void require(bool holds, fmt::format_string<Args...> text, Args&&... args) {
  if (!holds) {
    throw ArgumentError("tensor map: " + fmt::format(text, std::forward<Args>(args)...));
  }
}

void check_box(const TensorMapLayout& layout) {
  const std::uint64_t row = layout.box[0] * element_bytes(layout.type);
  require(row % kAlignment == 0,
          "the box is {} elements wide, {} bytes; the width must be a multiple of {} bytes",
          layout.box[0], row, kAlignment);
  if (layout.swizzle == TensorMapSwizzle::none) return;
  const std::uint64_t span = std::uint64_t{16} << static_cast<int>(layout.swizzle);
  require(row <= span,
          "the box is {} elements wide, {} bytes; with {}-byte swizzle at most {} bytes: "
          "split it into several copies",
          layout.box[0], row, span, span);
}

void check_enumerators(const TensorMapLayout& layout) {
  const auto look = [](const char* what, int value, int last) {
    require(value >= 0 && value <= last, "unknown {} {}", what, value);
  };
  look("swizzle", static_cast<int>(layout.swizzle), static_cast<int>(TensorMapSwizzle::span_128));
  look("promotion", static_cast<int>(layout.promotion),
       static_cast<int>(TensorMapPromotion::l2_256));
  look("fill", static_cast<int>(layout.fill), static_cast<int>(TensorMapFill::nan));
}

void check_layout(const TensorMapLayout& layout) {
  check_enumerators(layout);
  require(layout.rank >= 1 && layout.rank <= 5, "rank {}; it must be 1 to 5", layout.rank);
  require(layout.base != 0 && layout.base % kAlignment == 0,
          "the tensor starts at {:#x}; it must start at a multiple of {} bytes", layout.base,
          kAlignment);
  const auto rank = static_cast<std::size_t>(layout.rank);
  for (std::size_t i = 0; i < rank; ++i) {
    require(layout.shape[i] >= 1 && layout.shape[i] <= kMaxShape,
            "dimension {} has {} elements; it must have 1 to 2^32", i, layout.shape[i]);
    require(layout.box[i] >= 1 && layout.box[i] <= kMaxBox,
            "the box has {} elements in dimension {}; it must have 1 to {}", layout.box[i], i,
            kMaxBox);
  }
  for (std::size_t i = 0; i + 1 < rank; ++i) {
    require(layout.strides[i] % kAlignment == 0 && layout.strides[i] < kMaxStride,
            "the stride of dimension {} is {} bytes; it must be a multiple of {} below 2^40", i + 1,
            layout.strides[i], kAlignment);
  }
  check_box(layout);
  require(layout.fill != TensorMapFill::nan || is_float(layout.type),
          "elements outside can be NaN only in f16, bf16 and f32 tensors");
}

}  // namespace

TensorMap make_tensor_map(const Device& device, const TensorMapLayout& layout) {
  check_layout(layout);
  if (const int capability = device.compute_capability(); capability < kLeastComputeCapability) {
    throw ArgumentError(
        fmt::format("tensor map: {} has compute capability {}.{}; bulk tensor copies need 9.0",
                    device.name(), capability / 10, capability % 10));
  }
  TensorMap map;
  in_context(device, [&](DriverApi& driver) {
    const Result result = driver.tensor_map_encode_tiled(&map, layout);
    check(driver, result, "cuTensorMapEncodeTiled", {},
          result == Result::not_supported && driver.last_error_detail().empty()
              ? "Tensor maps need a driver of CUDA 12.0 or later."
              : "");
  });
  return map;
}

}  // namespace sagegen::runtime
