// Keys end where the problem's do. Every kernel has this mod: the last tile may reach further.
#pragma once

#include "templates/attention/mods/mod.h"

namespace sagegen::attention {

Mod key_length(dsl::I32 kv_len);  // at least 1

}  // namespace sagegen::attention
