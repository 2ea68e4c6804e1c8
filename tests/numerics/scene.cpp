#include "tests/numerics/scene.h"

#include <map>
#include <utility>

#include <fmt/format.h>

#include "sagegen/emit.h"
#include "tools/sagegen/run_mods.h"

namespace sagegen::test {

namespace ref = sagegen::reference;

const attention::Spec& spec_of(const Kernel& kernel) {
  return kernel.view(attention::family()).spec;
}
const attention::Schedule& schedule_of(const Kernel& kernel) {
  return kernel.view(attention::family()).schedule;
}

Artifact emitted(const Kernel& kernel) {
  static std::map<std::string, Artifact> made;
  Artifact& artifact = made[kernel.key()];
  if (artifact.code.empty()) artifact = emit(kernel);
  return artifact;
}

ref::IoType io_type(DType io) { return io == DType::f16 ? ref::IoType::f16 : ref::IoType::bf16; }

ref::Inputs inputs_for(const Kernel& kernel, const std::string& distribution, ref::Shape shape,
                       std::uint64_t seed) {
  shape.head_dim = spec_of(kernel).head_dim;
  return ref::generate(distribution, shape, seed, io_type(spec_of(kernel).io));
}

cli::RunDevice device_of(const Scene& scene) {
  const std::string target = to_string(scene.kernel.target());
  return cli::open_run_device("emulator:" + (scene.profile.empty() ? target : scene.profile),
                              target, scene.emulator);
}

cli::AttentionJob job_of(const Scene& scene) {
  const Kernel& kernel = scene.kernel;
  cli::AttentionJob job{.inputs = scene.inputs,
                        .spec = spec_of(kernel),
                        .schedule = schedule_of(kernel),
                        .layout = scene.layout,
                        .causal = scene.alignment,
                        .source = emitted};
  ref::Inputs& in = job.inputs;
  in.causal = spec_of(kernel).causal;
  if (scene.alignment == attention::CausalAlignment::bottom_right) {
    in.causal_offset = in.k.tokens - in.q.tokens;
  }
  if (in.mods.empty()) {  // what is usual for the mods of the kernel
    constexpr std::uint64_t kSeed = 3;
    cli::RunMods mods = cli::make_mods({}, kernel, in, kSeed);
    in.mods = std::move(mods.twins);
    job.mods = std::move(mods.give);
  }
  return job;
}

std::string text_of(const cli::AttentionJob& job, const cli::RunDevice& on) {
  const auto sizes = [](const ref::Tensor& t) {
    return fmt::format("[{}, {}, {}, {}]", t.batch, t.heads, t.tokens, t.channels);
  };
  const Kernel kernel(attention::family(), job.spec, job.schedule, on.target);
  return fmt::format("{} on {}, q {}, k {}, {}, causal offset {}", kernel.key(), on.name,
                     sizes(job.inputs.q), sizes(job.inputs.k),
                     job.layout == cli::Layout::nhd ? "NHD" : "HND", job.inputs.causal_offset);
}

std::string text_of(const runtime::Finding& f) {
  return fmt::format("{} in {} line {}: {}", f.check, f.kernel, f.ptx_line, f.message);
}

}  // namespace sagegen::test
