#include "tools/sagegen/files.h"

#include <unistd.h>

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

void check_writable(const fs::path& path) {
  std::error_code ignored;
  const fs::path directory = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const auto refuse = [&](const std::string& why) {
    return FileError(fmt::format("{}: cannot write it: {}", path.string(), why));
  };
  if (fs::is_directory(path, ignored)) throw refuse("is a directory");
  if (!fs::is_directory(directory, ignored))
    throw refuse(fmt::format("there is no directory {}", directory.string()));
  const fs::path& opened = fs::exists(path, ignored) ? path : directory;
  if (::access(opened.c_str(), W_OK) != 0) throw refuse(std::strerror(errno));
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
