#include <sagegen/dsl/reduce.h>

#include <limits>

#include "kernels.h"

using namespace sagegen::dsl;

sagegen::dsl::Emitted softmax(sagegen::Target target, int warps) {
  constexpr float kLog2E = 1.44269504f;  // the hardware's exponential has base 2
  KernelBuilder k("softmax", target, 32 * warps, sizeof(SoftmaxParams));
  const auto p = k.params<SoftmaxParams>();
  const I32 row = k.block_idx(0) * warps + k.warp_idx();
  const I32 columns = p(&SoftmaxParams::columns);
  k.if_(row < p(&SoftmaxParams::rows), [&] {
    const I64 first = k.to_i64(row) * k.to_i64(columns) * 4;  // bytes
    const GlobalPtr x = p(&SoftmaxParams::x) + first, y = p(&SoftmaxParams::y) + first;
    const auto each_column = [&](const auto& body) {
      k.for_range(k.lane_idx(), columns, 32, body);
    };

    const Var<F32> largest = k.var(k.f32(-std::numeric_limits<float>::infinity()));
    each_column([&](I32 c) { largest = k.max(largest, k.load<F32>(x + c * 4)); });
    const F32 maximum = warp_max(k, largest);
    const auto weight = [&](I32 c) { return k.exp2((k.load<F32>(x + c * 4) - maximum) * kLog2E); };

    const Var<F32> sum = k.var(k.f32(0.0f));
    each_column([&](I32 c) { sum = sum + weight(c); });
    const F32 inverse = 1.0f / warp_sum(k, sum);
    each_column([&](I32 c) { k.store(y + c * 4, weight(c) * inverse); });
  });
  return emit(k);
}
