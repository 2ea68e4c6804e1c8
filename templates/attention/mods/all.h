// Every mod of mods.def.
#pragma once

#include "templates/attention/mods/alibi.h"
#include "templates/attention/mods/bias.h"
#include "templates/attention/mods/blocksparse.h"
#include "templates/attention/mods/causal.h"
#include "templates/attention/mods/mask.h"
#include "templates/attention/mods/sinks.h"
#include "templates/attention/mods/skipsoftmax.h"
#include "templates/attention/mods/softcap.h"
#include "templates/attention/mods/window.h"
