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
// Why no folder can be made in this one or, where it is not there, in the nearest one above it; empty if one can. Asked by
// making one, which is gone afterwards.
std::string why_no_new_folder(const std::filesystem::path& folder);
// Refuses a file that write_file() could not write, which it leaves as it is: a directory, or one whose folder is closed to
// this user or cannot be made.
void check_writable(const std::filesystem::path& path);
void make_folders_of(const std::filesystem::path& file);
// Creates missing directories. Readers see the old file or the new one.
void write_file(const std::filesystem::path& path, std::string_view text);

}  // namespace sagegen::cli
