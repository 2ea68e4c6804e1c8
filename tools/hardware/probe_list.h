// The parts of all_probes(), and what they share.
#pragma once

#include <string>
#include <vector>

#include "tools/hardware/probe.h"

namespace sagegen::hardware {

void add_matrix_probes(std::vector<Probe>& probes);
void add_wgmma_probes(std::vector<Probe>& probes);
void add_bulk_copy_probes(std::vector<Probe>& probes);
void add_conversion_probes(std::vector<Probe>& probes);
void add_scalar_probes(std::vector<Probe>& probes);

// "{%in0, %in1}": `count` registers from `first` on.
std::string registers(const char* name, int first, int count);

// A probe of one warp per case, for every device.
Probe simple(const std::string& name, const std::string& what, int inputs, int outputs, int cases,
             std::string body, std::function<void(int, Random&, Words&)> fill);
Probe on_device(Probe probe, int compute_capability, int ptx_version);
// One instruction of 32-bit words to one word: "add.rn.f32"; operands are f32.
Probe f32_arithmetic(const std::string& instruction, int inputs);

// Ways to fill: uniform bits; f32 values worth asking about; every 16-bit value once, in 2 words of
// each thread.
void random_words(int index, Random& random, Words& words);
std::uint32_t f32_operand(Random& random);
void f32_operands(int index, Random& random, Words& words);
void all_halves(int index, Random& random, Words& words);
inline constexpr int kAllHalves = 0x10000 / (4 * kLanes);  // cases

}  // namespace sagegen::hardware
