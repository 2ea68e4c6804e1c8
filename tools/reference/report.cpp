#include "tools/reference/report.h"

#include <fmt/format.h>

namespace sagegen::reference {

std::vector<FormatMode> format_modes(IoType io) {
  const QuantModel fp8{.output = io};
  QuantModel fp16 = fp8;
  fp16.pv = QuantModel::Pv::f16;
  fp16.p_max = 1.0;
  fp16.v_scaled = io == IoType::bf16;
  fp16.v_max = 1024.0;
  QuantModel fp8_rough = fp8, fp16_rough = fp16;
  fp8_rough.smooth_k = fp16_rough.smooth_k = false;
  return {{"INT8 + FP8", fp8},
          {"INT8 + FP16", fp16},
          {"INT8 + FP8, K as it is", fp8_rough},
          {"INT8 + FP16, K as it is", fp16_rough}};
}

std::vector<FormatCost> format_costs(const Inputs& inputs, IoType io, int threads) {
  const Output exact = attention(inputs, threads);
  std::vector<FormatCost> costs;
  for (const FormatMode& mode : format_modes(io)) {
    costs.push_back({mode.name, compare(exact.o, model(inputs, mode.model, threads).o)});
  }
  return costs;
}

std::string format_cost_table(const std::vector<NamedInputs>& sets, IoType io, int threads) {
  std::string head = "| inputs |", rule = "|---|";
  for (const FormatMode& mode : format_modes(io)) {
    head += fmt::format(" {} |", mode.name);
    rule += "---|";
  }
  std::string table = head + "\n" + rule + "\n";
  for (const NamedInputs& set : sets) {
    table += fmt::format("| {} |", set.name);
    for (const FormatCost& cost : format_costs(set.inputs, io, threads)) {
      table += fmt::format(" {:.5f} / {:.4f} |", cost.metrics.cosine_similarity,
                           cost.metrics.relative_l1);
    }
    table += "\n";
  }
  return table;
}

}  // namespace sagegen::reference
