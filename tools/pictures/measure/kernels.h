// Kernels that say what they see: parts of the attention template, which store what they load and compute.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sagegen/dsl/emit.h"
#include "sagegen/kernel.h"
#include "templates/attention/block.h"
#include "tools/pictures/layouts.h"

namespace sagegen::pictures {

// Throws InternalError with `what`, which no layout has, unless the condition holds.
void require(bool condition, const std::string& what);

struct ProbeParams {
  Address source;              // of tiles
  std::int64_t thread_stride;  // bytes from one thread's tile to the next one's
  Address memory;              // out: shared memory of a tile
  Address results;             // out: 32-bit values, [value][thread]

  static constexpr std::string_view kName = "probe";
  static std::vector<ParamField> fields() {
    using P = ProbeParams;
    return {param_field("source", &P::source), param_field("thread_stride", &P::thread_stride),
            param_field("memory", &P::memory), param_field("results", &P::results)};
  }
};

// The kernel's own parameter, and this.
ParamLayout probe_layout(const Kernel& kernel);

enum class TileName { q, k, v };

// What a thread block of a kernel is, in numbers.
struct Sizes {
  explicit Sizes(const attention::AttentionPlan& plan)
      : threads(plan.threads),
        value_dim(plan.value_dim),
        head_dim(plan.head_dim),
        value_channels(plan.value_channels),
        cta_q(plan.cta_q),
        cta_k(plan.cta_k),
        warp_rows(plan.warp_rows),
        q_group(plan.q_group),
        k_group(plan.k_group),
        q_scales(q_scales_per_group(plan.granularity, plan.q_group)),
        k_scales(k_scales_per_group(plan.granularity, plan.k_group)),
        code_row_bytes(plan.qk_row_bytes()),
        qk(plan.qk),
        pv(plan.pv),
        qk_quantized(plan.qk_quantized),
        v_quantized(plan.v_quantized),
        layouts{plan.q_tile, plan.k_tile, plan.v_tile} {}
  int threads, value_dim, head_dim, value_channels, cta_q, cta_k, warp_rows, q_group, k_group,
      q_scales, k_scales, code_row_bytes;
  DType qk, pv;
  bool qk_quantized, v_quantized;
  std::array<dsl::TileLayout, 3> layouts;  // by TileName
};

struct Probe {
  Sizes sizes;
  dsl::Emitted kernel;
  int values = 0;  // of a thread
};

// Copies a tile as the kernel does, stores the shared memory as it lies there, and then what the operands load.
Probe tile_probe(const Kernel& kernel, TileName name);

// The kernel's way through one tile of keys, but for the softmax: P are the scores.
Probe product_probe(const Kernel& kernel);

}  // namespace sagegen::pictures
