#include "tools/sagegen/generator.h"

namespace sagegen::cli {

std::string tool_version() { return SAGEGEN_VERSION; }

#ifdef SAGEGEN_HAS_GENERATOR

GeneratorState generator_state() { return GeneratorState::built_in; }
Artifact emit_kernel(const Kernel& kernel, const EmitOptions& options) {
  return emit(kernel, options);
}
std::vector<Stage> trace_kernel(const Kernel& kernel, const EmitOptions& options) {
  return trace(kernel, options);
}
pictures::Layouts kernel_layouts(const Kernel& kernel) { return pictures::measure_layouts(kernel); }
std::string generator_llvm_version() { return llvm_version(); }

#else

namespace {

[[noreturn]] void refuse() {
  throw CodegenError(
      "this sagegen was built without the generator (SAGEGEN_GENERATOR=OFF), so it cannot make "
      "PTX; "
      "`run` uses the embedded PTX. Build with -DSAGEGEN_GENERATOR=ON for this command");
}

}  // namespace

GeneratorState generator_state() { return GeneratorState::absent; }
Artifact emit_kernel(const Kernel&, const EmitOptions&) { refuse(); }
std::vector<Stage> trace_kernel(const Kernel&, const EmitOptions&) { refuse(); }
pictures::Layouts kernel_layouts(const Kernel&) { refuse(); }
std::string generator_llvm_version() { return {}; }

#endif

std::string version_line() {
  const bool there = generator_state() == GeneratorState::built_in;
  return tool_version() + (there ? ", LLVM " + generator_llvm_version() : ", no generator");
}

}  // namespace sagegen::cli
