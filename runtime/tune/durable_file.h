// Files that survive a crash: whole ones, and logs that only grow.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "sagegen/runtime/tuning.h"

namespace sagegen::runtime {

// Throws CacheError of a file that is there and cannot be read, or is larger than anything that is kept in a cache.
std::optional<std::string> read_if_there(const std::filesystem::path& file);
void make_folders(const std::filesystem::path& folder);  // throws CacheError
// Takes a file out of the way, into the folder "aside" beside it. A file that was set aside before keeps its place.
// Returns where it is now; empty if the system refused.
std::filesystem::path set_file_aside(const std::filesystem::path& file);

// As write_durably(), but that a crash of the machine may leave less than the whole of a file: for what has a sum and can
// be made again. Forcing a file to the disk takes tens of milliseconds on some.
void write_whole(const std::filesystem::path& file, std::string_view bytes);

// Appends; what append() returned from is on the disk. One process at a time has it open, where the file system has locks.
class DurableLog {
 public:
  explicit DurableLog(const std::filesystem::path& file);  // throws CacheError
  ~DurableLog();
  DurableLog(const DurableLog&) = delete;
  DurableLog& operator=(const DurableLog&) = delete;
  void append(std::string_view bytes);  // throws CacheError
  void cut(std::uint64_t bytes);        // drops what is behind
 private:
  std::filesystem::path file_;
  int descriptor_ = -1;
};

}  // namespace sagegen::runtime
