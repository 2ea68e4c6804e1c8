// Where a kernel finds an element of a ScoreTensor.
#pragma once

#include "sagegen/dsl/kernel_builder.h"
#include "templates/attention/mod.h"
#include "templates/attention/mods/call.h"

namespace sagegen::attention {

template <typename Params>
dsl::GlobalPtr element_address(dsl::KernelBuilder& k, const ScoreElement& at,
                               std::int64_t element_bytes) {
  const dsl::ParamReader<Params> p = k.params<Params>();
  const auto part = [&](dsl::I32 index, std::int64_t Params::*stride) {
    return k.to_i64(index) * (p(stride) * element_bytes);
  };
  const dsl::I32 query = k.min(at.query, p(&Params::last_query));
  const dsl::I32 key = k.min(at.key, p(&Params::last_key));
  const dsl::GlobalPtr row = p(&Params::data) + part(at.batch, &Params::stride_batch) +
                             part(at.head, &Params::stride_head) +
                             part(query, &Params::stride_query);
  const dsl::I32 key_bytes = p(&Params::stride_key) * static_cast<std::int32_t>(element_bytes);
  return row + k.to_i64(key) * k.to_i64(key_bytes);
}

}  // namespace sagegen::attention
