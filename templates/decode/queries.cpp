#include "templates/decode/queries.h"

#include <utility>

#include "templates/decode/cache_tiles.h"
#include "templates/shared/hadamard.h"
#include "templates/shared/tensor.h"

namespace sagegen::decode {

using namespace dsl;

namespace {

// Of scores, whatever Q: products with any score that f16 scales allow are finite.
constexpr float kLargestScale = 0x1p80f;
// Whatever Q: kHidden times this is a score without weight.
constexpr float kLeastScale = 0x1p-80f;
constexpr float kLargestF16 = 65504.0f;
constexpr float kLeastAmax = 1e-20f;
constexpr std::int32_t kBiasBits = 0x4B400000;

// To a whole number, to nearest even; |x| < 2^22.
F32 rounded(F32 x) { return (x + Queries::kBias) - Queries::kBias; }

F32 sum_of_quad(KernelBuilder& k, F32 value) {
  for (const int mask : {1, 2}) value = value + k.shuffle_xor(value, mask);
  return value;
}

int codes_of_byte(const Spec& spec) { return spec.k_bits >= 8 ? 1 : 8 / spec.k_bits; }
int words_of_lane(const Spec& spec) { return kv_block(spec).k_lane_bytes() / 4; }

}  // namespace

std::vector<KeyItem> key_items(const Spec& spec) {
  const Product product = product_of(spec);
  const int fields =
      product == Product::masked_bytes ? codes_of_byte(spec) / 2 : codes_of_byte(spec);
  std::vector<KeyItem> items;
  for (int word = 0; word < words_of_lane(spec); ++word) {
    for (int field = 0; field < fields; ++field) items.push_back({word, field});
  }
  return items;
}

Queries::Queries(const DecodeBlock& block) : block_(block) {
  if (kv_code_offset(block.spec.k_codes, block.spec.k_bits) == 0) {
    starts_.push_back(MmaC(block.opaque(kBiasBits, 0), block.opaque(kBiasBits, 1),
                           block.opaque(kBiasBits, 2), block.opaque(kBiasBits, 3)));
  }
  const Spec& spec = block.spec;
  const Product product = product_of(spec);
  std::vector<Channels> rows;
  if (product == Product::floats) {
    for (int half = 0; half < block.row_halves(); ++half) {
      if (spec.k_codes == KvCoding::e4m3) {
        rows.push_back(normalized(half));
        continue;
      }
      rows.push_back(load(half));
      scales_.push_back(block.p(&Params::unit));
    }
    add_floats(rows);
    return;
  }
  const bool two_planes = product == Product::two_planes;
  const auto base = static_cast<float>(two_planes ? plane_base(spec) : 1);
  const float largest = two_planes ? (base / 2 - 1) * (base + 1) : 127.0f;
  for (int half = 0; half < block.row_halves(); ++half) rows.push_back(quantized(half, largest));
  for (F32& scale : scales_) scale = scale * base;
  if (block.cache.k_has_zero_point()) add_sums(rows, 1.0f / base);
  if (two_planes) {
    add_two_planes(rows);
  } else if (product == Product::masked_bytes) {
    add_masked_bytes(rows[0]);
  } else {
    add_codes(rows);
  }
}

Queries::Channels Queries::load(int half) const {
  KernelBuilder& k = block_.k;
  const KvBlock& cache = block_.cache;
  const Spec& spec = block_.spec;
  const I32 row = block_.row(half);
  const Pred is_row = block_.tile_row(half) < block_.tile.rows_asked;
  const GlobalPtr head =
      head_of(k, block_.p, &Params::q, block_.sequence, block_.tile.kv_head * block_.rows.heads());
  const GlobalPtr from =
      head + block_.rows.offset(block_.p, &Params::q, k.select(is_row, row, k.i32(0)));
  const int piece = piece_channels();
  const int pieces = cache.k_lane_bytes() / cache.k_piece_bytes();
  constexpr int kLoad = 8;  // channels
  Channels channels;
  for (int i = 0; i < pieces; ++i) {
    for (int at = 0; at < piece; at += kLoad) {
      const I32 channel = block_.lane.quad * piece + (4 * piece * i + at);
      const bool may_lack = spec.head_dim < cache.channels;
      const Pred is_channel = may_lack ? channel < spec.head_dim : k.pred(true);
      const I32 there = k.select(is_channel, channel, k.i32(0));
      const Pred is_there = is_row && is_channel;
      for (const I32 word : k.load_v4(from + k.to_i64(there) * kElementBytes)) {
        for (const F32 value : k.unpack2(spec.io, k.select(is_there, word, k.i32(0))))
          channels.push_back(value);
      }
    }
  }
  if (spec.rotation == Rotation::none) return channels;
  return hadamard_of_quad(k, std::move(channels), block_.lane.quad, piece_channels(),
                          rotation_block(spec.head_dim));
}

F32 Queries::largest_of_row(const Channels& channels) const {
  KernelBuilder& k = block_.k;
  F32 amax = k.abs(channels[0]);
  for (const F32& channel : channels) amax = k.max(amax, k.abs(channel));
  for (const int mask : {1, 2}) amax = k.max(amax, k.shuffle_xor(amax, mask));
  return k.max(amax, k.f32(kLeastAmax));  // a row of zeros, and what comes near
}

// The factor that restores scores.
void Queries::add_scale(F32 scale) {
  KernelBuilder& k = block_.k;
  scales_.push_back(k.max(k.min(scale, k.f32(kLargestScale)), k.f32(kLeastScale)));
}

// Codes as whole numbers.
Queries::Channels Queries::quantized(int half, float largest_code) {
  Channels channels = load(half);
  const F32 amax = largest_of_row(channels);
  const F32 inverse = largest_code / amax;
  for (F32& channel : channels) channel = rounded(channel * inverse);
  add_scale(amax * (1.0f / largest_code) * block_.p(&Params::unit));
  return channels;
}

// Below 4, by a power of two: as f16 they are what they were, but for those below 2^-14 of the largest one.
Queries::Channels Queries::normalized(int half) {
  KernelBuilder& k = block_.k;
  Channels channels = load(half);
  const F32 amax = k.min(largest_of_row(channels), k.f32(0x1p126f));
  const I32 power = k.as_bits(amax) & 0x7F800000;  // of two, and 1 / power
  const F32 inverse = k.as_f32(k.i32(0x7F000000) - power);
  for (F32& channel : channels) channel = channel * inverse;
  add_scale(k.as_f32(power) * kUnitOfE4m3 * block_.p(&Params::unit));
  return channels;
}

void Queries::add_start(const std::array<Channels, 2>& halves, const std::array<float, 2>& unit) {
  KernelBuilder& k = block_.k;
  const int offset = kv_code_offset(block_.spec.k_codes, block_.spec.k_bits);
  if (offset == 0) return;
  std::array<I32, 2> start;
  for (std::size_t half = 0; half < 2; ++half) {
    F32 sum = halves[half][0];
    for (std::size_t i = 1; i < halves[half].size(); ++i) sum = sum + halves[half][i];
    const F32 taken_off = sum_of_quad(k, sum) * (unit[half] * static_cast<float>(offset));
    start[half] = k.as_bits(k.f32(kBias) - taken_off);
  }
  starts_.push_back({start[0] | block_.opaque(0, 0), start[0] | block_.opaque(0, 1),
                     start[1] | block_.opaque(0, 2), start[1] | block_.opaque(0, 3)});
}

// Two numbers of f16 have a sum of whole numbers as f32 has it: lane 0 of a quad holds the first one, lane 1 the rest.
void Queries::add_sums(const std::vector<Channels>& rows, float unit) {
  KernelBuilder& k = block_.k;
  const I32 zero = k.i32(0);
  std::array<std::array<I32, 2>, 2> words{{{zero, zero}, {zero, zero}}};  // by parity and half
  for (std::size_t half = 0; half < rows.size(); ++half) {
    F32 sum = rows[half][0];
    for (std::size_t i = 1; i < rows[half].size(); ++i) sum = sum + rows[half][i];
    sum = sum_of_quad(k, sum) * unit;
    const I32 first = k.pack2(DType::f16, sum, k.f32(0.0f));
    const F32 left = sum - k.unpack2(DType::f16, first)[0];
    const I32 rest = k.pack2(DType::f16, left, k.f32(0.0f));
    const I32 word =
        k.select(block_.lane.quad == 0, first, k.select(block_.lane.quad == 1, rest, zero));
    words[0][half] = word;
    words[1][half] = word << 16;
  }
  for (const auto& of_parity : words) sums_.push_back(MmaShortA(DType::f16, of_parity));
}

// The codes of Q of the channels of an item: one for each byte of the word.
I32 Queries::codes(const Channels& q, const KeyItem& item, float factor) const {
  const int fields = codes_of_byte(block_.spec);
  std::array<F32, 4> bytes;
  for (int byte = 0; byte < 4; ++byte) {
    const F32 code = q[static_cast<std::size_t>((4 * item.word + byte) * fields + item.field)];
    bytes[static_cast<std::size_t>(byte)] = factor == 1.0f ? code : code * factor;
  }
  return block_.k.pack4(DType::s8, bytes[0], bytes[1], bytes[2], bytes[3]);
}

void Queries::add_two_planes(const std::vector<Channels>& rows) {
  const auto base = static_cast<float>(plane_base(block_.spec));
  std::vector<Channels> high, low;
  for (const Channels& q : rows) {
    high.emplace_back();
    low.emplace_back();
    for (const F32& code : q) {
      // What is half way goes up: then low is -base / 2, which a byte has.
      high.back().push_back(rounded((code + 0.25f) * (1.0f / base)));
      low.back().push_back(code - high.back().back() * base);
    }
  }
  if (rows.size() == 1) {
    add_start({high[0], low[0]});
  } else {
    add_start({high[0], high[1]});
    add_start({low[0], low[1]});
  }
  const std::vector<KeyItem> items = key_items(block_.spec);
  for (std::size_t i = 0; i < items.size(); i += 2) {
    const auto operand = [&](const Channels& first, const Channels& second) {
      operands_.push_back(
          MmaA(DType::s8, {codes(first, items[i]), codes(second, items[i]),
                           codes(first, items[i + 1]), codes(second, items[i + 1])}));
    };
    if (rows.size() == 1) {
      operand(high[0], low[0]);
    } else {
      operand(high[0], high[1]);
      operand(low[0], low[1]);
    }
  }
}

void Queries::add_masked_bytes(const Channels& q) {
  const std::vector<KeyItem> items = key_items(block_.spec);
  const int fields = codes_of_byte(block_.spec) / 2;
  std::array<Channels, 2> of_codes;  // of the lower codes of bytes, of the upper ones
  for (std::size_t i = 0; i < q.size(); ++i)
    of_codes[i / static_cast<std::size_t>(fields) % 2].push_back(q[i]);
  add_start(of_codes, {1, 16});
  for (std::size_t i = 0; i < items.size(); i += 2) {
    const auto pair = [&](const KeyItem& item) {
      const I32 high = codes(q, {item.word, item.field + fields});
      return std::array{codes(q, item), codes(q, item, -1.0f), high};
    };
    const auto a = pair(items[i]), b = pair(items[i + 1]);
    const int copy = static_cast<int>(i);
    operands_.push_back(
        MmaA(DType::s8, {a[0], block_.opaque(0, 4 + copy), b[0], block_.opaque(0, 5 + copy)}));
    operands_.push_back(MmaA(DType::s8, {a[1], a[2], b[1], b[2]}));
  }
}

void Queries::add_codes(const std::vector<Channels>& rows) {
  add_start({rows[0], rows[1]});
  const std::vector<KeyItem> items = key_items(block_.spec);
  for (std::size_t i = 0; i < items.size(); i += 2) {
    operands_.push_back(
        MmaA(DType::s8, {codes(rows[0], items[i]), codes(rows[1], items[i]),
                         codes(rows[0], items[i + 1]), codes(rows[1], items[i + 1])}));
  }
}

void Queries::add_floats(const std::vector<Channels>& rows) {
  KernelBuilder& k = block_.k;
  const bool e4m3 = block_.spec.k_codes == KvCoding::e4m3;
  const DType io = key_type(block_.spec);
  const bool may_grow = block_.spec.rotation != Rotation::none && io == DType::f16 && !e4m3;
  const auto word = [&](std::size_t half, std::size_t i) {
    // In the order of f16_of_e4m3().
    const std::size_t first = e4m3 ? 4 * (i / 2) + i % 2 : 2 * i;
    std::array<F32, 2> pair{rows[half][first], rows[half][first + (e4m3 ? 2 : 1)]};
    if (may_grow) {
      for (F32& x : pair) x = k.max(k.min(x, k.f32(kLargestF16)), k.f32(-kLargestF16));
    }
    return k.pack2(io, pair[0], pair[1]);
  };
  const std::size_t words = rows[0].size() / 2;
  for (std::size_t i = 0; i < words; i += rows.size() == 1 ? 4 : 2) {
    operands_.push_back(rows.size() == 1
                            ? MmaA(io, {word(0, i), word(0, i + 1), word(0, i + 2), word(0, i + 3)})
                            : MmaA(io, {word(0, i), word(1, i), word(0, i + 1), word(1, i + 1)}));
  }
}

}  // namespace sagegen::decode
