// Which of several targets serves a device or a request: the rules behind best_target() and the lookup of
// embedded PTX.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sagegen/spec.h"

namespace sagegen::runtime {

// Index of the target itself, else of the highest one below it, which is of the same major version if
// there is one: the driver compiles PTX without a suffix for every later device. A target with a
// suffix (sm_90a) runs on its own devices only, so it neither replaces another nor is replaced. Empty
// if nothing fits.
std::optional<std::size_t> closest_target(std::span<const Target> available, Target wanted);

// What a device gets whose driver is of this CUDA version (12020 for 12.2): the target of its compute
// capability, or the highest one below it whose PTX this driver compiles, if there is one.
struct TargetChoice {
  Target target;
  std::string
      note;  // why it is not that of the compute capability, and what that costs; else empty
};
TargetChoice choose_target(int compute_capability, int cuda_version);

// Targets below this one, highest first, for a driver that refuses its PTX as too new.
std::vector<Target> older_targets(Target target);

}  // namespace sagegen::runtime
