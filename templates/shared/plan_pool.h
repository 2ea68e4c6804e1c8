// What calls on a paged KV cache check of the pool.
#pragma once

#include <cstdint>

#include "templates/shared/kv_format.h"

namespace sagegen {

struct PoolAxes {
  std::int64_t pages = 1, heads = 1, blocks = 1;  // blocks: of a page
};

// The bytes that a pool spans whose blocks have so many. Every sane layout nests: a stride steps over all that those below it
// span. Throws ArgumentError that names plan and stride.
std::uint64_t pool_span(const char* plan, int block_bytes, const PoolAxes& axes,
                        const KvStrides& strides);

}  // namespace sagegen
