// Which vector instructions of the host the emulator runs on. Results do not depend on it, so tests run
// with every choice: the environment variable SAGEGEN_EMULATOR_LANES names one.
#pragma once

#include <string>

namespace sagegen::emulator {

// In the order of width. `baseline` is what the build is compiled for.
enum class HostLanes { baseline, avx2, avx512 };

std::string to_string(HostLanes lanes);  // "avx2", as in the variable

// What this processor has; a wider one has the narrower ones too.
HostLanes widest_lanes();

// The lanes named by `asked`, or `widest` if it is null or empty. Throws std::invalid_argument for another
// word, and for lanes wider than `widest`.
HostLanes choose_lanes(const char* asked, HostLanes widest);

// The choice of this process: made at the first call, from the variable. Throws as choose_lanes does.
HostLanes host_lanes();

}  // namespace sagegen::emulator
