// What tests of KV caches in the emulator share: kernels that are made once, arrays on the device, and a device whose findings
// fail the test.
#pragma once

#include <catch2/catch.hpp>
#include <cstdint>
#include <map>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "sagegen/emit.h"
#include "sagegen/runtime/emulator.h"
#include "tools/reference/rounding.h"

namespace sagegen::test {

inline const Artifact& artifact_of(const Kernel& kernel) {
  static std::map<std::string, Artifact> artifacts;
  const auto found = artifacts.find(kernel.key());
  if (found != artifacts.end()) return found->second;
  return artifacts.emplace(kernel.key(), emit(kernel)).first->second;
}

template <typename T>
runtime::Buffer upload(const runtime::Device& device, const std::vector<T>& values) {
  runtime::Buffer buffer(device, values.size() * sizeof(T));
  buffer.upload(std::as_bytes(std::span(values)));
  return buffer;
}

inline std::vector<std::uint16_t> numbers(std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<std::uint16_t> values(count);
  for (std::uint16_t& value : values) value = reference::f16_bits(normal(random));
  return values;
}

inline std::vector<std::byte> bytes_of(const runtime::Buffer& buffer) {
  std::vector<std::byte> bytes(buffer.bytes());
  buffer.download(bytes);
  return bytes;
}

struct Machine {
  std::shared_ptr<runtime::EmulatorDriver> emulator = runtime::make_emulator({});
  runtime::Device device{emulator,
                         static_cast<runtime::DeviceOrdinal>(runtime::EmulatorProfile::sm_89)};
  ~Machine() {
    for (const runtime::Finding& finding : emulator->findings())
      FAIL_CHECK(finding.check << ": " << finding.message << ", PTX line " << finding.ptx_line);
  }
};

}  // namespace sagegen::test
