#include "tools/pictures/layouts.h"

#include <fmt/format.h>

#include "templates/attention/spec.h"
#include "tools/pictures/measure/products.h"
#include "tools/pictures/measure/stored_keys.h"
#include "tools/pictures/measure/tiles.h"

namespace sagegen::pictures {

Layouts measure_layouts(const Kernel& kernel) {
  if (&kernel.family() != &attention::family()) {
    throw SpecError(
        fmt::format("layouts are measured of attention kernels, and {} is none; use the key of one",
                    kernel.key()));
  }
  kernel.validate();
  const runtime::Device device = device_for(kernel.target());
  Layouts result;
  const Sizes s = measure_products(device, kernel, result);
  result.queries = s.warp_rows;
  result.keys = s.cta_k;
  result.head_dim = s.head_dim;
  result.qk = s.qk;
  result.pv = s.pv;
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
    return Element{.row = byte / 2 / s.head_dim, .column = byte / 2 % s.head_dim};
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
