// The parts of all_probes(), and what they share.
#pragma once

#include <string>
#include <vector>

#include "tools/hardware/probe.h"

namespace sagegen::hardware {

void add_matrix_probes(std::vector<Probe>& probes);
void add_wgmma_probes(std::vector<Probe>& probes);
void add_bulk_copy_probes(std::vector<Probe>& probes);
void add_scalar_probes(std::vector<Probe>& probes);

// "{%in0, %in1}": `count` registers from `first` on.
std::string registers(const char* name, int first, int count);

// Fills with uniform bits.
void random_words(int index, Random& random, Words& words);

}  // namespace sagegen::hardware
