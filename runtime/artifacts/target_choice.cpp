#include "runtime/artifacts/target_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "runtime/driver/ptx_version.h"
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

TargetChoice choose_target(int compute_capability, int cuda_version) {
  const Target best = best_target(compute_capability);
  std::vector<Target> compiled;
  for (const TargetInfo& info : supported_targets()) {
    if (first_cuda_with(info.ptx_version) <= cuda_version) compiled.push_back(info.target);
  }
  const auto found = closest_target(compiled, Target{.sm = compute_capability});
  if (!found || compiled[*found] == best) return {best, {}};
  const TargetInfo& wanted = target_info(best);
  const TargetInfo& used = target_info(compiled[*found]);
  return {
      used.target,
      fmt::format("the driver is of CUDA {} and too old for the PTX of {}, which needs CUDA {}; "
                  "kernels of {} are used{}; update the driver",
                  cuda_name(cuda_version), wanted.name,
                  cuda_name(first_cuda_with(wanted.ptx_version)), used.name,
                  wanted.has_fp8_mma && !used.has_fp8_mma ? ", with FP16 P V instead of FP8" : "")};
}

namespace {

TargetChoice choice_of(const Device& device) {
  int version = 0;
  check(device.api(), device.api().driver_version(&version), "cuDriverGetVersion");
  return choose_target(device.compute_capability(), version);
}

}  // namespace

Target best_target(const Device& device) { return choice_of(device).target; }
std::string best_target_note(const Device& device) { return choice_of(device).note; }

std::vector<Target> older_targets(Target target) {
  std::vector<Target> older;
  for (const TargetInfo& info : supported_targets()) {
    if (info.target.suffix == '\0' && info.target.sm < target.sm) older.push_back(info.target);
  }
  std::ranges::sort(older, [](Target a, Target b) { return a.sm > b.sm; });
  return older;
}

}  // namespace sagegen::runtime
