// Launches: of attention as a plan, and of any entry point.
#pragma once

#include <nanobind/nanobind.h>

namespace sagegen::python {

void bind_attention(nanobind::module_& module);
void bind_function(nanobind::module_& module);

}  // namespace sagegen::python
