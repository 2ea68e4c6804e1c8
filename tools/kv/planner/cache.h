// What a quantized KV cache gives back for keys and values, in double precision but for scales and zero points, which are
// f16 as caches store them; and what it takes. The model that the planner measures errors with: no kernel runs.
//
// A group of values shares z = f16(min) and s = f16((max - z) (1 + 2^-11) / (2^b - 1)); a code is
// clamp(rne((x - z) / s), 0, 2^b - 1) and stands for s code + z. The factor keeps the largest value within reach of the
// largest code however s is rounded. Where s is 0, of equal values or where f16 has no smaller one, codes are 0.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tools/kv/kv_map.h"

namespace sagegen::kv {

// per_token: all channels of a token of a head are a group, of K and of V, those of the padding not among them
// (templates/kv_append).
// kivi: of K the tokens of a channel, `group` at a time; of V `group` channels of a token (KIVI, arXiv 2402.02750).
enum class Grouping { per_token, kivi };

struct CacheModel {
  Grouping grouping = Grouping::per_token;
  // Of kivi only. The last tokens % residual of K are not codes yet, nor are the last min(tokens, residual) of V.
  int group = 32;
  int residual = 32;  // a multiple of group
  // Of K that is stored as codes: less its mean over the tokens; times a Hadamard matrix, of each rotation_block()
  // channels. Scores are what they were, but for the codes.
  bool smooth_k = false;
  bool hadamard = false;
  friend bool operator==(const CacheModel&, const CacheModel&) = default;
};
// "per_token", "kivi group=32 residual=32 smooth_k hadamard": all that errors depend on.
std::string to_string(const CacheModel& model);
// Throws SpecError: what was asked, which rule refuses it, what to change.
void validate(const CacheModel& model);

// The scale and zero point of a group. Values must be finite.
struct Grid {
  double zero = 0, scale = 0;
  int top = 0;  // the largest code
  int code(double x) const;
  double value(int code) const { return scale * code + zero; }
};
Grid grid_of(double least, double largest, int bits);

// Of a cache that has so many tokens, how many of them are codes: all that come first.
std::int64_t quantized_keys(std::int64_t tokens, const CacheModel& model);
std::int64_t quantized_values(std::int64_t tokens, const CacheModel& model);

// One head, [token, channel], as a cache of so many bits gives it back: of the keys those that are codes once all tokens
// are in it, of the values as if all were codes (the window of the last ones moves with every token). What follows the
// codes, and all with 16 bits, is as it came.
std::vector<double> stored_keys(std::span<const double> keys, std::int64_t channels, int bits,
                                const CacheModel& model);
std::vector<double> stored_values(std::span<const double> values, std::int64_t channels, int bits,
                                  const CacheModel& model);

// Of codes of 2, 4 or 8 bits, or 16: as it comes. Throws SpecError for others, and for what is no such storage.
Storage storage_of(int bits);
int bits_of(const Storage& storage);

// Bits that a token of a KV head takes once it is codes, K and V with their scales and zero points: of per_token what
// KvFormat takes, padding included.
int token_bits(const Pair& pair, int head_dim, const CacheModel& model);
// Bytes of a head's cache with so many tokens, the window included.
double cache_bytes(const Pair& pair, int head_dim, std::int64_t tokens, const CacheModel& model);

}  // namespace sagegen::kv
