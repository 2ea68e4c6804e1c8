// Host vectors to device buffers and back.
#pragma once

#include <span>
#include <vector>

#include "sagegen/runtime/device.h"

namespace sagegen::runtime {

template <typename T>
Buffer upload(const Device& device, const std::vector<T>& values) {
  Buffer buffer(device, values.size() * sizeof(T));
  buffer.upload(std::as_bytes(std::span(values)));
  return buffer;
}

template <typename T>
std::vector<T> download(const Buffer& buffer) {
  std::vector<T> values(buffer.bytes() / sizeof(T));
  buffer.download(std::as_writable_bytes(std::span(values)));
  return values;
}

}  // namespace sagegen::runtime
