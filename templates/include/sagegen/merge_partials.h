// Partial results of attention merged by their log-sum-exp, for applications that split the keys.
#pragma once

#include "templates/merge_partials/plan.h"
