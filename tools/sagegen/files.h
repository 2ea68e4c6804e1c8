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
// The rule of all options that name a file to write: folders that are missing are made, when it is written.
//
// Refuses a file that write_file() could not write, without touching or making anything: a directory, or one whose folder is
// closed to this user or cannot be made.
void check_writable(const std::filesystem::path& path);
void make_folders_of(const std::filesystem::path& file);
// Creates missing directories. Readers see the old file or the new one.
void write_file(const std::filesystem::path& path, std::string_view text);

}  // namespace sagegen::cli
