// Packed sequences, for the plan: where they lie in the workspace, and what kernels with varlen are told of them.
#pragma once

#include "sagegen/kernel.h"
#include "templates/attention/plan.h"
#include "templates/attention/spec.h"
#include "templates/shared/params.h"

namespace sagegen::attention {

inline bool is_packed(const Shape& shape) { return shape.total_q != 0; }

// Throws ArgumentError if lengths and totals are not given together, or to a kernel without varlen.
void check_packing(const Kernel& kernel, const Spec& spec, const Shape& shape,
                   const Arguments& arguments);

// Throws ArgumentError if sequences are packed: codes of the caller's are of whole batches.
void refuse_packed(const Shape& shape, const Arguments& arguments);

// Rows of codes as they lie in the workspace (shared/params.h).
struct WorkspaceRows {
  std::int64_t granule, rows;  // of a head
  std::int64_t batches;        // that lie one after the other: 1 if all of them lie within a head
};
// total: rows of the packed tensor, with pack_gqa times G; 0 if nothing is packed. Throws ArgumentError, naming it, for too many.
WorkspaceRows workspace_rows(const char* name, std::int64_t batch, std::int64_t total,
                             std::int64_t len_padded, int group, int tile);

enum class OfSequences { queries, keys };
// heads: of the workspace; with pack_gqa queries have those of K and V.
template <SequencesOf Of>
SequenceParams<Of> sequence_params(OfSequences of, const Shape& shape, const Arguments& arguments,
                                   const WorkspaceRows& rows, std::int64_t heads) {
  const bool queries = of == OfSequences::queries, packed = is_packed(shape);
  const auto narrow = [](std::int64_t number) { return static_cast<std::int32_t>(number); };
  const std::int64_t longest = queries ? shape.q_len : shape.kv_len;
  const std::int64_t total = queries ? shape.total_q : shape.total_kv;
  return {.sums = queries ? arguments.cu_seqlens_q : arguments.cu_seqlens_kv,
          .total = narrow(packed ? total : longest),
          .longest = narrow(longest),
          .granule = narrow(rows.granule),
          .head_rows = narrow(rows.rows),
          .heads = packed ? 0 : narrow(heads)};
}

}  // namespace sagegen::attention
