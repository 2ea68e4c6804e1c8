// A kernel of the application, beside those of attention.
#pragma once

#include <sagegen/dsl/emit.h>

#include <cstdint>

// y = (x + o) * weight / sqrt(mean((x + o)^2) + epsilon), row by row. x, o, y: f16 [rows, columns]; weight: f32
// [columns]. columns: a multiple of 8. One block per row.
struct AddRmsNormParams {
  std::uint64_t x, o, weight, y;
  std::int32_t columns;
  float epsilon;
};
inline constexpr int kAddRmsNormThreads = 32;
sagegen::dsl::Emitted add_rms_norm(sagegen::Target target);
