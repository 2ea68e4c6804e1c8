// Which of several targets serves a device or a request: the one rule behind best_target(), every source of
// PTX (sagegen/runtime/artifacts.h) and what the tools offer. It works on lists of targets, so that what does not exist is never
// chosen.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sagegen/target.h"

namespace sagegen::runtime {

// The target that stands for a device, and that all PTX is made for which loads there: 90 -> sm_90a.
Target target_of_device(int compute_capability);

// Indices of what can take the place of `wanted`, best first: that target itself, then those that load on
// every device that it loads on, family targets before plain ones and the highest first. So a device asks for
// its own architecture, then its family, then plain PTX; plain PTX is replaced by lower plain PTX alone.
std::vector<std::size_t> replacements(std::span<const Target> available, Target wanted);

// The first of them; empty if nothing fits.
std::optional<std::size_t> closest_target(std::span<const Target> available, Target wanted);

// Targets that are chosen without being asked for: those the library carries kernels of; all supported ones
// if it carries none.
std::vector<Target> default_targets();

// The target for a device among these. Throws SpecError that says which there are.
Target best_target(int compute_capability, std::span<const Target> available);

// What a device gets whose driver is of this CUDA version (12020 for 12.2): the best target, or the next one
// whose PTX this driver compiles, if there is one.
struct TargetChoice {
  Target target;
  std::string note;  // why it is not the best one, and what that costs; else empty
};
TargetChoice choose_target(int compute_capability, int cuda_version,
                           std::span<const Target> available);

// What takes the place of this target if a driver refuses its PTX as too new, best first.
std::vector<Target> older_targets(Target target);

}  // namespace sagegen::runtime
