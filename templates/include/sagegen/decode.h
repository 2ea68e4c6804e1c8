// Decode attention over a paged KV cache of few bits.
#pragma once

#include "templates/decode/plan.h"
