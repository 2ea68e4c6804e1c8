// The parts of all_probes().
#pragma once

#include <vector>

#include "tools/hardware/probe.h"

namespace sagegen::hardware {

void add_matrix_probes(std::vector<Probe>& probes);
void add_scalar_probes(std::vector<Probe>& probes);

}  // namespace sagegen::hardware
