// read_map on any bytes: a map of as many heads in all layers that is written and read again, or MapError with the file's
// name.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "tools/kv/kv_map.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace sagegen::kv;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const Model& model : {Model{}, Model{.layers = 4, .rest = Pair{integer(4), integer(2)}}}) {
    try {
      Map map = read_map(text, "input", model).map;
      if (map.layers.empty() || (model.layers != 0 && map.layers.size() != 4)) std::abort();
      for (Layer& layer : map.layers) {
        if (layer.empty() || layer.size() != map.layers.front().size()) std::abort();
        for (Pair& pair : layer) {
          if (pair_of(to_string(pair)) != pair) std::abort();
          pair = as_integers(pair);
        }
      }
      const std::string written = write_kvtuner(map, "written");
      const Map again = read_map(written, "written").map;
      if (again != map || write_kvtuner(again, "written") != written) std::abort();
    } catch (const MapError& error) {
      if (!std::string_view(error.what()).starts_with("input:")) std::abort();
    }
  }
  return 0;
}
