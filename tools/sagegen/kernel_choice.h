// Which kernels a command works on: keys, a set description or a mode, for one target, all, or as they are.
#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "sagegen/set.h"

namespace sagegen::cli {

struct KernelChoice {
  std::vector<std::string> keys;  // empty: the set
  std::string set_file;           // empty: the default set, which is built in
  std::string mode = {};          // of attention; empty: not asked for
  std::string target;             // empty, a target's name or "all"
};

void define_kernel_choice(CLI::App& command, KernelChoice& choice);

// Keys are taken for their own target, or for `target` if that is given; of a set, the kernels of `target`. Of a
// mode: its usual attention kernels, every head_dim and io, causal and not, and those that prepare their inputs.
// Valid kernels in a stable order, each once. Throws SpecError, FileError, and UsageError if the set, or the mode,
// has no kernel of `target`.
std::vector<Kernel> chosen_kernels(const KernelChoice& choice);

// Of `sagegen run` and the like: "int8-fp8", ...
std::vector<std::string> mode_names();

// A key as a user typed it. Throws SpecError, which says where keys are listed.
Kernel kernel_of_key(const std::string& text);

// Attention by its key, or by options as "head_dim=64 causal=true", for a target. Throws SpecError, which may be of a
// kernel that prepares its inputs, and UsageError of a key of such a one.
Kernel attention_of_plan(const std::string& text, Target target);

// templates/*/set.toml as they were when this tool was built.
std::vector<Kernel> default_set();

}  // namespace sagegen::cli
