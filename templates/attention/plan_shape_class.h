// Which problems are tuned as one, and what the tuning database calls them.
#pragma once

#include <cstdint>
#include <string>

#include "sagegen/runtime/stopwatch.h"
#include "sagegen/runtime/tuning.h"
#include "templates/attention/plan.h"

namespace sagegen::attention {

// "batch 1, heads 32 (K and V 8), q_len 4096, kv_len 4096"
std::string to_string(const Shape& shape);

// Problems that are tuned as one: those whose batch * q_heads, q_heads / kv_heads, q_len and kv_len round up to the same
// powers of two.
struct ShapeClass {
  std::uint8_t heads = 0, group = 0, q_len = 0, kv_len = 0;  // exponents
  friend auto operator<=>(const ShapeClass&, const ShapeClass&) = default;
};
ShapeClass shape_class(const Shape& shape);
std::string to_string(ShapeClass shape);  // "h32g4q4096k4096"

// The key under which the database has what a sweep found out about a kernel.
runtime::TuningKey tuning_key(const Kernel& kernel, ShapeClass shape,
                              runtime::Deployment deployment,
                              const runtime::DeviceFingerprint& device);

// Whether a schedule of the kernel takes what callers of the default one give: bits of a block-sparse mask are of its
// tiles.
bool may_replace(const Kernel& usual, const Kernel& other);
// Whether its workspace is no larger, whatever the shape: its tiles are not, to which rows are rounded up.
bool needs_no_more(const Kernel& usual, const Kernel& other);

}  // namespace sagegen::attention
