// Quantized attention for applications: what to compute (attention::Spec), the plan that runs it, the one that runs it with
// tuned schedules, the tuner, the kernel that words mean, and the map that says which kernel each layer of a model runs.
#pragma once

#include "templates/attention/plan.h"
#include "templates/attention/plan_choice.h"
#include "templates/attention/plan_mode_map.h"
#include "templates/attention/plan_tuned.h"
#include "templates/attention/plan_tuner.h"
