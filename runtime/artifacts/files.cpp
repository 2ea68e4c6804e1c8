#include "runtime/artifacts/files.h"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "sagegen/runtime/artifacts.h"
#include "sagegen/runtime/error.h"

namespace sagegen::runtime {

std::string read_artifact(const std::filesystem::path& file) {
  struct Close {
    void operator()(std::FILE* stream) const { std::fclose(stream); }
  };
  const auto refuse = [&] {
    throw ArtifactError(fmt::format("{}: cannot be read: {}", file.string(), std::strerror(errno)));
  };
  errno = 0;
  const std::unique_ptr<std::FILE, Close> stream(std::fopen(file.c_str(), "rb"));
  if (!stream) refuse();
  std::string bytes;
  char block[1 << 16];
  while (const std::size_t read = std::fread(block, 1, sizeof block, stream.get())) {
    bytes.append(block, read);
  }
  if (std::ferror(stream.get())) refuse();
  return bytes;
}

bool is_missing(const std::filesystem::path& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) != 0 && (errno == ENOENT || errno == ENOTDIR);
}

bool is_plain_file(const std::filesystem::path& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

std::vector<std::string> names_in(const std::filesystem::path& directory) {
  struct Close {
    void operator()(DIR* open) const { ::closedir(open); }
  };
  const std::unique_ptr<DIR, Close> open(::opendir(directory.c_str()));
  std::vector<std::string> names;
  while (const dirent* entry = open ? ::readdir(open.get()) : nullptr) {
    names.emplace_back(entry->d_name);
  }
  std::ranges::sort(names);
  return names;
}

}  // namespace sagegen::runtime
