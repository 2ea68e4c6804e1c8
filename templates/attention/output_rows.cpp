#include "templates/attention/output_rows.h"

#include "templates/shared/packed_rows.h"
#include "templates/shared/tensor.h"

namespace sagegen::attention {

using namespace dsl;

OutputRows output_rows(const AttentionBlock& block, const AttentionPosition& at,
                       const BlockSequences& sequences, std::int64_t element_bytes) {
  KernelBuilder& k = block.k;
  const AttentionPlan& plan = block.plan;
  const auto& p = block.p;
  const auto head = [&] { return head_of(k, p, &Params::o, at.batch, at.q_head, element_bytes); };
  const auto stride = [&] { return p(&Params::o, &TensorParam::stride_token) * element_bytes; };
  if (plan.pack_gqa) {
    const PackedRows rows(k);
    GlobalPtr first = head();
    if (plan.varlen) first = first + k.to_i64(sequences.queries.first) * stride();
    const auto offset = [rows, &p, first_row = at.first_query, element_bytes](I32 row) {
      return rows.offset(p, &Params::o, first_row + row, element_bytes);
    };
    return {first, offset, block.rows(sequences) - at.first_query};
  }
  const I64 row_stride = stride();
  const I32 first = plan.varlen ? sequences.queries.first + at.first_query : at.first_query;
  return {head() + k.to_i64(first) * row_stride,
          [&k, row_stride](I32 row) { return k.to_i64(row) * row_stride; },
          block.rows(sequences) - at.first_query};
}

}  // namespace sagegen::attention
