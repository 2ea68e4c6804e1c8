#include "runtime/attention/workspace.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <numeric>

namespace sagegen::runtime {
namespace {

constexpr std::int64_t kMaxGridYZ = 65535;  // CUDA C++ Programming Guide, compute capabilities
constexpr std::int64_t kMaxLength = std::numeric_limits<std::int32_t>::max();

// Enough chunks that the reduction over keys fills a GPU, few enough that reading the partial
// results back costs nothing.
constexpr std::int64_t kKeysPerChunk = 512;
constexpr std::int64_t kMaxChunks = 16;
constexpr std::int64_t kChunkStep = 64;

std::int64_t ceil_div(std::int64_t value, std::int64_t by) {
  return value / by + (value % by != 0);
}
std::int64_t round_up(std::int64_t value, std::int64_t to) { return ceil_div(value, to) * to; }

[[noreturn]] void throw_too_large() {
  throw ArgumentError(
      "attention shape: the workspace would need more than 2^63 bytes; split the batch");
}

// Places regions one after the other.
class Allocator {
 public:
  Region take(std::initializer_list<std::int64_t> factors) {
    std::int64_t bytes = 1;
    for (const std::int64_t factor : factors) {
      if (__builtin_mul_overflow(bytes, factor, &bytes)) throw_too_large();
    }
    if (bytes > std::numeric_limits<std::int64_t>::max() - kWorkspaceAlignment) throw_too_large();
    const Region region{.offset = end_, .bytes = bytes};
    if (__builtin_add_overflow(end_, round_up(bytes, kWorkspaceAlignment), &end_))
      throw_too_large();
    return region;
  }
  std::int64_t end() const { return end_; }

 private:
  std::int64_t end_ = 0;
};

void check_shape(const AttentionShape& shape) {
  const struct {
    const char* name;
    std::int64_t value;
    std::int64_t limit;
    const char* reason;
  } sizes[] = {
      {"batch", shape.batch, kMaxGridYZ, "a grid has no more blocks in z; split the batch"},
      {"q_heads", shape.q_heads, kMaxGridYZ, "a grid has no more blocks in y; split the heads"},
      {"kv_heads", shape.kv_heads, kMaxGridYZ, "a grid has no more blocks in y; split the heads"},
      {"q_len", shape.q_len, kMaxLength, "lengths are 32-bit numbers"},
      {"kv_len", shape.kv_len, kMaxLength, "lengths are 32-bit numbers"},
  };
  for (const auto& size : sizes) {
    if (size.value < 1) {
      throw ArgumentError(fmt::format("attention shape: {} is {}; every size must be at least 1",
                                      size.name, size.value));
    }
    if (size.value > size.limit) {
      throw ArgumentError(fmt::format("attention shape: {} is {}, the largest possible is {}: {}",
                                      size.name, size.value, size.limit, size.reason));
    }
  }
  if (shape.q_heads % shape.kv_heads != 0) {
    throw ArgumentError(
        fmt::format("attention shape: {} query heads cannot share {} key/value heads evenly; "
                    "kv_heads must divide q_heads",
                    shape.q_heads, shape.kv_heads));
  }
}

std::int64_t padded(const char* name, std::int64_t length, int group, int tile) {
  const std::int64_t unit = std::lcm(group, tile);
  const std::int64_t result = round_up(length, unit);
  if (result > kMaxLength) {
    throw ArgumentError(
        fmt::format("attention shape: {} is {}; padded to a multiple of {} it exceeds {}: lengths "
                    "are 32-bit numbers",
                    name, length, unit, kMaxLength));
  }
  return result;
}

}  // namespace

WorkspaceLayout workspace_layout(const AttentionProblem& problem, const QuantSpec& quant,
                                 const TileSchedule& schedule, const AttentionShape& shape) {
  check_shape(shape);
  WorkspaceLayout layout;
  layout.q_len_padded = padded("q_len", shape.q_len, quant.q_group, schedule.cta_q);
  layout.kv_len_padded = padded("kv_len", shape.kv_len, quant.k_group, schedule.cta_k);
  const std::int64_t wanted =
      std::clamp<std::int64_t>(ceil_div(shape.kv_len, kKeysPerChunk), 1, kMaxChunks);
  layout.chunk_len = round_up(ceil_div(shape.kv_len, wanted), kChunkStep);
  layout.chunks = ceil_div(shape.kv_len, layout.chunk_len);

  const bool per_thread = quant.granularity == Granularity::per_thread;
  const std::int64_t q_scales = layout.q_len_padded / quant.q_group * (per_thread ? 8 : 1);
  const std::int64_t k_scales = layout.kv_len_padded / quant.k_group * (per_thread ? 4 : 1);
  const std::int64_t channels = problem.head_dim;
  constexpr std::int64_t kF32 = sizeof(float);

  Allocator allocator;
  layout.q_codes = allocator.take(
      {shape.batch, shape.q_heads, layout.q_len_padded, channels * bits(quant.qk) / 8});
  layout.q_scale = allocator.take({shape.batch, shape.q_heads, q_scales, kF32});
  layout.k_codes = allocator.take(
      {shape.batch, shape.kv_heads, layout.kv_len_padded, channels * bits(quant.qk) / 8});
  layout.k_scale = allocator.take({shape.batch, shape.kv_heads, k_scales, kF32});
  if (v_is_quantized(problem, quant)) {
    layout.v_codes = allocator.take(
        {shape.batch, shape.kv_heads, layout.kv_len_padded, channels * bits(quant.pv) / 8});
    layout.v_scale = allocator.take({shape.batch, shape.kv_heads, channels, kF32});
    layout.v_amax_partial =
        allocator.take({shape.batch, shape.kv_heads, layout.chunks, channels, kF32});
  }
  if (quant.smoothing == Smoothing::k) {
    layout.k_sum_partial =
        allocator.take({shape.batch, shape.kv_heads, layout.chunks, channels, kF32});
    layout.k_mean = allocator.take({shape.batch, shape.kv_heads, channels, kF32});
    layout.lse_correction = allocator.take({shape.batch, shape.q_heads, layout.q_len_padded, kF32});
  }
  layout.bytes = allocator.end();
  return layout;
}

}  // namespace sagegen::runtime
