#include "tools/sagegen/files.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <system_error>

#include <fmt/format.h>

#include "tools/sagegen/errors.h"

namespace sagegen::cli {

namespace fs = std::filesystem;

std::string read_file(const fs::path& path) {
  if (fs::is_directory(path)) throw FileError(fmt::format("{}: is a directory", path.string()));
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (file && file.peek() != std::ifstream::traits_type::eof()) text << file.rdbuf();
  if (file.bad() || !(file.is_open())) {
    throw FileError(fmt::format("{}: cannot read it: {}", path.string(), std::strerror(errno)));
  }
  return text.str();
}

std::optional<std::string> read_file_if_exists(const fs::path& path) {
  if (!fs::exists(path)) return std::nullopt;
  return read_file(path);
}

void write_file(const fs::path& path, std::string_view text) {
  std::error_code error;
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), error);
  if (error) {
    throw FileError(
        fmt::format("{}: cannot create its directory: {}", path.string(), error.message()));
  }
  errno = 0;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.close();
  if (!file)
    throw FileError(fmt::format("{}: cannot write it: {}", path.string(), std::strerror(errno)));
}

}  // namespace sagegen::cli
