#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "runtime/artifacts/embedded.h"
#include "runtime/artifacts/files.h"
#include "runtime/artifacts/store.h"
#include "sagegen/error.h"
#include "sagegen/runtime/artifacts.h"
#include "sagegen/runtime/error.h"

namespace sagegen::runtime {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPtx = ".ptx";

std::vector<std::string> keys_in(const fs::path& directory) {
  std::vector<std::string> keys;
  for (const std::string& name : names_in(directory)) {
    if (name.ends_with(kPtx)) keys.push_back(name.substr(0, name.size() - kPtx.size()));
  }
  return keys;
}

}  // namespace

ArtifactSource embedded_ptx() {
  // What was read once is kept for the process: unpacking a kernel takes longer than the rest of a plan.
  struct Kept {
    ArtifactSource source;
    std::mutex mutex;
    std::map<std::string, ArtifactSource::Shared> artifacts;  // by key
  };
  static Kept* const kept = [] {
    const Bundle& bundle = embedded_bundle();
    auto* made = new Kept;  // sources may be used after statics are destroyed
    made->source = source_of(store_of(
        bundle, "is embedded",
        bundle.names().empty()
            ? "this library was built from an empty generated/ directory: run `sagegen generate` "
              "and build again, or pass the generator's emit() as the source"
            : "choose one that is, or give the PTX of this one: `sagegen emit KEY --out DIR` "
              "writes it, `sagegen bundle --plan KEY --target TARGET --usual --out FILE` that of "
              "attention with what prepares its inputs"));
    return made;
  }();
  return [](const sagegen::Kernel& kernel) -> ArtifactSource::Shared {
    const std::lock_guard lock(kept->mutex);
    ArtifactSource::Shared& artifact = kept->artifacts[kernel.key()];
    if (!artifact) artifact = kept->source(kernel);
    return artifact;
  };
}

ArtifactSource ptx_directory(const fs::path& directory) {
  return source_of(
      {.where = fmt::format("is in {}", directory.string()),
       .advice = fmt::format("`sagegen emit --out {} KEY` writes it", directory.string()),
       .find = [directory](const std::string& key) -> std::optional<std::string> {
         const fs::path file = directory / (key + std::string(kPtx));
         if (is_missing(file)) return std::nullopt;
         std::string ptx = read_artifact(file);
         if (ptx.empty()) throw ArtifactError(fmt::format("{}: it is empty", file.string()));
         return ptx;
       },
       .keys = [directory] { return keys_in(directory); }});
}

ArtifactSource ptx_bundle(const fs::path& file) {
  return source_of(
      store_of(Bundle::read(file), fmt::format("is in {}", file.string()),
               "a bundle is made as a whole: give a directory of PTX, or another one"));
}

ArtifactSource ptx_at(const fs::path& path) {
  return is_plain_file(path) ? ptx_bundle(path) : ptx_directory(path);
}

ArtifactSource chain(std::vector<ArtifactSource> sources) {
  if (sources.empty()) throw ArgumentError("a chain of PTX sources needs one at least");
  const auto empty =
      std::ranges::find_if(sources, [](const ArtifactSource& source) { return !source; });
  if (empty != sources.end()) {
    throw ArgumentError(fmt::format("source {} of a chain of PTX sources is an empty function",
                                    empty - sources.begin()));
  }
  return [sources = std::move(sources)](const sagegen::Kernel& kernel) -> ArtifactSource::Shared {
    std::vector<std::string> reasons;
    for (const ArtifactSource& source : sources) {
      try {
        return source(kernel);
      } catch (const SpecError& error) {
        reasons.push_back(error.what());
      } catch (const CodegenError& error) {
        reasons.push_back(error.what());
      }
    }
    if (reasons.size() == 1) throw SpecError(reasons.front());
    throw SpecError(fmt::format("none of {} sources has PTX of {}:\n- {}", reasons.size(),
                                kernel.key(), fmt::join(reasons, "\n- ")));
  };
}

}  // namespace sagegen::runtime
