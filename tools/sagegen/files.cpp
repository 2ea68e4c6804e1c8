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

std::string why_no_file(const fs::path& path) {
  if (!path.has_filename()) return "it ends in a /, as folders do";
  std::error_code error;
  const fs::path folder = path.parent_path();
  fs::path there = folder;  // the nearest that there is
  // A link that leads nowhere is there, too.
  while (there.has_relative_path() &&
         fs::symlink_status(there, error).type() == fs::file_type::not_found)
    there = there.parent_path();
  if (there == folder) return reference::why_not_writable(path);
  if (there.empty()) there = ".";
  if (!fs::is_directory(there, error)) return fmt::format("{} is no folder", shown(there));
  // Permissions alone do not tell of file systems that take no folders.
  std::string made = (there / ".sagegen-XXXXXX").string();
  if (::mkdtemp(made.data()) == nullptr)
    return fmt::format("{} takes no new folder: {}", shown(there),
                       std::generic_category().message(errno));
  fs::remove(made, error);
  return {};
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
