// V to codes with one scale per channel (SageAttention2 section 3.3).
#pragma once

#include "sagegen/kernel.h"
#include "templates/shared/quantization.h"

namespace sagegen::quantize_values {

struct Spec {
  int head_dim = 128;
  DType io = DType::f16;
  DType codes = DType::e4m3;  // e4m3, or f16 of a bf16 V
};

inline constexpr int kKeys = 64;  // of one block

using View = ViewOf<Spec, NoSchedule>;
const FamilyOf<Spec>& family();

}  // namespace sagegen::quantize_values
