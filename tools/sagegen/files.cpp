#include "tools/sagegen/files.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>

#include <fmt/format.h>

#include "tools/reference/printable.h"
#include "tools/reference/whole_file.h"
#include "tools/sagegen/errors.h"

namespace sagegen::cli {

namespace fs = std::filesystem;

namespace {

std::string shown(const fs::path& path) { return reference::printable(path.native()); }

}  // namespace

std::string read_file(const fs::path& path) {
  try {
    return reference::read_whole_file(path);
  } catch (const reference::FileError& error) {
    throw FileError(error.what());
  }
}

std::optional<std::string> read_file_if_exists(const fs::path& path) {
  std::error_code error;  // what cannot even be looked for is told by read_file()
  if (!fs::exists(path, error) && !error) return std::nullopt;
  return read_file(path);
}

namespace {

// What there is of a path. A link that leads nowhere is there, too.
fs::path nearest(fs::path there) {
  std::error_code error;
  while (there.has_relative_path() &&
         fs::symlink_status(there, error).type() == fs::file_type::not_found)
    there = there.parent_path();
  return there;
}

}  // namespace

std::string why_no_new_folder(const fs::path& folder) {
  fs::path there = nearest(folder);
  if (there.empty()) there = ".";
  std::error_code error;
  if (!fs::is_directory(there, error)) return fmt::format("{} is no folder", shown(there));
  // Permissions alone do not tell of file systems that are read-only, or hold no folders.
  std::string made = (there / ".sagegen-XXXXXX").string();
  if (::mkdtemp(made.data()) == nullptr)
    return fmt::format("{} cannot be written by this user: {}", shown(there),
                       std::generic_category().message(errno));
  fs::remove(made, error);
  return {};
}

namespace {

std::string why_no_file(const fs::path& path) {
  if (!path.has_filename()) return "it ends in a /, as folders do";
  const fs::path folder = path.parent_path();
  return nearest(folder) == folder ? reference::why_not_writable(path) : why_no_new_folder(folder);
}

}  // namespace

void check_writable(const fs::path& path) {
  const std::string why = why_no_file(path);
  if (!why.empty()) throw FileError(fmt::format("{}: cannot be written: {}", shown(path), why));
}

void make_folders_of(const fs::path& file) {
  std::error_code error;
  if (file.has_parent_path()) fs::create_directories(file.parent_path(), error);
  if (error) {
    throw FileError(
        fmt::format("{}: cannot create its directory: {}", shown(file), error.message()));
  }
}

void write_file(const fs::path& path, std::string_view text) {
  make_folders_of(path);
  try {
    reference::write_whole_file(path, text);
  } catch (const reference::FileError& failure) {
    throw FileError(failure.what());
  }
}

}  // namespace sagegen::cli
