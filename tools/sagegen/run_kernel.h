// Which attention kernels `run` runs: one chosen by words, one named by its key, or those of a set.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "templates/attention/spec.h"
#include "tools/sagegen/run_inputs.h"

namespace sagegen::cli {

struct RunKernelOptions {
  std::string key, set_file;           // empty: not given
  const CLI::Option* named = nullptr;  // KEY
  const CLI::Option* of_set = nullptr;
  std::string mode = "int8", granularity = "per_thread", smoothing, accumulation, groups, schedule,
              code_range = "usual", v_smoothing = "none", rotation = "none", output = "io";
  bool pack_gqa = false;
};

// What --mode takes.
std::vector<std::string> run_mode_words();

void define_run_kernel(CLI::App& app, RunKernelOptions& options);

// The kernel that the options name by its key, made for `target` unless that is empty; none if they name none.
// Throws SpecError, and UsageError if the key is not of an attention kernel.
std::optional<Kernel> kernel_by_key(const RunKernelOptions& options, const std::string& target);

// Every attention of the set for `target`, or for all if that is empty. Throws as chosen_kernels() does.
std::vector<Kernel> kernels_of_set(const RunKernelOptions& options, const std::string& target);

// What the words say of `spec`, whose head_dim, value_dim, io and mask are as they shall be, on `target`. Throws UsageError; the kernel may break rules.
Kernel kernel_by_words(const RunKernelOptions& options, attention::Spec spec, Target target);

// Throws SpecError if the kernel, or one that prepares its inputs, cannot be.
void validate_attention(const Kernel& kernel);

// The inputs that `kernel` takes, as far as the options leave them open. Throws UsageError where these say
// something else.
InputOptions inputs_of_kernel(InputOptions options, const Kernel& kernel);

// Throws UsageError if the inputs have more channels than `kernel`.
void check_channels(const RunInputs& inputs, const Kernel& kernel);

}  // namespace sagegen::cli
