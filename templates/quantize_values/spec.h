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
};

inline constexpr int kKeys = 64;  // of one block
inline constexpr int kMaxOctaves = 10;

using View = ViewOf<Spec, NoSchedule>;
const FamilyOf<Spec>& family();

}  // namespace sagegen::quantize_values
