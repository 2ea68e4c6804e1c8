// From inputs and a kernel to a job, and the job with signs of life: what every command that runs attention shares.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tools/sagegen/run_attention.h"
#include "tools/sagegen/run_inputs.h"
#include "tools/sagegen/run_mods.h"

namespace sagegen::cli {

// Where PTX is from: `ptx` as --ptx takes it; empty: the generator if it is built in, else the embedded set.
std::string ptx_origin(const std::string& ptx);
runtime::ArtifactSource ptx_source(const std::string& ptx, const RunDevice& on);

// Without layout and source. Throws UsageError for mods that mean nothing.
AttentionJob make_job(const RunInputs& inputs, const Kernel& kernel, const ModOptions& mods,
                      std::uint64_t seed);

std::vector<std::string> mod_names(const AttentionJob& job);  // with what they are given

// Emulated launches end at Ctrl-C, and while they go on a line says how far they are. `begin` runs when Ctrl-C
// does that already.
AttentionResult run_with_progress(
    const AttentionJob& job, const RunDevice& on, const std::string& what,
    const runtime::LaunchProgress& launch, const std::function<void()>& begin = [] {});

}  // namespace sagegen::cli
