// One attention on a device, from host tensors to host tensors, and its judges.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "sagegen/runtime/device.h"
#include "sagegen/runtime/emulator.h"
#include "templates/attention/plan.h"
#include "tools/reference/allowance.h"
#include "tools/reference/reference.h"
#include "tools/sagegen/run_device.h"

namespace sagegen::cli {

enum class Layout { hnd, nhd };

struct AttentionJob {
  // Values rounded to `spec.io`; channels may be fewer than head_dim and value_dim.
  reference::Inputs inputs;
  attention::Spec spec;
  attention::Schedule schedule;
  Layout layout = Layout::hnd;  // of Q, K, V and O in device memory
  attention::CausalAlignment causal = attention::CausalAlignment::top_left;
  runtime::ArtifactSource source;
  // Gives what the mods of `spec` ask for, and puts their tensors on the device.
  std::function<attention::ModArguments(const runtime::Device&, std::vector<runtime::Buffer>& keep)>
      mods = {};
  double output_factor = 16;  // of O where that is e4m3
  attention::PlanOptions plan = {};
};

// Of the workspace of a call, and how it was cut to be within PlanOptions::max_workspace_bytes.
struct WorkspaceReport {
  std::size_t bytes = 0;
  attention::Plan::Cut cut = {.calls = 1, .batches = 0, .kv_heads = 0};
  std::vector<attention::Plan::ScratchTensor> tensors;  // those that there are
};
WorkspaceReport workspace_report(const attention::Plan& plan, const attention::Shape& shape);

// Of warps, over all requests.
struct TileCounts {
  std::uint64_t skipped = 0, computed = 0;
};

struct AttentionResult {
  std::vector<std::string> kernels;  // as loaded, in launch order
  std::string note;                  // which of them are of an older target than asked for, if any
  std::vector<double> o, lse;        // shapes of reference::Output; empty if a launch failed
  std::vector<runtime::Finding> findings;
  std::optional<TileCounts> tiles;  // of kernels with skipsoftmax
  WorkspaceReport workspace;
  double emit_ms = 0;               // PTX of all kernels made or looked up
  double load_ms = 0;               // emit_ms and loading it
  double run_ms = 0;                // host time of the launches; says nothing about a GPU's speed
};

double ms_since(std::chrono::steady_clock::time_point begin);
// The same source, which adds to `ms` how long it took.
runtime::ArtifactSource timed(const runtime::ArtifactSource& source, double& ms);

// Channels beyond those of the inputs are zero on the device and cut from the result. Findings of the
// emulator are part of the result; other failures throw DriverError.
AttentionResult run_attention(const AttentionJob& job, const RunDevice& on);
// With kernels that are loaded already: those of `job` on the device of `on`.
AttentionResult run_attention(const AttentionJob& job, const RunDevice& on,
                              const attention::Plan& plan);

// The double-precision model of what the kernels of `job` do.
reference::QuantModel quant_model(const AttentionJob& job);

// The largest relative L1 error that a correct kernel may have, given that of the model. FP8 tensor cores of
// sm_89 keep 13 bits of each sum; f16 accumulators round a sum of a tile to 11 now and then; everything else sums
// (nearly) exactly.
struct AccuracyBound {
  double factor, offset;
  std::string arithmetic;    // in words
  double half_rounding = 0;  // part of the offset: what f16 rounds, relative to sums of P V
  double limit(double model_relative_l1) const { return factor * model_relative_l1 + offset; }
};
AccuracyBound accuracy_bound(const attention::Spec& spec, int compute_capability);

// What a device of this compute capability may lose beyond the model, for the bounds of single rows.
reference::DeviceArithmetic device_arithmetic(const attention::Spec& spec, int compute_capability);

}  // namespace sagegen::cli
