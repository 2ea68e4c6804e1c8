// Which mods a kernel has, in the order in which they apply.
#pragma once

#include <vector>

#include "templates/attention/mod.h"
#include "templates/attention/spec.h"

namespace sagegen::attention {

// Keys end at kv_len. Every kernel has it.
Mod key_length(dsl::KernelBuilder& k);
// It, and what the spec asks for.
std::vector<Mod> mods_of(dsl::KernelBuilder& k, const View& view);

}  // namespace sagegen::attention
