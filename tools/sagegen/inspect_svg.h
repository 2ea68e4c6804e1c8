// `sagegen inspect --svg`: a kernel as drawings.
#pragma once

#include <string>
#include <vector>

#include "sagegen/kernel.h"

namespace sagegen::cli {

struct Drawings {
  std::vector<std::string> files;  // that were written
  std::string no_pipeline;         // why that of the pipeline was not drawn; empty if it was
};

// Writes fragments.svg, shared_memory.svg and pipeline.svg into the folder, which is made if there is none: all of
// them are drawn before the first one is written. The last one needs ptxas and a GPU that the model knows; without
// them, it is left out, unless need_pipeline. gpu: as in model_report(). Throws SpecError of a kernel that is no
// attention kernel, FileError if a file cannot be written, and, with need_pipeline, as model_report() does.
Drawings write_drawings(const Kernel& kernel, const std::string& folder, const std::string& gpu,
                        bool need_pipeline);

}  // namespace sagegen::cli
