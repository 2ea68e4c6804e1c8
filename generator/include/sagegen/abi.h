// The launch arguments of every kernel: one struct each, passed by value as the kernel's only
// parameter. Templates read fields through these structs (KernelBuilder::params) and the runtime fills
// them, so there is one definition of every offset.
//
// Conventions. Addresses are device addresses. Strides and lengths are in elements unless they say
// bytes. Workspace tensors (codes, scales, statistics) are contiguous, in the shape given. B batch, Hq
// and Hkv heads, D head_dim, Lq and Lk lengths. LqP is Lq rounded up to a multiple of the larger of
// q_group and cta_q, LkP is Lk rounded up to a multiple of the larger of k_group and cta_k. Rows of
// codes between the length and the padded length are written as zero by the quantization kernels, so
// attention loads whole tiles without bounds.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sagegen/types.h"

namespace sagegen::abi {

using Address = std::uint64_t;

// A caller's tensor [batch, head, token, channel] with any strides; channels are contiguous.
// Address and strides are multiples of 8 elements (16 bytes).
struct Tensor {
  Address data;
  std::int64_t stride_batch;
  std::int64_t stride_head;
  std::int64_t stride_token;
};

// kv_statistics: partial reductions over keys. grid (chunks, Hkv, B).
struct KvStatisticsParams {
  Tensor k;
  Tensor v;
  Address k_sum_partial;   // out f32 [B, Hkv, chunks, D]: K summed over the chunk (smoothing k)
  Address v_amax_partial;  // out f32 [B, Hkv, chunks, D]: max |V| of the chunk (V quantized)
  std::int32_t kv_len;
  std::int32_t chunk_len;  // keys per chunk; chunks = ceil(kv_len / chunk_len)
};

// quantize_k: smooth, quantize. grid (LkP / k_group, Hkv, B). Block x == 0 writes k_mean.
struct QuantizeKParams {
  Tensor k;
  Address k_sum_partial;  // in  f32 [B, Hkv, chunks, D]   (smoothing k)
  Address k_mean;         // out f32 [B, Hkv, D]           (smoothing k)
  Address k_codes;        // out s8  [B, Hkv, LkP, D]
  Address k_scale;        // out f32 [B, Hkv, LkP / k_group, 4 or 1]
  std::int32_t kv_len;
  std::int32_t kv_len_padded;
  std::int32_t chunks;
};

// quantize_q: quantize; fold the softmax scale and log2(e) into the scale, so that code * code * q_scale
// * k_scale is a score in base 2. grid (LqP / q_group, Hq, B).
struct QuantizeQParams {
  Tensor q;
  Address k_mean;          // in  f32 [B, Hkv, D]; only read if lse_correction is set
  Address q_codes;         // out s8  [B, Hq, LqP, D]
  Address q_scale;         // out f32 [B, Hq, LqP / q_group, 8 or 1]
  Address lse_correction;  // out f32 [B, Hq, LqP]: (q . k_mean) * softmax_scale, or 0 for none
  float softmax_scale;     // > 0
  std::int32_t q_len;
  std::int32_t q_len_padded;
  std::int32_t heads_per_kv_head;  // Hq / Hkv
};

// quantize_v. grid (LkP / 64, Hkv, B). Block x == 0 writes v_scale.
//   pv e4m3: codes e4m3 [B, Hkv, D, LkP], channel-major. Inside every 16 keys the order is
//            0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15, which turns the score accumulators of m16n8k32 into
//            its A operand without a shuffle. v_scale = amax / 448.
//   pv f16 (bf16 input): codes f16 [B, Hkv, LkP, D], keys in order. v_scale = amax / 1024.
// A channel whose amax is 2^-100 or less has codes 0; where amax is 0, the scale is 0 too.
struct QuantizeVParams {
  Tensor v;
  Address v_amax_partial;  // in  f32 [B, Hkv, chunks, D]
  Address v_codes;         // out
  Address v_scale;         // out f32 [B, Hkv, D]
  std::int32_t kv_len;
  std::int32_t kv_len_padded;
  std::int32_t chunks;
};

// attention. grid (LqP / cta_q, Hq, B).
struct AttentionParams {
  Address q_codes;  // s8  [B, Hq, LqP, D]
  Address q_scale;  // f32 [B, Hq, LqP / q_group, 8 or 1]
  Address k_codes;  // s8  [B, Hkv, LkP, D]
  Address k_scale;  // f32 [B, Hkv, LkP / k_group, 4 or 1]
  Tensor v;         // codes of quantize_v, contiguous (strides unused), or the caller's f16 V
  Address v_scale;  // f32 [B, Hkv, D]; unused with the caller's V
  Tensor o;         // out: io dtype, caller's strides
  Address lse;      // out f32 [B, Hq, Lq], natural logarithm; 0 for none
  Address lse_correction;  // f32 [B, Hq, LqP]; 0 for none
  std::int32_t q_len;
  std::int32_t q_len_padded;
  std::int32_t kv_len;
  std::int32_t kv_len_padded;
  std::int32_t heads_per_kv_head;
  std::int32_t causal_offset;  // key j visible to query i if j <= i + causal_offset
};

// Bytes of a kernel's parameter.
constexpr std::size_t param_bytes(KernelKind kind) {
  switch (kind) {
    case KernelKind::attention:
      return sizeof(AttentionParams);
    case KernelKind::kv_statistics:
      return sizeof(KvStatisticsParams);
    case KernelKind::quantize_q:
      return sizeof(QuantizeQParams);
    case KernelKind::quantize_k:
      return sizeof(QuantizeKParams);
    case KernelKind::quantize_v:
      return sizeof(QuantizeVParams);
  }
  return 0;
}

}  // namespace sagegen::abi
