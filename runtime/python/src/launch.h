// Launches: of attention as a plan, of a KV cache, of any entry point, and of a sweep over schedules.
#pragma once

#include <nanobind/nanobind.h>

namespace sagegen::python {

void bind_attention(nanobind::module_& module);
void bind_function(nanobind::module_& module);
void bind_kv_cache(nanobind::module_& module);
void bind_tune(nanobind::module_& module);

}  // namespace sagegen::python
