// The causal mask: a query sees the keys up to its own position, moved by an offset. 0: aligned with the
// first keys (top left), kv_len - q_len: with the last ones (bottom right).
#pragma once

#include "templates/attention/mods/mod.h"

namespace sagegen::attention {

Mod causal(dsl::I32 offset);

}  // namespace sagegen::attention
