#include "templates/attention/plan_shape_class.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>

namespace sagegen::attention {
namespace {

// Of the power of two that n rounds up to; sizes that are not possible are told elsewhere.
std::uint8_t exponent_of(std::int64_t n) noexcept {
  const auto size = static_cast<std::uint64_t>(std::max<std::int64_t>(n, 1));
  return static_cast<std::uint8_t>(std::bit_width(size - 1));
}

}  // namespace

std::string to_string(const Shape& shape) {
  return fmt::format(
      "batch {}, heads {}{}, q_len {}, kv_len {}", shape.batch, shape.q_heads,
      shape.kv_heads == shape.q_heads ? "" : fmt::format(" (K and V {})", shape.kv_heads),
      shape.q_len, shape.kv_len);
}

ShapeClass shape_class(const Shape& shape) {
  // A product that does not fit is no problem that anybody can run.
  const auto heads = static_cast<std::int64_t>(static_cast<std::uint64_t>(shape.batch) *
                                               static_cast<std::uint64_t>(shape.q_heads));
  const std::int64_t group = shape.kv_heads > 0 ? shape.q_heads / shape.kv_heads : 1;
  return {exponent_of(heads), exponent_of(group), exponent_of(shape.q_len),
          exponent_of(shape.kv_len)};
}

std::string to_string(ShapeClass shape) {
  constexpr std::uint64_t kOne = 1;
  return fmt::format("h{}g{}q{}k{}", kOne << shape.heads, kOne << shape.group, kOne << shape.q_len,
                     kOne << shape.kv_len);
}

runtime::TuningKey tuning_key(const Kernel& kernel, ShapeClass shape,
                              runtime::Deployment deployment,
                              const runtime::DeviceFingerprint& device) {
  return {.what = kernel.what(),
          .target = to_string(kernel.target()),
          .shape = to_string(shape),
          .mode = std::string(to_string(deployment)),
          .generator = runtime::generator_id(kernel),
          .device = device};
}

bool needs_no_more(const Kernel& usual, const Kernel& other) {
  const Schedule a = usual.view(family()).schedule, b = other.view(family()).schedule;
  return b.cta_q <= a.cta_q && b.cta_k <= a.cta_k;
}

bool may_replace(const Kernel& usual, const Kernel& other) {
  const View a = usual.view(family()), b = other.view(family());
  return !a.spec.blocksparse ||
         (a.schedule.cta_q == b.schedule.cta_q && a.schedule.cta_k == b.schedule.cta_k);
}

}  // namespace sagegen::attention
