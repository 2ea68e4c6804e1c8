// Files, through the C library: std::filesystem and the file streams bring streams and locales of the C++ library
// into libsagegen.so, a quarter of a megabyte.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace sagegen::runtime {

bool is_missing(const std::filesystem::path& path);  // not: there, but out of reach
bool is_plain_file(const std::filesystem::path& path);

// Names in a directory, sorted; none if it cannot be read.
std::vector<std::string> names_in(const std::filesystem::path& directory);

}  // namespace sagegen::runtime
