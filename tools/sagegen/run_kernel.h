// Which attention kernels `run` runs: one chosen by words, one named by its key, or those of a set.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "sagegen/spec.h"
#include "tools/sagegen/run_inputs.h"

namespace sagegen::cli {

struct RunKernelOptions {
  std::string key, set_file;           // empty: not given
  const CLI::Option* named = nullptr;  // KEY
  const CLI::Option* of_set = nullptr;
  std::string mode = "int8", granularity = "per_thread", accumulation, groups, schedule;
  bool no_smooth_k = false;
};

void define_run_kernel(CLI::App& app, RunKernelOptions& options);

// Here an attention kernel's quant also says whether K is smoothed, which is the business of others.

// The kernel that the options name by its key, made for `target` unless that is empty; none if they name none.
// Throws SpecError, and UsageError if the key is not of an attention kernel.
std::optional<KernelSpec> kernel_by_key(const RunKernelOptions& options, const std::string& target);

// Every attention of the set for `target`, or for all if that is empty. Throws as chosen_kernels() does.
std::vector<KernelSpec> kernels_of_set(const RunKernelOptions& options, const std::string& target);

// What the words say about `problem` on `target`. Throws UsageError; the kernel may break rules.
KernelSpec kernel_by_words(const RunKernelOptions& options, const AttentionProblem& problem,
                           Target target);

// Throws SpecError if the kernel, or one that prepares its inputs, cannot be.
void validate_attention(const KernelSpec& kernel);

// The inputs that `kernel` takes, as far as the options leave them open. Throws UsageError where these say
// something else.
InputOptions inputs_of_kernel(InputOptions options, const KernelSpec& kernel);

// Throws UsageError if the inputs have more channels than `kernel`.
void check_channels(const RunInputs& inputs, const KernelSpec& kernel);

}  // namespace sagegen::cli
