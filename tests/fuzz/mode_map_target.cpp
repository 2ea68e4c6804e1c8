// The reader of maps of layers on any bytes: a map whose layers it gives again, or ArtifactError.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "sagegen/runtime/error.h"
#include "templates/attention/plan_mode_map.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace sagegen;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const auto map = attention::ModeMap::parse(text, "input");
    for (const auto& [layer, kernel] : map.layers()) {
      if (layer.find_first_of("\t\n") != std::string::npos || layer.empty()) std::abort();
      if (!(map.kernel_for(layer) == kernel) || !kernel.violations().empty()) std::abort();
    }
    map.kernel_for("no layer");
  } catch (const runtime::ArtifactError&) {
  } catch (const runtime::ArgumentError&) {  // no line for others
  }
  return 0;
}
