// The mods of attention (templates/attention/mods) as options of `run`: what they are given, made up where it
// is a tensor, for the kernel and for the reference.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "templates/attention/plan.h"
#include "tools/reference/mods.h"
#include "tools/reference/reference.h"

namespace sagegen::cli {

struct ModOptions {
  std::map<std::string, std::string> given;  // mod -> text
  std::vector<const CLI::Option*> options;
};
void define_mods(CLI::App& app, ModOptions& options);

// Switches on what is given.
void ask_for_mods(const ModOptions& options, attention::Spec& spec);
// Throws UsageError if something is given that none of the kernels has.
void check_mods(const ModOptions& options, const std::vector<Kernel>& kernels);

struct RunMods {
  std::vector<reference::ScoreMod> twins;
  // Puts tensors on the device.
  std::function<attention::ModArguments(const runtime::Device&, std::vector<runtime::Buffer>& keep)>
      give;
};
// Of the kernel's mods; what is not given is usual. Throws UsageError for texts that mean nothing.
RunMods make_mods(const ModOptions& options, const Kernel& kernel, const reference::Inputs& inputs,
                  std::uint64_t seed);

}  // namespace sagegen::cli
