// Layout (https://huggingface.co/docs/safetensors): u64 header length, little endian; a JSON object
// of tensors {dtype, shape, data_offsets} and strings `__metadata__`; the data, without holes.
#include <algorithm>
#include <cstring>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tools/reference/rounding.h"
#include "tools/reference/tensor_bytes.h"
#include "tools/reference/tensor_file.h"

namespace sagegen::reference {

namespace {

using nlohmann::json;

constexpr std::size_t kPrefix = 8;
constexpr std::uint64_t kMaxHeader = 100'000'000;  // the format's own limit
constexpr std::size_t kAlignment = 8;              // of the data, by padding the header with spaces

struct Entry {
  StoredTensor tensor;
  std::uint64_t begin = 0, end = 0;
};

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

// A JSON object may repeat a key and parsers then keep one of the two; this format forbids it.
json parse_header(std::string_view text, const std::string& file) {
  std::vector<std::set<std::string>> keys;
  std::string repeated;
  const json::parser_callback_t watch = [&](int, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end && !keys.empty()) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.empty() && !keys.back().insert(value).second) {
      repeated = value.get<std::string>();
    }
    return true;
  };
  try {
    json header = json::parse(text, watch);
    if (!repeated.empty()) {
      throw FileError(fmt::format("{}: the header names '{}' twice", file, repeated));
    }
    if (!header.is_object())
      throw FileError(fmt::format("{}: the header is not a JSON object", file));
    return header;
  } catch (const json::exception& e) {
    throw FileError(fmt::format("{}: the header is not valid JSON: {}", file, e.what()));
  }
}

std::map<std::string, std::string> parse_metadata(const json& value, const std::string& file) {
  std::map<std::string, std::string> metadata;
  if (!value.is_object()) throw FileError(fmt::format("{}: __metadata__ is not an object", file));
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) {
      throw FileError(fmt::format("{}: __metadata__ '{}' is not a string", file, key));
    }
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

Entry parse_entry(const std::string& name, const json& value, std::uint64_t data_size,
                  const std::string& file) {
  const auto refuse = [&](const std::string& rule) -> FileError {
    return FileError(fmt::format("{}: tensor '{}': {}", file, name, rule));
  };
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
      !value.contains("shape") || !value.contains("data_offsets")) {
    throw refuse("expected an object with exactly dtype, shape and data_offsets");
  }
  if (!value["dtype"].is_string()) throw refuse("dtype is not a string");
  const auto dtype = value["dtype"].get<std::string>();
  const std::optional<IoType> type = type_of(dtype);
  if (!type) throw refuse(fmt::format("dtype is '{}'; F16, BF16 and F32 can be read", dtype));

  Entry entry;
  entry.tensor.name = name;
  entry.tensor.type = *type;
  const json& shape = value["shape"];
  if (!shape.is_array()) throw refuse("shape is not an array");
  for (const json& extent : shape) {
    if (!extent.is_number_unsigned()) throw refuse("shape holds something else than whole numbers");
    entry.tensor.shape.push_back(checked_extent(extent.get<std::uint64_t>(), refuse));
  }
  const json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned()) {
    throw refuse("data_offsets is not a pair of whole numbers");
  }
  entry.begin = offsets[0].get<std::uint64_t>();
  entry.end = offsets[1].get<std::uint64_t>();
  if (entry.begin > entry.end || entry.end > data_size) {
    throw refuse(fmt::format("data_offsets [{}, {}] do not lie in the {} bytes of data",
                             entry.begin, entry.end, data_size));
  }
  check_size(entry.tensor.shape, byte_size(*type), entry.end - entry.begin, refuse);
  return entry;
}

}  // namespace

const StoredTensor* TensorFile::find(std::string_view name) const {
  for (const StoredTensor& tensor : tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

TensorFile parse_safetensors(Bytes bytes, const std::string& file) {
  if (bytes.size() < kPrefix) {
    throw FileError(
        fmt::format("{}: {} bytes; a safetensors file begins with an 8-byte header length", file,
                    bytes.size()));
  }
  const auto header_size = little_endian<std::uint64_t>(bytes.data());
  const std::uint64_t rest = bytes.size() - kPrefix;
  if (header_size > kMaxHeader || header_size > rest) {
    throw FileError(
        fmt::format("{}: the header length says {} bytes, but {} follow it (truncated, or not a "
                    "safetensors file)",
                    file, header_size, rest));
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kPrefix, header_size);
  const json header = parse_header(text, file);
  const Bytes data = bytes.subspan(kPrefix + header_size);

  TensorFile out;
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      out.metadata = parse_metadata(value, file);
    } else {
      entries.push_back(parse_entry(name, value, data.size(), file));
    }
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t position = 0;
  for (Entry& entry : entries) {
    if (entry.begin != position) {
      throw FileError(
          fmt::format("{}: tensor '{}': its data begin at {}, {} bytes {} the end of the "
                      "tensor before it; tensors must not overlap or leave holes",
                      file, entry.tensor.name, entry.begin,
                      entry.begin < position ? position - entry.begin : entry.begin - position,
                      entry.begin < position ? "before" : "after"));
    }
    position = entry.end;
    entry.tensor.data = decode(data.subspan(entry.begin, entry.end - entry.begin),
                               byte_size(entry.tensor.type), entry.tensor.type);
    out.tensors.push_back(std::move(entry.tensor));
  }
  if (position != data.size()) {
    throw FileError(fmt::format("{}: {} bytes after the last tensor belong to none", file,
                                data.size() - position));
  }
  return out;
}

std::vector<std::uint8_t> format_safetensors(const TensorFile& contents) {
  json header = json::object();
  if (!contents.metadata.empty()) header["__metadata__"] = contents.metadata;
  std::vector<std::uint8_t> data;
  for (const StoredTensor& tensor : contents.tensors) {
    check_writable(tensor);
    if (tensor.name == "__metadata__" || header.contains(tensor.name)) {
      throw FileError(fmt::format("cannot write two tensors named '{}'", tensor.name));
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
