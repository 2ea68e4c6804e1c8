// What a sweep found out about a GPU, kept on disk: which schedule of a kernel is the fastest for problems of a class.
//
// One file per entry, in a folder that several processes and versions share. A file is written beside its place, forced
// to the disk and renamed, so that readers see a whole entry or none. It holds the words of its key and of its
// schedule, never an index, and a sum over all of it. What cannot be believed is an absent entry and one warning, and
// is set aside: the request is served with the default.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sagegen/error.h"
#include "sagegen/kernel.h"
#include "sagegen/runtime/device.h"

namespace sagegen::runtime {

// A cache that cannot be written or read. The text names the file and what the system says.
class CacheError : public Error {
 public:
  using Error::Error;
  const char* kind() const noexcept override { return "cache error"; }
};

// Devices with equal ones are tuned alike.
struct DeviceFingerprint {
  std::string name;  // as the driver calls it
  int multiprocessors = 0;
  int clock_khz = 0, memory_clock_khz = 0,
      memory_bus_bits = 0;  // the highest; 0: the device has none
  std::string driver;       // "CUDA 13.0"; "emulator"
  friend bool operator==(const DeviceFingerprint&, const DeviceFingerprint&) = default;
};
DeviceFingerprint fingerprint_of(const Device& device);
std::string to_string(const DeviceFingerprint& device);  // for people, in one line

// What an entry is about. Texts hold no control characters.
struct TuningKey {
  std::string what;       // Kernel::what()
  std::string target;     // "sm_89"
  std::string shape;      // class of problems, by the word of the family that has them
  std::string mode;       // "eager" or "graph": how launches were timed
  std::string generator;  // generator_id()
  DeviceFingerprint device;
  friend bool operator==(const TuningKey&, const TuningKey&) = default;
};
// The version of sagegen and that of the kernel's family: another one may make other code of the same key.
std::string generator_id(const sagegen::Kernel& kernel);

struct TuningEntry {
  TuningKey key;
  std::string schedule,
      usual;  // words of Kernel::how(): the fastest one, and what it was compared with
  std::uint64_t params = 0;  // ParamLayout::digest() of the kernel
  std::string unit;  // of the times: "ns", or "instructions" of an emulator, which are no time
  double time = 0, usual_time = 0;  // medians
  std::uint64_t samples = 0;        // of all candidates
  std::string measured;             // "2026-11-30T12:00:00Z"
  std::string conditions;           // for people: the problem
  friend bool operator==(const TuningEntry&, const TuningEntry&) = default;
};

// Lines "name<TAB>value", the first "sagegen.tuned<TAB>1", the last the sum over those before.
std::string to_text(const TuningEntry& entry);
// origin: its name in errors. Throws ArtifactError that says what is wrong with it.
TuningEntry parse_tuning_entry(std::string_view text, const std::string& origin);

// Whether the kernel of an entry can be what it was: why not, empty if it can. A schedule that today's rules refuse, or
// parameters that lie elsewhere, are an entry of another time.
std::string why_stale(const TuningEntry& entry, const sagegen::Kernel& usual);

class TuningDatabase {
 public:
  // The folder need not be there, and is made when something is stored.
  explicit TuningDatabase(std::filesystem::path folder) : folder_(std::move(folder)) {}
  const std::filesystem::path& folder() const { return folder_; }
  std::filesystem::path file_of(const TuningKey& key) const;

  struct Found {
    std::optional<TuningEntry> entry;
    std::string warning;  // empty, or why there is none although there is a file
  };
  // Never throws for what is on the disk.
  Found find(const TuningKey& key) const;
  // In the place of what was there. When it returns, the entry outlives a crash of the machine. Throws CacheError, and
  // what was there is there still.
  void store(const TuningEntry& entry) const;
  // Takes a file out of the way, into the folder "aside". Returns where it is now; empty if the system refused.
  std::filesystem::path set_aside(const std::filesystem::path& file) const;

  struct Listed {
    std::filesystem::path file;
    std::optional<TuningEntry> entry;
    std::string why_not;  // of a file that is no entry
  };
  std::vector<Listed> list()
      const;                  // by file name. Throws CacheError of a folder that cannot be read
  std::size_t clear() const;  // how many entries there were

 private:
  std::filesystem::path folder_;
};

// Entries as one text, to be carried to another machine.
std::string to_text(const std::vector<TuningEntry>& entries);
std::vector<TuningEntry> parse_tuning_entries(std::string_view text, const std::string& origin);
// Stores those that are newer than what is there for their key, or for which nothing is. Returns how many.
std::size_t merge(const TuningDatabase& into, const std::vector<TuningEntry>& entries);

// 16 hex digits of all the bytes, the same everywhere: for names of files.
std::string sum_text(std::string_view bytes);

// $SAGEGEN_CACHE_DIR, or sagegen in $XDG_CACHE_HOME or ~/.cache; empty if the environment names none of these.
std::filesystem::path cache_folder();

// A file that appears whole or not at all and is on the disk when this returns; folders above it are made. Throws
// CacheError.
void write_durably(const std::filesystem::path& file, std::string_view bytes);

// Held by at most one process, where the file system has locks; released with the object or with the process.
class FileLock {
 public:
  // Throws CacheError of a file that cannot be opened.
  explicit FileLock(const std::filesystem::path& file);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  bool held() const { return held_; }

 private:
  int descriptor_ = -1;
  bool held_ = false;
};

}  // namespace sagegen::runtime
