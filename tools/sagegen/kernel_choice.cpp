#include "tools/sagegen/kernel_choice.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "sagegen/error.h"
#include "tools/sagegen/default_set.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/files.h"
#include "tools/sagegen/options.h"

namespace sagegen::cli {
namespace {

std::vector<KernelSpec> kernels_for_targets(std::vector<KernelSpec> set,
                                            const std::vector<Target>& targets,
                                            const KernelChoice& choice) {
  std::vector<std::string> there;
  for (const TargetInfo& info : supported_targets()) {
    const auto is_its = [&](const KernelSpec& spec) { return spec.target == info.target; };
    if (std::any_of(set.begin(), set.end(), is_its)) there.push_back(to_string(info.target));
  }
  std::erase_if(set, [&](const KernelSpec& spec) {
    return std::find(targets.begin(), targets.end(), spec.target) == targets.end();
  });
  if (!set.empty()) return set;
  throw UsageError(fmt::format("--target {}: {} has no kernel for it, but for {}", choice.target,
                               choice.set_file, fmt::join(there, ", ")));
}

}  // namespace

void define_kernel_choice(CLI::App& command, KernelChoice& choice) {
  const CLI::Option* keys = command.add_option(
      "KEY", choice.keys, "kernels by key, each made once (default: the whole set)");
  command.add_option("--target", choice.target,
                     "sm_80, ... or all; with keys: make these kernels for that target");
  CLI::Option* set = command.add_option("--set", choice.set_file,
                                        "set description in TOML (default: the default set)");
  refuse_beside(set, keys, "a kernel named by its key comes from no set");
}

KernelSpec kernel_of_key(const std::string& text) {
  try {
    return parse_key(text);
  } catch (const SpecError& error) {
    throw SpecError(std::string(error.what()) +
                    "\n`sagegen list` shows the keys of the default set");
  }
}

std::vector<KernelSpec> default_set() { return read_spec_set(kDefaultSetToml, "default.toml"); }

std::vector<KernelSpec> chosen_kernels(const KernelChoice& choice) {
  std::vector<Target> targets;
  if (choice.target == "all") {
    for (const TargetInfo& info : supported_targets()) targets.push_back(info.target);
  } else if (!choice.target.empty()) {
    targets.push_back(parse_target(choice.target));
  }
  std::vector<KernelSpec> wanted;
  if (choice.keys.empty()) {
    wanted = choice.set_file.empty() ? default_set()
                                     : read_spec_set(read_file(choice.set_file), choice.set_file);
    if (!targets.empty()) wanted = kernels_for_targets(std::move(wanted), targets, choice);
  }
  for (const std::string& text : choice.keys) {
    const KernelSpec spec = kernel_of_key(text);
    if (targets.empty()) wanted.push_back(spec);
    for (Target target : targets) {
      wanted.push_back(spec);
      wanted.back().target = target;
    }
  }
  std::vector<KernelSpec> result;
  std::set<std::string> seen;
  for (const KernelSpec& spec : wanted) {
    validate(spec);
    if (seen.insert(key(spec)).second) result.push_back(spec);
  }
  return result;
}

}  // namespace sagegen::cli
