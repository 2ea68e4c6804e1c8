// What bounds decode attention: the memory that the cache comes from, or what an SM does with each cached token.
#pragma once

#include <string_view>

#include "tools/model/prediction.h"

namespace sagegen::model {

// The loop over cached tokens of a KV head, as a kernel was assembled and as it runs.
struct DecodeLoop {
  int tile = 0;         // tokens of a warp and iteration
  int token_bytes = 0;  // of a KV head, with its share of scales and zero points
  Launch launch;
};

// All for one token of one KV head.
struct DecodeBound {
  double instructions = 0;  // of a warp
  int blocks = 0;           // that an SM holds
  // Cycles of an SM with all sub-cores at work: until the token's bytes have come, if all SMs ask for theirs at the rate of
  // the data sheet; and until what the loop keeps busy longest is done with it, and the name of that: "tensor", "issue",
  // "mufu", "fma", "alu", "shared", or "stalls", of which more warps would hide more.
  double memory = 0, busy = 0;
  std::string_view busiest;
  double raw_tb = 0;  // TB/s of the cache, of the longer one: by memory copy_tb, where it is known

  bool by_memory() const { return memory >= busy; }
  // TB/s that a cache with so many bytes for a token had to move to be as fast.
  double equivalent_tb(int token_bytes, int other_bytes) const {
    return raw_tb * other_bytes / token_bytes;
  }
};

// Of the loop alone, with as many blocks as an SM holds and all memory requests in flight in time: a bound, no forecast of
// launches, of splits and of latencies. Throws NotModelled: the code is for another architecture than the GPU, has no such
// loop, multiplies what the GPU has no rate for, or needs more than an SM has.
DecodeBound decode_bound(const Code& code, const DecodeLoop& loop, const Gpu& gpu);

}  // namespace sagegen::model
