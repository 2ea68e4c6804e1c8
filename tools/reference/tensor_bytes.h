// What the readers and writers of tensor files share: sizes checked before they are used, and the
// bytes of elements. Internal to tools/reference.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tools/reference/tensor_file.h"

namespace sagegen::reference {

// Makes the error for a broken rule; it knows the file and the tensor.
using Refuse = std::function<FileError(const std::string& rule)>;

std::size_t byte_size(IoType type);

// Throws if the extent is larger than any file, or one too many.
void append_extent(std::vector<std::int64_t>& shape, std::uint64_t extent, const Refuse& refuse);

// Throws unless the elements of `shape` fill `bytes` exactly. No product overflows.
void check_size(const std::vector<std::int64_t>& shape, std::size_t element_size,
                std::uint64_t bytes, const Refuse& refuse);

// Elements of `element_size` bytes; 8 bytes are f64, else `type` says what they are.
std::vector<float> decode(Bytes bytes, std::size_t element_size, IoType type);
void encode(const StoredTensor& tensor, std::vector<std::uint8_t>& out);

// Throws unless the data have the size that the shape says.
void check_writable(const StoredTensor& tensor);

template <typename Unsigned>
Unsigned little_endian(const std::uint8_t* bytes) {
  Unsigned value = 0;
  for (std::size_t i = 0; i < sizeof(Unsigned); ++i) {
    value = static_cast<Unsigned>(value | static_cast<Unsigned>(bytes[i]) << (8 * i));
  }
  return value;
}

template <typename Unsigned>
void append_little_endian(std::vector<std::uint8_t>& out, Unsigned value) {
  for (std::size_t i = 0; i < sizeof(Unsigned); ++i) {
    out.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
  }
}

}  // namespace sagegen::reference
