#include "sagegen/emit.h"

#include <fmt/format.h>

#include <chrono>
#include <functional>

#include "generator/codegen/codegen.h"
#include "sagegen/abi.h"
#include "templates/kernels.h"

namespace sagegen {
namespace {

void build(dsl::KernelBuilder& k, const KernelSpec& spec) {
  switch (spec.kind) {
    case KernelKind::attention:
      return templates::build_attention(k, spec);
    case KernelKind::kv_statistics:
      return templates::build_kv_statistics(k, spec);
    case KernelKind::quantize_q:
      return templates::build_quantize_q(k, spec);
    case KernelKind::quantize_k:
      return templates::build_quantize_k(k, spec);
    case KernelKind::quantize_v:
      return templates::build_quantize_v(k, spec);
  }
}

// The runtime sizes launches from resources(spec) alone, so a template must need exactly that.
void check_shared_memory(const dsl::KernelBuilder& k, const EmittedKernel& kernel) {
  if (k.shared_bytes() != kernel.resources.dynamic_smem) {
    throw InternalError(
        fmt::format("kernel {} carves {} bytes of shared memory, resources() says {}", kernel.name,
                    k.shared_bytes(), kernel.resources.dynamic_smem));
  }
}

// Sees each stage when it is done: a title and a function that gives its text.
using Observer = std::function<void(const char* title, const std::function<std::string()>& text)>;

EmittedKernel emit_observed(const KernelSpec& spec, const EmitOptions& options,
                            const Observer& observe) {
  validate(spec);
  if (options.line_info != LineInfo::off && options.line_info != LineInfo::on) {
    throw SpecError(fmt::format(
        "line_info {} is refused: it is no value of its enumeration; use LineInfo::off or on",
        static_cast<int>(options.line_info)));
  }
  EmittedKernel kernel{.spec = spec, .name = key(spec), .ptx = {}, .resources = resources(spec)};
  observe("spec", [&] { return kernel.name; });
  observe("resources", [&] {
    return fmt::format("{} threads per block, {} bytes of shared memory", kernel.resources.threads,
                       kernel.resources.dynamic_smem);
  });

  dsl::KernelBuilder k(kernel.name, spec.target, kernel.resources.threads,
                       abi::param_bytes(spec.kind), options.line_info);
  build(k, spec);
  check_shared_memory(k, kernel);
  observe("LLVM IR as built", [&] { return codegen::ir_text(k); });

  codegen::optimize(k);
  observe("LLVM IR optimized", [&] { return codegen::ir_text(k); });

  kernel.ptx = codegen::print_ptx(k);
  observe("PTX", [&] { return kernel.ptx; });
  return kernel;
}

}  // namespace

EmittedKernel emit(const KernelSpec& spec, const EmitOptions& options) {
  return emit_observed(spec, options, [](const char*, const auto&) {});
}

std::vector<Stage> trace(const KernelSpec& spec, const EmitOptions& options) {
  using Clock = std::chrono::steady_clock;
  std::vector<Stage> stages;
  auto begin = Clock::now();
  emit_observed(spec, options, [&](const char* title, const std::function<std::string()>& text) {
    const std::chrono::duration<double, std::milli> spent = Clock::now() - begin;
    stages.push_back({title, text(), spent.count()});
    begin = Clock::now();  // printing a stage is not part of the next one
  });
  return stages;
}

std::string generator_version() { return SAGEGEN_VERSION; }
std::string llvm_version() { return codegen::llvm_version(); }

}  // namespace sagegen
