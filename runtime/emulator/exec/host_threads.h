// Work on several threads of the host, as many as it allows.
#pragma once

#include <cstdint>
#include <functional>

namespace sagegen::emulator {

// Runs `work` on the calling thread and on up to `threads` - 1 others at once, and returns when all have
// come back. A thread that cannot be made (a limit of processes, no memory for its stack) is done without:
// the work has to be such that fewer threads complete it. Rethrows what one of them threw.
void run_on_threads(std::uint32_t threads, const std::function<void()>& work);

}  // namespace sagegen::emulator
