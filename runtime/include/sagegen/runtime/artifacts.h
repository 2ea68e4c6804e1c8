// Sources of PTX, and what of it loads where.
//
// Every source looks for the kernel asked for by one rule: its own target, then others whose PTX loads
// wherever that of its own does: of the same family (sm_120f) before plain ones, the highest first. What a
// source does not have is a SpecError that lists what there is for such a device and how to get more; what it
// has and cannot read is an ArtifactError.
#pragma once

#include <filesystem>
#include <vector>

#include "sagegen/runtime/attention.h"

namespace sagegen::runtime {

// DIRECTORY/<key>.ptx, as `sagegen emit --out` writes it. Looked for when a kernel is asked for.
PtxSource ptx_directory(const std::filesystem::path& directory);

// A bundle (bundle.h) of PTX by key, as generated/kernels.bundle. Read at once; throws ArtifactError.
PtxSource ptx_bundle(const std::filesystem::path& file);

// The bundle if it is a regular file, else the directory.
PtxSource ptx_at(const std::filesystem::path& path);

// The first of these that has the kernel, be it for a lower target: what a caller names first, he wants first.
// A SpecError of the chain has the words of all. Errors that are no SpecError or CodegenError end the search.
// Throws ArgumentError for a chain without sources, or with one that is no function.
PtxSource chain(std::vector<PtxSource> sources);

// Whether PTX of this target loads on a device (PTX ISA, "PTX Module Directives: .target"): without a suffix
// on every later one, with `f` on later ones of the same major version, with `a` on its own alone.
bool loads_on(Target ptx, int compute_capability);

}  // namespace sagegen::runtime
