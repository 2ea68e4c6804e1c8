#include "sagegen/runtime/tuning.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <system_error>

#include <fmt/format.h>

#include "runtime/tune/durable_file.h"
#include "runtime/tune/text_fields.h"
#include "sagegen/runtime/error.h"

namespace sagegen::runtime {
namespace {

constexpr std::string_view kHead = "sagegen.tuned\t1";
constexpr std::string_view kSetHead = "sagegen.tuned-set\t1";
constexpr std::string_view kSum = "sum\t";
constexpr std::string_view kExtension = ".tuned";

// Every field once: its name, and how it becomes text and back.
template <typename Visitor>
void visit_fields(TuningEntry& entry, Visitor&& visit) {
  visit("what", entry.key.what);
  visit("target", entry.key.target);
  visit("shape", entry.key.shape);
  visit("mode", entry.key.mode);
  visit("generator", entry.key.generator);
  visit("device", entry.key.device.name);
  visit("multiprocessors", entry.key.device.multiprocessors);
  visit("clock_khz", entry.key.device.clock_khz);
  visit("memory_clock_khz", entry.key.device.memory_clock_khz);
  visit("memory_bus_bits", entry.key.device.memory_bus_bits);
  visit("driver", entry.key.device.driver);
  visit("schedule", entry.schedule);
  visit("usual", entry.usual);
  visit("params", entry.params);
  visit("unit", entry.unit);
  visit("time", entry.time);
  visit("usual_time", entry.usual_time);
  visit("samples", entry.samples);
  visit("measured", entry.measured);
  visit("conditions", entry.conditions);
}

std::string text_of(const std::string& value) { return escaped(value); }
std::string text_of(double value) { return number_text(value); }
std::string text_of(int value) { return fmt::format("{}", value); }
std::string text_of(std::uint64_t value) { return fmt::format("{}", value); }

bool read(std::string_view text, std::string& value) {
  std::optional<std::string> found = unescaped(text);
  if (found) value = std::move(*found);
  return found.has_value();
}
template <typename Number>
bool read(std::string_view text, Number& value) {
  std::optional<Number> found;
  if constexpr (std::is_floating_point_v<Number>) {
    found = number_of(text);
    if (found && (!std::isfinite(*found) || *found < 0)) return false;
  } else {
    found = integer_of<Number>(text);
  }
  if (found) value = *found;
  return found.has_value();
}

// All that tells keys apart, as one text.
std::string text_of_key(const TuningKey& key) {
  TuningEntry entry;
  entry.key = key;
  std::string text;
  bool of_key = true;
  visit_fields(entry, [&](std::string_view name, const auto& value) {
    of_key = of_key && name != "schedule";
    if (of_key) text += fmt::format("{}\t{}\n", name, text_of(value));
  });
  return text;
}

int attribute_if_there(const Device& device, DeviceAttribute attribute) {
  int value = 0;
  // An emulated device has no clock.
  if (device.api().device_attribute(&value, attribute, device.ordinal()) != Result::success)
    return 0;
  return value;
}

}  // namespace

DeviceFingerprint fingerprint_of(const Device& device) {
  DeviceFingerprint found{
      .name = device.name(),
      .multiprocessors = device.attribute(DeviceAttribute::multiprocessor_count),
      .clock_khz = attribute_if_there(device, DeviceAttribute::clock_rate),
      .memory_clock_khz = attribute_if_there(device, DeviceAttribute::memory_clock_rate),
      .memory_bus_bits = attribute_if_there(device, DeviceAttribute::global_memory_bus_width),
      .driver = "emulator"};
  if (device.api().name() == "cuda") {
    int version = 0;
    check(device.api(), device.api().driver_version(&version), "cuDriverGetVersion");
    found.driver = fmt::format("CUDA {}.{}", version / 1000, version % 1000 / 10);
  }
  return found;
}

std::string to_string(const DeviceFingerprint& device) {
  std::string text = fmt::format("{}, {} multiprocessors", device.name, device.multiprocessors);
  if (device.clock_khz != 0) text += fmt::format(", {} MHz", device.clock_khz / 1000);
  if (device.memory_clock_khz != 0) {
    text += fmt::format(", memory {} MHz x {} bits", device.memory_clock_khz / 1000,
                        device.memory_bus_bits);
  }
  return text + ", " + device.driver;
}

std::string generator_id(const sagegen::Kernel& kernel) {
  return fmt::format("{} {} {}", SAGEGEN_VERSION, kernel.family().title, kernel.family().version);
}

std::string to_text(const TuningEntry& entry) {
  std::string text = fmt::format("{}\n", kHead);
  TuningEntry copy = entry;
  visit_fields(copy, [&](std::string_view name, const auto& value) {
    text += fmt::format("{}\t{}\n", name, text_of(value));
  });
  const std::string sum = sum_text(text);
  return fmt::format("{}{}{}\n", text, kSum, sum);
}

TuningEntry parse_tuning_entry(std::string_view text, const std::string& origin) {
  const auto refuse = [&](const std::string& why) {
    throw ArtifactError(fmt::format("{}: {}", origin, why));
  };
  const std::string_view head = text.substr(0, text.find('\n'));
  if (head != kHead) {
    refuse(head.starts_with("sagegen.tuned\t")
               ? fmt::format("the entry has another version, {}; this library reads 1",
                             escaped(head.substr(head.find('\t') + 1, 20)))
               : std::string("this is no entry of a tuning database: its first line is not "
                             "sagegen.tuned, a tab and 1"));
  }
  const std::size_t sum_at = text.rfind(kSum);
  if (sum_at == std::string_view::npos || sum_at == 0 || text[sum_at - 1] != '\n')
    refuse("the entry has no sum at its end: it was cut off, or written by hand");
  if (text.substr(sum_at) != fmt::format("{}{}\n", kSum, sum_text(text.substr(0, sum_at))))
    refuse("the sum at its end is not that of the entry: it was changed or damaged");
  TuningEntry entry;
  std::string_view left = text.substr(0, sum_at);
  take_to(left, '\n');
  visit_fields(entry, [&](std::string_view name, auto& value) {
    std::string_view line = take_to(left, '\n');
    if (take_to(line, '\t') != name)
      refuse(fmt::format("the field \"{}\" is not in its place", name));
    if (!read(line, value))
      refuse(fmt::format("the field \"{}\" has a value that cannot be read: {}", name,
                         escaped(line.substr(0, 80))));
  });
  if (!left.empty()) refuse("there are more fields than an entry has");
  // Words of keys, of which names of files and of kernels are made.
  const auto is_word = [](std::string_view word) {
    return !word.empty() && std::ranges::all_of(word, [](unsigned char c) {
      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c == '_';
    });
  };
  for (const std::string& word : {entry.key.what, entry.key.target, entry.key.shape, entry.key.mode,
                                  entry.schedule, entry.usual}) {
    if (!is_word(word))
      refuse(fmt::format("\"{}\" is no word of a key", escaped(word).substr(0, 80)));
  }
  if (entry.time <= 0 || entry.usual_time <= 0) refuse("a time is not positive");
  return entry;
}

std::string why_stale(const TuningEntry& entry, const sagegen::Kernel& usual) {
  if (usual.params().digest() != entry.params) {
    return "it was made when the parameters of the kernel lay elsewhere (another layout digest)";
  }
  try {
    const sagegen::Kernel kernel = usual.with_schedule(entry.schedule);
    const Sentences sentences = kernel.violations();
    return sentences.empty() ? "" : fmt::format("its schedule is refused: {}", sentences.front());
  } catch (const SpecError& error) {
    return fmt::format("its schedule cannot be read: {}", error.what());
  }
}

std::filesystem::path TuningDatabase::file_of(const TuningKey& key) const {
  return folder_ / fmt::format("{}-{}{}", key.target, sum_text(text_of_key(key)), kExtension);
}

TuningDatabase::Found TuningDatabase::find(const TuningKey& key) const {
  const std::filesystem::path file = file_of(key);
  try {
    const std::optional<std::string> text = read_if_there(file);
    if (!text) return {};
    TuningEntry entry = parse_tuning_entry(*text, file.string());
    if (entry.key == key) return {std::move(entry), {}};
    throw ArtifactError(
        fmt::format("{}: the entry is about {} on {}, and lies in the place of another",
                    file.string(), entry.key.what, to_string(entry.key.device)));
  } catch (const CacheError& error) {
    return {std::nullopt, fmt::format("{}; the default is used", error.what())};
  } catch (const ArtifactError& error) {
    const std::filesystem::path aside = set_aside(file);
    return {std::nullopt,
            fmt::format("{}; the default is used{}", error.what(),
                        aside.empty() ? "" : ", and the file is kept as " + aside.string())};
  }
}

void TuningDatabase::store(const TuningEntry& entry) const {
  write_durably(file_of(entry.key), to_text(entry));
}

std::filesystem::path TuningDatabase::set_aside(const std::filesystem::path& file) const {
  return set_file_aside(file);
}

std::vector<TuningDatabase::Listed> TuningDatabase::list() const {
  std::vector<Listed> all;
  std::error_code error;
  std::filesystem::directory_iterator files(folder_, error);
  if (error == std::errc::no_such_file_or_directory) return all;
  for (; !error && files != std::filesystem::directory_iterator(); files.increment(error)) {
    const std::filesystem::path& file = files->path();
    if (file.extension() != kExtension || file.filename().string().starts_with('.')) continue;
    Listed listed{.file = file, .entry = std::nullopt, .why_not = {}};
    try {
      const std::optional<std::string> text = read_if_there(file);
      if (!text) continue;  // another process has just taken it away
      listed.entry = parse_tuning_entry(*text, file.string());
      if (file_of(listed.entry->key).filename() != file.filename()) {
        listed.entry.reset();
        listed.why_not =
            fmt::format("{}: the name of the file is not that of its key", file.string());
      }
    } catch (const Error& failure) {
      listed.why_not = failure.what();
    }
    all.push_back(std::move(listed));
  }
  if (error)
    throw CacheError(
        fmt::format("{}: the folder cannot be read: {}", folder_.string(), error.message()));
  std::ranges::sort(all, {}, &Listed::file);
  return all;
}

std::size_t TuningDatabase::clear() const {
  std::size_t count = 0;
  // Of processes that ended while they wrote; one that writes now is not an hour old.
  std::error_code ignored;
  for (std::filesystem::directory_iterator files(folder_, ignored), end; !ignored && files != end;
       files.increment(ignored)) {
    const std::string name = files->path().filename().string();
    const bool temporary = name.starts_with('.') && name.find(kExtension) != std::string::npos;
    std::error_code unknown;
    const auto age =
        std::filesystem::file_time_type::clock::now() - files->last_write_time(unknown);
    if (temporary && !unknown && age > std::chrono::hours(1))
      std::filesystem::remove(files->path(), unknown);
  }
  for (const Listed& listed : list()) {
    std::error_code error;
    if (std::filesystem::remove(listed.file, error)) ++count;
    if (error) {
      throw CacheError(
          fmt::format("{}: cannot be removed: {}", listed.file.string(), error.message()));
    }
  }
  return count;
}

std::string to_text(const std::vector<TuningEntry>& entries) {
  std::string text = fmt::format("{}\n", kSetHead);
  for (const TuningEntry& entry : entries) text += to_text(entry);
  return text;
}

std::vector<TuningEntry> parse_tuning_entries(std::string_view text, const std::string& origin) {
  std::vector<TuningEntry> entries;
  std::string_view left = text;
  if (take_to(left, '\n') != kSetHead) {
    throw ArtifactError(fmt::format(
        "{}: this is no exported tuning database: its first line is not sagegen.tuned-set, a tab "
        "and 1; `sagegen cache export` writes one",
        origin));
  }
  while (!left.empty()) {
    // An entry ends with the line of its sum.
    std::size_t end = left.find("\nsum\t");
    if (end != std::string_view::npos) end = left.find('\n', end + 1);
    if (end == std::string_view::npos) end = left.size() - 1;
    const std::string_view of_entry = left.substr(0, end + 1);
    left.remove_prefix(of_entry.size());
    entries.push_back(
        parse_tuning_entry(of_entry, fmt::format("{}: entry {}", origin, entries.size() + 1)));
  }
  return entries;
}

std::size_t merge(const TuningDatabase& into, const std::vector<TuningEntry>& entries) {
  std::size_t stored = 0;
  for (const TuningEntry& entry : entries) {
    const TuningDatabase::Found there = into.find(entry.key);
    // Times of this form sort as texts do.
    if (there.entry && there.entry->measured >= entry.measured) continue;
    into.store(entry);
    ++stored;
  }
  return stored;
}

}  // namespace sagegen::runtime
