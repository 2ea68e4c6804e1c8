// V to codes with one scale per channel (SageAttention2 section 3.3), of V as it is or less its mean.
#pragma once

#include "sagegen/kernel.h"
#include "templates/shared/quantization.h"

namespace sagegen::quantize_values {

struct Spec {
  int head_dim = 128;
  DType io = DType::f16;
  DType codes = DType::e4m3;  // or f16
  int octaves = 0;            // by which codes end below 448 (e4m3) or 1024 (f16)
  bool smooth = false;        // subtracts the mean over the keys, per channel
  bool varlen = false;        // batches of packed sequences (shared/params.h)
};

inline constexpr int kKeys = 64;  // of one block
inline constexpr int kMaxOctaves = 10;

// Each warp turns 32 channels into e4m3; codes of f16 are written row by row.
inline constexpr int kWarpChannels = 32;
constexpr int threads(const Spec& spec) {
  return spec.codes == DType::e4m3 ? rounded_up(spec.head_dim, kWarpChannels)
                                   : lane_channels(value_channels(spec.head_dim));
}

using View = ViewOf<Spec, NoSchedule>;
const FamilyOf<Spec>& family();

}  // namespace sagegen::quantize_values
