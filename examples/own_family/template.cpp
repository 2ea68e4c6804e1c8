// The body of both kernels, in sagegen's kernel language.
#include <sagegen/dsl/kernel_builder.h>
#include <sagegen/dsl/reduce.h>

#include <cmath>
#include <vector>

#include "hadamard.h"

namespace acme::hadamard {

using namespace sagegen::dsl;

namespace {

// A lane holds neighbouring channels of its warp's row.
int lane_channels(const Spec& spec) { return spec.columns / 32; }

std::vector<F32> load(KernelBuilder& k, const Spec& spec, GlobalPtr row) {
  const int count = lane_channels(spec);
  const GlobalPtr first = row + k.lane_idx() * (2 * count);
  std::vector<F32> values;
  for (int i = 0; i < count; i += 2) {
    for (const F32 value : k.unpack2(spec.io, k.load<I32>(first + std::int64_t{2 * i})))
      values.push_back(value);
  }
  return values;
}

// Sums and differences over every bit of the channel's number: the low bits within a lane, the others across.
std::vector<F32> rotate(KernelBuilder& k, const Spec& spec, std::vector<F32> values) {
  const std::size_t count = values.size();
  for (std::size_t bit = 1; bit < count; bit *= 2) {
    for (std::size_t i = 0; i < count; ++i) {
      if ((i & bit) != 0) continue;
      const F32 low = values[i], high = values[i + bit];
      values[i] = low + high;
      values[i + bit] = low - high;
    }
  }
  for (int bit = 1; bit < 32; bit *= 2) {
    const F32 sign = k.select((k.lane_idx() & bit) == 0, k.f32(1.0f), k.f32(-1.0f));
    for (F32& value : values) value = k.fma(value, sign, k.shuffle_xor(value, bit));
  }
  const auto norm = static_cast<float>(1 / std::sqrt(static_cast<double>(spec.columns)));
  for (F32& value : values) value = value * norm;
  return values;
}

void measure(KernelBuilder& k, const std::vector<F32>& values) {
  const auto p = k.params<MeasureParams>();
  F32 largest = k.f32(0.0f);
  for (const F32 value : values) largest = k.max(largest, k.abs(value));
  largest = block_max(k, largest);
  k.if_(k.thread_idx() == 0,
        [&] { k.store(p(&MeasureParams::largest) + k.to_i64(k.block_idx(0)) * 4, largest); });
}

void quantize(KernelBuilder& k, const Spec& spec, const std::vector<F32>& values, I64 row,
              Pred row_is_there) {
  using P = QuantizeParams;
  const auto p = k.params<P>();
  const Var<F32> found = k.var(k.f32(0.0f));
  k.for_range(k.lane_idx(), p(&P::blocks), 32, [&](I32 block) {
    found.set(k.max(found, k.load<F32>(p(&P::largest) + k.to_i64(block) * 4)));
  });
  const F32 largest = warp_max(k, found);
  const F32 scale = largest * (1.0f / largest_code(spec.codes));
  const F32 inverse = k.select(largest > 0.0f, largest_code(spec.codes) / largest, k.f32(0.0f));
  k.if_(row_is_there, [&] {
    const int count = lane_channels(spec);
    const GlobalPtr to = p(&P::codes) + row * spec.columns + k.lane_idx() * count;
    for (std::size_t i = 0; i < values.size(); i += 4) {
      k.store(to + static_cast<std::int64_t>(i),
              k.pack4(spec.codes, values[i] * inverse, values[i + 1] * inverse,
                      values[i + 2] * inverse, values[i + 3] * inverse));
    }
  });
  k.if_(k.block_idx(0) == 0,
        [&] { k.if_(k.thread_idx() == 0, [&] { k.store(p(&P::scale), scale); }); });
}

}  // namespace

void build(KernelBuilder& k, const Kernel& kernel) {
  const auto [spec, schedule, target] = kernel.view(family());
  const auto p = k.params<Params>();
  const I32 rows = p(&Params::rows);
  const I32 row = k.block_idx(0) * schedule.warps + k.warp_idx();
  // Warps past the end compute the last row once more: all of them take part in shuffles and barriers.
  const I64 there = k.to_i64(k.min(row, rows - 1));
  const std::vector<F32> values =
      rotate(k, spec, load(k, spec, p(&Params::x) + there * (2 * spec.columns)));
  if (spec.measure) {
    measure(k, values);
  } else {
    quantize(k, spec, values, there, row < rows);
  }
}

}  // namespace acme::hadamard
