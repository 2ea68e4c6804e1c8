// `sagegen inspect --model`: what the machine code of a kernel lets expect of its speed. And the drawing of its loop.
#pragma once

#include <string>

#include "sagegen/kernel.h"
#include "tools/sagegen/output.h"

namespace sagegen::cli {

// Emits the kernel, assembles it with the machine's ptxas, and predicts. gpu: its name; empty: the usual one of the
// kernel's target. Throws UsageError of a GPU that is unknown or of another architecture, FileError if there is no ptxas,
// SpecError of a kernel that the model is not about, CodegenError if ptxas refuses the PTX.
struct ModelReport {
  std::string text;
  Json json;
};
ModelReport model_report(const Kernel& kernel, const std::string& gpu);

// The main loop on a sub-core, as SVG; the same of arguments and errors.
std::string pipeline_drawing(const Kernel& kernel, const std::string& gpu);

}  // namespace sagegen::cli
