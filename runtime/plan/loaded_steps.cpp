#include <fmt/format.h>
#include <fmt/ranges.h>

#include <exception>
#include <new>
#include <utility>

#include "runtime/artifacts/target_choice.h"
#include "runtime/plan/shared_kernels.h"
#include "sagegen/runtime/plan.h"

namespace sagegen::runtime {
namespace {

bool is_too_new(const DriverError& error) {
  return error.result() == static_cast<int>(Result::unsupported_ptx_version);
}

// What was asked for is judged first: it is what the caller can change.
void validate(const std::vector<std::optional<sagegen::Kernel>>& kernels,
              const sagegen::Kernel& asked) {
  asked.validate();
  for (const std::optional<sagegen::Kernel>& kernel : kernels) {
    if (!kernel) continue;
    const Sentences sentences = kernel->violations();
    if (sentences.empty()) continue;
    throw SpecError(
        fmt::format("{} cannot be used: its inputs need {}, which cannot be generated:\n  {}",
                    asked.key(), kernel->key(), fmt::join(sentences, "\n  ")));
  }
}

// What a key says but for the target, of which a lower one may stand in.
std::string_view without_target(std::string_view key) { return key.substr(0, key.rfind("__")); }

// Throws SpecError if the artifact is not of this kernel.
void check_artifact(const ArtifactSource::Shared& artifact, const sagegen::Kernel& kernel,
                    const ParamLayout& layout) {
  if (!artifact) throw SpecError(fmt::format("kernel {}: its source gave nothing", kernel.key()));
  if (without_target(artifact->entry) != without_target(kernel.key())) {
    throw SpecError(
        fmt::format("kernel {}: its PTX is that of another kernel, {}; generate it again",
                    kernel.key(), artifact->entry));
  }
  if (artifact->params == layout.digest()) return;
  throw SpecError(fmt::format(
      "kernel {}: its PTX {} than this library passes ({:016x}: {}); it comes from another version "
      "of sagegen, generate it again",
      kernel.key(),
      artifact->params == 0
          ? "does not say its parameters, which may be others"
          : fmt::format("was made for other parameters (layout {:016x})", artifact->params),
      layout.digest(), layout.text()));
}

std::shared_ptr<const Kernel> load_as_asked(const Device& device, const sagegen::Kernel& kernel,
                                            const ArtifactSource& source) {
  const ArtifactSource::Shared artifact = source(kernel);
  const ParamLayout layout = kernel.params();
  check_artifact(artifact, kernel, layout);
  return shared_kernel(device, artifact, layout.bytes());
}

// Loads kernels for one plan; what goes wrong is told of what was asked for.
class Loader {
 public:
  Loader(const Device& device, const sagegen::Kernel& asked, const ArtifactSource& source)
      : device_(device), asked_(asked), source_(source) {}

  std::shared_ptr<const Kernel> load(const sagegen::Kernel& kernel) {
    const std::string about =
        kernel == asked_ ? ""
                         : fmt::format("{} needs {} for its inputs: ", asked_.key(), kernel.key());
    try {
      std::shared_ptr<const Kernel> loaded = load_or_older(kernel);
      // Of one file, so that one of them tells it.
      if (code_note_.empty() && !loaded->note().empty())
        code_note_ = fmt::format("{}: {}", loaded->name(), loaded->note());
      return loaded;
    } catch (const SpecError& error) {
      throw SpecError(about + error.what());
    } catch (const DriverError& error) {
      throw DriverError(error.result(), error.call(), about + error.what());
    }
  }

  std::string note() const {
    if (older_.empty()) return code_note_;
    return fmt::format("the driver is too old for the PTX of {}; loaded instead: {}{}{}",
                       to_string(asked_.target()), fmt::join(older_, ", "),
                       code_note_.empty() ? "" : "\n", code_note_);
  }

 private:
  std::shared_ptr<const Kernel> load_or_older(const sagegen::Kernel& kernel) {
    try {
      return load_as_asked(device_, kernel, source_);
    } catch (const DriverError& error) {
      if (!is_too_new(error)) throw;
      for (const Target target : older_targets(kernel.target())) {
        if (const auto loaded = load_older(kernel.on(target))) {
          older_.push_back(loaded->name());
          return loaded;
        }
      }
      throw;
    }
  }

  // Nothing if there is no such kernel, or if its PTX is too new as well.
  std::shared_ptr<const Kernel> load_older(const sagegen::Kernel& kernel) {
    if (!kernel.violations().empty()) return nullptr;
    try {
      return load_as_asked(device_, kernel, source_);
    } catch (const DriverError& error) {
      if (!is_too_new(error)) throw;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception&) {  // the source has none; it says so in its own words
    }
    return nullptr;
  }

  const Device& device_;
  const sagegen::Kernel& asked_;
  const ArtifactSource& source_;
  std::vector<std::string> older_;
  std::string code_note_;
};

}  // namespace

LoadedSteps::LoadedSteps(const Device& device, std::vector<std::optional<sagegen::Kernel>> kernels,
                         const sagegen::Kernel& asked, const ArtifactSource& source)
    : device_(device) {
  validate(kernels, asked);
  if (!source)
    throw SpecError(fmt::format("{} cannot be loaded: there is no source of PTX", asked.key()));
  Loader loader(device, asked, source);
  for (const std::optional<sagegen::Kernel>& kernel : kernels) {
    if (kernel) {
      steps_.emplace_back(Step{.kernel = loader.load(*kernel), .layout = kernel->params()});
    } else {
      steps_.emplace_back();
    }
  }
  note_ = loader.note();
}

void LoadedSteps::launch(std::size_t step, Dim3 grid, const ParamPack& params,
                         StreamHandle stream) const {
  steps_[step]->kernel->launch_block(grid, params.data(), params.bytes(), stream);
}

void LoadedSteps::launch_in_scope(std::size_t step, Dim3 grid, const ParamPack& params,
                                  StreamHandle stream) const {
  steps_[step]->kernel->launch_block_in_scope(grid, params.data(), params.bytes(), stream);
}

std::vector<std::string> LoadedSteps::entries() const {
  std::vector<std::string> names;
  for (const std::optional<Step>& step : steps_) {
    if (step) names.push_back(step->kernel->name());
  }
  return names;
}

}  // namespace sagegen::runtime
