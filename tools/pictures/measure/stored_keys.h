// The order in which the codes of V are stored.
#pragma once

#include <vector>

#include "tools/pictures/measure/launches.h"

namespace sagegen::pictures {

// The key at each place of a tile.
std::vector<int> stored_keys(const runtime::Device& device, const Kernel& kernel,
                             const Sizes& sizes);

}  // namespace sagegen::pictures
