// The mods of a spec, in the order in which they apply.
#pragma once

#include <vector>

#include "templates/attention/mods/mod.h"
#include "templates/attention/spec.h"

namespace sagegen::attention {

std::vector<Mod> mods_of(dsl::KernelBuilder& k, const Spec& spec);

}  // namespace sagegen::attention
