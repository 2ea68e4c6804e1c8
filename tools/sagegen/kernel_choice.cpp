#include "tools/sagegen/kernel_choice.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "sagegen/error.h"
#include "templates/attention/spec.h"
#include "tools/sagegen/default_set.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/files.h"
#include "tools/sagegen/help.h"
#include "tools/sagegen/options.h"
#include "tools/sagegen/run_kernel.h"

namespace sagegen::cli {
namespace {

std::vector<Kernel> kernels_for_targets(std::vector<Kernel> set, const std::vector<Target>& targets,
                                        const KernelChoice& choice) {
  std::vector<std::string> there;
  for (const TargetInfo& info : supported_targets()) {
    const auto is_its = [&](const Kernel& kernel) { return kernel.target() == info.target; };
    if (std::any_of(set.begin(), set.end(), is_its)) there.push_back(to_string(info.target));
  }
  std::erase_if(set, [&](const Kernel& kernel) {
    return std::find(targets.begin(), targets.end(), kernel.target()) == targets.end();
  });
  if (!set.empty()) return set;
  throw UsageError(fmt::format("--target {}: {} has no kernel for it, but for {}", choice.target,
                               choice.set_file, fmt::join(there, ", ")));
}

std::vector<Kernel> kernels_of_mode(const std::string& name, const std::vector<Target>& targets) {
  std::vector<Kernel> kernels;
  Sentences refusals;
  const auto note = [&](const Kernel&, const Sentences& sentences) {
    refusals.insert(refusals.end(), sentences.begin(), sentences.end());
  };
  for (const attention::Mode& mode : attention::modes()) {
    if (mode.name != name) continue;
    for (const DType io : {DType::f16, DType::bf16}) {
      const attention::Spec spec = attention::with_mode({.io = io}, mode);
      const auto word = [](DType type) { return std::vector{std::string(to_string(type))}; };
      const std::vector<Kernel> of_io = enumerate({.targets = targets,
                                                   .fields = {{"head_dim", {"64", "128"}},
                                                              {"io", word(io)},
                                                              {"qk", word(spec.qk)},
                                                              {"pv", word(spec.pv)},
                                                              {"causal", {"false", "true"}}}},
                                                  builtin_families(), note);
      kernels.insert(kernels.end(), of_io.begin(), of_io.end());
    }
  }
  if (kernels.empty()) throw UsageError(fmt::format("--mode {}: {}", name, refusals.at(0)));
  return kernels;
}

// A line "did you mean KEY?", of a file's name, of capitals, or of a slip in a key of the default set.
std::string key_meant(const std::string& text) {
  std::string stem = std::filesystem::path(text).filename().string();
  if (stem.ends_with(".ptx")) stem.resize(stem.size() - 4);
  std::ranges::transform(stem, stem.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
  try {
    return fmt::format("\ndid you mean {}?", parse_key(stem).key());
  } catch (const SpecError&) {
  }
  std::vector<std::string> keys;
  for (const Kernel& kernel : default_set()) keys.push_back(kernel.key());
  constexpr std::size_t kMostWrong = 4;  // letters; keys differ from each other in one or two
  const std::string nearest = nearest_word(stem, keys, kMostWrong);
  return nearest.empty() ? "" : fmt::format("\ndid you mean {}?", nearest);
}

}  // namespace

std::vector<std::string> mode_names() {
  std::vector<std::string> names;
  for (const attention::Mode& mode : attention::modes()) names.emplace_back(mode.name);
  return names;
}

void define_kernel_choice(CLI::App& command, KernelChoice& choice) {
  const OptionGroup group(command, "Kernels");
  const CLI::Option* keys = command.add_option(
      "KEY", choice.keys, "kernels by key, each made once (default: the whole set)");
  command.add_option("--target", choice.target,
                     "sm_80, ... or all; with keys: make these kernels for that target");
  CLI::Option* set = command.add_option("--set", choice.set_file,
                                        "set description in TOML (default: the default set)");
  refuse_beside(set, keys, "a kernel named by its key comes from no set");
  CLI::Option* mode =
      command
          .add_option("--mode", choice.mode,
                      "the usual attention kernels of a mode, with those that prepare their inputs")
          ->check(one_of(mode_names()));
  refuse_beside(mode, keys, "the key says it");
  refuse_beside(mode, set, "the set says it");
}

Kernel kernel_of_key(const std::string& text) {
  try {
    return parse_key(text);
  } catch (const SpecError& error) {
    throw SpecError(fmt::format("{}{}\n`sagegen list` shows the keys of the default set",
                                error.what(), key_meant(text)));
  }
}

Kernel attention_of_plan(const std::string& text, Target target) {
  if (!text.starts_with("sage_")) {
    Kernel kernel = kernel_of_options(attention::family(), text, target);
    validate_attention(kernel);
    return kernel;
  }
  const Kernel named = kernel_of_key(text);
  if (&named.family() != &attention::family()) {
    throw UsageError(
        fmt::format("--plan {}: it prepares inputs; what has plans is attention, whose keys begin "
                    "with sage_fwd_",
                    named.key()));
  }
  Kernel kernel = named.target() == target ? named : named.on(target);
  validate_attention(kernel);
  return kernel;
}

std::vector<Kernel> default_set() { return read_set(kDefaultSetToml, "set.toml"); }

std::vector<Kernel> chosen_kernels(const KernelChoice& choice) {
  std::vector<Target> targets;
  if (choice.target == "all") {
    for (const TargetInfo& info : supported_targets()) targets.push_back(info.target);
  } else if (!choice.target.empty()) {
    targets.push_back(parse_target(choice.target));
  }
  std::vector<Kernel> wanted;
  if (!choice.mode.empty()) {
    if (targets.empty()) {
      for (const TargetInfo& info : supported_targets()) targets.push_back(info.target);
    }
    wanted = kernels_of_mode(choice.mode, targets);
  } else if (choice.keys.empty()) {
    wanted = choice.set_file.empty() ? default_set()
                                     : read_set(read_file(choice.set_file), choice.set_file);
    if (!targets.empty()) wanted = kernels_for_targets(std::move(wanted), targets, choice);
  }
  for (const std::string& text : choice.keys) {
    const Kernel kernel = kernel_of_key(text);
    if (targets.empty()) wanted.push_back(kernel);
    for (Target target : targets) wanted.push_back(kernel.on(target));
  }
  std::vector<Kernel> result;
  std::set<std::string> seen;
  for (const Kernel& kernel : wanted) {
    kernel.validate();
    if (seen.insert(kernel.key()).second) result.push_back(kernel);
  }
  return result;
}

}  // namespace sagegen::cli
