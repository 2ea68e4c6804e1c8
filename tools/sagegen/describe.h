// A kernel spec in words.
#pragma once

#include <string>
#include <vector>

#include "sagegen/spec.h"

namespace sagegen::cli {

struct Section {
  std::string title;
  std::vector<std::string> lines;
};

// `spec` must be valid.
std::vector<Section> describe(const KernelSpec& spec);

}  // namespace sagegen::cli
