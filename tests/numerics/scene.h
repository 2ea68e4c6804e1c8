// Attention in the emulator as the tests of numerics run it: a kernel, inputs, a device.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tools/reference/reference.h"
#include "tools/sagegen/run_attention.h"

namespace sagegen::test {

const attention::Spec& spec_of(const Kernel& kernel);
const attention::Schedule& schedule_of(const Kernel& kernel);

// It, and the kernels that prepare its inputs.
bool is_legal(const Kernel& kernel);
// All schedules of what `numbers` computes, cta_q outermost. A tile may need larger groups of scales: where
// its own refuse a schedule, it gets the largest, which refuse nothing that smaller ones let through.
std::vector<Kernel> legal_schedules(const Kernel& numbers);

// Emitted once per kernel: hundreds of launches share those that prepare inputs.
Artifact emitted(const Kernel& kernel);

reference::IoType io_type(DType io);

// Of the kernel's head_dim and value_dim, rounded to its dtype.
reference::Inputs inputs_for(const Kernel& kernel, const std::string& distribution,
                             reference::Shape shape, std::uint64_t seed);

// Scores that go up and down by tiles of 64 keys: by `octaves` of the tile, times what a query is worth.
reference::Inputs scores_by_tile(const Kernel& kernel, reference::Shape shape, std::uint64_t seed,
                                 const std::function<double(std::int64_t tile)>& octaves,
                                 const std::function<double(std::int64_t query)>& worth);

struct Scene {
  Kernel kernel;             // of attention
  reference::Inputs inputs;  // causal or not as the kernel is; the offset follows `alignment`
  cli::Layout layout = cli::Layout::hnd;
  attention::CausalAlignment alignment = attention::CausalAlignment::top_left;
  std::string profile = {};  // of the emulator; empty: that of the kernel's target
  runtime::EmulatorOptions emulator = {};
};

cli::RunDevice device_of(const Scene& scene);
cli::AttentionJob job_of(const Scene& scene);  // with emitted()

std::string text_of(const cli::AttentionJob& job, const cli::RunDevice& on);
std::string text_of(const runtime::Finding& finding);

}  // namespace sagegen::test
