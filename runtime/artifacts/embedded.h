// The bundle that the library carries.
#pragma once

#include "sagegen/runtime/bundle.h"

namespace sagegen::runtime {

// What cmake/EmbedPtx.cmake put into the library from generated/: PTX by key. Without texts if that was empty.
const Bundle& embedded_bundle();

}  // namespace sagegen::runtime
