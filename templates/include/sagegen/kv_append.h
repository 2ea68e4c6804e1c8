// New keys and values to the pages of a low-bit KV cache.
#pragma once

#include "templates/kv_append/plan.h"
