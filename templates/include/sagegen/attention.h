// Quantized attention for applications: what to compute (attention::Spec), and the plan that runs it.
#pragma once

#include "templates/attention/plan.h"
