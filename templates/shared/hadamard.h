// A Hadamard matrix of rows of which the four lanes of a quad have the channels.
#pragma once

#include <vector>

#include "sagegen/dsl/kernel_builder.h"

namespace sagegen {

// The orthonormal matrix of each `rotated` channels, a power of two. Lane q of the quad has the channels
// piece * q + 4 * piece * i to + piece - 1 for i = 0, 1, ..., in this order; piece is a power of two.
std::vector<dsl::F32> hadamard_of_quad(dsl::KernelBuilder& k, std::vector<dsl::F32> channels,
                                       dsl::I32 quad, int piece, int rotated);

}  // namespace sagegen
