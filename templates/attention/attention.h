// The attention kernel with mods that no spec asks for: for tests, and for whoever tries a new one.
#pragma once

#include <vector>

#include "templates/attention/mod.h"
#include "templates/attention/spec.h"

namespace sagegen::attention {

// What build() of a kernel builds, but with these mods instead of mods_of(spec); key_length is one of them.
void build(dsl::KernelBuilder& k, const View& view, std::vector<Mod> mods);

}  // namespace sagegen::attention
