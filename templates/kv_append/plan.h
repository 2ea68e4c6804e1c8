// New keys and values to the pages of a low-bit KV cache (spec.h): of a step of decoding and of a prompt, of one sequence and
// of many, in one launch.
//
//   const KvFormat format = kv_format_of("head_dim=128 io=f16 k_bits=4 v_bits=4 page_tokens=64");
//   const Plan plan(device, Kernel(family(), {.k_bits = 4, .v_bits = 4}, target), source);
//   plan.run({.tokens = n, .kv_heads = 8},
//            {.k = nhd(k, 8, n, 128), .v = nhd(v, 8, n, 128), .pool = {.data = pool, .pages = 4096, .page_tokens = 64}, .slots = slots},
//            stream);
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sagegen/runtime/plan.h"
#include "sagegen/runtime/tensor.h"
#include "templates/kv_append/spec.h"

namespace sagegen::kv_append {

struct Shape {
  std::int64_t tokens = 1;  // of all sequences; 0: nothing is launched
  std::int64_t kv_heads = 1;
};

// Pages of the cache, in memory of the caller.
struct Pool {
  runtime::DevicePtr data = 0;  // 16-byte aligned
  std::int64_t pages = 1;
  int page_tokens = 64;  // a multiple of kKvBlockTokens
  KvPageLayout layout = KvPageLayout::hnd;
  // Of pages, heads and blocks in bytes, multiples of 16; all 0: contiguous, as the layout has them (kv_strides()).
  KvStrides strides = {};
};

// With Addressing::pages: token t of all is one of sequence i with append_indptr[i] <= t < append_indptr[i + 1], which has
// page_indptr[i + 1] - page_indptr[i] pages and with its new tokens last_page_len[i] tokens in the last of them. Its new
// tokens are its last ones. What these arrays say is read on the device: a graph that is replayed reads it again.
struct Pages {
  std::int64_t sequences = 0;
  runtime::DevicePtr append_indptr = 0;  // i32 [sequences + 1]
  runtime::DevicePtr page_indptr = 0;    // i32 [sequences + 1]
  runtime::DevicePtr page_indices = 0;   // i32 [page_entries]
  runtime::DevicePtr last_page_len = 0;  // i32 [sequences]
  std::int64_t page_entries = 0;
};

// With a Rope.
struct Embedding {
  runtime::DevicePtr positions = 0;     // i64 [tokens]
  runtime::DevicePtr cos = 0, sin = 0;  // f32 [table_rows, rotary / 2], 16-byte aligned
  std::int64_t stride = 0;      // elements from a row to the next, a multiple of 4; 0: rotary / 2
  std::int64_t table_rows = 0;  // positions behind them count as the last
  std::int64_t rotary =
      0;  // channels that are rotated, a multiple of rotary_step(); 0: all of the head
};

// With exact: the pool of tokens in 16 bits (KvExact), whose pages are blocks of 16 tokens of all KV heads.
struct ExactPool {
  runtime::DevicePtr data = 0;  // 16-byte aligned
  std::int64_t blocks = 1;
  KvStrides strides = {};  // of kv_exact_format(); all 0: contiguous
  // i64 [tokens]: block * 16 + place in it, -1 of a token that is not kept there. No two tokens of a call have the same: KvExact::place()
  // sees to that.
  runtime::DevicePtr slots = 0;
};

struct Arguments {
  // [1, kv_heads, tokens, head_dim]; strides are multiples of elements_at_once().
  runtime::TensorView k, v;
  Pool pool = {};
  // With Addressing::slots: i64 [tokens], page * page_tokens + place in the page. One that the pool does not have, -1 for
  // example, is skipped. No two tokens have the same.
  runtime::DevicePtr slots = 0;
  Pages pages = {};
  Embedding rope = {};
  runtime::DevicePtr k_mean = 0;  // with smooth_k: f32 [kv_heads, head_dim], 16-byte aligned
  ExactPool exact = {};
};

// A token's bytes depend on its own K and V, position and mean, and are written whatever else a call has: prompts may come
// in parts, and in any order. No other byte is touched, nor read, and no order among calls is needed but that of the caller.
class Plan {
 public:
  // Throws SpecError, DriverError, InternalError for a kernel of another family.
  Plan(const runtime::Device& device, const Kernel& kernel, const runtime::ArtifactSource& source);
  ~Plan();
  Plan(Plan&&) noexcept;

  // Enqueues one kernel, or none; there is no workspace. Throws ArgumentError naming argument and rule before that: sizes that
  // are not possible, null or misaligned data, bad strides, arguments that the kernel lacks or has no use for, or a pool that
  // overlaps anything that is read.
  void run(const Shape& shape, const Arguments& arguments, runtime::StreamHandle stream) const;

  const Kernel& kernel() const;
  std::vector<std::string> kernel_names() const;  // entry point as loaded
  // Whether the kernel is that of an older target because of the driver, as a sentence; empty if not.
  const std::string& note() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sagegen::kv_append
