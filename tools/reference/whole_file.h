// Whole files in and out, for every tool. Each failure is a FileError whose text begins with the path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace sagegen::reference {

// A file that cannot be read, understood or written.
class FileError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A file opened for reading. Pipes and terminals are read to their end at once, because nothing else can
// be done with them; of a regular file only what is asked for is read.
class InputFile {
 public:
  explicit InputFile(const std::filesystem::path& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  std::uint64_t size() const { return size_; }
  // Throws if the file has become shorter, or fails in the middle.
  std::vector<std::uint8_t> read(std::uint64_t offset, std::size_t bytes) const;

 private:
  void read_to_end();

  std::string name_;
  int descriptor_ = -1;
  bool seekable_ = false;
  std::uint64_t size_ = 0;
  std::vector<std::uint8_t> whole_;  // of what cannot be sought
};

// All bytes, whatever the file is; a read error is an error and not an end.
std::string read_whole_file(const std::filesystem::path& path);

// Readers see the old bytes or the new ones: they are written beside the file and renamed over it, and when
// anything fails the old ones stay. A symbolic link keeps its place, and what it points to is replaced. A
// new file has the permissions that the umask leaves, an old one keeps its own. Pipes and devices are
// written to as they are.
void write_whole_file(const std::filesystem::path& path, std::string_view bytes);

// Why write_whole_file() could not write there now, as its error would say; empty if it could.
std::string why_not_writable(const std::filesystem::path& path);

// Whether both name one file, by whatever links. False if either is not there, and for devices.
bool is_same_file(const std::filesystem::path& a, const std::filesystem::path& b);

// Throws if anything that was printed to stdout (C or C++) is lost: a full disk is often noticed only here. A reader
// that has gone, as `head` does, has had what it wanted.
void flush_standard_output();

}  // namespace sagegen::reference
