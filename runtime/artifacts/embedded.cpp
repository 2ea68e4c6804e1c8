#include "runtime/artifacts/embedded.h"

#include <cstddef>
#include <string_view>

// Written by the assembler file that cmake/EmbedPtx.cmake generates.
extern "C" {
extern const char sagegen_embedded_bundle[];
extern const std::size_t sagegen_embedded_bundle_bytes;
}

namespace sagegen::runtime {

const Bundle& embedded_bundle() {
  static const Bundle bundle =
      sagegen_embedded_bundle_bytes == 0
          ? Bundle()
          : Bundle::view({sagegen_embedded_bundle, sagegen_embedded_bundle_bytes},
                         "the embedded kernels");
  return bundle;
}

}  // namespace sagegen::runtime
