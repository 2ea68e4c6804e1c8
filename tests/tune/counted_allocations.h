#pragma once

#include <cstdint>

namespace sagegen::tests {

// How often operator new was called in this program so far.
std::int64_t allocations();

}  // namespace sagegen::tests
