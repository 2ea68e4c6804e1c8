// Decode attention over a paged KV cache (spec.h), one kernel.
//
//   const Plan plan(device, Kernel(family(), {.k_bits = 4, .v_bits = 4}, target), source);
//   plan.run(shape, {.q = q, .pool = pool, .strides = kv_strides(format, heads), ...}, workspace, bytes, stream);
//
// Lengths and page table are read on the device, and the grid follows from the shape alone: a captured call serves any
// lengths later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sagegen/runtime/plan.h"
#include "sagegen/runtime/tensor.h"
#include "templates/attention/mods/all.h"
#include "templates/decode/spec.h"

namespace sagegen::decode {

struct Shape {
  std::int64_t batch = 1;
  std::int64_t q_heads = 1, kv_heads = 1;
  std::int64_t q_len = 1;  // the most that a sequence has, kMostQueries at most: its last tokens
  std::int64_t page_tokens = 64;
  std::int64_t max_pages = 1;  // of a sequence: columns of the page table
  std::int64_t splits = 0;     // of the tokens of a sequence; 0: as many as fill the device
};

// What mods ask for (attention/mods/NAME.h). Of a mod that the kernel does not have, only the default is taken.
struct ModArguments {
#define SAGEGEN_DECODE_MOD(name) attention::name::Arguments name = {};
#include "templates/decode/mods/mods.def"
};

// With Spec::exact.
struct ExactArguments {
  KvExact tokens = {};
  runtime::DevicePtr pool =
      0;  // of blocks: pages of KvFormat{.k_bits = 16, .v_bits = 16, .page_tokens = 16}
  KvStrides strides = {};        // page is that of a block; block does not count
  std::int64_t pool_blocks = 0;  // that there are
  runtime::DevicePtr table =
      0;  // i32 [batch, tokens.blocks()]; entries that have no token of the sequence may be anything
};

struct Arguments {
  runtime::TensorView q;          // io [batch, q_heads, q_len, head_dim]
  runtime::DevicePtr pool = 0;    // of pages, as KvFormat says
  KvStrides strides = {};         // bytes, multiples of 16: kv_strides(), or what an engine has
  std::int64_t pool_pages = 0;    // that there are
  runtime::DevicePtr page_table;  // i32 [batch, max_pages]: pages of each sequence, in its order
  // i32 [batch]: tokens, those of q among them; more than the page table has count as that many. 0: O = 0, LSE = -infinity.
  runtime::DevicePtr lengths;
  // i32 [batch]: queries of each sequence, from 0 to q_len (what is more or less counts as these); 0: q_len each. Queries
  // behind those of a sequence are padding, of which nothing counts: they have O = 0 and LSE = -infinity.
  runtime::DevicePtr q_lens = 0;
  // u32 [batch, q_len], of kernels with Spec::tree: bit j of word i is whether query i sees token length - n + j of its
  // sequence, of n queries. Bits from n on do not matter.
  runtime::DevicePtr tree_masks = 0;
  // Of kernels with Spec::exact. K in it is as the codes were before they were codes, but not rotated: with the same mean
  // subtracted, and the same embedding.
  ExactArguments exact = {};
  runtime::TensorView o;       // io, as q
  runtime::DevicePtr lse = 0;  // f32 [batch, q_heads, q_len], natural logarithms; 0: not wanted
  float softmax_scale = 0;     // 0: 1 / sqrt(head_dim)
  // Query i of n stands at token length - n + i. Sinks count once in the sum of a row, in O and in the LSE: also where a
  // query sees no token. A window begins for each query at its own position, and entries of the page table before the first
  // page of which a query sees a token may be anything.
  ModArguments mods = {};
};

// The target of kernels for the device, among those that best_target() of it is one of (target_on() says why it is another).
Target best_target(const runtime::Device& device);

// What is computed is attention over what the codes stand for, with these errors. Q of 8-bit keys is rounded to 16 bits of
// its row's largest number (14 at 256 channels), that of 4- and 2-bit keys to 8 bits, that of 16-bit keys not at all; P is
// rounded to f16 (of bf16 V in 16 bits to bf16), and so are products of P and scales of V. Weights below 2^-24 of
// the largest of their row are lost at v_bits 2, at 4, 8 and 16 below 2^-26, 2^-30 and 2^-32.
// Equal splits give equal bits, whatever pages, strides and other sequences there are. Finite Q and a finite cache of f16
// give finite O; what lies behind the last token of a sequence may be anything, as may entries of the page table
// behind its last page. The LSE is that of the keys as they are stored: where a mean was subtracted from them
// (kv_append's smooth_k), add softmax_scale (q . mean) before it is merged with others.
class Plan {
 public:
  // Throws SpecError, DriverError, InternalError for a kernel of another family.
  Plan(const runtime::Device& device, const Kernel& kernel, const runtime::ArtifactSource& source);
  ~Plan();
  Plan(Plan&&) noexcept;

  // What 0 means for Shape::splits, of codes where there are exact tokens, too: as many blocks as the device runs at a time, of 1024 tokens of max_pages at least; a window is
  // not known here, so that calls with one give splits of their own.
  std::int64_t splits(const Shape& shape) const;
  // Of run(); 0 with one split. Nobody has to clear it. Throws as run().
  std::size_t workspace_bytes(const Shape& shape) const;

  // Enqueues the kernel, with several splits behind a memset of 4 bytes for each tile of rows of the batch. Throws
  // ArgumentError naming tensor and rule before that: shapes that are not possible or not the kernel's, null or misaligned
  // data, bad strides, a workspace that is too small, or O, LSE or workspace that overlap anything else.
  void run(const Shape& shape, const Arguments& arguments, runtime::DevicePtr workspace,
           std::size_t workspace_bytes, runtime::StreamHandle stream) const;

  const Kernel& kernel() const;
  std::vector<std::string> kernel_names() const;  // entry point as loaded
  // Whether the kernel is that of an older target because of the driver, as a sentence; empty if not.
  const std::string& note() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sagegen::decode
