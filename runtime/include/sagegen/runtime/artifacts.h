// Sources of PTX, and what of it loads where.
//
// Every source looks for the kernel asked for by one rule: its own target, then others whose PTX loads
// wherever that of its own does: of the same family (sm_120f) before plain ones, the highest first. What a
// source does not have is a SpecError that lists what there is for such a device and how to get more; what it
// has and cannot read is an ArtifactError.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "sagegen/artifact.h"
#include "sagegen/kernel.h"
#include "sagegen/runtime/device.h"

namespace sagegen::runtime {

// Gives the code of a valid kernel, or of the same kernel for a target whose PTX loads where this one's does:
// the generator, the embedded set, files. Made of any function of a kernel that gives an Artifact, or a shared
// one that it keeps for the next time.
class ArtifactSource {
 public:
  using Shared = std::shared_ptr<const Artifact>;
  ArtifactSource() = default;  // none
  template <typename Function>
  requires std::is_invocable_v<Function&, const sagegen::Kernel&> ArtifactSource(
      Function function) {
    if constexpr (std::is_pointer_v<Function> || requires { function.operator bool(); }) {
      if (!function) return;
    }
    function_ = [function = std::move(function)](const sagegen::Kernel& kernel) mutable -> Shared {
      if constexpr (std::is_same_v<decltype(function(kernel)), Shared>) {
        return function(kernel);
      } else {
        return std::make_shared<const Artifact>(function(kernel));
      }
    };
  }
  Shared operator()(const sagegen::Kernel& kernel) const { return function_(kernel); }
  explicit operator bool() const { return static_cast<bool>(function_); }

 private:
  std::function<Shared(const sagegen::Kernel&)> function_;
};

// The artifact of a kernel whose PTX is at hand as text. Its one entry point may be that of the same kernel
// for a lower target. Throws SpecError if the text has several entry points.
Artifact artifact_of_ptx(const sagegen::Kernel& kernel, std::string ptx);

// PTX of generated/, embedded in the library.
ArtifactSource embedded_ptx();

// DIRECTORY/<key>.ptx, as `sagegen emit --out` writes it. Looked for when a kernel is asked for.
ArtifactSource ptx_directory(const std::filesystem::path& directory);

// A bundle (bundle.h) of PTX by key, as generated/kernels.bundle. Read at once; throws ArtifactError.
ArtifactSource ptx_bundle(const std::filesystem::path& file);

// The bundle if it is a regular file, else the directory.
ArtifactSource ptx_at(const std::filesystem::path& path);

// The first of these that has the kernel, be it for a lower target: what a caller names first, he wants first.
// A SpecError of the chain has the words of all. Errors that are no SpecError or CodegenError end the search.
// Throws ArgumentError for a chain without sources, or with one that is no function.
ArtifactSource chain(std::vector<ArtifactSource> sources);

// The bytes of a file. Throws ArtifactError that names it and says what the system says.
std::string read_artifact(const std::filesystem::path& file);

// Whether PTX of this target loads on a device (PTX ISA, "PTX Module Directives: .target"): without a suffix
// on every later one, with `f` on later ones of the same major version, with `a` on its own alone.
bool loads_on(Target ptx, int compute_capability);

// The target to ask for on a device: the highest that its compute capability runs, of those that the library
// carries kernels of. 86 -> sm_86, 87 -> sm_86, 90 -> sm_89, 121 -> sm_120. Throws SpecError below 80.
Target best_target(int compute_capability);

// The oldest CUDA version, as cuDriverGetVersion counts, whose driver compiles PTX of the target: 12040 for sm_89.
int first_cuda_for(Target target);

// The same for a device and its driver: a lower target where the driver is too old for that PTX (sm_89 needs
// a driver of CUDA 12.4, sm_120 of 12.8), which may cost FP8. The note is a sentence that says so, empty
// where nothing is lost. Throw SpecError, DriverError.
Target best_target(const Device& device);
std::string best_target_note(const Device& device);

}  // namespace sagegen::runtime
