// Keys and values of a low-bit KV cache back in 16 bits, one row behind the other (spec.h): what attention::Plan reads as a
// packed call, of sequences whose prefix lies in pages.
//
//   const Plan plan(device, Kernel(family(), {.k_bits = 4, .v_bits = 4}, target), source);
//   plan.run({.batch = 2, .kv_heads = 8, .rows = 9000, .longest = 5000, .page_tokens = 64, .max_pages = 128},
//            {.pool = pool, .strides = kv_strides(format, 8), .pool_pages = 4096, .page_table = table, .indptr = cu_seqlens_kv,
//             .k = nhd(k, 8, 9000, 128), .v = nhd(v, 8, 9000, 128)}, stream);
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sagegen/runtime/plan.h"
#include "sagegen/runtime/tensor.h"
#include "templates/kv_gather/spec.h"

namespace sagegen::kv_gather {

struct Shape {
  std::int64_t batch = 1;
  std::int64_t kv_heads = 1;
  std::int64_t rows = 1;     // that K and V have room for
  std::int64_t longest = 1;  // the most tokens that a sequence may have: the grid follows from it
  std::int64_t page_tokens = 64;
  std::int64_t max_pages = 1;  // of a sequence: columns of the page table
};

struct Arguments {
  runtime::DevicePtr pool = 0;  // of pages, as KvFormat says; 16-byte aligned
  KvStrides strides = {};       // bytes, multiples of 16: kv_strides(), or what an engine has
  std::int64_t pool_pages = 1;
  runtime::DevicePtr page_table =
      0;  // i32 [batch, max_pages]: pages of each sequence, in its order
  // i32 [batch + 1], read on the device: sequence b has the rows indptr[b] to indptr[b + 1] - 1, its first so many tokens.
  // As attention::Plan has cu_seqlens_kv.
  runtime::DevicePtr indptr = 0;
  // i32 [batch], read on the device: tokens of each sequence that are wanted, for example those of a prefix. Rows behind them are the
  // caller's: new tokens as they are, not as the cache holds them. 0: as many tokens as a sequence has rows.
  runtime::DevicePtr lengths = 0;
  runtime::TensorView k, v;       // io [1, kv_heads, rows, head_dim]; strides are multiples of 8
  runtime::DevicePtr k_mean = 0;  // with smooth_k: f32 [kv_heads, head_dim], 16-byte aligned
};

// Rows depend on the tokens that they are of, and on nothing else. Rows behind indptr[batch] are not touched, nor those of
// tokens that a sequence has behind its `longest`th or its last page.
class Plan {
 public:
  // Throws SpecError, DriverError, InternalError for a kernel of another family.
  Plan(const runtime::Device& device, const Kernel& kernel, const runtime::ArtifactSource& source);
  ~Plan();
  Plan(Plan&&) noexcept;

  // Enqueues one kernel; there is no workspace. Throws ArgumentError naming argument and rule before that: sizes that are not
  // possible, null or misaligned data, bad strides, arguments that the kernel lacks or has no use for, or rows that overlap
  // anything that is read.
  void run(const Shape& shape, const Arguments& arguments, runtime::StreamHandle stream) const;

  const Kernel& kernel() const;
  std::vector<std::string> kernel_names() const;  // entry point as loaded
  // Whether the kernel is that of an older target because of the driver, as a sentence; empty if not.
  const std::string& note() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sagegen::kv_gather
