// Sizes of given codes, and the rules for codes that a caller passes to a plan: they throw ArgumentError.
#pragma once

#include <cstdint>

#include "sagegen/runtime/argument_check.h"
#include "templates/attention/plan.h"

namespace sagegen::attention {

// Of given codes, without gaps.
std::int64_t given_q_scales(const Spec& spec, std::int64_t q_len);  // of a head
std::int64_t given_k_scales(const Spec& spec, std::int64_t kv_len);
std::int64_t given_value_row_bytes(const Spec& spec, std::int64_t kv_len);

// Those of given codes; the rows of codes as one after the other.
CodeSizes given_sizes(const Spec& spec, const Shape& shape, bool lse_wanted);

// What a call does with a tensor of codes.
using CodeAccess = runtime::ArgumentCheck::Access;
void check_query_codes(runtime::ArgumentCheck& check, const Kernel& kernel, const Shape& shape,
                       const QueryCodes& codes, const CodeSizes& sizes, CodeAccess access);
void check_key_value_codes(runtime::ArgumentCheck& check, const Kernel& kernel, const Shape& shape,
                           const KeyValueCodes& codes, const CodeSizes& sizes, CodeAccess access);

}  // namespace sagegen::attention
