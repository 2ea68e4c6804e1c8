#include "tools/reference/tensor_bytes.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>

#include "tools/reference/printable.h"
#include "tools/reference/rounding.h"

namespace sagegen::reference {

namespace {

constexpr std::uint64_t kMaxExtent = std::uint64_t{1} << 48;
constexpr std::size_t kMaxDimensions = 64;  // as numpy

}  // namespace

std::size_t byte_size(IoType type) { return type == IoType::f32 ? 4 : 2; }

void append_extent(std::vector<std::int64_t>& shape, std::uint64_t extent, const Refuse& refuse) {
  if (extent > kMaxExtent)
    throw refuse(fmt::format("an extent of {} is larger than any file", extent));
  if (shape.size() == kMaxDimensions)
    throw refuse(fmt::format("shape has more than {} dimensions", kMaxDimensions));
  shape.push_back(static_cast<std::int64_t>(extent));
}

void check_size(const std::vector<std::int64_t>& shape, std::size_t element_size,
                std::uint64_t bytes, const Refuse& refuse) {
  const std::uint64_t available = bytes / element_size;
  const bool empty = std::count(shape.begin(), shape.end(), 0) > 0;
  std::uint64_t count = empty ? 0 : 1;
  bool fits = true;
  for (const std::int64_t extent : shape) {
    if (empty) break;
    // count <= available < 2^64 / extent keeps the product in range.
    if (count > available / static_cast<std::uint64_t>(extent)) fits = false;
    if (!fits) break;
    count *= static_cast<std::uint64_t>(extent);
  }
  if (fits && count * element_size == bytes) return;
  std::string text;
  for (const std::int64_t extent : shape)
    text += fmt::format("{}{}", text.empty() ? "" : ", ", extent);
  throw refuse(fmt::format(
      "shape [{}] with {} bytes an element does not fill the {} bytes of its data exactly", text,
      element_size, bytes));
}

std::vector<float> decode(Bytes bytes, std::size_t element_size, IoType type) {
  std::vector<float> values(bytes.size() / element_size);
  const std::uint8_t* at = bytes.data();
  for (float& value : values) {
    if (element_size == 8) {
      value = static_cast<float>(
          round_ieee(std::bit_cast<double>(little_endian<std::uint64_t>(at)), kF32));
    } else if (type == IoType::f32) {
      value = std::bit_cast<float>(little_endian<std::uint32_t>(at));
    } else {
      const auto bits = little_endian<std::uint16_t>(at);
      value = static_cast<float>(type == IoType::f16 ? f16_value(bits) : bf16_value(bits));
    }
    at += element_size;
  }
  return values;
}

void encode(const StoredTensor& tensor, std::vector<std::uint8_t>& out) {
  for (const float value : tensor.data) {
    switch (tensor.type) {
      case IoType::f16:
        append_little_endian(out, f16_bits(round_ieee(value, kF16)));
        break;
      case IoType::bf16:
        append_little_endian(out, bf16_bits(round_ieee(value, kBf16)));
        break;
      case IoType::f32:
        append_little_endian(out, std::bit_cast<std::uint32_t>(value));
        break;
    }
  }
}

void check_writable(const StoredTensor& tensor) {
  const Refuse refuse = [&](const std::string& rule) {
    return FileError(fmt::format("cannot write tensor '{}': {}", printable(tensor.name), rule));
  };
  for (const std::int64_t extent : tensor.shape) {
    if (extent < 0) throw refuse(fmt::format("an extent is {}", extent));
  }
  check_size(tensor.shape, sizeof(float), tensor.data.size() * sizeof(float), refuse);
}

}  // namespace sagegen::reference
