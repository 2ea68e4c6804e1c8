#include "add_rms_norm.h"

#include <sagegen/dsl/reduce.h>

using namespace sagegen::dsl;

sagegen::dsl::Emitted add_rms_norm(sagegen::Target target) {
  constexpr auto kIo = sagegen::DType::f16;
  KernelBuilder k("add_rms_norm", target, kAddRmsNormThreads, sizeof(AddRmsNormParams));
  const auto p = k.params<AddRmsNormParams>();
  const I32 columns = p(&AddRmsNormParams::columns);
  const I64 row = k.to_i64(k.block_idx(0)) * k.to_i64(columns) * 2;  // bytes
  const GlobalPtr x = p(&AddRmsNormParams::x) + row, o = p(&AddRmsNormParams::o) + row,
                  y = p(&AddRmsNormParams::y) + row;

  // Sums of eight columns, in f32.
  const auto sums = [&](I32 column) {
    const auto left = k.load_v4(x + column * 2), right = k.load_v4(o + column * 2);
    std::vector<F32> values;
    for (int i = 0; i < 4; ++i) {
      const auto [a, b] = k.unpack2(kIo, left[i]);
      const auto [c, d] = k.unpack2(kIo, right[i]);
      values.push_back(a + c);
      values.push_back(b + d);
    }
    return values;
  };

  const I32 first = k.thread_idx() * 8;
  const Var<F32> squares = k.var(k.f32(0.0f));
  k.for_range(first, columns, kAddRmsNormThreads * 8, [&](I32 column) {
    for (const F32 value : sums(column)) squares = k.fma(value, value, squares);
  });
  const F32 mean = block_sum(k, squares) / k.to_f32(columns);
  const F32 scale = k.rsqrt(mean + p(&AddRmsNormParams::epsilon));

  k.for_range(first, columns, kAddRmsNormThreads * 8, [&](I32 column) {
    const std::vector<F32> values = sums(column);
    auto pairs = k.load_v4(x + column * 2);
    for (int i = 0; i < 4; ++i) {
      const auto weight = k.load_v2(p(&AddRmsNormParams::weight) + (column + 2 * i) * 4);
      pairs[i] = k.pack2(kIo, values[2 * i] * scale * k.as_f32(weight[0]),
                         values[2 * i + 1] * scale * k.as_f32(weight[1]));
    }
    k.store_v4(y + column * 2, pairs);
  });
  return emit(k);
}
