// Which of several targets serves a device or a request: the one rule behind best_target() and the
// lookup of embedded PTX.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "sagegen/spec.h"

namespace sagegen::runtime {

// Index of the target itself, else of the highest one below it, which is of the same major version if
// there is one: the driver compiles PTX without a suffix for every later device. A target with a
// suffix (sm_90a) runs on its own devices only, so it neither replaces another nor is replaced. Empty
// if nothing fits.
std::optional<std::size_t> closest_target(std::span<const Target> available, Target wanted);

}  // namespace sagegen::runtime
