// Calls of kv_append::Plan in the emulator, and the pools that they are to leave.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "sagegen/artifact.h"
#include "sagegen/runtime/device.h"
#include "sagegen/runtime/emulator.h"
#include "sagegen/runtime/tensor.h"
#include "templates/kv_append/spec.h"
#include "tests/emulator/ptx_edit.h"
#include "tests/numerics/kv_append_model.h"

namespace sagegen::test {

struct AppendCase {
  kv_append::Spec spec = {};
  std::int64_t tokens = 19, heads = 2;
  int page_tokens = 16;
  KvPageLayout layout = KvPageLayout::hnd;
  std::int64_t gap = 0;        // elements behind each row of K
  bool v_heads_first = false;  // V is [head, token, channel], as K is [token, head, channel]
  std::int64_t rotary = 0;     // 0: all channels
  std::int64_t table_gap = 0;  // elements behind each row of cos and sin
  int sm = 80;                 // that executes it
  runtime::EmulatorOptions emulator = {};
  std::function<void(emulator::test::PtxEdit&)> edit = {};  // of the kernel's PTX

  Kernel kernel() const {
    return Kernel(kv_append::family(), spec, Target{.sm = sm == 90 ? 80 : sm});
  }
  KvFormat format() const {
    return {.head_dim = spec.head_dim,
            .io = spec.io,
            .k_bits = spec.k_bits,
            .v_bits = spec.v_bits,
            .k_codes = spec.k_codes,
            .v_codes = spec.v_codes,
            .page_tokens = page_tokens,
            .layout = layout};
  }
  std::int64_t rotated() const { return rotary == 0 ? spec.head_dim : rotary; }
  std::string text() const;
};

// What a call is given, in the order [token, head, channel]; places: page * page_tokens + place, or -1.
struct AppendInput {
  std::vector<std::uint16_t> k, v;
  std::vector<std::int64_t> places;
  std::int64_t pages = 0;
  std::vector<std::int32_t> append_indptr, page_indptr, page_indices, last_page_len;
  std::vector<std::int64_t> positions;
  std::vector<float> cos, sin, mean;
};

// Rows of all kinds, places anywhere in the pool.
AppendInput append_input(const AppendCase& c, std::uint64_t seed);

Artifact append_artifact(const Kernel& kernel);  // emitted once
runtime::Device device_of(const AppendCase& c);
std::vector<std::byte> random_bytes(std::size_t count, std::uint64_t seed);
std::size_t pool_bytes(const AppendCase& c, const AppendInput& input);

template <typename T>
runtime::Buffer upload(const runtime::Device& device, const std::vector<T>& values) {
  runtime::Buffer buffer(device, values.size() * sizeof(T));
  buffer.upload(std::as_bytes(std::span(values)));
  return buffer;
}
struct PlacedTensor {
  runtime::Buffer memory;
  runtime::TensorView view;
};
PlacedTensor place_rows(const runtime::Device& device, const AppendCase& c,
                        const std::vector<std::uint16_t>& rows, std::int64_t gap, bool heads_first);

// The pool behind a call on it, as the kernel and as the model leaves it.
std::vector<std::byte> appended(const AppendCase& c, const AppendInput& input,
                                const std::vector<std::byte>& before);
std::vector<std::byte> modelled(const AppendCase& c, const AppendInput& input,
                                std::vector<std::byte> pool);

// Of a place and a head.
std::span<std::byte> block_at(const AppendCase& c, std::vector<std::byte>& pool, std::int64_t place,
                              std::int64_t head);
template <typename T>
std::span<const T> row_at(const AppendCase& c, const std::vector<T>& rows, std::int64_t row) {
  const auto width = static_cast<std::size_t>(c.spec.head_dim);
  return std::span<const T>(rows).subspan(static_cast<std::size_t>(row) * width, width);
}

// Bytes that differ, with where the first of them is; empty if none do.
std::string difference(const std::vector<std::byte>& got, const std::vector<std::byte>& expected);

}  // namespace sagegen::test
