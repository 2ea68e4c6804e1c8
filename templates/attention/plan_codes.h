// Codes and scales of attention as its kernel reads them: what a caller holds who quantizes once and attends often, or
// who has them from elsewhere. docs/reference.md, "Codes and scales", has the formulas.
//
// B batch, Hq and Hkv heads, D head_dim, Lq and Lk lengths; of Spec::inputs
//   own:   tensors are contiguous and padded. LqP is Lq rounded up to a multiple of the larger of q_group and cta_q (with
//          Smoothing::qk of 128), LkP is Lk rounded up to one of the larger of k_group and cta_k; Dc = code_channels(),
//          Dv = value_channels(). All padding is 0. Addresses are aligned to 16 bytes, strides are left 0.
//   given: Lq, Lk and D as they are, codes by strides; FP8 codes of V alone have Lk rounded up to 64 keys, the rest of
//          which are 0, or any finite code. Addresses and strides of codes are multiples of 16 bytes.
#pragma once

#include <cstdint>

#include "sagegen/runtime/tensor.h"

namespace sagegen::attention {

// Bytes between neighbours; 0: one row for the whole axis. That of an axis of size 1 is ignored. Only with given codes.
struct CodeStrides {
  std::int64_t batch = 0, head = 0, row = 0;
  friend bool operator==(const CodeStrides&, const CodeStrides&) = default;
};

struct QueryCodes {
  // s8, or s4 with channels 2i and 2i + 1 in the low and the high half of byte i: [B, Hq, LqP, Dc].
  runtime::DevicePtr codes = 0;
  // f32. per_thread [B, Hq, LqP / q_group, 8]: row r of a group uses scale r mod 8. per_block [B, Hq, LqP / q_group],
  // per_token [B, Hq, LqP], per_tensor [B, Hq]. A score in base 2 is code * code * scale of Q * scale of K: those of Q
  // have softmax_scale * log2(e) in them, given ones if `scale_is_folded`.
  runtime::DevicePtr scale = 0;
  // f32 [B, Hq, LqP / 128, D]: what was subtracted from each 128 rows. With Smoothing::qk.
  runtime::DevicePtr mean = 0;
  // f32 [B, Hq, LqP], with given codes [B, Hq, Lq], natural logarithms: softmax_scale * (q . mean of K) of the q that was quantized. With K smoothing,
  // where an LSE is wanted, or mods see whole scores; else 0.
  runtime::DevicePtr lse_correction = 0;
  CodeStrides strides = {};       // of codes
  std::int64_t scale_stride = 0;  // scales from one head to the next, over all batches; 0: no gap
  bool scale_is_folded = false;
};

struct KeyValueCodes {
  runtime::DevicePtr k_codes = 0;  // as those of Q: [B, Hkv, LkP, Dc]
  // f32. per_thread [B, Hkv, LkP / k_group, 4]: row r of a group uses scale (r mod 8) / 2. per_block [B, Hkv, LkP /
  // k_group], per_token [B, Hkv, LkP], per_tensor [B, Hkv].
  runtime::DevicePtr k_scale = 0;
  // f32 [B, Hkv, D]: what was subtracted from K. With K smoothing; attend_codes() reads it with Smoothing::qk alone.
  runtime::DevicePtr k_mean = 0;
  // e4m3 [B, Hkv, Dv, LkP]: inside every 16 keys the order is 0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15. Or f16
  // [B, Hkv, LkP, Dv], keys in order.
  runtime::DevicePtr v_codes = 0;
  runtime::DevicePtr v_scale = 0;   // f32 [B, Hkv, value_dim]: V = code * scale + mean
  runtime::DevicePtr v_mean = 0;    // f32 [B, Hkv, value_dim]. With ValueSmoothing::mean
  CodeStrides k_strides = {};       // of k_codes
  CodeStrides v_strides = {};       // of v_codes; row: of a channel of e4m3, of a key of f16
  std::int64_t k_scale_stride = 0;  // as QueryCodes::scale_stride
};

// Bytes of the tensors above without gaps, and of the workspace that a call needs at most; 0: the kernel has none.
struct CodeSizes {
  std::int64_t q_codes = 0, q_scale = 0, q_mean = 0, lse_correction = 0;
  std::int64_t k_codes = 0, k_scale = 0, k_mean = 0;
  std::int64_t v_codes = 0, v_scale = 0, v_mean = 0;
  std::int64_t workspace = 0;
};

}  // namespace sagegen::attention
