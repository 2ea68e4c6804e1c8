// The low-bit KV cache of a model: a format for each layer, append, decode and copies of pages.
#pragma once

#include "templates/shared/plan_kv_cache.h"
