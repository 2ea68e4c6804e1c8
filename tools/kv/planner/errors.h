// What quantizing the KV cache of a layer costs: the relative error of the attention output, for every pair of bits.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "tools/kv/planner/cache.h"
#include "tools/reference/reference.h"

namespace sagegen::kv {

// Of a code of K, and of V, in the order of the tables here.
inline constexpr std::array kCodeBits = {2, 4, 8, 16};
inline constexpr std::size_t kCodeBitsCount = kCodeBits.size();
inline constexpr int kMostHeadDim = 256;  // that a cache has (KvFormat)

struct MeasureOptions {
  CacheModel cache = {};
  // Rows of each query head that are measured, evenly spread, the last one among them; 0: all. Keys are never left out.
  std::int64_t queries = 128;
  int threads = 0;  // 0: as many as the machine has; the result does not depend on it
};

// Sums over all measured rows and channels of the query heads of a KV head, over the whole batch.
struct HeadErrors {
  double exact = 0;                                                        // |o|^2
  std::array<std::array<double, kCodeBitsCount>, kCodeBitsCount> error{};  // |o - o^|^2, [K][V]
};
struct LayerErrors {
  int head_dim = 0;
  std::vector<HeadErrors> heads;  // KV heads

  // e_o of a pair: |o - o^| / |o| of all heads. Squares of heads add up: heads have channels of o of their own.
  double relative(const Pair& pair) const;
  // What a head adds to the square of that.
  double squared_share(std::size_t head, const Pair& pair) const;
};

// o^ is attention in double precision over what the cache gives back (stored_keys(), stored_values()). With a causal mask
// a query sees the cache as it is when its token is the last one, window and all; without one the cache of all tokens.
// Throws SpecError for what cannot be measured: mods, values that are not finite, an output of zeros.
LayerErrors measure_layer(const reference::Inputs& inputs, const MeasureOptions& options);

// 64 bits of everything in the inputs that errors depend on: a change of any value changes them.
std::uint64_t digest_of(const reference::Inputs& inputs);

}  // namespace sagegen::kv
