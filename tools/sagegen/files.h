// Whole files in and out, as tools/reference/whole_file.h does it. Errors are FileError of the command line
// that begin with the path.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace sagegen::cli {

std::string read_file(const std::filesystem::path& path);
std::optional<std::string> read_file_if_exists(const std::filesystem::path& path);
// Refuses a file that could not be written later, without touching it: in a missing directory, a directory
// itself, or closed to this user. What write_file() would create is not looked for.
void check_writable(const std::filesystem::path& path);
// Creates missing directories. Readers see the old file or the new one.
void write_file(const std::filesystem::path& path, std::string_view text);

}  // namespace sagegen::cli
