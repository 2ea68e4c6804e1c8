// The rules for what a caller may pass to Attention::run. Pure arithmetic on addresses and strides:
// no memory is touched and nothing is launched.
#pragma once

#include <cstdint>

#include "sagegen/runtime/attention.h"

namespace sagegen::runtime {

struct WorkspaceSpan {
  DevicePtr data = 0;
  std::size_t bytes = 0;
  std::size_t needed = 0;
};

// Throws ArgumentError that names the tensor, the rule and the numbers. The shape must have passed
// workspace_layout().
void check_arguments(const AttentionProblem& problem, const AttentionShape& shape,
                     const AttentionArguments& arguments, const WorkspaceSpan& workspace);

}  // namespace sagegen::runtime
