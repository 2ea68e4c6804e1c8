// Which attention kernel each layer of a model runs: what `sagegen compare --pick --out FILE` writes.
//
// The text: a first line "sagegen.modes<TAB>1", then a line "layer<TAB>key" for each layer. "*" stands for all
// layers that have no line of their own. What follows a second tab is for people, as are lines that begin with "#"
// and empty ones. Lines are not JSON, because nothing else in the runtime reads that.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "sagegen/kernel.h"

namespace sagegen::attention {

inline constexpr std::string_view kModeMapHead = "sagegen.modes\t1";
inline constexpr std::string_view kOtherLayers = "*";

class ModeMap {
 public:
  // origin: its name in errors. Throws ArtifactError that names origin and line: of a text of another kind or
  // version, a line without a key, a layer that stands twice, a key that cannot be read, of a kernel that breaks
  // rules, or that is no attention kernel.
  static ModeMap parse(std::string_view text, std::string origin);
  // Throws ArtifactError, of a file that cannot be read, too.
  static ModeMap read(const std::filesystem::path& file);

  // Throws ArgumentError that lists the layers if the map has no line for this one.
  const Kernel& kernel_for(std::string_view layer) const;

  const std::map<std::string, Kernel, std::less<>>& layers() const { return layers_; }

 private:
  std::string origin_;
  std::map<std::string, Kernel, std::less<>> layers_;
};

}  // namespace sagegen::attention
