#include "runtime/artifacts/store.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <system_error>
#include <utility>

#include "runtime/artifacts/key_words.h"
#include "runtime/artifacts/target_choice.h"
#include "sagegen/error.h"
#include "sagegen/runtime/artifacts.h"
#include "sagegen/runtime/ptx_entry.h"

namespace sagegen::runtime {
namespace {

constexpr std::size_t kListedKeys = 40;  // a longer list helps nobody

// What the store has of the kind asked for, for the device that the target stands for.
std::string what_exists(const std::vector<std::string>& keys, const sagegen::Kernel& wanted) {
  if (keys.empty()) return "there is none at all";
  const std::string& asked = wanted.key();
  std::vector<std::string_view> of_kind, that_load;
  for (const std::string_view candidate : keys) {
    if (family_of_key(candidate) != family_of_key(asked)) continue;
    of_kind.push_back(candidate);
    const auto target = target_of_key(candidate);
    if (target && loads_on(*target, wanted.target().sm)) that_load.push_back(candidate);
  }
  if (of_kind.empty()) {
    return fmt::format("none of the {} kernels there is of the kind {}", keys.size(),
                       family_of_key(asked));
  }
  if (that_load.empty()) {
    std::vector<std::string> targets;
    for (const Target target : targets_of(of_kind)) targets.push_back(to_string(target));
    return fmt::format("kernels of the kind {} are there for {}, which do not load on {}",
                       family_of_key(asked), fmt::join(targets, ", "), to_string(wanted.target()));
  }
  const std::size_t more = that_load.size() - std::min(that_load.size(), kListedKeys);
  that_load.resize(that_load.size() - more);
  return fmt::format("kernels of this kind that load on {}:\n  {}{}", to_string(wanted.target()),
                     fmt::join(that_load, "\n  "),
                     more == 0 ? "" : fmt::format("\n  and {} more", more));
}

constexpr std::string_view kMachineCode = ".cubin";

bool is_machine_code(std::string_view name) { return name.find(kMachineCode) != name.npos; }

// Of those that there are, by several assemblers, the newest.
std::optional<MachineCode> machine_code_in(const Bundle& bundle, const std::string& key,
                                           Target target) {
  const std::string prefix = key + std::string(kMachineCode);
  const auto names = bundle.names();
  std::string_view name;
  int cuda = 0;
  for (auto at = std::ranges::lower_bound(names, prefix);
       at != names.end() && at->starts_with(prefix); ++at) {
    int version = 0;
    const char* const end = at->data() + at->size();
    const auto [stop, error] = std::from_chars(at->data() + prefix.size(), end, version);
    if (error != std::errc() || stop != end || version <= cuda) continue;
    name = *at;
    cuda = version;
  }
  if (name.empty()) return std::nullopt;
  return MachineCode{.target = target, .cuda = cuda, .bytes = bundle.find(name).value()};
}

}  // namespace

std::string machine_code_name(std::string_view key, int cuda_version) {
  return fmt::format("{}{}{}", key, kMachineCode, cuda_version);
}

PtxStore store_of(const Bundle& bundle, std::string where, std::string advice) {
  return {.where = std::move(where),
          .advice = std::move(advice),
          .find = [bundle](const std::string& name) { return bundle.find(name); },
          .keys =
              [bundle] {
                std::vector<std::string> keys(bundle.names().begin(), bundle.names().end());
                std::erase_if(keys, is_machine_code);
                return keys;
              },
          .assembled =
              [bundle](const std::string& key, Target target) {
                return machine_code_in(bundle, key, target);
              }};
}

ArtifactSource source_of(PtxStore store) {
  return [store = std::move(store)](const sagegen::Kernel& wanted) -> ArtifactSource::Shared {
    std::vector<Target> targets{
        wanted.target()};  // which may be one that this version does not know
    for (const TargetInfo& info : supported_targets()) {
      if (info.target != wanted.target()) targets.push_back(info.target);
    }
    for (const std::size_t i : replacements(targets, wanted.target())) {
      const sagegen::Kernel found = wanted.on(targets[i]);
      std::optional<std::string> ptx = store.find(found.key());
      if (!ptx) continue;
      Artifact artifact = artifact_of_ptx(found, std::move(*ptx));
      artifact.key = wanted.key();
      if (store.assembled) artifact.assembled = store.assembled(found.key(), targets[i]);
      return std::make_shared<const Artifact>(std::move(artifact));
    }
    throw SpecError(fmt::format("no PTX of {} {}, nor of a target that could stand in; {}; {}",
                                wanted.key(), store.where, store.advice,
                                what_exists(store.keys(), wanted)));
  };
}

Artifact artifact_of_ptx(const sagegen::Kernel& kernel, std::string ptx) {
  const std::vector<PtxEntry> entries = ptx_entries(ptx);
  if (entries.size() > 1) {
    throw SpecError(fmt::format("kernel {}: its PTX has {} entry points instead of one",
                                kernel.key(), entries.size()));
  }
  Artifact artifact{.key = kernel.key(),
                    .entry = kernel.key(),
                    .code = {},
                    .resources = kernel.resources(),
                    .params = kernel.params().digest()};
  // Text that cannot be read at all goes to the driver, whose log says what is wrong with it.
  if (!entries.empty()) {
    artifact.entry = entries.front().name;
    artifact.params = params_of_ptx(ptx).value_or(0);
  }
  artifact.code = std::move(ptx);
  return artifact;
}

}  // namespace sagegen::runtime
