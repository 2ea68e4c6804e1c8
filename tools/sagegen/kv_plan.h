// `sagegen kv plan`: which bits the KV cache of each layer gets, from what its layers do to recorded inputs.
#pragma once

#include <string>
#include <vector>

#include "tools/kv/planner/planner.h"
#include "tools/reference/tensor_file.h"
#include "tools/sagegen/app.h"
#include "tools/sagegen/run_inputs.h"

namespace sagegen::cli {

struct KvPlanCommand {
  std::string inputs;  // a safetensors file
  reference::AxisOrder order = reference::AxisOrder::hnd;
  Causal causal = Causal::bottom_right;
  double softmax_scale = 0;  // 0: 1 / sqrt(head_dim)
  kv::MeasureOptions measure;
  kv::PlanOptions plan;
  double cap_bits = 0;  // 0: none
  std::string state, out, html;
  std::vector<CLI::Option*> kivi_only;
};

// The options of the command, but for the file of inputs, which is the positional argument of the group.
void define_kv_plan(CLI::App& options, KvPlanCommand& command);
// write_map: a map as the text of --out, such as KVTuner's YAML; `file` is for its errors.
using WriteMap = std::string (*)(const kv::Map& map, std::string_view file);
Exit kv_plan(const KvPlanCommand& command, WriteMap write_map, Output& output);

}  // namespace sagegen::cli
