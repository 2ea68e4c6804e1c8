// What the machine code of a kernel lets expect of its speed, for `inspect --model` and `compare`. And the drawing of
// its loop.
#pragma once

#include <string>
#include <vector>

#include "sagegen/kernel.h"
#include "tools/model/gpus.h"
#include "tools/sagegen/output.h"

namespace sagegen::cli {

// The GPU of this name, or the usual one of the target if it is empty. Throws UsageError of one that is unknown or of
// another architecture, SpecError if the model knows none of the target.
const model::Gpu& gpu_of_target(Target target, const std::string& name);

// Why nothing can be predicted on this machine; empty if it can.
std::string why_no_model();

// 1e12 operations per second on each of these GPUs of the kernel's target; NaN where the model is not about the kernel
// there. Assembles once. Throws as model_report() does otherwise.
std::vector<double> predicted_tops(const Kernel& kernel,
                                   const std::vector<const model::Gpu*>& gpus);

// Emits the kernel, assembles it with the machine's ptxas, and predicts. gpu: its name; empty: the usual one of the
// kernel's target. Throws UsageError of a GPU that is unknown or of another architecture, FileError if there is no ptxas,
// SpecError of a kernel that the model is not about, CodegenError if ptxas refuses the PTX.
struct ModelReport {
  std::string text;
  Json json;
};
ModelReport model_report(const Kernel& kernel, const std::string& gpu);

// The same of every schedule that the rules of the kernel, and of those that prepare its inputs, let through, the fastest
// first: the order in which a tuner would try them. Those that spill or are not modelled come last.
ModelReport schedules_report(const Kernel& kernel, const std::string& gpu);
// As numbers, in the order of the kernel's schedules.
struct ScheduleForecast {
  std::string schedule;
  int spilled_bytes = 0;
  double tops = 0;  // 0: not modelled
};
std::vector<ScheduleForecast> forecast_schedules(const Kernel& kernel, const std::string& gpu);

// The main loop on a sub-core, as SVG; the same of arguments and errors.
std::string pipeline_drawing(const Kernel& kernel, const std::string& gpu);

}  // namespace sagegen::cli
