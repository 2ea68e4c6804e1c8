#include "tools/reference/whole_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "tools/reference/printable.h"

namespace sagegen::reference {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kChunk = std::size_t{1} << 20;
constexpr int kMostLinks = 40;  // as Linux follows

std::string reason(int error) {
  return error == EISDIR ? "is a directory" : std::string(std::strerror(error));
}

std::string shown(const fs::path& path) { return printable(path.native()); }

FileError cannot_read(const std::string& name, int error) {
  return FileError(fmt::format("{}: cannot be read: {}", name, reason(error)));
}

// An open file that is closed at the latest when this goes away.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }
  int release() { return std::exchange(number_, -1); }

 private:
  int number_;
};

int open_to_read(const fs::path& path, struct stat* status) {
  const std::string name = shown(path);
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.number() < 0) throw cannot_read(name, errno);
  if (::fstat(file.number(), status) != 0) throw cannot_read(name, errno);
  if (S_ISDIR(status->st_mode)) throw cannot_read(name, EISDIR);
  // A terminal waits for ever, /dev/zero never ends.
  if (S_ISCHR(status->st_mode) || S_ISBLK(status->st_mode))
    throw FileError(fmt::format("{}: cannot be read: is a device", name));
  return file.release();
}

// Appends up to `most` bytes; the number read, 0 at the end of the file.
template <typename Bytes>
std::size_t append(int descriptor, Bytes& bytes, std::size_t most, const std::string& name) {
  const std::size_t before = bytes.size();
  bytes.resize(before + most);
  ssize_t got = 0;
  do {
    got = ::read(descriptor, bytes.data() + before, most);
  } while (got < 0 && errno == EINTR);
  if (got < 0) throw cannot_read(name, errno);
  bytes.resize(before + static_cast<std::size_t>(got));
  return static_cast<std::size_t>(got);
}

// 0, or the error.
int write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(descriptor, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return errno;
    bytes.remove_prefix(static_cast<std::size_t>(put));
  }
  return 0;
}

// Writes and closes; 0, or the error. Some file systems report a full disk only when a file is closed.
int write_and_close(int number, std::string_view bytes) {
  Descriptor file(number);
  if (const int error = write_all(number, bytes); error != 0) return error;
  return ::close(file.release()) == 0 ? 0 : errno;
}

// Where a write to a path ends up, and what is there now.
struct Destination {
  fs::path path;  // no symbolic link
  bool exists = false;
  bool in_place = false;  // nothing that could be renamed over
  struct stat status {};
  std::string refusal;  // why it cannot be written; empty if it can be
};

// The end of a chain of symbolic links, whether or not it exists.
fs::path end_of_links(fs::path path) {
  std::error_code error;
  for (int i = 0; i < kMostLinks && fs::is_symlink(fs::symlink_status(path, error)); ++i) {
    const fs::path next = fs::read_symlink(path, error);
    if (error) break;
    path = next.is_absolute() ? next : path.parent_path() / next;
  }
  return path;
}

fs::path directory_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

Destination destination_of(const fs::path& path) {
  Destination to;
  to.exists = ::stat(path.c_str(), &to.status) == 0;
  if (!to.exists && errno != ENOENT) {
    const int error = errno;
    to.refusal = reason(error);
    if (error == ENOTDIR)
      to.refusal += fmt::format(" (there is no directory {})", shown(directory_of(path)));
    return to;
  }
  to.path = end_of_links(path);
  if (to.exists) {
    if (S_ISDIR(to.status.st_mode)) to.refusal = reason(EISDIR);
    // Links in /proc name files that have no path any more, and pipes.
    to.in_place = !S_ISREG(to.status.st_mode) || !is_same_file(path, to.path);
    if (to.refusal.empty() && ::access(path.c_str(), W_OK) != 0) to.refusal = reason(errno);
  }
  if (to.in_place || !to.refusal.empty()) return to;
  const fs::path directory = directory_of(to.path);
  if (::access(directory.c_str(), W_OK | X_OK) != 0) {
    to.refusal = errno == ENOENT ? fmt::format("{} (there is no directory {})", reason(ENOENT),
                                               shown(directory))
                                 : fmt::format("its directory {} takes no new file: {}",
                                               shown(directory), reason(errno));
  }
  return to;
}

// A file of a new name beside `path`, or a negative number and errno. The name does not grow from that of
// `path`, which may be as long as names can be.
int create_beside(const fs::path& path, fs::path* created) {
  static std::atomic<unsigned> count{0};
  for (;;) {
    *created = directory_of(path) / fmt::format(".sagegen-{}-{}", ::getpid(), count.fetch_add(1));
    const int number = ::open(created->c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (number >= 0 || errno != EEXIST) return number;
  }
}

// 0, or the error.
int replace(const Destination& to, std::string_view bytes) {
  fs::path temporary;
  const int number = create_beside(to.path, &temporary);
  if (number < 0) return errno;
  // File systems without permissions refuse, and have none to keep.
  if (to.exists) static_cast<void>(::fchmod(number, to.status.st_mode & 0777));
  int error = write_and_close(number, bytes);
  if (error == 0 && ::rename(temporary.c_str(), to.path.c_str()) != 0) error = errno;
  if (error != 0) ::unlink(temporary.c_str());
  return error;
}

int overwrite(const fs::path& path, std::string_view bytes) {
  const int number = ::open(path.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC);
  return number < 0 ? errno : write_and_close(number, bytes);
}

}  // namespace

InputFile::InputFile(const fs::path& path) : name_(shown(path)) {
  struct stat status {};
  descriptor_ = open_to_read(path, &status);
  // Files of /proc say 0 bytes and have some.
  seekable_ = S_ISREG(status.st_mode) && status.st_size > 0;
  size_ = static_cast<std::uint64_t>(status.st_size);
  if (seekable_) return;
  try {
    read_to_end();
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

InputFile::~InputFile() { ::close(descriptor_); }

void InputFile::read_to_end() {
  while (append(descriptor_, whole_, kChunk, name_) > 0) {
  }
  size_ = whole_.size();
}

std::vector<std::uint8_t> InputFile::read(std::uint64_t offset, std::size_t bytes) const {
  const auto too_short = [&](std::uint64_t got) {
    return FileError(fmt::format("{}: read {} of {} bytes at {}; the file became shorter", name_,
                                 got, bytes, offset));
  };
  if (offset > size_ || bytes > size_ - offset) throw too_short(size_ - std::min(offset, size_));
  if (!seekable_) {
    const auto begin = whole_.begin() + static_cast<std::ptrdiff_t>(offset);
    return {begin, begin + static_cast<std::ptrdiff_t>(bytes)};
  }
  std::vector<std::uint8_t> result(bytes);
  for (std::size_t have = 0; have < bytes;) {
    const ssize_t got =
        ::pread(descriptor_, result.data() + have, bytes - have, static_cast<off_t>(offset + have));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw cannot_read(name_, errno);
    if (got == 0) throw too_short(have);
    have += static_cast<std::size_t>(got);
  }
  return result;
}

std::string read_whole_file(const fs::path& path) {
  struct stat status {};
  const Descriptor file(open_to_read(path, &status));
  std::string text;
  const auto expected = static_cast<std::size_t>(std::max<off_t>(status.st_size, 0));
  // One byte more than it should have shows the end in the same call.
  std::size_t most = std::max(expected + 1, std::size_t{4096});
  while (append(file.number(), text, most, shown(path)) > 0) most = kChunk;
  return text;
}

void write_whole_file(const fs::path& path, std::string_view bytes) {
  const Destination to = destination_of(path);
  std::string why = to.refusal;
  if (why.empty()) {
    const int error = to.in_place ? overwrite(path, bytes) : replace(to, bytes);
    if (error != 0) why = reason(error);
  }
  if (!why.empty()) throw FileError(fmt::format("{}: cannot be written: {}", shown(path), why));
}

std::string why_not_writable(const fs::path& path) { return destination_of(path).refusal; }

bool is_same_file(const fs::path& a, const fs::path& b) {
  struct stat first {
  }, second{};
  return ::stat(a.c_str(), &first) == 0 && ::stat(b.c_str(), &second) == 0 &&
         S_ISREG(first.st_mode) && first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

namespace {

// Where SIGPIPE is ignored, writing to a pipe without a reader fails instead of ending the process.
bool stdout_has_lost_its_reader() {
  pollfd descriptor{.fd = STDOUT_FILENO, .events = POLLOUT, .revents = 0};
  return ::poll(&descriptor, 1, 0) == 1 && (descriptor.revents & POLLERR) != 0;
}

}  // namespace

void flush_standard_output() {
  std::cout.flush();
  // A write that failed earlier has left nothing to flush, only its mark.
  errno = 0;
  const bool flushed = std::fflush(stdout) == 0;
  const std::string why = flushed ? "part of what was printed is lost" : reason(errno);
  if ((!flushed || std::ferror(stdout) != 0 || !std::cout) && !stdout_has_lost_its_reader())
    throw FileError(fmt::format("stdout: cannot be written: {}", why));
}

}  // namespace sagegen::reference
