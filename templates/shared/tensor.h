// Access to the caller's tensors, whose elements are f16 or bf16.
#pragma once

#include "sagegen/dsl/kernel_builder.h"

namespace sagegen {

inline constexpr std::int64_t kElementBytes = 2;

// Address of token 0 of a head.
template <typename Params>
dsl::GlobalPtr head_of(dsl::KernelBuilder& k, const dsl::ParamReader<Params>& p,
                       TensorParam Params::*tensor, dsl::I32 batch, dsl::I32 head,
                       std::int64_t element_bytes = kElementBytes) {
  const dsl::I64 elements = k.to_i64(batch) * p(tensor, &TensorParam::stride_batch) +
                            k.to_i64(head) * p(tensor, &TensorParam::stride_head);
  return p(tensor, &TensorParam::data) + elements * element_bytes;
}

}  // namespace sagegen
