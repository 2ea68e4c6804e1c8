#include "runtime/attention/arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "runtime/attention/workspace.h"

namespace sagegen::runtime {
namespace {

constexpr DevicePtr kTensorAlignment = 16;  // bytes of one vector load
constexpr std::int64_t kStrideStep = 8;     // the same in elements of f16 or bf16
constexpr std::uint64_t kElementBytes = 2;
constexpr DevicePtr kLseAlignment = sizeof(float);

// Bytes [begin, end) that a tensor spans, holes between its rows included.
struct Range {
  const char* name;
  DevicePtr begin;
  DevicePtr end;
};

struct Axis {
  const char* name;
  std::int64_t size;
  std::int64_t stride;
};

Range span_from(const char* name, DevicePtr begin, std::uint64_t bytes) {
  if (bytes > std::numeric_limits<DevicePtr>::max() - begin) {
    throw ArgumentError(
        fmt::format("attention: {} at {:#x} with {} bytes runs past the end of the address space",
                    name, begin, bytes));
  }
  return Range{.name = name, .begin = begin, .end = begin + bytes};
}

void check_address(const char* name, DevicePtr data, DevicePtr alignment) {
  if (data == 0) throw ArgumentError(fmt::format("attention: {} is a null pointer", name));
  if (data % alignment != 0) {
    throw ArgumentError(fmt::format("attention: {} is at {:#x}, which is not aligned to {} bytes",
                                    name, data, alignment));
  }
}

enum class Access { read, write };

void check_stride(const char* name, const Axis& axis, int head_dim, Access access) {
  if (axis.size == 1) return;  // the stride is never used, and frameworks put anything there
  if (axis.stride == 0 && access == Access::read) return;  // broadcast: one row read many times
  if (axis.stride < 0) {
    throw ArgumentError(fmt::format("attention: {}.{} is {}; strides cannot be negative", name,
                                    axis.name, axis.stride));
  }
  if (axis.stride % kStrideStep != 0) {
    throw ArgumentError(fmt::format(
        "attention: {}.{} is {} elements; strides must be multiples of {} ({} bytes), "
        "because rows are read and written 16 bytes at a time: pad the rows or copy the tensor",
        name, axis.name, axis.stride, kStrideStep, kTensorAlignment));
  }
  if (axis.stride < head_dim) {
    throw ArgumentError(fmt::format(
        "attention: {}.{} is {} elements for {} rows of {} channels; the rows would overlap", name,
        axis.name, axis.stride, axis.size, head_dim));
  }
}

// Elements from the first to one past the last. All sizes and strides have been checked.
std::int64_t span_elements(const char* name, const std::array<Axis, 3>& axes, int head_dim) {
  std::int64_t span = head_dim;
  for (const Axis& axis : axes) {
    std::int64_t reach = 0;
    if (axis.size > 1 && (__builtin_mul_overflow(axis.size - 1, axis.stride, &reach) ||
                          __builtin_add_overflow(span, reach, &span))) {
      throw ArgumentError(
          fmt::format("attention: {}.{} of {} elements for {} steps spans more than 2^63 elements",
                      name, axis.name, axis.stride, axis.size));
    }
  }
  return span;
}

// An output whose rows share memory would be written by several blocks. Every sane layout nests:
// the stride of an axis steps over everything that the axes with smaller strides span.
void check_rows_are_disjoint(const char* name, std::array<Axis, 3> axes, int head_dim) {
  std::sort(axes.begin(), axes.end(),
            [](const Axis& a, const Axis& b) { return a.stride < b.stride; });
  std::int64_t inner = head_dim;
  for (const Axis& axis : axes) {
    if (axis.size == 1) continue;
    if (axis.stride < inner) {
      throw ArgumentError(
          fmt::format("attention: {}.{} is {} elements, but the axes with smaller strides span {}; "
                      "rows of the output would overlap",
                      name, axis.name, axis.stride, inner));
    }
    inner += (axis.size - 1) * axis.stride;
  }
}

Range check_tensor(const char* name, const TensorView& view, std::int64_t batch, std::int64_t heads,
                   std::int64_t tokens, int head_dim, Access access) {
  check_address(name, view.data, kTensorAlignment);
  const std::array<Axis, 3> axes{Axis{"stride_batch", batch, view.stride_batch},
                                 Axis{"stride_head", heads, view.stride_head},
                                 Axis{"stride_token", tokens, view.stride_token}};
  for (const Axis& axis : axes) check_stride(name, axis, head_dim, access);
  const auto elements = static_cast<std::uint64_t>(span_elements(name, axes, head_dim));
  if (access == Access::write) check_rows_are_disjoint(name, axes, head_dim);
  // elements < 2^63, so its bytes fit in 64 bits.
  return span_from(name, view.data, elements * kElementBytes);
}

void check_disjoint(const Range& written, const Range& other) {
  if (written.begin >= other.end || other.begin >= written.end) return;
  throw ArgumentError(fmt::format(
      "attention: {} spans [{:#x}, {:#x}) and {} spans [{:#x}, {:#x}); what a call writes must not "
      "overlap anything else, so give {} memory of its own",
      written.name, written.begin, written.end, other.name, other.begin, other.end, written.name));
}

void check_scale(float scale) {
  if (scale == 0.0f) return;  // asks for the default
  if (!(scale > 0.0f && scale <= kLargestSoftmaxScale)) {
    throw ArgumentError(
        fmt::format("attention: softmax_scale is {}; it must be positive and at most {}, or 0 for "
                    "1 / sqrt(head_dim)",
                    scale, kLargestSoftmaxScale));
  }
}

void check_alignment(CausalAlignment alignment) {
  if (alignment == CausalAlignment::top_left || alignment == CausalAlignment::bottom_right) return;
  throw ArgumentError(fmt::format("attention: causal is {}; it must be top_left or bottom_right",
                                  static_cast<int>(alignment)));
}

}  // namespace

void check_arguments(const AttentionProblem& problem, const AttentionShape& shape,
                     const AttentionArguments& arguments, const WorkspaceSpan& workspace) {
  const int head_dim = problem.head_dim;
  const std::array<Range, 3> inputs{check_tensor("q", arguments.q, shape.batch, shape.q_heads,
                                                 shape.q_len, head_dim, Access::read),
                                    check_tensor("k", arguments.k, shape.batch, shape.kv_heads,
                                                 shape.kv_len, head_dim, Access::read),
                                    check_tensor("v", arguments.v, shape.batch, shape.kv_heads,
                                                 shape.kv_len, head_dim, Access::read)};
  const Range o = check_tensor("o", arguments.o, shape.batch, shape.q_heads, shape.q_len, head_dim,
                               Access::write);
  check_scale(arguments.softmax_scale);
  check_alignment(arguments.causal);

  check_address("workspace", workspace.data, kWorkspaceAlignment);
  if (workspace.bytes < workspace.needed) {
    throw ArgumentError(fmt::format(
        "attention: the workspace has {} bytes, this shape needs {}; ask workspace_bytes()",
        workspace.bytes, workspace.needed));
  }
  const Range scratch = span_from("workspace", workspace.data, workspace.needed);

  for (const Range& input : inputs) {
    check_disjoint(o, input);
    check_disjoint(scratch, input);
  }
  check_disjoint(scratch, o);
  if (arguments.lse == 0) return;
  check_address("lse", arguments.lse, kLseAlignment);
  const auto rows = static_cast<std::uint64_t>(shape.batch * shape.q_heads * shape.q_len);
  const Range lse = span_from("lse", arguments.lse, rows * sizeof(float));
  for (const Range& input : inputs) check_disjoint(lse, input);
  check_disjoint(lse, o);
  check_disjoint(lse, scratch);
}

}  // namespace sagegen::runtime
