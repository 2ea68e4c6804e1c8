// What the bits of a sequence do not depend on: for engines that promise the same answer whatever else runs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sagegen/kernel.h"

namespace sagegen::attention {

// All of it in one schedule, as other tiles sum in another order.
//   batch:        what else is in the batch, dense or packed, and where the sequence stands in it. Every kernel is:
//                 statistics, scales and means are of a sequence.
//   query_chunks: that, and into which calls its queries are cut, with all of its keys in each.
//   growing_keys: that of batch, and the same of chunked prefill, with a causal mask: a call has the keys up to its last
//                 query, which stands at the last key.
enum class Invariance { none, batch, query_chunks, growing_keys };
std::string_view to_string(Invariance value);
Invariance parse_invariance(std::string_view word);  // throws ArgumentError that lists the words

struct InvarianceRule {
  bool holds = true;
  std::string why;  // not, and what to change
  // Chunks begin at multiples of so many rows of Q, which are queries, with pack_gqa G for each query; and, with
  // growing_keys, of so many keys. 1: anywhere.
  std::int64_t rows = 1, keys = 1;

  // In queries, of G query heads for each of K and V: chunks begin at multiples of so many.
  std::int64_t queries(bool pack_gqa, std::int64_t group) const;
};

// Throws InternalError for a kernel of another family.
InvarianceRule invariance(const Kernel& kernel, Invariance level);

}  // namespace sagegen::attention
