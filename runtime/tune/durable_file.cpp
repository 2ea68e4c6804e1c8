#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <system_error>

#include <fmt/format.h>

#include "runtime/tune/durable_file.h"

namespace sagegen::runtime {
namespace {

[[noreturn]] void fail(const std::filesystem::path& file, std::string_view what, int error) {
  throw CacheError(fmt::format("{}: {}: {}", file.string(), what, std::strerror(error)));
}

// Whether all of it is in the file; a short write is retried.
bool write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

// A rename is durable once its folder is. File systems that cannot do that say so, and are as durable as they are.
void sync_folder(const std::filesystem::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

}  // namespace

std::optional<std::string> read_if_there(const std::filesystem::path& file) {
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
    fail(file, "cannot be opened", errno);
  }
  struct stat status = {};
  if (::fstat(descriptor, &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) {
    ::close(descriptor);
    throw CacheError(fmt::format("{}: cannot be read: it is no regular file", file.string()));
  }
  constexpr off_t kMost = off_t{256} << 20;
  if (status.st_size > kMost) {
    ::close(descriptor);
    throw CacheError(fmt::format("{}: cannot be read: it has {} bytes, and what is kept here at most {}",
                                 file.string(), status.st_size, kMost));
  }
  std::string bytes;
  char block[1 << 16];
  for (;;) {
    const ssize_t got = ::read(descriptor, block, sizeof block);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      const int error = errno;
      ::close(descriptor);
      fail(file, "cannot be read", error);
    }
    if (got == 0) break;
    bytes.append(block, static_cast<std::size_t>(got));
  }
  ::close(descriptor);
  return bytes;
}

void make_folders(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error)
    throw CacheError(
        fmt::format("{}: the folder cannot be made: {}", folder.string(), error.message()));
}

std::filesystem::path set_file_aside(const std::filesystem::path& file) {
  std::error_code error;
  const std::filesystem::path folder = file.parent_path() / "aside";
  std::filesystem::create_directories(folder, error);
  if (error) return {};
  std::filesystem::path aside = folder / file.filename();
  for (int number = 2; std::filesystem::exists(aside, error) && number < 1000; ++number)
    aside = folder / fmt::format("{}.{}", file.filename().string(), number);
  std::filesystem::rename(file, aside, error);
  return error ? std::filesystem::path() : aside;
}

namespace {

void write(const std::filesystem::path& file, std::string_view bytes, bool durably) {
  const std::filesystem::path folder =
      file.has_parent_path() ? file.parent_path() : std::filesystem::path(".");
  make_folders(folder);
  // Beside its place, so that the rename stays within a file system; begins with a dot, so that no list shows it.
  std::string temporary = (folder / fmt::format(".{}.XXXXXX", file.filename().string())).string();
  const int descriptor = ::mkostemp(temporary.data(), O_CLOEXEC);
  if (descriptor < 0) fail(temporary, "cannot be made", errno);
  ::fchmod(descriptor, 0644);
  const bool written = write_all(descriptor, bytes) && (!durably || ::fsync(descriptor) == 0);
  int error = errno;
  // Network file systems tell of a full disk only here.
  const bool closed = ::close(descriptor) == 0;
  if (written && !closed) error = errno;
  if (!written || !closed) {
    ::unlink(temporary.c_str());
    fail(file, "cannot be written", error);
  }
  if (::rename(temporary.c_str(), file.c_str()) != 0) {
    error = errno;
    // A server whose answer was lost has renamed it, and the second try finds nothing to rename.
    bool there = false;
    try {
      there = read_if_there(file) == bytes;
    } catch (const CacheError&) {
    }
    ::unlink(temporary.c_str());
    if (!there) fail(file, "cannot be renamed into its place", error);
  }
  if (durably) sync_folder(folder);
}

}  // namespace

void write_durably(const std::filesystem::path& file, std::string_view bytes) {
  write(file, bytes, true);
}

void write_whole(const std::filesystem::path& file, std::string_view bytes) {
  write(file, bytes, false);
}

DurableLog::DurableLog(const std::filesystem::path& file) : file_(file) {
  if (file.has_parent_path()) make_folders(file.parent_path());
  descriptor_ = ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail(file, "cannot be opened", errno);
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(descriptor_);
    throw CacheError(fmt::format("{}: another process writes it now; wait for it", file.string()));
  }
}

DurableLog::~DurableLog() { ::close(descriptor_); }

void DurableLog::append(std::string_view bytes) {
  if (!write_all(descriptor_, bytes) || ::fdatasync(descriptor_) != 0)
    fail(file_, "cannot be written", errno);
}

void DurableLog::cut(std::uint64_t bytes) {
  if (::ftruncate(descriptor_, static_cast<off_t>(bytes)) != 0)
    fail(file_, "cannot be cut to what is whole of it", errno);
}

FileLock::FileLock(const std::filesystem::path& file) {
  if (file.has_parent_path()) make_folders(file.parent_path());
  descriptor_ = ::open(file.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  // Where folders are shared, files of others cannot be created again; to lock them it is enough to read them.
  if (descriptor_ < 0) descriptor_ = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (descriptor_ < 0) fail(file, "cannot be opened", errno);
  // A file system without locks excludes nobody.
  held_ = ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
}

FileLock::~FileLock() { ::close(descriptor_); }

std::filesystem::path cache_folder() {
  const auto value = [](const char* name) -> std::filesystem::path {
    const char* text = std::getenv(name);
    return text == nullptr ? "" : text;
  };
  if (const std::filesystem::path own = value("SAGEGEN_CACHE_DIR"); !own.empty()) return own;
  // The XDG Base Directory Specification: a relative path is invalid and ignored.
  if (const std::filesystem::path xdg = value("XDG_CACHE_HOME"); xdg.is_absolute())
    return xdg / "sagegen";
  if (const std::filesystem::path home = value("HOME"); home.is_absolute())
    return home / ".cache" / "sagegen";
  return {};
}

}  // namespace sagegen::runtime
