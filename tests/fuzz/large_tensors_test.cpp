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
