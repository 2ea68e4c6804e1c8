#include <sagegen/dsl/reduce.h>

#include "kernels.h"

using namespace sagegen::dsl;

sagegen::dsl::Emitted rms_norm(sagegen::Target target, sagegen::DType io, int threads) {
  KernelBuilder k("rms_norm", target, threads, sizeof(RmsNormParams));
  const auto p = k.params<RmsNormParams>();
  const I32 columns = p(&RmsNormParams::columns);
  const I64 row = k.to_i64(k.block_idx(0)) * k.to_i64(columns) * 2;  // bytes
  const GlobalPtr x = p(&RmsNormParams::x) + row, y = p(&RmsNormParams::y) + row;

  // Eight columns per thread and step: one load of 16 bytes.
  const I32 first = k.thread_idx() * 8;
  const Var<F32> squares = k.var(k.f32(0.0f));
  k.for_range(first, columns, threads * 8, [&](I32 column) {
    for (const I32 pair : k.load_v4(x + column * 2)) {
      for (const F32 value : k.unpack2(io, pair)) squares = k.fma(value, value, squares);
    }
  });
  const F32 mean = block_sum(k, squares) / k.to_f32(columns);
  const F32 scale = k.rsqrt(mean + p(&RmsNormParams::epsilon));

  k.for_range(first, columns, threads * 8, [&](I32 column) {
    auto pairs = k.load_v4(x + column * 2);
    for (int i = 0; i < 4; ++i) {
      const auto weight = k.load_v2(p(&RmsNormParams::weight) + (column + 2 * i) * 4);
      const auto [lo, hi] = k.unpack2(io, pairs[i]);
      pairs[i] = k.pack2(io, lo * scale * k.as_f32(weight[0]), hi * scale * k.as_f32(weight[1]));
    }
    k.store_v4(y + column * 2, pairs);
  });
  return emit(k);
}
