#include "tests/numerics/scene.h"

#include <map>

#include <fmt/format.h>

#include "sagegen/emit.h"

namespace sagegen::test {

namespace ref = sagegen::reference;

std::string ptx_of(const KernelSpec& spec) {
  static std::map<std::string, std::string> made;
  std::string& ptx = made[key(spec)];
  if (ptx.empty()) ptx = emit(spec).ptx;
  return ptx;
}

ref::IoType io_type(DType io) { return io == DType::f16 ? ref::IoType::f16 : ref::IoType::bf16; }

ref::Inputs inputs_for(const KernelSpec& kernel, const std::string& distribution, ref::Shape shape,
                       std::uint64_t seed) {
  shape.head_dim = kernel.problem.head_dim;
  return ref::generate(distribution, shape, seed, io_type(kernel.problem.io));
}

cli::RunDevice device_of(const Scene& scene) {
  const std::string target = to_string(scene.kernel.target);
  return cli::open_run_device("emulator:" + (scene.profile.empty() ? target : scene.profile),
                              target, scene.emulator);
}

cli::AttentionJob job_of(const Scene& scene) {
  const KernelSpec& kernel = scene.kernel;
  cli::AttentionJob job{.inputs = scene.inputs,
                        .problem = kernel.problem,
                        .quant = kernel.quant,
                        .schedule = kernel.schedule,
                        .layout = scene.layout,
                        .causal = scene.alignment,
                        .ptx = ptx_of};
  ref::Inputs& in = job.inputs;
  in.causal = kernel.problem.mask == Mask::causal;
  if (scene.alignment == runtime::CausalAlignment::bottom_right) {
    in.causal_offset = in.k.tokens - in.q.tokens;
  }
  return job;
}

std::string text_of(const cli::AttentionJob& job, const cli::RunDevice& on) {
  const auto sizes = [](const ref::Tensor& t) {
    return fmt::format("[{}, {}, {}, {}]", t.batch, t.heads, t.tokens, t.channels);
  };
  const KernelSpec kernel{
      .problem = job.problem, .quant = job.quant, .schedule = job.schedule, .target = on.target};
  return fmt::format("{}{} on {}, q {}, k {}, {}, causal offset {}", key(kernel),
                     job.quant.smoothing == Smoothing::k ? "" : ", K not smoothed", on.name,
                     sizes(job.inputs.q), sizes(job.inputs.k),
                     job.layout == cli::Layout::nhd ? "NHD" : "HND", job.inputs.causal_offset);
}

std::string text_of(const runtime::Finding& f) {
  return fmt::format("{} in {} line {}: {}", f.check, f.kernel, f.ptx_line, f.message);
}

}  // namespace sagegen::test
