#include "sagegen/emit.h"

#include <fmt/format.h>

#include <chrono>
#include <functional>

#include "generator/codegen/codegen.h"

namespace sagegen {
namespace {

// Launches are sized, and drivers chosen, from Kernel::resources() alone: a template must need exactly that.
void check_resources(const dsl::KernelBuilder& k, const Kernel& kernel, const Artifact& artifact) {
  if (k.shared_bytes() != artifact.resources.dynamic_smem) {
    throw InternalError(
        fmt::format("kernel {} carves {} bytes of shared memory, its family says {}", artifact.key,
                    k.shared_bytes(), artifact.resources.dynamic_smem));
  }
  if (k.ptx_version() != kernel.ptx_version()) {
    throw InternalError(fmt::format("kernel {} needs version {} of PTX, its family says {}",
                                    artifact.key, k.ptx_version(), kernel.ptx_version()));
  }
}

// Sees each stage when it is done: a title and a function that gives its text.
using Observer = std::function<void(const char* title, const std::function<std::string()>& text)>;

Artifact emit_observed(const Kernel& kernel, const EmitOptions& options, const Templates& templates,
                       const Observer& observe) {
  kernel.validate();
  const Templates::Build build = templates.find(kernel.family());
  if (options.line_info != LineInfo::off && options.line_info != LineInfo::on) {
    throw SpecError(fmt::format(
        "line_info {} is refused: it is no value of its enumeration; use LineInfo::off or on",
        static_cast<int>(options.line_info)));
  }
  const ParamLayout params = kernel.params();
  Artifact artifact{.key = kernel.key(),
                    .entry = kernel.key(),
                    .code = {},
                    .resources = kernel.resources(),
                    .params = params.digest()};
  observe("kernel", [&] { return artifact.key; });
  observe("resources", [&] {
    return fmt::format("{} threads per block, {} bytes of shared memory",
                       artifact.resources.threads, artifact.resources.dynamic_smem);
  });
  observe("parameters", [&] { return fmt::format("{} bytes: {}", params.bytes(), params.text()); });

  dsl::KernelBuilder k(artifact.entry, kernel.target(), artifact.resources.threads, params,
                       options.line_info);
  build(k, kernel);
  check_resources(k, kernel, artifact);
  observe("LLVM IR as built", [&] { return codegen::ir_text(k); });

  codegen::optimize(k);
  observe("LLVM IR optimized", [&] { return codegen::ir_text(k); });

  artifact.code = params_line(artifact.params) + codegen::print_ptx(k);
  observe("PTX", [&] { return artifact.code; });
  return artifact;
}

}  // namespace

Templates& Templates::add(const Family& family, Build build) {
  list_.emplace_back(&family, build);
  return *this;
}

Templates::Build Templates::find(const Family& family) const {
  for (const auto& [known, build] : list_) {
    if (known == &family) return build;
  }
  throw CodegenError(fmt::format(
      "no template for kernels of {}: add its build() to the Templates that emit() is given",
      family.title));
}

Artifact emit(const Kernel& kernel, const EmitOptions& options, const Templates& templates) {
  return emit_observed(kernel, options, templates, [](const char*, const auto&) {});
}

std::vector<Stage> trace(const Kernel& kernel, const EmitOptions& options,
                         const Templates& templates) {
  using Clock = std::chrono::steady_clock;
  std::vector<Stage> stages;
  auto begin = Clock::now();
  emit_observed(kernel, options, templates,
                [&](const char* title, const std::function<std::string()>& text) {
                  const std::chrono::duration<double, std::milli> spent = Clock::now() - begin;
                  stages.push_back({title, text(), spent.count()});
                  begin = Clock::now();  // printing a stage is not part of the next one
                });
  return stages;
}

std::string generator_version() { return SAGEGEN_VERSION; }
std::string llvm_version() { return codegen::llvm_version(); }

}  // namespace sagegen
