// What `sagegen emu` says about buffers after a launch, and about what was expected of them.
#pragma once

#include <string>
#include <vector>

#include "tools/sagegen/emu_launch.h"
#include "tools/sagegen/emu_values.h"
#include "tools/sagegen/output.h"

namespace sagegen::cli {

// One --expect, and what came of it.
struct Expected {
  EmuBuffer* buffer;
  std::string text;
  Source source;
  Comparison result;
};

// `show`: how many values of each.
std::string buffers_text(const std::vector<EmuBuffer>& buffers, int show);
Json buffers_json(const std::vector<EmuBuffer>& buffers, int show);

std::string expected_text(const Expected& expected);
Json expected_json(const std::vector<Expected>& expected);

}  // namespace sagegen::cli
