#include "templates/shared/plan_pool.h"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "sagegen/runtime/argument_check.h"

namespace sagegen {

std::uint64_t pool_span(const char* plan, int block_bytes, const PoolAxes& pool,
                        const KvStrides& strides) {
  constexpr std::int64_t kUnit = 16;  // bytes: what is read at once
  struct Axis {
    const char* name;
    std::int64_t size, stride;
  };
  const auto refuse = [&]<typename... Arguments>(fmt::format_string<Arguments...> format,
                                                 Arguments&&... arguments) {
    throw runtime::ArgumentError(
        fmt::format("{}: {}", plan, fmt::format(format, std::forward<Arguments>(arguments)...)));
  };
  std::array<Axis, 3> axes{Axis{"page", pool.pages, strides.page},
                           Axis{"head", pool.heads, strides.head},
                           Axis{"block", pool.blocks, strides.block}};
  std::ranges::sort(axes, {}, &Axis::stride);
  std::int64_t span = block_bytes;
  for (const Axis& axis : axes) {
    if (axis.size == 1) continue;  // the stride is never used
    if (axis.stride % kUnit != 0) {
      refuse("pool.strides.{} is {} bytes; it must be a multiple of {}", axis.name, axis.stride,
             kUnit);
    }
    if (axis.stride < span) {
      refuse(
          "pool.strides.{} is {} bytes, and what it steps over has {}: blocks would overlap; with "
          "all strides 0 the pool is contiguous",
          axis.name, axis.stride, span);
    }
    std::int64_t reach = 0;
    if (__builtin_mul_overflow(axis.size - 1, axis.stride, &reach) ||
        __builtin_add_overflow(span, reach, &span)) {
      refuse("pool.strides.{} of {} bytes for {} steps spans more than 2^63 bytes", axis.name,
             axis.stride, axis.size);
    }
  }
  return static_cast<std::uint64_t>(span);
}

}  // namespace sagegen
