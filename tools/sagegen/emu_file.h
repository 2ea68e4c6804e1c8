// The launches that `sagegen emu` reads from files: TOML whose keys stand at the top and whose values are
// strings, numbers, or lists of these. Tables, dotted keys, strings of many lines, dates and booleans are
// refused: no key takes them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sagegen::cli {

struct LaunchKey {
  std::string name;
  std::vector<std::string> values;  // numbers as written, without underscores
  bool is_list = false;
  int line = 0;  // 1-based
};

// In the order of the file, each name once. Throws FileError that begins with "FILE:LINE: ".
std::vector<LaunchKey> parse_launch_file(std::string_view text, const std::string& file);

}  // namespace sagegen::cli
