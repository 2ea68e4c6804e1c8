// Scores, P and O, and the scales that go with the scores.
#pragma once

#include "tools/pictures/layouts.h"
#include "tools/pictures/measure/launches.h"

namespace sagegen::pictures {

// Fills in scores, p, o, q_scale and k_scale, and returns the kernel's sizes.
Sizes measure_products(const runtime::Device& device, const Kernel& kernel, Layouts& to);

}  // namespace sagegen::pictures
