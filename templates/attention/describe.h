// An attention kernel in words. Layouts are those of the PTX ISA ("Matrix Fragments for mma.m16n8k32" and
// its neighbours).
#pragma once

#include <vector>

#include "templates/attention/spec.h"

namespace sagegen::attention {

std::vector<Section> describe(const View& view);

}  // namespace sagegen::attention
