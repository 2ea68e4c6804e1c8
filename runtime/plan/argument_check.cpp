#include "sagegen/runtime/argument_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <numeric>

namespace sagegen::runtime {
namespace {

struct Axis {
  const char* name;
  std::int64_t size;
  std::int64_t stride;
};

}  // namespace

TensorView hnd(DevicePtr data, std::int64_t heads, std::int64_t tokens, int head_dim) {
  return TensorView{.data = data,
                    .stride_batch = heads * tokens * head_dim,
                    .stride_head = tokens * head_dim,
                    .stride_token = head_dim};
}

TensorView nhd(DevicePtr data, std::int64_t heads, std::int64_t tokens, int head_dim) {
  return TensorView{.data = data,
                    .stride_batch = heads * tokens * head_dim,
                    .stride_head = head_dim,
                    .stride_token = heads * head_dim};
}

template <typename... Arguments>
void ArgumentCheck::refuse(std::string_view format, const Arguments&... arguments) const {
  throw ArgumentError(
      fmt::format("{}: {}", plan_, fmt::vformat(format, fmt::make_format_args(arguments...))));
}

void ArgumentCheck::add(const char* name, DevicePtr begin, std::uint64_t bytes, Access access) {
  if (bytes > std::numeric_limits<DevicePtr>::max() - begin) {
    refuse("{} at {:#x} with {} bytes runs past the end of the address space", name, begin, bytes);
  }
  ranges_[count_++] = {.name = name, .begin = begin, .end = begin + bytes, .access = access};
}

void ArgumentCheck::address(const char* name, DevicePtr data, DevicePtr alignment) const {
  if (data == 0) refuse("{} is a null pointer", name);
  if ((data & (alignment - 1)) != 0)
    refuse("{} is at {:#x}, which is not aligned to {} bytes", name, data, alignment);
}

void ArgumentCheck::tensor(const char* name, const TensorView& view, std::int64_t batch,
                           std::int64_t heads, std::int64_t tokens, int channels, Access access,
                           const ElementRule& elements) {
  const std::int64_t alignment = elements.bytes * elements.step;
  address(name, view.data, static_cast<DevicePtr>(alignment));
  std::array<Axis, 3> axes{Axis{"stride_batch", batch, view.stride_batch},
                           Axis{"stride_head", heads, view.stride_head},
                           Axis{"stride_token", tokens, view.stride_token}};
  std::int64_t span = channels;  // elements from the first to one past the last
  for (const Axis& axis : axes) {
    if (axis.size == 1) continue;  // the stride is never used, and frameworks put anything there
    if (axis.stride == 0 && access == Access::read) continue;  // one row read many times
    if (axis.stride < 0)
      refuse("{}.{} is {}; strides cannot be negative", name, axis.name, axis.stride);
    if ((axis.stride & (elements.step - 1)) != 0) {
      refuse(
          "{}.{} is {} elements; strides must be multiples of {} ({} bytes), because rows are "
          "read and written {} bytes at a time: pad the rows or copy the tensor",
          name, axis.name, axis.stride, elements.step, alignment, alignment);
    }
    if (axis.stride < channels) {
      refuse("{}.{} is {} elements for {} rows of {} channels; the rows would overlap", name,
             axis.name, axis.stride, axis.size, channels);
    }
    std::int64_t reach = 0;
    if (axis.size > 1 && (__builtin_mul_overflow(axis.size - 1, axis.stride, &reach) ||
                          __builtin_add_overflow(span, reach, &span))) {
      refuse("{}.{} of {} elements for {} steps spans more than 2^63 elements", name, axis.name,
             axis.stride, axis.size);
    }
  }
  if (access == Access::write) {
    // An output whose rows share memory would be written by several blocks. Every sane layout nests:
    // the stride of an axis steps over everything that the axes with smaller strides span.
    std::ranges::sort(axes, {}, &Axis::stride);
    std::int64_t inner = channels;
    for (const Axis& axis : axes) {
      if (axis.size == 1) continue;
      if (axis.stride < inner) {
        refuse(
            "{}.{} is {} elements, but the axes with smaller strides span {}; rows of the output "
            "would overlap",
            name, axis.name, axis.stride, inner);
      }
      inner += (axis.size - 1) * axis.stride;
    }
  }
  // span < 2^63, so its bytes fit in 64 bits.
  add(name, view.data,
      static_cast<std::uint64_t>(span) * static_cast<std::uint64_t>(elements.bytes), access);
}

void ArgumentCheck::array(const char* name, DevicePtr data, std::uint64_t bytes,
                          std::uint64_t alignment, Access access) {
  address(name, data, alignment);
  add(name, data, bytes, access);
}

void ArgumentCheck::workspace(DevicePtr data, std::size_t bytes, std::size_t needed) {
  constexpr DevicePtr kAlignment = 256;
  if (needed == 0) return;  // it is not touched
  address("workspace", data, kAlignment);
  if (bytes < needed) {
    refuse("the workspace has {} bytes, this shape needs {}; ask workspace_bytes()", bytes, needed);
  }
  add("workspace", data, needed, Access::write);
}

void ArgumentCheck::overlaps() const {
  for (std::size_t i = 0; i < count_; ++i) {
    const Range& written = ranges_[i];
    for (std::size_t j = 0; written.access == Access::write && j < count_; ++j) {
      const Range& other = ranges_[j];
      if (i == j || written.begin >= other.end || other.begin >= written.end) continue;
      refuse(
          "{} spans [{:#x}, {:#x}) and {} spans [{:#x}, {:#x}); what a call writes must not "
          "overlap anything else, so give {} memory of its own",
          written.name, written.begin, written.end, other.name, other.begin, other.end,
          written.name);
    }
  }
}

void check_sizes(const char* plan, std::initializer_list<SizeRule> sizes) {
  for (const SizeRule& size : sizes) {
    if (size.value < 1) {
      throw ArgumentError(fmt::format("{} shape: {} is {}; every size must be at least 1", plan,
                                      size.name, size.value));
    }
    if (size.value > size.limit) {
      throw ArgumentError(fmt::format("{} shape: {} is {}, the largest possible is {}: {}", plan,
                                      size.name, size.value, size.limit, size.reason));
    }
  }
}

std::int64_t padded_length(const char* plan, const char* name, std::int64_t length, int group,
                           int tile) {
  const std::int64_t unit = tile % group == 0   ? tile
                            : group % tile == 0 ? group
                                                : std::lcm(group, tile);
  const std::int64_t result = ceil_div(length, unit) * unit;
  if (result > kMaxLength) {
    throw ArgumentError(
        fmt::format("{} shape: {} is {}; padded to a multiple of {} it exceeds {}: lengths are "
                    "32-bit numbers",
                    plan, name, length, unit, kMaxLength));
  }
  return result;
}

}  // namespace sagegen::runtime
