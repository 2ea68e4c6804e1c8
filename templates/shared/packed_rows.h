// Rows of Q in kernels with pack_gqa (shared/params.h): which query and head a row is, and where it lies.
#pragma once

#include "sagegen/dsl/kernel_builder.h"
#include "templates/shared/params.h"
#include "templates/shared/tensor.h"

namespace sagegen {

// number / divisor, with what PackParams::of(divisor) has for it.
inline dsl::I32 quotient(dsl::KernelBuilder& k, dsl::I32 number, dsl::I32 reciprocal,
                         dsl::I32 shift) {
  return k.to_i32((k.to_i64_unsigned(number) * k.to_i64_unsigned(reciprocal)) >> k.to_i64(shift));
}

// Of one KV head. Rows behind the last query have heads of the group, too.
class PackedRows {
 public:
  explicit PackedRows(dsl::KernelBuilder& k) : k_(&k), p_(k.params<PackParams>()) {}

  dsl::I32 heads() const { return p_(&PackParams::heads); }  // of the group
  dsl::I32 query(dsl::I32 row) const {
    return quotient(*k_, row, p_(&PackParams::reciprocal), p_(&PackParams::shift));
  }
  // Of the group: 0 to heads() - 1.
  dsl::I32 head(dsl::I32 row) const { return row - query(row) * heads(); }

  // Bytes from token 0 of the group's first head to the row, in a tensor of the caller.
  template <typename Params>
  dsl::I64 offset(const dsl::ParamReader<Params>& p, TensorParam Params::*tensor, dsl::I32 row,
                  std::int64_t element_bytes = kElementBytes) const {
    const dsl::I64 elements = k_->to_i64(query(row)) * p(tensor, &TensorParam::stride_token) +
                              k_->to_i64(head(row)) * p(tensor, &TensorParam::stride_head);
    return elements * element_bytes;
  }

 private:
  dsl::KernelBuilder* k_;
  dsl::ParamReader<PackParams> p_;
};

}  // namespace sagegen
