// Two kernels and what they are launched with. A kernel's arguments are one plain struct: the kernel reads its
// fields by name, the host fills it.
#pragma once

#include <sagegen/dsl/emit.h>

#include <cstdint>

// y = x * weight / sqrt(mean(x^2) + epsilon), row by row. x, y: io [rows, columns]; weight: f32 [columns].
// columns: a multiple of 8. One block per row.
struct RmsNormParams {
  std::uint64_t x, weight, y;
  std::int32_t columns;
  float epsilon;
};
sagegen::dsl::Emitted rms_norm(sagegen::Target target, sagegen::DType io, int threads);

// y = exp(x - max) / sum(exp(x - max)), row by row. x, y: f32 [rows, columns]. One warp per row.
struct SoftmaxParams {
  std::uint64_t x, y;
  std::int32_t rows, columns;
};
sagegen::dsl::Emitted softmax(sagegen::Target target, int warps);
