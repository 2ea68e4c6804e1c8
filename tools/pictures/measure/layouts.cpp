#include "tools/pictures/layouts.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "templates/attention/spec.h"
#include "tools/pictures/measure/products.h"
#include "tools/pictures/measure/stored_keys.h"
#include "tools/pictures/measure/tiles.h"

namespace sagegen::pictures {

namespace {

// A kernel with the same fragments and tiles, that takes no other tensors: what the sums start from has no place among
// them, and where rows have scales of their own, or all share one, those of groups are measured.
Kernel measured_kernel(const Kernel& kernel) {
  const attention::View view = kernel.view(attention::family());
  attention::Spec spec = view.spec;
  if (spec.smoothing == Smoothing::qk) spec.smoothing = Smoothing::k;
  if (spec.granularity != Granularity::per_thread) spec.granularity = Granularity::per_block;
  return {attention::family(), spec, view.schedule, kernel.target()};
}

// The number of the scale of each row, measured or what the words say.
void number_scales(Granularity granularity, std::vector<int>& scales) {
  if (granularity == Granularity::per_tensor) std::fill(scales.begin(), scales.end(), 0);
  if (granularity == Granularity::per_token) std::iota(scales.begin(), scales.end(), 0);
}

}  // namespace

Layouts measure_layouts(const Kernel& asked) {
  if (&asked.family() != &attention::family()) {
    throw SpecError(
        fmt::format("layouts are measured of attention kernels, and {} is none; use the key of one",
                    asked.key()));
  }
  asked.validate();
  const Kernel kernel = measured_kernel(asked);
  const runtime::Device device = device_for(kernel.target());
  Layouts result;
  const Sizes s = measure_products(device, kernel, result);
  const Granularity granularity = asked.view(attention::family()).spec.granularity;
  number_scales(granularity, result.q_scale);
  number_scales(granularity, result.k_scale);
  result.queries = s.warp_rows;
  result.keys = s.cta_k;
  result.value_channels = s.value_channels;
  result.qk = s.qk;
  result.pv = s.pv;
  result.qk_is_scaled = s.qk_quantized;
  result.v_is_scaled = s.v_quantized;
  result.stored_key = stored_keys(device, kernel, s);

  const auto code = [&](int byte, int bit) {
    return Element{.row = byte / s.code_row_bytes,
                   .column = (byte % s.code_row_bytes * 8 + bit) / bits(s.qk)};
  };
  const auto value = [&](int byte, int) {
    if (s.pv == DType::e4m3) {
      return Element{.row = result.stored_key[static_cast<std::size_t>(byte % s.cta_k)],
                     .column = byte / s.cta_k};
    }
    return Element{.row = byte / 2 / s.value_channels, .column = byte / 2 % s.value_channels};
  };
  const bool by_channel = s.pv == DType::e4m3;
  const MeasuredTile q = measure_tile(device, kernel, TileName::q),
                     k = measure_tile(device, kernel, TileName::k),
                     v = measure_tile(device, kernel, TileName::v);
  result.q = fragments_of(q, 4, bits(s.qk), code);
  result.k = fragments_of(k, 2, bits(s.qk), code);
  result.v = fragments_of(v, 2, bits(s.pv), value);
  result.tiles = {drawn_tile(q, "Q", s.qk, "query", false), drawn_tile(k, "K", s.qk, "key", false),
                  drawn_tile(v, "V", s.pv, by_channel ? "channel" : "key", !by_channel)};
  return result;
}

}  // namespace sagegen::pictures
