#include "templates/attention/plan_packed.h"

#include <algorithm>

#include <fmt/format.h>

#include "sagegen/runtime/argument_check.h"
#include "sagegen/runtime/error.h"

namespace sagegen::attention {

using runtime::ArgumentError;
using runtime::kMaxLength;

void check_packing(const Kernel& kernel, const Spec& spec, const Shape& shape,
                   const Arguments& arguments) {
  const bool q = arguments.cu_seqlens_q != 0, kv = arguments.cu_seqlens_kv != 0;
  if (q != kv) {
    throw ArgumentError(
        fmt::format("attention: {} is given without {}; packed sequences have both, which may be "
                    "the same",
                    q ? "cu_seqlens_q" : "cu_seqlens_kv", q ? "cu_seqlens_kv" : "cu_seqlens_q"));
  }
  if (q != is_packed(shape)) {
    throw ArgumentError(fmt::format(
        "attention: {}; packed sequences have the rows of their tensors in the shape (total_q, "
        "total_kv) and their lengths in cu_seqlens_q and cu_seqlens_kv, others neither",
        q ? "cu_seqlens_q and cu_seqlens_kv are given, and total_q is 0"
          : fmt::format("total_q is {}, and cu_seqlens_q is not given", shape.total_q)));
  }
  if (q && !spec.varlen) {
    throw ArgumentError(fmt::format(
        "attention: sequences are packed (cu_seqlens_q), and kernel {} does not read lengths on "
        "the device; take one with varlen=true",
        kernel.key()));
  }
}

void refuse_packed(const Shape& shape, const Arguments& arguments) {
  if (!is_packed(shape) && arguments.cu_seqlens_q == 0 && arguments.cu_seqlens_kv == 0) return;
  throw ArgumentError(
      "attention: sequences are packed (total_q, cu_seqlens_q), and codes in tensors of the "
      "caller's are of sequences of one length; call run(), or one call for each sequence");
}

WorkspaceRows workspace_rows(const char* name, std::int64_t batch, std::int64_t total,
                             std::int64_t len_padded, int group, int tile) {
  const std::int64_t granule = std::max(group, tile);  // powers of two
  if (total == 0) return {granule, len_padded, batch};
  const std::int64_t rows = packed_rows(total, batch, granule);
  if (rows > kMaxLength) {
    throw ArgumentError(
        fmt::format("attention shape: {} is {}; with {} sequences padded to multiples of {} it "
                    "exceeds {}: rows are 32-bit numbers",
                    name, total, batch, granule, kMaxLength));
  }
  return {granule, rows, 1};
}

}  // namespace sagegen::attention
