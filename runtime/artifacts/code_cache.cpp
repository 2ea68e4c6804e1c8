#include "sagegen/runtime/code_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <system_error>
#include <utility>

#include "runtime/artifacts/fast_sum.h"
#include "runtime/tune/durable_file.h"
#include "runtime/tune/text_fields.h"
#include "sagegen/runtime/error.h"

namespace sagegen::runtime {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kHead = "sagegen.code\t1";
constexpr std::string_view kExtension = ".code";
constexpr std::string_view kLock = ".lock";
constexpr std::size_t kSumBytes = std::string_view("\nsum\t0123456789abcdef\n").size();
// Times of use are kept no finer than this: a hit seldom writes.
constexpr auto kUseIsNoted = std::chrono::hours(1);
// What a process left that ended while it wrote is older.
constexpr auto kLongestWrite = std::chrono::hours(1);

std::string sum_line(std::string_view bytes) {
  return fmt::format("\nsum\t{:016x}\n", fast_sum(bytes));
}

// All that tells keys apart but the text.
std::string fields_of(const CodeKey& key) {
  return fmt::format("capability\t{}\ncuda\t{}\nbuild\t{}\n", key.capability, key.cuda,
                     escaped(key.build));
}

// For people.
std::string first_entry(std::string_view ptx) {
  constexpr std::string_view kEntry = ".entry ";
  const std::size_t at = ptx.find(kEntry);
  if (at == ptx.npos) return {};
  ptx.remove_prefix(at + kEntry.size());
  return std::string(ptx.substr(0, ptx.find_first_of(" (\n\t")));
}

struct Entry {
  CodeKey key;  // a view of the file's bytes
  std::string entry;
  std::string_view code;
};

// Throws ArtifactError that says what is wrong.
Entry parse(std::string_view bytes, const std::string& origin) {
  const auto refuse = [&](std::string_view why) {
    throw ArtifactError(fmt::format("{}: {}", origin, why));
  };
  std::string_view left = bytes;
  const std::string_view head = take_to(left, '\n');
  if (head != kHead) {
    refuse(head.starts_with("sagegen.code\t")
               ? fmt::format("the entry has another version, {}; this library reads 1",
                             escaped(head.substr(head.find('\t') + 1, 20)))
               : std::string("this is no entry of a code cache: its first line is not "
                             "sagegen.code, a tab and 1"));
  }
  if (bytes.size() < kSumBytes ||
      bytes.substr(bytes.size() - kSumBytes) !=
          sum_line(bytes.substr(0, bytes.size() - kSumBytes)))
    refuse("the sum at its end is not that of the entry: it was cut off, changed or damaged");
  Entry entry;
  const auto text = [&](std::string_view name) {
    std::string_view line = take_to(left, '\n');
    if (take_to(line, '\t') != name)
      refuse(fmt::format("the field \"{}\" is not in its place", name));
    return line;
  };
  const auto number = [&](std::string_view name) {
    const std::optional<int> value = integer_of<int>(text(name));
    if (!value || *value < 0) refuse(fmt::format("the field \"{}\" is no number", name));
    return value.value_or(0);
  };
  const auto words = [&](std::string_view name) {
    return unescaped(text(name)).value_or(std::string());
  };
  entry.key.capability = number("capability");
  entry.key.cuda = number("cuda");
  entry.key.build = words("build");
  entry.entry = words("entry");
  const auto ptx = static_cast<std::size_t>(number("ptx"));
  const auto code = static_cast<std::size_t>(number("code"));
  if (left.size() != ptx + code + kSumBytes || code == 0)
    refuse("the lengths of its parts are not that of the file");
  entry.key.ptx = left.substr(0, ptx);
  entry.code = left.substr(ptx, code);
  return entry;
}

// Of the folder and of what was set aside in it; the names of temporary files begin with a dot.
template <typename Visit>
void visit_files(const fs::path& folder, Visit visit) {
  std::error_code error;
  fs::directory_iterator files(folder, error);
  if (error == std::errc::no_such_file_or_directory) return;
  for (; !error && files != fs::directory_iterator(); files.increment(error)) visit(files->path());
  if (error)
    throw CacheError(fmt::format("{}: the folder cannot be read: {}", folder.string(),
                                 error.message()));
}

bool is_entry(const fs::path& file) {
  return file.extension() == kExtension && !file.filename().string().starts_with('.');
}

bool is_abandoned(const fs::path& file) {
  const std::string name = file.filename().string();
  std::error_code error;
  const auto written = fs::last_write_time(file, error);
  return !error && name.starts_with('.') && name != kLock &&
         fs::file_time_type::clock::now() - written > kLongestWrite;
}

void note_use(const fs::path& file) {
  std::error_code ignored;
  const auto now = fs::file_time_type::clock::now();
  const auto used = fs::last_write_time(file, ignored);
  if (!ignored && now - used > kUseIsNoted) fs::last_write_time(file, now, ignored);
}

const char* set_variable(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? nullptr : text;
}

}  // namespace

fs::path CodeCache::file_of(const CodeKey& key) const {
  const std::uint64_t sum = fast_sum(fmt::format("{}{:016x}", fields_of(key), fast_sum(key.ptx)));
  return options_.folder / fmt::format("sm{}-{:016x}{}", key.capability, sum, kExtension);
}

std::optional<std::string> CodeCache::find(const CodeKey& key) {
  const fs::path file = file_of(key);
  try {
    const std::optional<std::string> bytes = read_if_there(file);
    if (!bytes) return std::nullopt;
    const Entry entry = parse(*bytes, file.string());
    if (entry.key.capability != key.capability || entry.key.cuda != key.cuda ||
        entry.key.build != key.build || entry.key.ptx != key.ptx)
      throw ArtifactError(fmt::format(
          "{}: the entry is of {} and lies in the place of another", file.string(), entry.entry));
    note_use(file);
    return std::string(entry.code);
  } catch (const CacheError& error) {
    warn(fmt::format("{}; the driver compiles instead", error.what()));
  } catch (const ArtifactError& error) {
    refused(key, error.what());
  }
  return std::nullopt;
}

void CodeCache::refused(const CodeKey& key, const std::string& why) {
  const fs::path aside = set_file_aside(file_of(key));
  warn(fmt::format("{}; the driver compiles again{}", why,
                   aside.empty() ? "" : ", and the file is kept as " + aside.string()));
}

void CodeCache::store(const CodeKey& key, std::string_view code) {
  {
    const std::scoped_lock lock(mutex_);
    if (read_only_) return;
  }
  std::string bytes =
      fmt::format("{}\n{}entry\t{}\nptx\t{}\ncode\t{}\n", kHead, fields_of(key),
                  escaped(first_entry(key.ptx)), key.ptx.size(), code.size());
  bytes.append(key.ptx).append(code);
  bytes += sum_line(bytes);
  if (code.empty() || bytes.size() > options_.most_bytes) return;
  const fs::path file = file_of(key);
  try {
    write_whole(file, bytes);
    trim(file);
  } catch (const CacheError& error) {
    {
      const std::scoped_lock lock(mutex_);
      read_only_ = true;
    }
    warn(fmt::format("{}; kernels are compiled without a code cache", error.what()));
  }
}

void CodeCache::warn(const std::string& text) {
  {
    const std::scoped_lock lock(mutex_);
    if (!told_.insert(text).second) return;
  }
  if (options_.warn) options_.warn(text);
}

// What was set aside goes first. The entry to keep has just been made.
void CodeCache::trim(const fs::path& keep) {
  struct File {
    bool is_entry;
    fs::file_time_type used;
    fs::path path;
    std::uint64_t bytes;
  };
  const auto files_now = [&](std::uint64_t& total) {
    std::vector<File> files;
    total = 0;
    const auto add = [&](const fs::path& path, bool entry) {
      std::error_code error;
      const std::uint64_t bytes = fs::file_size(path, error);
      const auto used = error ? fs::file_time_type() : fs::last_write_time(path, error);
      if (error) return;  // another process has removed it, or it is the folder "aside"
      total += bytes;
      if (path != keep) files.push_back({entry, used, path, bytes});
    };
    visit_files(options_.folder, [&](const fs::path& path) {
      if (is_entry(path) || is_abandoned(path)) add(path, is_entry(path));
    });
    visit_files(options_.folder / "aside", [&](const fs::path& path) { add(path, false); });
    return files;
  };
  // One process removes. What others store meanwhile it sees when it looks again, without the lock: who stores after that
  // can have it.
  for (;;) {
    std::uint64_t total = 0;
    files_now(total);
    if (total <= options_.most_bytes) return;
    const FileLock lock(options_.folder / kLock);
    if (!lock.held()) return;
    std::vector<File> files = files_now(total);
    std::ranges::sort(files, [](const File& a, const File& b) {
      return std::pair(a.is_entry, a.used) < std::pair(b.is_entry, b.used);
    });
    bool removed = false;
    for (const File& file : files) {
      if (total <= options_.most_bytes) break;
      std::error_code error;
      if (!fs::remove(file.path, error) || error) continue;
      total -= file.bytes;
      removed = true;
    }
    if (!removed) return;
  }
}

std::vector<CodeCache::Listed> CodeCache::list() const {
  std::vector<Listed> all;
  visit_files(options_.folder, [&](const fs::path& file) {
    if (!is_entry(file)) return;
    Listed listed;
    listed.file = file;
    try {
      const std::optional<std::string> bytes = read_if_there(file);
      if (!bytes) return;  // another process has just taken it away
      listed.bytes = bytes->size();
      const Entry entry = parse(*bytes, file.string());
      listed.entry = entry.entry;
      listed.capability = entry.key.capability;
      listed.cuda = entry.key.cuda;
      listed.build = entry.key.build;
      if (file_of(entry.key).filename() != file.filename())
        listed.why_not =
            fmt::format("{}: the name of the file is not that of its key", file.string());
    } catch (const Error& error) {
      listed.why_not = error.what();
    }
    all.push_back(std::move(listed));
  });
  std::ranges::sort(all, {}, &Listed::file);
  return all;
}

std::size_t CodeCache::clear() const {
  std::size_t count = 0;
  const auto remove = [&](const fs::path& file) {
    std::error_code error;
    const bool removed = fs::remove(file, error);
    if (error)
      throw CacheError(fmt::format("{}: cannot be removed: {}", file.string(), error.message()));
    return removed;
  };
  visit_files(options_.folder, [&](const fs::path& file) {
    if (is_entry(file)) {
      if (remove(file)) ++count;
    } else if (is_abandoned(file)) {
      remove(file);
    }
  });
  visit_files(options_.folder / "aside", [&](const fs::path& file) { remove(file); });
  return count;
}

fs::path code_cache_folder() {
  const char* text = set_variable("SAGEGEN_CODE_CACHE");
  const std::string_view value = text == nullptr ? "" : text;
  if (value == "off") return {};
  if (value.find('/') != value.npos) return value;
  const fs::path usual = cache_folder();
  return usual.empty() ? fs::path() : usual / "code";
}

std::shared_ptr<CodeCache> code_cache_of_environment(
    std::function<void(const std::string&)> warn) {
  const auto tell = [&](const std::string& text) {
    if (warn) warn(text);
  };
  const char* const folder = set_variable("SAGEGEN_CODE_CACHE");
  const char* const force_ptx = set_variable("CUDA_FORCE_PTX_JIT");
  if (force_ptx != nullptr && std::string_view(force_ptx) != "0") return nullptr;
  CodeCacheOptions options{.folder = code_cache_folder()};
  if (options.folder.empty()) {
    if (folder == nullptr)
      tell(
          "no folder for the code cache: neither SAGEGEN_CODE_CACHE, nor SAGEGEN_CACHE_DIR, nor "
          "XDG_CACHE_HOME, nor HOME is set; each process compiles its kernels");
    return nullptr;
  }
  if (folder != nullptr && std::string_view(folder).find('/') == std::string_view::npos)
    tell(fmt::format(
        "SAGEGEN_CODE_CACHE=\"{}\" is neither off nor a folder, which has a / in it; {} is used",
        escaped(folder), options.folder.string()));
  if (const char* text = set_variable("SAGEGEN_CODE_CACHE_BYTES")) {
    const std::optional<std::uint64_t> bytes = integer_of<std::uint64_t>(text);
    if (bytes) {
      options.most_bytes = *bytes;
    } else {
      tell(fmt::format(
          "SAGEGEN_CODE_CACHE_BYTES=\"{}\" is no number of bytes, which is whole and from 0; the "
          "limit is {} bytes",
          escaped(text), options.most_bytes));
    }
  }
  options.warn = std::move(warn);
  return std::make_shared<CodeCache>(std::move(options));
}

}  // namespace sagegen::runtime
