// Keys and values of a paged KV cache of few bits, back in 16 bits.
#pragma once

#include "templates/kv_gather/plan.h"
