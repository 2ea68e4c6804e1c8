#include "tools/sagegen/run_job.h"

#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "sagegen/runtime/artifacts.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/generator.h"
#include "tools/sagegen/interrupt.h"
#include "tools/sagegen/options.h"
#include "tools/sagegen/progress.h"

namespace sagegen::cli {

std::string ptx_origin(const std::string& ptx) {
  if (!ptx.empty()) return ptx;
  return generator_state() == GeneratorState::built_in ? "generator" : "embedded";
}

runtime::ArtifactSource ptx_source(const std::string& ptx, const RunDevice& on) {
  const std::string origin = ptx_origin(ptx);
  if (origin == "embedded") return runtime::embedded_ptx();
  if (origin != "generator") {
    std::error_code ignored;  // what cannot be looked at is neither
    if (!std::filesystem::is_directory(origin, ignored) &&
        !std::filesystem::is_regular_file(origin, ignored)) {
      throw FileError(
          fmt::format("--ptx {}: it is no directory, no bundle, nor generator, nor embedded{}",
                      origin, suggestion(origin, {"generator", "embedded"})));
    }
    return runtime::ptx_at(origin);
  }
  // The emulator's findings name lines of the template; a GPU has no use for them.
  const EmitOptions options{.line_info = on.emulator ? LineInfo::on : LineInfo::off};
  return [options](const Kernel& kernel) { return emit_kernel(kernel, options); };
}

AttentionJob make_job(const RunInputs& inputs, const Kernel& kernel, const ModOptions& mods,
                      std::uint64_t seed) {
  AttentionJob job;
  job.inputs = inputs.values;
  job.spec = kernel.view(attention::family()).spec;
  job.schedule = kernel.view(attention::family()).schedule;
  job.causal = inputs.causal == Causal::bottom_right ? attention::CausalAlignment::bottom_right
                                                     : attention::CausalAlignment::top_left;
  if (job.spec.rotation != Rotation::none && job.inputs.q.channels != job.spec.head_dim) {
    throw UsageError(fmt::format(
        "rotation {} of {} channels is refused: they are padded to {}, and a rotation of those "
        "would mix in what is not there; leave the rotation out, or take inputs of head_dim {}",
        to_string(job.spec.rotation), job.inputs.q.channels, job.spec.head_dim,
        fmt::join(head_dims().allowed, ", ")));
  }
  RunMods made = make_mods(mods, kernel, inputs.values, seed);
  job.inputs.mods = std::move(made.twins);
  job.mods = std::move(made.give);
  return job;
}

std::vector<std::string> mod_names(const AttentionJob& job) {
  std::vector<std::string> names;
  for (const reference::ScoreMod& mod : job.inputs.mods) names.push_back(mod.name);
  return names;
}

AttentionResult run_with_progress(const AttentionJob& job, const RunDevice& on,
                                  const std::string& what, const runtime::LaunchProgress& launch,
                                  const std::function<void()>& begin) {
  std::optional<InterruptScope> interruptible;
  if (on.emulator) interruptible.emplace();
  begin();
  const Progress progress(what, [&] { return Steps{launch.ended, launch.ctas}; });
  return run_attention(job, on);
}

}  // namespace sagegen::cli
