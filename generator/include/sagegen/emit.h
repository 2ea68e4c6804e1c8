// From a kernel to PTX text: the generator's public entry. Needs no GPU, no CUDA toolkit, no files.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "sagegen/artifact.h"
#include "sagegen/error.h"
#include "sagegen/kernel.h"
#include "sagegen/line_info.h"

namespace sagegen {

namespace dsl {
class KernelBuilder;
}

struct EmitOptions {
  LineInfo line_info = LineInfo::off;
};

// The kernels' bodies, written in the DSL: one function per family, which fills a builder from a valid kernel.
// Ours are builtin_templates(); a user adds their own to a copy.
class Templates {
 public:
  using Build = void (*)(dsl::KernelBuilder& k, const Kernel& kernel);
  Templates& add(const Family& family, Build build);
  Build find(const Family& family) const;  // throws CodegenError if there is none

 private:
  std::vector<std::pair<const Family*, Build>> list_;
};
const Templates& builtin_templates();

// Validates, builds, optimizes and prints. The same kernel and options give the same bytes, always.
// Safe to call from several threads. Throws SpecError, CodegenError, and std::bad_alloc where memory ends, for
// which LLVM's handler is installed once in the process.
Artifact emit(const Kernel& kernel, const EmitOptions& options = {},
              const Templates& templates = builtin_templates());

// The same path with every stage kept: kernel, resources, parameters, IR as built, IR optimized, PTX.
struct Stage {
  std::string title;
  std::string text;
  double milliseconds;
};
std::vector<Stage> trace(const Kernel& kernel, const EmitOptions& options = {},
                         const Templates& templates = builtin_templates());

// Versions that decide the bytes, for headers of generated files: "0.1.0", "22.1.8".
std::string generator_version();
std::string llvm_version();

}  // namespace sagegen
