#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <utility>

#include "sagegen/runtime/plan.h"
#include "templates/attention/plan_codes_check.h"

namespace sagegen::attention {

using runtime::ArgumentCheck;
using runtime::ArgumentError;
using runtime::ceil_div;
using runtime::DevicePtr;

namespace {

constexpr std::int64_t kF32 = sizeof(float);
constexpr std::int64_t kChunk = 16;  // bytes of one vector load

// The widest alignment that kernels of ours ask for; given scales are read one by one.
std::uint64_t alignment(const Spec& spec) { return takes_given_codes(spec) ? kF32 : kChunk; }

template <typename... Arguments>
[[noreturn]] void refuse(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  throw ArgumentError("attention: " + fmt::format(format, std::forward<Arguments>(arguments)...));
}

// A contiguous tensor of the caller, or none where the kernel has none.
void check_array(ArgumentCheck& check, const Kernel& kernel, const char* name, DevicePtr data,
                 std::int64_t bytes, std::uint64_t aligned_to, CodeAccess access) {
  if (bytes != 0) {
    if (data == 0) {
      refuse("{} is a null pointer, and {} asks for {} bytes of it; ask code_sizes()", name,
             kernel.key(), bytes);
    }
    return check.array(name, data, static_cast<std::uint64_t>(bytes), aligned_to, access);
  }
  if (data != 0) refuse("{} is given, and {} takes none; leave it 0", name, kernel.key());
}

struct Axis {
  const char* name;
  std::int64_t size, stride;
};

void check_rows(ArgumentCheck& check, const char* name, DevicePtr data,
                const std::array<Axis, 3>& axes, std::int64_t row_bytes) {
  std::int64_t span = row_bytes;
  for (const Axis& axis : axes) {
    if (axis.size == 1 || axis.stride == 0) continue;
    if (axis.stride < row_bytes || axis.stride % kChunk != 0) {
      refuse(
          "the stride of {} along {} is {} bytes for rows of {}; it must be 0 or at least as many, "
          "and a multiple of {}, because rows are read so many bytes at a time",
          name, axis.name, axis.stride, row_bytes, kChunk);
    }
    std::int64_t reach = 0;
    if (__builtin_mul_overflow(axis.size - 1, axis.stride, &reach) ||
        __builtin_add_overflow(span, reach, &span)) {
      refuse("{} spans more than 2^63 bytes along {}, with {} bytes for each of {} steps", name,
             axis.name, axis.stride, axis.size);
    }
  }
  check.array(name, data, static_cast<std::uint64_t>(span), kChunk, CodeAccess::read);
}

// Scales of all heads, given.
void check_scales(ArgumentCheck& check, const char* name, DevicePtr data, std::int64_t heads,
                  std::int64_t of_head, std::int64_t stride) {
  if (stride != 0 && (stride < of_head || stride > runtime::kMaxLength)) {
    refuse(
        "the stride of {} is {} scales from one head to the next, and a head has {}; it must be "
        "0, for no gap, or at least as many, and at most {}",
        name, stride, of_head, runtime::kMaxLength);
  }
  const std::int64_t step = stride == 0 ? of_head : stride;
  const std::int64_t bytes =
      runtime::scratch_bytes("attention", {heads, step, kF32}) - (step - of_head) * kF32;
  check.array(name, data, static_cast<std::uint64_t>(bytes), kF32, CodeAccess::read);
}

void check_unused(const Kernel& kernel, const char* names, bool unused) {
  if (unused) return;
  refuse(
      "{}: {} reads codes that are contiguous, padded and folded as its own kernels write them; "
      "leave it 0, or take a kernel with inputs=given",
      names, kernel.key());
}

const Spec& spec_of(const Kernel& kernel) { return kernel.view(family()).spec; }

}  // namespace

std::int64_t given_q_scales(const Spec& spec, std::int64_t q_len) {
  const int per_group = q_scales_per_group(spec.granularity, spec.q_group);
  return per_group == 0 ? 1 : ceil_div(q_len, spec.q_group) * per_group;
}

std::int64_t given_k_scales(const Spec& spec, std::int64_t kv_len) {
  const int per_group = k_scales_per_group(spec.granularity, spec.k_group);
  return per_group == 0 ? 1 : ceil_div(kv_len, spec.k_group) * per_group;
}

std::int64_t given_value_row_bytes(const Spec& spec, std::int64_t kv_len) {
  if (spec.pv == DType::e4m3) return ceil_div(kv_len, kGivenValueKeys) * kGivenValueKeys;
  return std::int64_t{2} * value_dim(spec);
}

CodeSizes given_sizes(const Spec& spec, const Shape& shape, bool lse_wanted) {
  const auto of_queries = [&](std::int64_t rows, std::int64_t bytes) {
    return runtime::scratch_bytes("attention", {shape.batch, shape.q_heads, rows, bytes});
  };
  const auto of_keys = [&](std::int64_t rows, std::int64_t bytes) {
    return runtime::scratch_bytes("attention", {shape.batch, shape.kv_heads, rows, bytes});
  };
  CodeSizes sizes;
  if (qk_is_quantized(spec)) {
    const std::int64_t row = given_row_bytes(spec.qk, spec.head_dim);
    sizes.q_codes = of_queries(shape.q_len, row);
    sizes.q_scale = of_queries(given_q_scales(spec, shape.q_len), kF32);
    sizes.k_codes = of_keys(shape.kv_len, row);
    sizes.k_scale = of_keys(given_k_scales(spec, shape.kv_len), kF32);
  }
  if (smooths_k(spec.smoothing) && lse_wanted) sizes.lse_correction = of_queries(shape.q_len, kF32);
  if (!v_is_quantized(spec)) return sizes;
  sizes.v_codes = of_keys(spec.pv == DType::e4m3 ? value_dim(spec) : shape.kv_len,
                          given_value_row_bytes(spec, shape.kv_len));
  sizes.v_scale = of_keys(value_dim(spec), kF32);
  if (spec.v_smoothing == ValueSmoothing::mean) sizes.v_mean = sizes.v_scale;
  return sizes;
}

void check_query_codes(ArgumentCheck& check, const Kernel& kernel, const Shape& shape,
                       const QueryCodes& codes, const CodeSizes& sizes, CodeAccess access) {
  const Spec& spec = spec_of(kernel);
  const auto array = [&](const char* name, DevicePtr data, std::int64_t bytes) {
    check_array(check, kernel, name, data, bytes, alignment(spec), access);
  };
  if (takes_given_codes(spec) && qk_is_quantized(spec)) {
    check_rows(check, "q_codes", codes.codes,
               {Axis{"batch", shape.batch, codes.strides.batch},
                Axis{"heads", shape.q_heads, codes.strides.head},
                Axis{"tokens", shape.q_len, codes.strides.row}},
               given_row_bytes(spec.qk, spec.head_dim));
    check_scales(check, "q_scale", codes.scale, shape.batch * shape.q_heads,
                 given_q_scales(spec, shape.q_len), codes.scale_stride);
  } else {
    array("q_codes", codes.codes, sizes.q_codes);
    array("q_scale", codes.scale, sizes.q_scale);
    check_unused(
        kernel, "strides, scale_stride or scale_is_folded of the codes of Q",
        codes.strides == CodeStrides{} && codes.scale_stride == 0 && !codes.scale_is_folded);
  }
  array("q_mean", codes.mean, sizes.q_mean);
  // Where it is not asked for, it may be there: attended once with an LSE and once without.
  if (sizes.lse_correction != 0 || !smooths_k(spec.smoothing))
    array("lse_correction", codes.lse_correction, sizes.lse_correction);
}

void check_key_value_codes(ArgumentCheck& check, const Kernel& kernel, const Shape& shape,
                           const KeyValueCodes& codes, const CodeSizes& sizes, CodeAccess access) {
  const Spec& spec = spec_of(kernel);
  const auto array = [&](const char* name, DevicePtr data, std::int64_t bytes) {
    check_array(check, kernel, name, data, bytes, alignment(spec), access);
  };
  const bool given = takes_given_codes(spec);
  if (given && qk_is_quantized(spec)) {
    check_rows(check, "k_codes", codes.k_codes,
               {Axis{"batch", shape.batch, codes.k_strides.batch},
                Axis{"heads", shape.kv_heads, codes.k_strides.head},
                Axis{"tokens", shape.kv_len, codes.k_strides.row}},
               given_row_bytes(spec.qk, spec.head_dim));
    check_scales(check, "k_scale", codes.k_scale, shape.batch * shape.kv_heads,
                 given_k_scales(spec, shape.kv_len), codes.k_scale_stride);
  } else {
    array("k_codes", codes.k_codes, sizes.k_codes);
    array("k_scale", codes.k_scale, sizes.k_scale);
    check_unused(kernel, "strides or scale_stride of the codes of K",
                 codes.k_strides == CodeStrides{} && codes.k_scale_stride == 0);
  }
  if (given && v_is_quantized(spec)) {
    const bool by_channel = spec.pv == DType::e4m3;
    check_rows(check, "v_codes", codes.v_codes,
               {Axis{"batch", shape.batch, codes.v_strides.batch},
                Axis{"heads", shape.kv_heads, codes.v_strides.head},
                by_channel ? Axis{"channels", value_dim(spec), codes.v_strides.row}
                           : Axis{"tokens", shape.kv_len, codes.v_strides.row}},
               given_value_row_bytes(spec, shape.kv_len));
  } else {
    array("v_codes", codes.v_codes, sizes.v_codes);
    check_unused(kernel, "strides of the codes of V", codes.v_strides == CodeStrides{});
  }
  array("v_scale", codes.v_scale, sizes.v_scale);
  array("v_mean", codes.v_mean, sizes.v_mean);
  if (access == CodeAccess::write || spec.smoothing == Smoothing::qk)
    array("k_mean", codes.k_mean, sizes.k_mean);
}

}  // namespace sagegen::attention
