// Files, through the C library: std::filesystem and the file streams bring streams and locales of the C++ library
// into libsagegen.so, a quarter of a megabyte.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace sagegen::runtime {

// The bytes of a file. Throws ArtifactError that names it and says what the system says.
std::string read_artifact(const std::filesystem::path& file);

bool is_missing(const std::filesystem::path& path);  // not: there, but out of reach
bool is_plain_file(const std::filesystem::path& path);

// Names in a directory, sorted; none if it cannot be read.
std::vector<std::string> names_in(const std::filesystem::path& directory);

}  // namespace sagegen::runtime
