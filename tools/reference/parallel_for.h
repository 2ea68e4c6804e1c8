// Work on several threads.
#pragma once

#include <cstdint>
#include <functional>

namespace sagegen::reference {

// Calls work(i) for i in [0, count) from `threads` threads (0: as many as the machine has), or from as many as
// the system lets it make, the calling one among them. The first exception is rethrown.
void parallel_for(std::int64_t count, int threads, const std::function<void(std::int64_t)>& work);

}  // namespace sagegen::reference
