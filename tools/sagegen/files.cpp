#include "tools/sagegen/files.h"

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

void check_writable(const fs::path& path) {
  const std::string why = reference::why_not_writable(path);
  if (!why.empty()) throw FileError(fmt::format("{}: cannot be written: {}", shown(path), why));
}

void write_file(const fs::path& path, std::string_view text) {
  std::error_code error;
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), error);
  if (error) {
    throw FileError(
        fmt::format("{}: cannot create its directory: {}", shown(path), error.message()));
  }
  try {
    reference::write_whole_file(path, text);
  } catch (const reference::FileError& failure) {
    throw FileError(failure.what());
  }
}

}  // namespace sagegen::cli
