// What the number formats cost on given inputs: the model of the quantization against exact attention,
// mode by mode, as numbers and as a Markdown table.
#pragma once

#include <string>
#include <vector>

#include "tools/reference/reference.h"

namespace sagegen::reference {

struct FormatMode {
  std::string name;  // "INT8 + FP8", "INT8 + FP8, K as it is", ...
  QuantModel model;
};

// INT8 scores with FP8 and with FP16 P V, each with K smoothed and as it is. `io` is the dtype of the
// tensors: bf16 V is scaled per channel before it becomes f16.
std::vector<FormatMode> format_modes(IoType io);

struct FormatCost {
  std::string mode;
  Metrics metrics;
};
std::vector<FormatCost> format_costs(const Inputs& inputs, IoType io, int threads = 0);

// One row per set of inputs, one column per mode, each cell "cosine similarity / relative L1".
struct NamedInputs {
  std::string name;
  Inputs inputs;
};
std::string format_cost_table(const std::vector<NamedInputs>& sets, IoType io, int threads = 0);

}  // namespace sagegen::reference
