// The drawings of a kernel, each an SVG document.
#pragma once

#include <string>

#include "tools/model/prediction.h"
#include "tools/pictures/layouts.h"

namespace sagegen::pictures {

// title: what the drawing is of, such as the kernel's key.

// Which lane and register hold which element of Q, K, the scores, P, V and O, and which scale goes with it.
std::string draw_fragments(const Layouts& layouts, const std::string& title);

// Where the chunks of the tiles of Q, K and V lie in the banks of shared memory, and what the accesses take.
std::string draw_shared_memory(const Layouts& layouts, const std::string& title);

// What a sub-core does while one of its warps does a tile of the main loop, from the cycle in which it begins the tile to
// that in which it begins the next one: of a run of the simulation, a tile that takes what tiles take in the mean.
// Throws std::runtime_error as model::simulate_run() does.
std::string draw_pipeline(const model::ModelledLoop& loop, const model::Gpu& gpu,
                          const std::string& title);

}  // namespace sagegen::pictures
