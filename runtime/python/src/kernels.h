// Kernels as values, and where their PTX comes from.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "sagegen/kernel.h"
#include "sagegen/runtime/artifacts.h"

namespace sagegen::python {

// What is at `ptx` (a folder or a bundle; empty: none), then the embedded set, then the generator, where there is one.
runtime::ArtifactSource source_of(const std::string& ptx);

void bind_kernels(nanobind::module_& module);

}  // namespace sagegen::python
