#include "templates/attention/plan_mode_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "sagegen/runtime/artifacts.h"
#include "sagegen/runtime/error.h"
#include "templates/attention/spec.h"

namespace sagegen::attention {

using runtime::ArgumentError, runtime::ArtifactError;

namespace {

// Takes the text before `end` off, and `end` with it.
std::string_view take_to(std::string_view& text, char end) {
  const std::string_view taken = text.substr(0, text.find(end));
  text.remove_prefix(std::min(taken.size() + 1, text.size()));
  return taken;
}

Kernel kernel_of(std::string_view key) {
  const Kernel kernel = parse_key(key);
  if (&kernel.family() != &family()) {
    throw SpecError(fmt::format(
        "{} prepares inputs; a layer runs an attention kernel, whose key begins with sage_fwd_",
        kernel.key()));
  }
  kernel.validate();
  return kernel;
}

}  // namespace

ModeMap ModeMap::parse(std::string_view text, std::string origin) {
  ModeMap map;
  map.origin_ = std::move(origin);
  int line_number = 1;
  const auto refuse = [&](std::string_view why) {
    throw ArtifactError(fmt::format("{}:{}: {}", map.origin_, line_number, why));
  };
  if (take_to(text, '\n') != kModeMapHead) {
    refuse(
        "this is no map of layers that this version reads: its first line is sagegen.modes, a tab "
        "and 1; `sagegen compare --pick --out` writes one");
  }
  while (!text.empty()) {
    ++line_number;
    std::string_view line = take_to(text, '\n');
    if (line.empty() || line.front() == '#') continue;
    const std::string layer(take_to(line, '\t'));
    const std::string_view key = take_to(line, '\t');
    if (layer.empty() || key.empty()) refuse("a line is a layer, a tab, and the key of a kernel");
    if (map.layers_.contains(layer)) refuse("this layer has a line already; remove one of the two");
    try {
      map.layers_.emplace(layer, kernel_of(key));
    } catch (const SpecError& error) {
      refuse(error.what());
    }
  }
  return map;
}

ModeMap ModeMap::read(const std::filesystem::path& file) {
  return parse(runtime::read_artifact(file), file.string());
}

const Kernel& ModeMap::kernel_for(std::string_view layer) const {
  auto found = layers_.find(layer);
  if (found == layers_.end()) found = layers_.find(kOtherLayers);
  if (found != layers_.end()) return found->second;
  std::string names;
  for (const auto& [name, kernel] : layers_) names += (names.empty() ? "" : ", ") + name;
  throw ArgumentError(
      fmt::format("{} has no line for layer \"{}\", and none for others (*); it has {}", origin_,
                  layer, names.empty() ? "no layer" : names));
}

}  // namespace sagegen::attention
