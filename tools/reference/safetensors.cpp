// Layout (https://huggingface.co/docs/safetensors): u64 header length, little endian; a JSON object
// of tensors {dtype, shape, data_offsets} and strings `__metadata__`; the data, without holes.
#include "tools/reference/safetensors.h"

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tools/reference/printable.h"
#include "tools/reference/tensor_bytes.h"
#include "tools/reference/tensor_file.h"

namespace sagegen::reference {

namespace {

using nlohmann::json;

constexpr std::size_t kPrefix = 8;
constexpr std::uint64_t kMaxHeader = 100'000'000;  // the format's own limit
constexpr std::size_t kAlignment = 8;              // of the data, by padding the header with spaces

std::optional<IoType> type_of(const std::string& dtype) {
  if (dtype == "F16") return IoType::f16;
  if (dtype == "BF16") return IoType::bf16;
  if (dtype == "F32") return IoType::f32;
  return std::nullopt;
}

std::string dtype_of(IoType type) {
  switch (type) {
    case IoType::f16:
      return "F16";
    case IoType::bf16:
      return "BF16";
    case IoType::f32:
      return "F32";
  }
  return "F32";
}

[[noreturn]] void refuse_header(const std::string& file, const std::string& rule) {
  throw FileError(fmt::format("{}: the header {}", file, rule));
}

// Takes the header apart as it is read: what cannot belong to one is refused where it stands, so that
// neither its depth nor its repetitions cost anything.
class HeaderReader final : public nlohmann::json_sax<json> {
 public:
  HeaderReader(SafetensorsHeader& header, std::uint64_t data_size, const std::string& file)
      : header_(header), data_size_(data_size), file_(file) {}

  bool null() override { return misplaced(); }
  bool boolean(bool) override { return misplaced(); }
  bool number_integer(number_integer_t) override { return misplaced(); }
  bool number_float(number_float_t, const string_t&) override { return misplaced(); }
  bool binary(binary_t&) override { return misplaced(); }

  bool number_unsigned(number_unsigned_t value) override {
    if (level_ != Level::list) return misplaced();
    if (field_ == kShape) {
      append_extent(entry_.shape, value, [&](const std::string& rule) { return error(rule); });
    } else {
      if (offsets_ < 2) (offsets_ == 0 ? entry_.begin : entry_.end) = value;
      if (++offsets_ > 2) return misplaced();
    }
    return true;
  }

  bool string(string_t& value) override {
    if (level_ == Level::metadata) {
      header_.metadata[field_] = value;
    } else if (level_ == Level::entry && field_ == kDtype) {
      entry_.dtype = value;
    } else {
      return misplaced();
    }
    return true;
  }

  bool start_object(std::size_t) override {
    if (level_ == Level::outside) {
      level_ = Level::tensors;
    } else if (level_ == Level::tensors && entry_.name == kMetadata) {
      level_ = Level::metadata;
    } else if (level_ == Level::tensors) {
      level_ = Level::entry;
      seen_ = {};
      offsets_ = 0;
    } else {
      return misplaced();
    }
    return true;
  }

  bool key(string_t& name) override {
    if (level_ == Level::tensors) {
      entry_ = {};
      entry_.name = std::move(name);
      if (entry_.name == kMetadata && std::exchange(has_metadata_, true)) repeated(kMetadata);
      return true;
    }
    field_ = name;
    if (level_ == Level::metadata) {
      if (!header_.metadata.emplace(name, "").second) repeated(name);
      return true;
    }
    const auto field = std::find(kFields.begin(), kFields.end(), name);
    if (field == kFields.end()) refuse(kExactly);
    if (std::exchange(seen_[static_cast<std::size_t>(field - kFields.begin())], true))
      repeated(name);
    return true;
  }

  bool end_object() override {
    if (level_ == Level::entry) finish_entry();
    level_ = level_ == Level::tensors ? Level::outside : Level::tensors;
    return true;
  }

  bool start_array(std::size_t) override {
    if (level_ != Level::entry || field_ == kDtype) return misplaced();
    level_ = Level::list;
    return true;
  }
  bool end_array() override {
    level_ = Level::entry;
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const json::exception& e) override {
    refuse_header(file_, "is not valid JSON: " + printable(e.what(), kMaxReason));
  }

 private:
  // What a value is part of.
  enum class Level { outside, tensors, metadata, entry, list };
  static constexpr const char* kExactly =
      "expected an object with exactly dtype, shape and data_offsets";

  FileError error(const std::string& rule) const {
    return FileError(fmt::format("{}: tensor '{}': {}", file_, printable(entry_.name), rule));
  }
  [[noreturn]] void refuse(const std::string& rule) const { throw error(rule); }
  [[noreturn]] void repeated(std::string_view name) const {
    refuse_header(file_, fmt::format("names '{}' twice", printable(name)));
  }

  // A value of a kind that cannot stand where it does.
  [[noreturn]] bool misplaced() const {
    if (level_ == Level::outside) refuse_header(file_, "is not a JSON object");
    if (level_ == Level::metadata) {
      throw FileError(
          fmt::format("{}: __metadata__ '{}' is not a string", file_, printable(field_)));
    }
    if (level_ == Level::tensors) {
      if (entry_.name != kMetadata) refuse(kExactly);
      throw FileError(fmt::format("{}: __metadata__ is not an object", file_));
    }
    if (field_ == kDtype) refuse("dtype is not a string");
    if (field_ == kOffsets) refuse("data_offsets is not a pair of whole numbers");
    refuse(level_ == Level::list ? "shape holds something else than whole numbers"
                                 : "shape is not an array");
  }

  void finish_entry() {
    if (std::find(seen_.begin(), seen_.end(), false) != seen_.end()) refuse(kExactly);
    field_ = kOffsets;
    if (offsets_ != 2) misplaced();
    if (entry_.begin > entry_.end || entry_.end > data_size_) {
      refuse(fmt::format("data_offsets [{}, {}] do not lie in the {} bytes of data", entry_.begin,
                         entry_.end, data_size_));
    }
    header_.entries.push_back(std::move(entry_));
  }

  static constexpr std::string_view kMetadata = "__metadata__";
  static constexpr std::string_view kDtype = "dtype", kShape = "shape", kOffsets = "data_offsets";
  static constexpr std::array kFields = {kDtype, kShape, kOffsets};
  static constexpr std::size_t kMaxReason = 300;

  SafetensorsHeader& header_;
  const std::uint64_t data_size_;
  const std::string& file_;
  Level level_ = Level::outside;
  std::string field_;  // of the entry, or of the metadata
  TensorEntry entry_;  // its name is the last key of the header
  std::array<bool, 3> seen_{};
  std::size_t offsets_ = 0;
  bool has_metadata_ = false;
};

// A JSON object may repeat a key and parsers then keep one of the two; this format forbids it.
void check_names_differ(const SafetensorsHeader& header, const std::string& file) {
  std::unordered_set<std::string_view> names;
  for (const TensorEntry& entry : header.entries) {
    if (!names.insert(entry.name).second)
      refuse_header(file, fmt::format("names '{}' twice", printable(entry.name)));
  }
}

// Sorts the entries by their data, which have to follow each other.
void check_no_holes(SafetensorsHeader& header, std::uint64_t data_size, const std::string& file) {
  std::sort(header.entries.begin(), header.entries.end(),
            [](const TensorEntry& a, const TensorEntry& b) {
              return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
            });
  std::uint64_t position = 0;
  for (const TensorEntry& entry : header.entries) {
    if (entry.begin != position) {
      throw FileError(
          fmt::format("{}: tensor '{}': its data begin at {}, {} bytes {} the end of the "
                      "tensor before it; tensors must not overlap or leave holes",
                      file, printable(entry.name), entry.begin,
                      entry.begin < position ? position - entry.begin : entry.begin - position,
                      entry.begin < position ? "before" : "after"));
    }
    position = entry.end;
  }
  if (position != data_size) {
    throw FileError(fmt::format("{}: {} bytes after the last tensor belong to none", file,
                                data_size - position));
  }
}

// Bytes of the header, checked against those of the file.
std::uint64_t header_size(Bytes prefix, std::uint64_t file_size, const std::string& file) {
  if (file_size < kPrefix) {
    throw FileError(fmt::format(
        "{}: {} bytes; a safetensors file begins with an 8-byte header length", file, file_size));
  }
  const auto size = little_endian<std::uint64_t>(prefix.data());
  const std::uint64_t rest = file_size - kPrefix;
  if (size > kMaxHeader || size > rest) {
    throw FileError(
        fmt::format("{}: the header length says {} bytes, but {} follow it (truncated, or not a "
                    "safetensors file)",
                    file, size, rest));
  }
  return size;
}

SafetensorsHeader parse_header(Bytes bytes, std::uint64_t data_size, const std::string& file) {
  SafetensorsHeader header;
  header.data_begin = kPrefix + bytes.size();
  HeaderReader reader(header, data_size, file);
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  json::sax_parse(text, text + bytes.size(), &reader);
  check_names_differ(header, file);
  check_no_holes(header, data_size, file);
  return header;
}

StoredTensor decode_entry(const TensorEntry& entry, Bytes data, const std::string& file) {
  const Refuse refuse = [&](const std::string& rule) {
    return FileError(fmt::format("{}: tensor '{}': {}", file, printable(entry.name), rule));
  };
  const std::optional<IoType> type = type_of(entry.dtype);
  if (!type) {
    throw refuse(
        fmt::format("dtype is '{}'; F16, BF16 and F32 can be read", printable(entry.dtype)));
  }
  check_size(entry.shape, byte_size(*type), data.size(), refuse);
  return {.name = entry.name,
          .type = *type,
          .shape = entry.shape,
          .data = decode(data, byte_size(*type), *type)};
}

}  // namespace

const StoredTensor* TensorFile::find(std::string_view name) const {
  for (const StoredTensor& tensor : tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

TensorFile parse_safetensors(Bytes bytes, const std::string& file) {
  const std::uint64_t size = header_size(bytes, bytes.size(), file);
  const Bytes data = bytes.subspan(kPrefix + size);
  SafetensorsHeader header = parse_header(bytes.subspan(kPrefix, size), data.size(), file);
  TensorFile out;
  out.metadata = std::move(header.metadata);
  for (const TensorEntry& entry : header.entries) {
    out.tensors.push_back(
        decode_entry(entry, data.subspan(entry.begin, entry.end - entry.begin), file));
  }
  return out;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(printable(path)), input_(path) {
  const std::uint64_t have = std::min<std::uint64_t>(input_.size(), kPrefix);
  const std::uint64_t size = header_size(input_.read(0, have), input_.size(), file_);
  header_ = parse_header(input_.read(kPrefix, size), input_.size() - kPrefix - size, file_);
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = std::find_if(header_.entries.begin(), header_.entries.end(),
                                  [&](const TensorEntry& entry) { return entry.name == name; });
  return found == header_.entries.end() ? nullptr : &*found;
}

StoredTensor SafetensorsFile::read(const TensorEntry& entry) const {
  const std::vector<std::uint8_t> data =
      input_.read(header_.data_begin + entry.begin, entry.end - entry.begin);
  return decode_entry(entry, data, file_);
}

std::vector<std::uint8_t> format_safetensors(const TensorFile& contents) {
  json header = json::object();
  if (!contents.metadata.empty()) header["__metadata__"] = contents.metadata;
  std::vector<std::uint8_t> data;
  for (const StoredTensor& tensor : contents.tensors) {
    check_writable(tensor);
    if (tensor.name == "__metadata__" || header.contains(tensor.name)) {
      throw FileError(fmt::format("cannot write two tensors named '{}'", printable(tensor.name)));
    }
    const std::size_t begin = data.size();
    encode(tensor, data);
    header[tensor.name] = {{"dtype", dtype_of(tensor.type)},
                           {"shape", tensor.shape},
                           {"data_offsets", {begin, data.size()}}};
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception& e) {
    throw FileError(fmt::format("cannot write the header: {}", e.what()));
  }
  text.append((kAlignment - text.size() % kAlignment) % kAlignment, ' ');
  std::vector<std::uint8_t> bytes;
  append_little_endian<std::uint64_t>(bytes, text.size());
  bytes.insert(bytes.end(), text.begin(), text.end());
  bytes.insert(bytes.end(), data.begin(), data.end());
  return bytes;
}

}  // namespace sagegen::reference
