// Tensor files, large and hostile.
#include "tests/fuzz/large_cases.h"
#include "tools/reference/tensor_file.h"

using namespace sagegen::fuzz;
using namespace sagegen::reference;

namespace {

constexpr std::size_t kMega = 1'000'000;

std::span<const std::uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

std::string little_endian(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i) & 0xff);
  return text;
}

std::string npy_refusal(const std::string& text) {
  try {
    parse_npy(bytes_of(text), "large.npy");
  } catch (const FileError& error) {
    return error.what();
  }
  return {};
}

std::string safetensors_refusal(const std::string& text) {
  try {
    qkv_prefixes(parse_safetensors(bytes_of(text), "large.safetensors"));
  } catch (const FileError& error) {
    return error.what();
  }
  return {};
}

std::string safetensors(const std::string& header, std::size_t data = 0) {
  return little_endian(header.size(), 8) + header + std::string(data, '\0');
}

// `count` tensors of one f32, the last ones first in the data if `backwards`.
std::string tensors(std::size_t count, bool backwards) {
  std::string header = "{";
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t at = 4 * (backwards ? count - 1 - i : i);
    header +=
        fmt::format("{}\"layer{}.{}\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[{},{}]}}",
                    i == 0 ? "" : ",", i / 3, "qkv"[i % 3], at, at + 4);
  }
  return safetensors(header + "}", 4 * count);
}

std::string npy(const std::string& header, std::size_t data) {
  return std::string("\x93NUMPY\x02", 7) + '\0' + little_endian(header.size(), 4) + header +
         std::string(data, '\0');
}

}  // namespace

TEST_CASE("large npy files") {
  const std::string rest = "'descr': '<f4', 'fortran_order': False, ";
  check_large(
      {
          {"50 MB of spaces",
           [=] { return npy("{" + rest + "'shape': (1,)}" + std::string(50 * kMega, ' '), 4); },
           ""},
          {"a header of 4 GB",
           [] { return std::string("\x93NUMPY\x02", 7) + '\0' + "\xff\xff\xff\xff{"; },
           "the header length says 4294967295 bytes"},
          {"10 million parentheses", [=] { return npy("{'shape': " + times(10 * kMega, "("), 0); },
           "large.npy: "},
          {"10 million braces", [] { return npy(times(10 * kMega, "{"), 0); }, "large.npy: "},
          {"1,000,000 different keys", [] { return npy("{" + numbered(kMega, "'#': 1,"), 0); },
           "unknown key"},
          {"100 MB of data that is not there",
           [=] { return npy("{" + rest + "'shape': (25000000,)}", 0); }, "large.npy: "},
          {"a product of 2^64",
           [=] { return npy("{" + rest + "'shape': (4294967296, 4294967296)}", 0); },
           "large.npy: "},
          {"64 MB of values", [=] { return npy("{" + rest + "'shape': (16000000,)}", 64 * kMega); },
           ""},
      },
      npy_refusal);
}

TEST_CASE("large safetensors files") {
  const std::string one = "\"dtype\":\"F32\",\"data_offsets\":[0,4],\"shape\":";
  check_large(
      {
          {"40,000 tensors", [] { return tensors(40'000, false); }, ""},
          {"60,000 tensors, the last one first", [] { return tensors(60'000, true); }, ""},
          {"100,000 entries of metadata",
           [] {
             std::string all = numbered(100'000, "\"key#\":\"value\",");
             all.pop_back();
             return safetensors("{\"__metadata__\":{" + all + "}}");
           },
           ""},
          {"90 MB of brackets", [] { return safetensors(std::string(90 * kMega, '[')); },
           "large.safetensors: "},
          {"90 MB of objects in objects", [] { return safetensors(times(18 * kMega, "{\"a\":")); },
           "large.safetensors: "},
          {"90 MB of brackets as a shape",
           [=] { return safetensors("{\"a\":{" + one + std::string(90 * kMega, '[')); },
           "large.safetensors: "},
          {"a name of 50 MB",
           [=] {
             return safetensors("{\"" + std::string(50 * kMega, 'n') + "\":{" + one + "[2]}}", 4);
           },
           "large.safetensors: "},
          {"a dtype of 50 MB",
           [] {
             return safetensors("{\"a\":{\"shape\":[1],\"data_offsets\":[0,4],\"dtype\":\"" +
                                    std::string(50 * kMega, 'F') + "\"}}",
                                4);
           },
           "large.safetensors: "},
          {"a name of escape sequences",
           [=] {
             return safetensors("{\"" + times(1000, "\\u001b[31m") + "\":{" + one + "[2]}}", 4);
           },
           "large.safetensors: "},
          {"1,000,000 dimensions",
           [=] { return safetensors("{\"a\":{" + one + "[" + times(kMega, "1,") + "1]}}", 4); },
           "large.safetensors: "},
          {"a number of 1,000,000 digits",
           [=] { return safetensors("{\"a\":{" + one + "[" + std::string(kMega, '9') + "]}}", 4); },
           "large.safetensors: "},
          {"one name 200,000 times",
           [=] {
             std::string all = times(200'000, "\"a\":{" + one + "[1]},");
             all.pop_back();
             return safetensors("{" + all + "}", 4);
           },
           "large.safetensors: "},
          {"a header of 2^64 - 1 bytes", [] { return std::string(8, '\xff') + "{}"; },
           "large.safetensors: "},
      },
      safetensors_refusal);
}
