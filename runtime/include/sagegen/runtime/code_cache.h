// Machine code that the driver made of PTX, kept on disk, so that a kernel is compiled once per machine and not once
// per process.
//
// One file per text of PTX, compute capability and driver. It holds that text, which is compared byte by byte, the
// machine code, and a sum over all of it. What cannot be believed is an absent entry and one warning, and is set aside:
// the driver compiles again. Files are written beside their place and renamed; any number of processes share a folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace sagegen::runtime {

// All that decides what the driver makes of a text.
struct CodeKey {
  std::string_view ptx;
  int capability = 0;  // 89 for 8.9
  int cuda = 0;        // of the driver, 13000 for 13.0
  std::string build;   // DriverApi::build()
};

struct CodeCacheOptions {
  std::filesystem::path folder;  // made when something is stored
  // Of all files. Beyond it those that were used longest ago are removed, to the hour; what processes store at one time
  // may exceed it until the next one stores.
  std::uint64_t most_bytes = std::uint64_t{512} << 20;
  // Told each thing once, in a sentence; null: nobody is.
  std::function<void(const std::string&)> warn = {};
};

// Any number of threads.
class CodeCache {
 public:
  explicit CodeCache(CodeCacheOptions options) : options_(std::move(options)) {}
  const std::filesystem::path& folder() const { return options_.folder; }
  std::filesystem::path file_of(const CodeKey& key) const;

  // Neither throws for what is on the disk. A folder that cannot be written is warned of once, and not tried again.
  std::optional<std::string> find(const CodeKey& key);
  void store(const CodeKey& key, std::string_view code);
  // The driver does not load what find() gave: it is set aside.
  void refused(const CodeKey& key, const std::string& why);

  struct Listed {
    std::filesystem::path file;
    std::uint64_t bytes = 0;  // of the file
    std::string entry;        // the first entry point of its PTX
    int capability = 0, cuda = 0;
    std::string build;
    std::string why_not;  // of a file that is no entry
  };
  // By file name. Throws CacheError of a folder that cannot be read.
  std::vector<Listed> list() const;
  // Removes all, what was set aside too; how many entries there were. Throws CacheError.
  std::size_t clear() const;

 private:
  void warn(const std::string& text);
  void trim(const std::filesystem::path& keep);

  CodeCacheOptions options_;
  std::mutex mutex_;  // of what is below
  std::set<std::string> told_;
  bool read_only_ = false;
};

// $SAGEGEN_CODE_CACHE: a folder (a path with a /), or "off"; else code below cache_folder(). $SAGEGEN_CODE_CACHE_BYTES:
// most_bytes. Null: off, there is no folder, or CUDA_FORCE_PTX_JIT asks for PTX.
std::shared_ptr<CodeCache> code_cache_of_environment(
    std::function<void(const std::string&)> warn = {});
// The folder that it names, whether or not it is there; empty: off or none.
std::filesystem::path code_cache_folder();

}  // namespace sagegen::runtime
