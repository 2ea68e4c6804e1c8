#include "runtime/embed/target_choice.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "sagegen/error.h"
#include "sagegen/runtime/attention.h"

namespace sagegen::runtime {

std::optional<std::size_t> closest_target(std::span<const Target> available, Target wanted) {
  std::optional<std::size_t> best;
  for (std::size_t i = 0; i < available.size(); ++i) {
    const Target target = available[i];
    if (target == wanted) return i;
    const bool replaces = target.suffix == '\0' && wanted.suffix == '\0' && target.sm < wanted.sm;
    if (replaces && (!best || target.sm > available[*best].sm)) best = i;
  }
  return best;
}

Target best_target(int compute_capability) {
  std::vector<Target> targets;
  std::string names;
  for (const TargetInfo& info : supported_targets()) {
    targets.push_back(info.target);
    names += (names.empty() ? "" : ", ") + info.name;
  }
  const auto found = closest_target(targets, Target{.sm = compute_capability});
  if (found) return targets[*found];
  throw SpecError(
      fmt::format("compute capability {}.{}: no kernel runs on such a device; there are kernels "
                  "for {} and devices newer than these",
                  compute_capability / 10, compute_capability % 10, names));
}

}  // namespace sagegen::runtime
