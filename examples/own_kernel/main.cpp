// Emits both kernels, runs them in the emulator (on a GPU: runtime::load_cuda() instead of make_emulator()) and
// compares with double precision.
#include <sagegen/error.h>
#include <sagegen/runtime/device.h>
#include <sagegen/runtime/emulator.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <span>
#include <vector>

#include "kernels.h"

using namespace sagegen;

namespace {

constexpr Target kTarget{.sm = 89};

// Numbers between -4 and 4 that look like nothing in particular.
std::vector<float> numbers(std::size_t count) {
  std::vector<float> result(count);
  std::uint32_t state = 1;
  for (float& value : result) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(state >> 8) / static_cast<float>(1u << 21) - 4.0f;
  }
  return result;
}

// A bf16 is the upper half of an f32; to nearest even.
std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
float from_bf16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

template <typename T>
runtime::Buffer upload(const runtime::Device& device, const std::vector<T>& values) {
  runtime::Buffer buffer(device, values.size() * sizeof(T));
  buffer.upload(std::as_bytes(std::span(values)));
  return buffer;
}

template <typename Params>
void launch(const runtime::Device& device, const dsl::Emitted& emitted, unsigned blocks,
            const Params& params) {
  const runtime::Kernel kernel(device, emitted.ptx, emitted.entry, emitted.threads,
                               emitted.shared_bytes, emitted.param_bytes);
  const runtime::Stream stream(device);
  kernel.launch({.x = blocks}, params, stream.handle());
  stream.synchronize();
}

// True if |got - expected| <= relative * |expected| everywhere.
bool agrees(const char* what, const std::vector<double>& got, const std::vector<double>& expected,
            double relative) {
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(got[i] - expected[i]) / std::abs(expected[i]);
    worst = std::max(worst, std::isnan(error) ? INFINITY : error);
  }
  std::printf("%s: largest relative error %.2e, allowed %.2e\n", what, worst, relative);
  return worst <= relative;
}

bool try_rms_norm(const runtime::Device& device) {
  constexpr std::size_t kRows = 5, kColumns = 1000;
  constexpr float kEpsilon = 1e-5f;
  std::vector<std::uint16_t> x;
  for (const float value : numbers(kRows * kColumns)) x.push_back(to_bf16(value));
  const std::vector<float> weight = numbers(kColumns);
  const auto x_memory = upload(device, x);
  const auto weight_memory = upload(device, weight);
  const runtime::Buffer y_memory(device, x.size() * 2);
  launch(device, rms_norm(kTarget, DType::bf16, 128), kRows,
         RmsNormParams{x_memory.data(), weight_memory.data(), y_memory.data(), kColumns, kEpsilon});
  std::vector<std::uint16_t> y(x.size());
  y_memory.download(std::as_writable_bytes(std::span(y)));

  std::vector<double> got, expected;
  for (std::size_t row = 0; row < kRows; ++row) {
    double squares = 0;
    for (std::size_t c = 0; c < kColumns; ++c)
      squares += std::pow(from_bf16(x[row * kColumns + c]), 2.0);
    const double scale = 1 / std::sqrt(squares / kColumns + kEpsilon);
    for (std::size_t c = 0; c < kColumns; ++c) {
      got.push_back(from_bf16(y[row * kColumns + c]));
      expected.push_back(from_bf16(x[row * kColumns + c]) * scale * weight[c]);
    }
  }
  // A bf16 has 8 significant bits, half a unit of the last is 2^-8; the sum of 1000 squares in f32 is off
  // by 2^-15 of itself at most.
  return agrees("RMSNorm", got, expected, 0x1p-8 + 0x1p-14);
}

bool try_softmax(const runtime::Device& device) {
  constexpr std::size_t kRows = 7, kColumns = 333;
  constexpr int kWarps = 4;
  const std::vector<float> x = numbers(kRows * kColumns);
  const auto x_memory = upload(device, x);
  const runtime::Buffer y_memory(device, x.size() * 4);
  launch(device, softmax(kTarget, kWarps), (kRows + kWarps - 1) / kWarps,
         SoftmaxParams{x_memory.data(), y_memory.data(), kRows, kColumns});
  std::vector<float> y(x.size());
  y_memory.download(std::as_writable_bytes(std::span(y)));

  std::vector<double> expected;
  for (std::size_t row = 0; row < kRows; ++row) {
    double sum = 0;
    for (std::size_t c = 0; c < kColumns; ++c) sum += std::exp(double{x[row * kColumns + c]});
    for (std::size_t c = 0; c < kColumns; ++c)
      expected.push_back(std::exp(double{x[row * kColumns + c]}) / sum);
  }
  // An exponent of up to 12 is rounded to 24 bits twice, ex2.approx and the sum add a few units.
  return agrees("softmax", {y.begin(), y.end()}, expected, 0x1p-18);
}

}  // namespace

int main() {
  try {
    const runtime::Device device(runtime::make_emulator(),
                                 static_cast<int>(runtime::EmulatorProfile::sm_89));
    const bool norm = try_rms_norm(device), soft = try_softmax(device);
    return norm && soft ? 0 : 1;
  } catch (const Error& error) {
    std::printf("%s: %s\n", error.kind(), error.what());
    return 1;
  }
}
