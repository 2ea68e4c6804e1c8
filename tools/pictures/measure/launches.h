// Launches of probes (kernels.h) in the emulator.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sagegen/params.h"
#include "sagegen/runtime/device.h"
#include "tools/pictures/measure/kernels.h"

namespace sagegen::pictures {

using Bytes = std::vector<std::uint8_t>;
using Words = std::vector<std::uint32_t>;

// The emulated device that the target is the best one for, or else the first one that loads its PTX.
runtime::Device device_for(Target target);

template <typename T>
runtime::Buffer upload(const runtime::Device& device, const std::vector<T>& values) {
  runtime::Buffer buffer(device, values.size() * sizeof(T));
  buffer.upload(std::as_bytes(std::span(values)));
  return buffer;
}

template <typename T>
std::vector<T> download(const runtime::Buffer& buffer) {
  std::vector<T> values(buffer.bytes() / sizeof(T));
  buffer.download(std::as_writable_bytes(std::span(values)));
  return values;
}

// One block.
void launch(const runtime::Device& device, const Probe& probe, const ParamPack& params);

}  // namespace sagegen::pictures
