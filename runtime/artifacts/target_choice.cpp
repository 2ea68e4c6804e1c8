#include "runtime/artifacts/target_choice.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include "runtime/artifacts/embedded.h"
#include "runtime/artifacts/key_words.h"
#include "runtime/driver/ptx_version.h"
#include "sagegen/error.h"
#include "sagegen/runtime/artifacts.h"

namespace sagegen::runtime {

bool loads_on(Target ptx, int compute_capability) {
  if (ptx.suffix == 'a') return ptx.sm == compute_capability;
  if (ptx.suffix == 'f' && ptx.sm / 10 != compute_capability / 10) return false;
  return ptx.sm <= compute_capability;
}

Target target_of_device(int compute_capability) {
  return Target{.sm = compute_capability, .suffix = 'a'};
}

std::vector<std::size_t> replacements(std::span<const Target> available, Target wanted) {
  const auto replaces = [wanted](Target ptx) {
    if (ptx == wanted) return true;
    // One device, or later ones of its family, or all later ones: what replaces it reaches as far.
    const bool reaches =
        wanted.suffix == 'a' || (wanted.suffix == 'f' ? ptx.suffix != 'a' : ptx.suffix == '\0');
    return reaches && loads_on(ptx, wanted.sm);
  };
  std::vector<std::size_t> result;
  for (std::size_t i = 0; i < available.size(); ++i) {
    if (replaces(available[i])) result.push_back(i);
  }
  std::ranges::stable_sort(result, std::greater<>(), [&](std::size_t i) {
    const Target ptx = available[i];
    return std::tuple(ptx == wanted, ptx.suffix == 'f', ptx.sm);
  });
  return result;
}

std::optional<std::size_t> closest_target(std::span<const Target> available, Target wanted) {
  const std::vector<std::size_t> found = replacements(available, wanted);
  if (found.empty()) return std::nullopt;
  return found.front();
}

namespace {

std::vector<Target> all_targets() {
  std::vector<Target> targets;
  for (const TargetInfo& info : supported_targets()) targets.push_back(info.target);
  return targets;
}

}  // namespace

std::vector<Target> default_targets() {
  static const std::vector<Target> targets = [] {
    std::vector<Target> carried = targets_of(embedded_bundle().names());
    return carried.empty() ? all_targets() : carried;
  }();
  return targets;
}

Target best_target(int compute_capability) {
  return best_target(compute_capability, default_targets());
}

Target best_target(int compute_capability, std::span<const Target> available) {
  if (const auto found = closest_target(available, target_of_device(compute_capability)))
    return available[*found];
  std::vector<std::string> names;
  for (const Target target : available) names.push_back(to_string(target));
  throw SpecError(
      fmt::format("compute capability {}.{}: no kernel runs on such a device; there are kernels "
                  "for {} and devices newer than these",
                  compute_capability / 10, compute_capability % 10, fmt::join(names, ", ")));
}

TargetChoice choose_target(int compute_capability, int cuda_version,
                           std::span<const Target> available) {
  const Target best = best_target(compute_capability, available);
  std::vector<Target> compiled;
  for (const Target target : available) {
    if (first_cuda_with(target_info(target).ptx_version) <= cuda_version)
      compiled.push_back(target);
  }
  const auto found = closest_target(compiled, target_of_device(compute_capability));
  if (!found || compiled[*found] == best) return {best, {}};
  const TargetInfo& wanted = target_info(best);
  const TargetInfo& used = target_info(compiled[*found]);
  return {
      used.target,
      fmt::format("the driver is of CUDA {} and too old for the PTX of {}, which needs CUDA {}; "
                  "kernels of {} are used{}; update the driver",
                  cuda_name(cuda_version), wanted.name,
                  cuda_name(first_cuda_with(wanted.ptx_version)), used.name,
                  wanted.has(Feature::fp8_mma) && !used.has(Feature::fp8_mma)
                      ? ", with FP16 P V instead of FP8"
                      : "")};
}

namespace {

TargetChoice choice_of(const Device& device) {
  int version = 0;
  check(device.api(), device.api().driver_version(&version), "cuDriverGetVersion");
  return choose_target(device.compute_capability(), version, default_targets());
}

}  // namespace

int first_cuda_for(Target target) { return first_cuda_with(target_info(target).ptx_version); }

Target best_target(const Device& device) { return choice_of(device).target; }
std::string best_target_note(const Device& device) { return choice_of(device).note; }

std::vector<Target> older_targets(Target target) {
  const std::vector<Target> all = all_targets();
  std::vector<Target> older;
  for (const std::size_t i : replacements(all, target)) {
    if (all[i] != target) older.push_back(all[i]);
  }
  return older;
}

}  // namespace sagegen::runtime
