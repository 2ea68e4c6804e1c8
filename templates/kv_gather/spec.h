// Keys and values of a low-bit KV cache (shared/kv_format.h) back in 16 bits, one row behind the other: what attention over a
// prefix reads that lies in pages already, when a prompt comes in chunks, or when attention to a prompt is to see what the
// cache holds of it. One kernel for all sequences of a batch.
//
// Codes of 2, 4 and 8 bits become scale * code + zero, rounded once in f32, or what KvCoding has in its place (of K also by channel, which
// kv_append does not write). What kv_append did to K is undone in reverse
// order: the orthonormal Hadamard matrix, which is its own inverse, then the frozen mean is added. A rotary embedding stays. Results
// are rounded to the dtype of the rows, and in f16 at most 65504. What is stored in 16 bits and not transformed comes as it is.
#pragma once

#include "sagegen/kernel.h"
#include "templates/shared/kv_format.h"
#include "templates/shared/quantization.h"

namespace sagegen::kv_gather {

struct Spec {
  int head_dim = 128;
  DType io = DType::f16;
  int k_bits = 8, v_bits = 8;
  KvCoding k_codes = KvCoding::asymmetric, v_codes = KvCoding::asymmetric;
  bool smooth_k = false;               // K was stored less a mean of each head and channel
  Rotation rotation = Rotation::none;  // of K, as it was stored: of each rotation_block() channels
};

constexpr bool transforms_k(const Spec& spec) {
  return spec.smooth_k || spec.rotation != Rotation::none;
}
constexpr KvBlock block_of(const Spec& spec) {
  return KvBlock({.head_dim = spec.head_dim,
                  .k_bits = spec.k_bits,
                  .v_bits = spec.v_bits,
                  .k_codes = spec.k_codes,
                  .v_codes = spec.v_codes});
}

inline constexpr int kWarps = 4;  // of a block; each has 16 tokens of a head

using View = ViewOf<Spec, NoSchedule>;
const FamilyOf<Spec>& family();

}  // namespace sagegen::kv_gather
