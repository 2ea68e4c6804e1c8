// Where every intermediate of an attention call lies in the caller's workspace, and how the call is
// cut into tiles and chunks. The one place that knows: run() fills launch arguments from it, and
// workspace_bytes() is its size. Shapes are those of sagegen/abi.h.
#pragma once

#include <cstdint>

#include "sagegen/runtime/attention.h"

namespace sagegen::runtime {

inline constexpr std::int64_t kWorkspaceAlignment = 256;
inline constexpr std::int64_t kQuantizeVKeys = 64;  // keys of one block of quantize_v

// Bytes of one tensor, from the start of the workspace. Absent tensors have no bytes.
struct Region {
  std::int64_t offset = 0;
  std::int64_t bytes = 0;
};

struct WorkspaceLayout {
  std::int64_t q_len_padded = 0;
  std::int64_t kv_len_padded = 0;
  std::int64_t chunk_len = 0;  // keys that one block of kv_statistics reduces
  std::int64_t chunks = 0;
  Region q_codes, q_scale;
  Region k_codes, k_scale;
  Region v_codes, v_scale;       // present if V is quantized
  Region k_sum_partial, k_mean;  // present if K is smoothed
  Region v_amax_partial;         // present if V is quantized
  Region lse_correction;         // present if K is smoothed
  std::int64_t bytes = 0;        // of all, a multiple of kWorkspaceAlignment
};

// Throws ArgumentError if the shape is not possible: sizes below 1, kv_heads that does not divide
// q_heads, or more than a launch can address.
WorkspaceLayout workspace_layout(const AttentionProblem& problem, const QuantSpec& quant,
                                 const TileSchedule& schedule, const AttentionShape& shape);

}  // namespace sagegen::runtime
