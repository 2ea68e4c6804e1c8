// The environment variables that matter, as `sagegen env` and the manual page list them.
#pragma once

#include <vector>

namespace sagegen::cli {

struct EnvironmentVariable {
  const char* name;
  const char* meaning;
};
std::vector<EnvironmentVariable> environment_variables();

}  // namespace sagegen::cli
