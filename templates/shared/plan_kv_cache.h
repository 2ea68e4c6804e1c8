// The low-bit KV cache of a model, as an engine has it: a format for each layer, and what a step does to a layer. Kernels
// and where bytes lie are here; pages, tables and memory are the engine's.
//
//   KvFormat base = kv_format_of("head_dim=128 io=bf16 page_tokens=64");
//   const KvCache cache(device, {.kv_heads = 8, .q_heads = 32, .rotation = Rotation::hadamard},
//                       kv_layers("0-1:KV8, 2-29:K8V4, 30-31:KV8", base), source);
//   for (int i = 0; i < cache.layers(); ++i) pools[i] = {.data = allocate(cache.pool_bytes(i, 4096)), .pages = 4096};
//   ...
//   cache.append(i, pools[i], tokens, {.k = k, .v = v, .slots = slots}, stream);
//   cache.decode(i, pools[i], {.batch = 8, .max_pages = 512}, {.q = q, .page_table = table, .lengths = lengths, .o = o},
//                workspace, bytes, stream);
//
// A prompt is an append of many tokens, in parts or at once: the bytes are those of one token after the other. A page that
// is evicted, or whose sequence has ended, is an id that the engine gives to the next: there is nothing to clear, as what
// lies behind the tokens of a sequence may be anything. (The emulator wants it written once: fill a new pool there.) Two
// sequences may have a page in common, until one of them is to write into it: then copy_pages() makes a page of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "templates/decode/plan.h"
#include "templates/kv_append/plan.h"
#include "templates/kv_gather/plan.h"

namespace sagegen {

struct KvCacheOptions {
  int kv_heads = 1;
  int q_heads = 1;  // a multiple of kv_heads
  // The most queries of a sequence in a decode(), at most decode::kMostQueries: more are a prompt, whose attention is that of
  // attention::Plan on the rows of gather().
  int q_len = 1;
  kv_append::Addressing addressing = kv_append::Addressing::slots;
  kv_append::Rope rope = kv_append::Rope::none;  // of new keys; queries come with theirs
  // Of keys that are codes, and of the queries for them: keys of 16 bits are stored as they come.
  bool smooth_k = false;
  Rotation rotation = Rotation::none;
  bool causal = false;  // with q_len > 1: the last query is that of the last token
  bool gather = false;  // loads the kernels of gather(), too
  // KvExact, of layers that have codes: with sinks or a window decode() reads these tokens from a pool of their own, which append()
  // writes, too.
  int sinks = 0, window = 0, unit = 32, taken_back = 0;

  bool exact() const { return sinks > 0 || window > 0; }
  KvExact exact_tokens() const {
    return {.sinks = sinks, .window = window, .unit = unit, .taken_back = taken_back};
  }

  friend bool operator==(const KvCacheOptions&, const KvCacheOptions&) = default;
};

// "kv_heads=8 q_heads=32 rope=neox smooth_k", in any order; what is not named is the default. Throws SpecError that says
// what is valid.
KvCacheOptions kv_cache_options_of(std::string_view text);

// The format of each layer, from ranges as `sagegen kv show` prints them: "0-1:KV8, 2:K8V4, 3-31:K4V2". Behind a pair may
// stand what else differs from `base`: "0-1:KV16 page_tokens=32". A pair alone, without layers, is one layer. Throws
// SpecError: what is not understood, layers that are missing or stand twice, and bits that no kernel stores.
std::vector<KvFormat> kv_layers(std::string_view text, const KvFormat& base);

// Pages of a layer, in memory of the caller: page i begins i * strides.page bytes from data.
struct KvPool {
  runtime::DevicePtr data = 0;  // 16-byte aligned
  std::int64_t pages = 1;
  KvStrides strides = {};  // bytes, multiples of 16; all 0: contiguous, KvCache::strides()
};

// Owns kernels and no memory of the device. Layers of equal formats share plans, and all plans of a process that have a kernel
// in common share its module. Calls enqueue work on the caller's stream, wait for nothing and may be captured; lengths, slots
// and tables are read on the device. Calls at the same time need workspaces of their own.
class KvCache {
 public:
  // Loads the kernels of all layers, for the best target of the device. Throws ArgumentError without layers, SpecError
  // that names the layer, DriverError.
  KvCache(const runtime::Device& device, const KvCacheOptions& options,
          std::vector<KvFormat> layers, const runtime::ArtifactSource& source);
  ~KvCache();
  KvCache(KvCache&&) noexcept;

  // What follows throws ArgumentError for a layer that is not there.
  int layers() const;
  const KvCacheOptions& options() const;
  const KvFormat& format(int layer) const;
  KvStrides strides(int layer) const;        // of a contiguous pool
  std::int64_t page_bytes(int layer) const;  // of all KV heads
  std::int64_t pool_bytes(int layer, std::int64_t pages) const;
  // Whether append() subtracts a mean from the keys of the layer. Its LSE is less by softmax_scale (q . mean).
  bool smooths(int layer) const;

  // Enqueues one kernel: K and V of new tokens into their pages, and of layers with exact tokens into arguments.exact, which
  // is not read of other layers of the same cache.
  // `arguments` are those of kv_append::Plan without a pool;
  // k_mean is not read where smooths() is false. Throws ArgumentError as kv_append::Plan::run().
  void append(int layer, const KvPool& pool, std::int64_t tokens,
              const kv_append::Arguments& arguments, runtime::StreamHandle stream) const;

  // Whether the layer has exact tokens. What follows is refused where it does not.
  bool has_exact(int layer) const;
  // Of their pool, in whose pages of 16 tokens, the blocks, a sequence has options().exact_tokens().blocks() (KvPool::strides:
  // of the format below).
  std::int64_t exact_pool_bytes(int layer, std::int64_t blocks) const;
  KvFormat exact_format(int layer) const;
  // Enqueues decode attention over the pages of `arguments`, which are those of decode::Plan without a pool. Heads and
  // page_tokens of the shape are the cache's, whatever it says; of exact tokens pool, pool_blocks and table count,
  // and strides that are not all 0. Trees of drafts and mods have kernels that a cache does not load:
  // decode::Plan has them. Throws ArgumentError as decode::Plan::run().
  void decode(int layer, const KvPool& pool, const decode::Shape& shape,
              const decode::Arguments& arguments, runtime::DevicePtr workspace,
              std::size_t workspace_bytes, runtime::StreamHandle stream) const;
  // Of decode(). One workspace, of the most that any layer and batch needs, is enough for all calls of a stream: small
  // batches are split more, and may need more than large ones.
  std::size_t workspace_bytes(int layer, const decode::Shape& shape) const;

  // Enqueues one kernel: what the pages of `arguments` hold, as rows of 16 bits, for attention::Plan on a prompt whose
  // prefix is there (kv_gather::Plan). Heads and page_tokens of the shape are the cache's, whatever it says; k_mean is not read
  // where smooths() is false. Throws ArgumentError as kv_gather::Plan::run(), and of a cache without the option gather.
  void gather(int layer, const KvPool& pool, const kv_gather::Shape& shape,
              const kv_gather::Arguments& arguments, runtime::StreamHandle stream) const;

  // Page from[i] to page to[i] of the pool, one after the other; page numbers are the host's. Throws ArgumentError before
  // anything is copied: different counts, a page that the pool does not have, or that is copied to itself.
  void copy_pages(int layer, const KvPool& pool, std::span<const std::int64_t> from,
                  std::span<const std::int64_t> to, runtime::StreamHandle stream) const;

  std::vector<std::string> kernel_names() const;  // entry points as loaded, each once
  // Which kernels are those of an older target because of the driver, as sentences; empty if none is.
  const std::string& note() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sagegen
