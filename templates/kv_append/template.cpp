// New keys and values to a low-bit KV cache. The lanes of a row find its least and its largest by shuffles, of K and V
// together; then each stores what it has of the row, in the places that KvBlock tells.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "sagegen/dsl/kernel_builder.h"
#include "templates/kv_append/params.h"
#include "templates/kv_append/spec.h"
#include "templates/shared/packed_rows.h"
#include "templates/shared/tensor.h"

namespace sagegen::kv_append {

using namespace dsl;

namespace {

constexpr float kLargestHalf = 65504.0f;
// What is added to a number from 0 to 255 so that its lowest bits are that number, rounded to nearest even.
constexpr float kRounding = 0x1.8p23f;

using Row = std::vector<F32>;    // the channels of a lane
using Words = std::vector<I32>;  // the same in 16 bits, two channels in each

// place(x) - place(0) for an x below `end`, a power of two. Each bit of x moves the place by a distance of its own, a power
// of two: so do those of tokens and of bytes of a row in KvBlock.
I32 distance(KernelBuilder& k, I32 x, int end, const std::function<int(int)>& place) {
  const auto of_bit = [&](int bit) { return place(bit) - place(0); };
  const auto log2 = [](int power) { return std::countr_zero(static_cast<unsigned>(power)); };
  I32 sum = k.i32(0);
  for (int bit = 1, next = 1; bit < end; bit = next) {
    const int shift = log2(of_bit(bit)) - log2(bit);
    int bits = 0;  // neighbours that move it by as many times their own worth
    for (; next < end && log2(of_bit(next)) - log2(next) == shift; next *= 2) bits |= next;
    const I32 moved = x & bits;
    sum = sum + (shift >= 0 ? moved << shift : moved >> -shift);
  }
  return sum;
}

// What quantized rows have of numbers that are none, or none of f16.
F32 without_nan(KernelBuilder& k, F32 x) { return k.select(x == x, x, k.f32(0.0f)); }
F32 saturated(KernelBuilder& k, F32 x) {
  return k.min(k.max(x, k.f32(-kLargestHalf)), k.f32(kLargestHalf));
}

bool has_e4m3(const KernelBuilder& k) { return target_info(k.target()).has(Feature::fp8_mma); }

// cvt.rn.satfinite.e4m3x2.f32 of one number, where there is none: in the lowest byte, the others are 0.
I32 e4m3_by_bits(KernelBuilder& k, F32 x) {
  constexpr float kLeastNormal = 0x1p-6f, kSubnormals = 0x1p9f;  // these have steps of 2^-9
  constexpr std::int32_t kCut = 20;                              // bits of the mantissa
  const F32 magnitude = k.min(k.abs(x), k.f32(448.0f));
  const I32 bits = k.as_bits(magnitude);
  const I32 to_even = (bits >> kCut & 1) + ((1 << (kCut - 1)) - 1);
  const I32 normal =
      ((bits + to_even) >> kCut) - (120 << 3);  // the biases of exponents are 127 and 7
  const I32 subnormal = k.as_bits(magnitude * kSubnormals + kRounding) & 0xFF;
  return k.select(magnitude < kLeastNormal, subnormal, normal) | (k.as_bits(x) >> 24 & 0x80);
}

class KvAppend {
 public:
  KvAppend(KernelBuilder& k, const Spec& spec);
  void build();

 private:
  // Where a token goes, and whether it does.
  struct Place {
    I32 page, token;  // of the page
    Pred there;
  };
  Place place_of_slot(I32 token) const;
  Place place_in_pages(I32 token) const;
  Place place_of_exact(I32 token) const;
  GlobalPtr block_of_place(const Place& place, I32 head) const;
  GlobalPtr block_of_exact(const Place& place, I32 head) const;

  // Whether the head has the lane's channel i, and so those that are read at once with it.
  Pred has_channel(int i) const { return channel_ + i / loaded_ * loaded_ < spec_.head_dim; }
  void if_has_channel(int i, const std::function<void()>& body) const {
    if (spec_.head_dim == block_.channels) return body();
    k_.if_(has_channel(i), body);
  }
  Words load(GlobalPtr row) const;
  Row load_f32(GlobalPtr from, int count) const;
  Row values(const Words& words) const;

  // before_rotation: a copy of it, where not null.
  void transform(Row& k, I32 token, I32 head, Row* before_rotation) const;
  void embed(Row& k, I32 token) const;
  void subtract_mean(Row& k, I32 head) const;
  void rotate(Row& k) const;

  // What makes codes of rows, and the word of scale and zero point (in its upper half), of K or of V: with both in few
  // bits the lanes of the lower half have that of K, the others that of V.
  struct Quantizer {
    F32 z, inverse;
  };
  struct Quantizers {
    Quantizer k, v;
    I32 parameters;
    Pred of_v;
  };
  bool quantizes_k() const { return kv_quantized(spec_.k_bits); }
  bool quantizes_v() const { return kv_quantized(spec_.v_bits); }
  void add_ends(const Row& row, std::vector<F32>& ends) const;
  F32 least_of_row(std::vector<F32> values) const;
  Quantizers quantizers(const Row& k, const Row& v) const;
  F32 steps(const Row& row, std::size_t i, KvCoding codes, const Quantizer& quantizer) const;
  std::vector<I32> bytes(const Row& row, int bits, KvCoding codes,
                         const Quantizer& quantizer) const;
  Words e4m3_words(const Row& row, const Quantizer& quantizer) const;
  Words words_of(const std::vector<I32>& bytes) const;
  void store_keys(const KvBlock& layout, GlobalPtr block, const Words& words) const;
  void store_values(const KvBlock& layout, GlobalPtr block, const std::vector<I32>& parts) const;
  // Codes or numbers of 16 bits of a token, to the block that has it.
  void store_rows(const KvBlock& layout, GlobalPtr block, I32 in_block, const Words& k,
                  const std::vector<I32>& v) const;
  void store_parameters(GlobalPtr block, I32 token, const Quantizers& of) const;
  // Of kernels with exact: `exact`, and whether it is stored there.
  void append(const Place& place, I32 token, I32 head, Pred stored, const Place& exact,
              Pred exact_stored) const;
  Words packed(const Row& row) const;
  static std::vector<I32> halves(const Words& words);

  int lane_count() const { return lanes_of_row(spec_.head_dim); }

  KernelBuilder& k_;
  const Spec& spec_;
  const ParamReader<Params> p_;
  const KvBlock block_;
  const int held_;    // channels of a lane
  const int loaded_;  // of them that are read at once
  I32 lane_;          // of the row
  I32 channel_;       // the first one of the lane
};

KvAppend::KvAppend(KernelBuilder& k, const Spec& spec)
    : k_(k),
      spec_(spec),
      p_(k.params<Params>()),
      block_(block_of(spec)),
      held_(channels_of_lane(spec.head_dim)),
      loaded_(elements_at_once(spec.head_dim)),
      lane_(k.thread_idx() & (lane_count() - 1)),
      channel_(lane_ * held_) {}

// ---- where tokens go -------------------------------------------------------------------------------

KvAppend::Place KvAppend::place_of_slot(I32 token) const {
  const auto p = k_.params<SlotParams>();
  const I64 slot = k_.load<I64>(p(&SlotParams::slots) + k_.to_i64(token) * std::int64_t{8});
  const Pred there = slot >= 0 && slot < p(&SlotParams::slot_count);
  const I32 place = k_.select(there, k_.to_i32(slot), k_.i32(0));
  const I32 page = quotient(k_, place, p_(&Params::page_reciprocal), p_(&Params::page_shift));
  return {page, place - page * p_(&Params::page_tokens), there};
}

// Nothing that lies on the device leads out of an array or of the pool: what is not possible is skipped.
KvAppend::Place KvAppend::place_in_pages(I32 token) const {
  using P = PageParams;
  const auto p = k_.params<P>();
  const auto at = [&](Address P::*array, I32 index) {
    return k_.load<I32>(p(array) + k_.to_i64(index) * std::int64_t{4});
  };
  // The last sequence that begins no later: those before it that begin with it have no token.
  const Var<I32> sequence = k_.var(k_.i32(0)), end = k_.var(p(&P::sequences));
  k_.while_([&] { return end - sequence > 1; },
            [&] {
              const I32 middle = (sequence + end.get()) >> 1;
              const Pred begins = at(&P::append_indptr, middle) <= token;
              sequence = k_.select(begins, middle, sequence.get());
              end = k_.select(begins, end.get(), middle);
            });
  const I32 of = sequence;
  const I32 behind = at(&P::append_indptr, of + 1), first_page = at(&P::page_indptr, of);
  const I64 pages = k_.to_i64(at(&P::page_indptr, of + 1)) - k_.to_i64(first_page);
  const I64 page_tokens = k_.to_i64(p_(&Params::page_tokens));
  const I64 len = (pages - 1) * page_tokens + k_.to_i64(at(&P::last_page_len, of));
  const I64 place = len - k_.to_i64(behind) + k_.to_i64(token);
  const Pred in_sequence = token >= at(&P::append_indptr, of) && token < behind && place >= 0 &&
                           place < pages * page_tokens && place <= std::int64_t{0x7FFFFFFF};
  const I32 number = k_.select(in_sequence, k_.to_i32(place), k_.i32(0));
  const I32 of_sequence =
      quotient(k_, number, p_(&Params::page_reciprocal), p_(&Params::page_shift));
  const I64 entry = k_.to_i64(first_page) + k_.to_i64(of_sequence);
  const Pred in_table = in_sequence && entry >= 0 && entry < p(&P::page_entries);
  const I64 known = k_.select(in_table, entry, k_.i64(0));
  const I32 page = k_.load<I32>(p(&P::page_indices) + known * std::int64_t{4});
  return {page, number - of_sequence * p_(&Params::page_tokens),
          in_table && page >= 0 && page < p_(&Params::pages)};
}

KvAppend::Place KvAppend::place_of_exact(I32 token) const {
  using P = ExactParams;
  const auto p = k_.params<P>();
  const I64 asked = k_.load<I64>(p(&P::slots) + k_.to_i64(token) * std::int64_t{8});
  const Pred there = asked >= 0 && asked < p(&P::slot_count);
  const I32 slot = k_.select(there, k_.to_i32(asked), k_.i32(0));
  return {slot >> 4, slot & (kKvBlockTokens - 1), there};
}

GlobalPtr KvAppend::block_of_exact(const Place& place, I32 head) const {
  using P = ExactParams;
  const auto p = k_.params<P>();
  return p(&P::pool) + k_.to_i64_unsigned(place.page) * p(&P::stride_block) +
         k_.to_i64_unsigned(head) * p(&P::stride_head);
}

GlobalPtr KvAppend::block_of_place(const Place& place, I32 head) const {
  return p_(&Params::pool) + k_.to_i64_unsigned(place.page) * p_(&Params::stride_page) +
         k_.to_i64_unsigned(head) * p_(&Params::stride_head) +
         k_.to_i64_unsigned(place.token >> 4) * p_(&Params::stride_block);
}

// ---- rows ------------------------------------------------------------------------------------------

Words KvAppend::load(GlobalPtr row) const {
  std::vector<Var<I32>> words(static_cast<std::size_t>(held_ / 2));
  for (Var<I32>& word : words) word = k_.var(k_.i32(0));
  const GlobalPtr from = row + channel_ * static_cast<std::int32_t>(kElementBytes);
  for (int i = 0; i < held_; i += loaded_) {
    if_has_channel(i, [&] {
      const GlobalPtr part = from + i * kElementBytes;
      const auto first = words.begin() + i / 2;
      if (loaded_ == 8) {
        std::ranges::copy(k_.load_v4(part), first);
      } else if (loaded_ == 4) {
        std::ranges::copy(k_.load_v2(part), first);
      } else if (loaded_ == 2) {
        *first = k_.load<I32>(part);
      } else {
        *first = first->get() | k_.load_u16(part) << 16 * (i % 2);
      }
    });
  }
  return {words.begin(), words.end()};
}

Row KvAppend::load_f32(GlobalPtr from, int count) const {
  Row row;
  for (int i = 0; i < count; i += 4) {
    const GlobalPtr part = from + std::int64_t{4 * i};
    if (count == 1) {
      row.push_back(k_.load<F32>(part));
    } else if (count == 2) {
      for (const I32 word : k_.load_v2(part)) row.push_back(k_.as_f32(word));
    } else {
      for (const I32 word : k_.load_v4(part)) row.push_back(k_.as_f32(word));
    }
  }
  return row;
}

Row KvAppend::values(const Words& words) const {
  Row row;
  for (const I32 word : words) {
    for (const F32 value : k_.unpack2(spec_.io, word)) row.push_back(value);
  }
  return row;
}

// ---- transforms of K -------------------------------------------------------------------------------

void KvAppend::transform(Row& k, I32 token, I32 head, Row* before_rotation) const {
  if (spec_.rope != Rope::none) embed(k, token);
  if (spec_.smooth_k) subtract_mean(k, head);
  if (before_rotation != nullptr) *before_rotation = k;
  if (spec_.rotation == Rotation::hadamard) rotate(k);
}

void KvAppend::embed(Row& k, I32 token) const {
  using P = RopeParams;
  const auto p = k_.params<P>();
  const I32 rotary = p(&P::rotary), half = rotary >> 1;
  const I64 asked = k_.load<I64>(p(&P::positions) + k_.to_i64(token) * std::int64_t{8});
  const I64 last = k_.to_i64(p(&P::table_rows)) - 1;
  const I64 not_behind = k_.select(asked < last, asked, last);
  const I64 position = k_.select(not_behind > 0, not_behind, k_.i64(0));
  const I64 row = position * p(&P::stride) * std::int64_t{4};

  const bool neox = spec_.rope == Rope::neox;
  const Pred in_first = channel_ < half;
  Row partner;  // of each channel
  if (neox) {
    const I32 lanes = half / held_;
    const I32 from = k_.lane_idx() + k_.select(in_first, lanes, -lanes);
    for (const F32 x : k) partner.push_back(k_.shuffle(x, from));
  } else {
    for (std::size_t i = 0; i < k.size(); ++i) partner.push_back(k[i ^ 1]);
  }
  std::vector<Var<F32>> embedded;
  for (const F32 x : k) embedded.push_back(k_.var(x));
  k_.if_(channel_ < rotary, [&] {
    const I32 angle = neox ? k_.select(in_first, channel_, channel_ - half) : channel_ >> 1;
    const int angles = neox ? held_ : held_ / 2;
    const Row cos = load_f32(p(&P::cos) + row + angle * 4, angles);
    const Row sin = load_f32(p(&P::sin) + row + angle * 4, angles);
    const F32 sign = k_.select(in_first, k_.f32(-1.0f), k_.f32(1.0f));
    for (std::size_t i = 0; i < k.size(); ++i) {
      const std::size_t of = neox ? i : i / 2;
      const F32 across = partner[i] * sin[of];
      const F32 turned = neox ? across * sign : i % 2 == 0 ? -across : across;
      embedded[i] = k_.fma(k[i], cos[of], turned);
    }
  });
  for (std::size_t i = 0; i < k.size(); ++i) k[i] = embedded[i].get();
}

void KvAppend::subtract_mean(Row& k, I32 head) const {
  const I32 first = head * spec_.head_dim + channel_;
  const GlobalPtr mean =
      k_.params<MeanParams>()(&MeanParams::mean) + k_.to_i64(first) * std::int64_t{4};
  std::vector<Var<F32>> left;
  for (const F32 x : k) left.push_back(k_.var(x));
  for (int i = 0; i < held_; i += loaded_) {
    if_has_channel(i, [&] {
      const Row part = load_f32(mean + std::int64_t{4 * i}, loaded_);
      for (std::size_t j = 0; j < part.size(); ++j) {
        const std::size_t at = static_cast<std::size_t>(i) + j;
        left[at] = k[at] - part[j];
      }
    });
  }
  for (std::size_t i = 0; i < k.size(); ++i) k[i] = left[i].get();
}

// Channels whose numbers differ in a bit are in one lane, or in lanes whose numbers differ in one.
void KvAppend::rotate(Row& k) const {
  const int block = rotation_block(spec_.head_dim), in_lane = std::min(block, held_);
  for (std::size_t step = 1; step < static_cast<std::size_t>(in_lane); step *= 2) {
    for (std::size_t i = 0; i < k.size(); ++i) {
      if ((i & step) != 0) continue;
      const F32 a = k[i], b = k[i + step];
      k[i] = a + b;
      k[i + step] = a - b;
    }
  }
  for (int channels = held_; channels < block; channels *= 2) {
    const F32 sign = k_.select((channel_ & channels) == 0, k_.f32(1.0f), k_.f32(-1.0f));
    for (F32& x : k) x = k_.fma(x, sign, k_.shuffle_xor(x, channels / held_));
  }
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(block)));
  for (F32& x : k) x = x * scale;
}

// ---- codes -----------------------------------------------------------------------------------------

// Of the lane's channels the least, and the least of -x. Where it has none of the head, the ends of f16: all is saturated.
void KvAppend::add_ends(const Row& row, std::vector<F32>& ends) const {
  std::vector<F32> least, largest;  // of what is read at once
  for (int i = 0; i < held_; ++i) {
    const F32 x = row[static_cast<std::size_t>(i)];
    if (i % loaded_ != 0) {
      least.back() = k_.min(least.back(), x);
      largest.back() = k_.max(largest.back(), x);
    } else {
      least.push_back(x);
      largest.push_back(x);
    }
    if (i % loaded_ != loaded_ - 1 || spec_.head_dim == block_.channels) continue;
    const Pred there = has_channel(i);
    least.back() = k_.select(there, least.back(), k_.f32(kLargestHalf));
    largest.back() = k_.select(there, largest.back(), k_.f32(-kLargestHalf));
  }
  for (std::size_t i = 1; i < least.size(); ++i) {
    least[0] = k_.min(least[0], least[i]);
    largest[0] = k_.max(largest[0], largest[i]);
  }
  ends.push_back(least[0]);
  ends.push_back(-largest[0]);
}

// Of 2 or 4 values the least ones over the lanes of a row. Lanes halve what they have with each step, as long as it is more
// than one value: of these a half goes to the other lane. So those of lane l are all of value l / (lanes / values).
F32 KvAppend::least_of_row(std::vector<F32> values) const {
  for (int mask = lane_count() / 2; mask > 0; mask /= 2) {
    if (values.size() == 1) {
      values[0] = k_.min(values[0], k_.shuffle_xor(values[0], mask));
      continue;
    }
    const Pred upper = (lane_ & mask) != 0;
    const std::size_t half = values.size() / 2;
    for (std::size_t i = 0; i < half; ++i) {
      const F32 sent = k_.select(upper, values[i], values[i + half]);
      const F32 kept = k_.select(upper, values[i + half], values[i]);
      values[i] = k_.min(kept, k_.shuffle_xor(sent, mask));
    }
    values.resize(half);
  }
  return values[0];
}

KvAppend::Quantizers KvAppend::quantizers(const Row& k, const Row& v) const {
  std::vector<F32> ends;
  if (quantizes_k()) add_ends(k, ends);
  if (quantizes_v()) add_ends(v, ends);
  const int across = lane_count() / static_cast<int>(ends.size()), half = lane_count() / 2;
  const F32 end = least_of_row(ends), other = k_.shuffle_xor(end, across);
  const Pred has_largest = (lane_ & across) != 0;
  const F32 least = k_.select(has_largest, other, end);
  const F32 largest = -k_.select(has_largest, end, other);

  const bool both = block_.both_quantized();
  const Pred of_v = both ? (lane_ & half) != 0 : k_.pred(quantizes_v());
  const auto factor = [&](int bits, KvCoding codes) {
    const int most = kv_has_zero_point(codes) ? (1 << bits) - 1 : kv_largest_magnitude(codes, bits);
    return k_.f32((1.0f + 0x1p-11f) / static_cast<float>(most));
  };
  const auto rounded = [&](F32 x) { return k_.unpack2(DType::f16, k_.pack2(DType::f16, x, x))[0]; };
  const bool k_zero_point = block_.k_has_zero_point(), v_zero_point = block_.v_has_zero_point();
  const bool some_without = (quantizes_k() && !k_zero_point) || (quantizes_v() && !v_zero_point);
  const Pred with_zero_point = k_zero_point && v_zero_point ? k_.pred(true)
                               : k_zero_point               ? !of_v
                               : v_zero_point               ? of_v
                                                            : k_.pred(false);
  F32 z = rounded(saturated(k_, least));
  F32 range = k_.max(saturated(k_, largest) - z, k_.f32(0.0f));
  if (some_without) {
    z = k_.select(with_zero_point, z, k_.f32(0.0f));
    range =
        k_.select(with_zero_point, range, k_.max(saturated(k_, largest), -saturated(k_, least)));
  }
  F32 step = range * k_.select(of_v, factor(spec_.v_bits, spec_.v_codes),
                               factor(spec_.k_bits, spec_.k_codes));
  if (some_without) step = k_.min(step, k_.f32(kLargestHalf));
  const F32 s = rounded(step);
  const Quantizer own{.z = z, .inverse = k_.select(s > 0.0f, 1.0f / s, k_.f32(0.0f))};
  Quantizers result{.k = own, .v = own, .parameters = k_.pack2(DType::f16, s, z), .of_v = of_v};
  if (!both) return result;
  const F32 z_across = k_.shuffle_xor(own.z, half);
  const F32 inverse_across = k_.shuffle_xor(own.inverse, half);
  result.k = {k_.select(of_v, z_across, own.z), k_.select(of_v, inverse_across, own.inverse)};
  result.v = {k_.select(of_v, own.z, z_across), k_.select(of_v, own.inverse, inverse_across)};
  return result;
}

// Channel i of the row in steps of its scale.
F32 KvAppend::steps(const Row& row, std::size_t i, KvCoding codes,
                    const Quantizer& quantizer) const {
  F32 inverse = quantizer.inverse;
  if (spec_.head_dim < block_.channels)  // what is padding has none
    inverse = k_.select(has_channel(static_cast<int>(i)), inverse, k_.f32(0.0f));
  return (kv_has_zero_point(codes) ? row[i] - quantizer.z : row[i]) * inverse;
}

// Four codes in each word, the first one in the lowest byte.
Words KvAppend::e4m3_words(const Row& row, const Quantizer& quantizer) const {
  Row steps;
  for (std::size_t i = 0; i < row.size(); ++i)
    steps.push_back(this->steps(row, i, KvCoding::e4m3, quantizer));
  Words words;
  for (std::size_t i = 0; i < steps.size(); i += 4) {
    words.push_back(has_e4m3(k_)
                        ? k_.pack4(DType::e4m3, steps[i], steps[i + 1], steps[i + 2], steps[i + 3])
                        : e4m3_by_bits(k_, steps[i]) | e4m3_by_bits(k_, steps[i + 1]) << 8 |
                              e4m3_by_bits(k_, steps[i + 2]) << 16 |
                              e4m3_by_bits(k_, steps[i + 3]) << 24);
  }
  return words;
}

// What the lane has of the row's codes, a byte in the lowest bits of each.
std::vector<I32> KvAppend::bytes(const Row& row, int bits, KvCoding codes,
                                 const Quantizer& quantizer) const {
  std::vector<I32> bytes;
  if (codes == KvCoding::e4m3) {
    for (const I32 word : e4m3_words(row, quantizer)) {
      for (int byte = 0; byte < 4; ++byte) bytes.push_back(byte == 0 ? word : word >> 8 * byte);
    }
    return bytes;
  }
  const std::size_t in_byte = 8 / static_cast<std::size_t>(bits);
  const int offset = kv_code_offset(codes, bits);
  const float most = static_cast<float>(
      kv_has_zero_point(codes) ? (1 << bits) - 1 : kv_largest_magnitude(codes, bits));
  for (std::size_t i = 0; i < row.size(); ++i) {
    const F32 in_steps = steps(row, i, codes, quantizer);
    const F32 largest = k_.f32(most);
    const F32 code =
        k_.min(k_.max(in_steps, k_.f32(kv_has_zero_point(codes) ? 0.0f : -most)), largest);
    const I32 low = k_.as_bits(code + (kRounding + static_cast<float>(offset)));
    if (i % in_byte == 0)
      bytes.push_back(low);
    else
      bytes.back() = bytes.back() | low << static_cast<int>(i % in_byte) * bits;
  }
  return bytes;
}

// ---- stores ----------------------------------------------------------------------------------------

void KvAppend::store_keys(const KvBlock& layout, GlobalPtr block, const Words& words) const {
  const int bytes = held_ * layout.k_bits / 8;
  const GlobalPtr to = block + distance(k_, lane_, lane_count(),
                                        [&](int lane) { return layout.k_byte(0, lane * bytes); });
  if (bytes == 16) {
    k_.store_v4(to, {words[0], words[1], words[2], words[3]});
  } else if (bytes == 8) {
    k_.store_v2(to, {words[0], words[1]});
  } else if (bytes == 4) {
    k_.store(to, words[0]);
  } else if (bytes == 2) {
    k_.store_16(to, words[0]);
  } else {
    k_.store_8(to, words[0]);
  }
}

// As a lane of 4 or 8 channels has them: 1, 2, 4 or 8.
Words KvAppend::words_of(const std::vector<I32>& bytes) const {
  const auto pair = [&](std::size_t i) {
    return k_.permute_bytes(bytes[i], bytes[i + 1], {0, 4, 0, 4});
  };
  if (bytes.size() == 1) return {bytes[0]};
  if (bytes.size() == 2) return {pair(0)};
  Words words;
  for (std::size_t i = 0; i < bytes.size(); i += 4)
    words.push_back(k_.permute_bytes(pair(i), pair(i + 2), {0, 1, 4, 5}));
  return words;
}

// Neighbouring bytes of a token lie apart, those of others between them.
void KvAppend::store_values(const KvBlock& layout, GlobalPtr block,
                            const std::vector<I32>& parts) const {
  const int bytes = held_ * layout.v_bits / 8, part = bytes / static_cast<int>(parts.size());
  const GlobalPtr to = block + distance(k_, lane_, lane_count(),
                                        [&](int lane) { return layout.v_byte(0, lane * bytes); });
  for (int i = 0; i < bytes; i += part) {
    const GlobalPtr place = to + std::int64_t{layout.v_byte(0, i)};
    const I32 value = parts[static_cast<std::size_t>(i / part)];
    if (part == 1)
      k_.store_8(place, value);
    else
      k_.store_16(place, value);
  }
}

void KvAppend::store_rows(const KvBlock& layout, GlobalPtr block, I32 in_block, const Words& k,
                          const std::vector<I32>& v) const {
  const auto of_token = [&](const std::function<int(int)>& byte) {
    return block + distance(k_, in_block, kKvBlockTokens, byte);
  };
  store_keys(layout, of_token([&](int number) { return layout.k_byte(number, 0); }), k);
  store_values(layout, of_token([&](int number) { return layout.v_byte(number, 0); }), v);
}

void KvAppend::store_parameters(GlobalPtr block, I32 token, const Quantizers& of) const {
  using PlaceOf = int (KvBlock::*)(int) const;
  const auto store = [&](PlaceOf of_k, PlaceOf of_v, I32 half) {
    const auto place = [&](PlaceOf of_token) {
      return (block_.*of_token)(0) + distance(k_, token, kKvBlockTokens, [&](int number) {
               return (block_.*of_token)(number);
             });
    };
    const I32 bytes = !quantizes_v()   ? place(of_k)
                      : !quantizes_k() ? place(of_v)
                                       : k_.select(of.of_v, place(of_v), place(of_k));
    k_.store_16(block + bytes, half);
  };
  const int half = lane_count() / (block_.both_quantized() ? 2 : 1);
  k_.if_((lane_ & (half - 1)) == 0, [&] {
    store(&KvBlock::s_k, &KvBlock::s_v, of.parameters);
    const bool of_k = block_.k_has_zero_point(), of_v = block_.v_has_zero_point();
    const auto store_zero_point = [&] { store(&KvBlock::z_k, &KvBlock::z_v, of.parameters >> 16); };
    if (block_.both_quantized() && of_k != of_v) {
      k_.if_(of_v ? of.of_v : !of.of_v, store_zero_point);
    } else if (of_k || of_v) {
      store_zero_point();
    }
  });
}

// ---- the kernel ------------------------------------------------------------------------------------

Words KvAppend::packed(const Row& row) const {
  Words words;
  for (std::size_t i = 0; i < row.size(); i += 2) {
    const auto number = [&](F32 x) { return spec_.io == DType::f16 ? saturated(k_, x) : x; };
    const F32 first = number(row[i]);
    words.push_back(k_.pack2(spec_.io, first, number(row[i + 1])));
  }
  return words;
}

std::vector<I32> KvAppend::halves(const Words& words) {
  std::vector<I32> halves;
  for (const I32 word : words) {
    halves.push_back(word);
    halves.push_back(word >> 16);
  }
  return halves;
}

void KvAppend::append(const Place& place, I32 token, I32 head, Pred stored, const Place& exact,
                      Pred exact_stored) const {
  using P = Params;
  const auto row = [&](Address P::*data, std::int64_t P::*of_token, std::int64_t P::*of_head) {
    const I64 elements =
        k_.to_i64_unsigned(token) * p_(of_token) + k_.to_i64_unsigned(head) * p_(of_head);
    return load(p_(data) + elements * kElementBytes);
  };
  Words k_words = row(&P::k, &P::k_stride_token, &P::k_stride_head);
  const Words v_words = row(&P::v, &P::v_stride_token, &P::v_stride_head);
  Words exact_k_words = k_words;

  Row k = values(k_words), v = values(v_words);
  if (quantizes_k()) {
    for (F32& x : k) x = without_nan(k_, x);
    if (transforms_k(spec_)) {
      for (F32& x : k) x = saturated(k_, x);
    }
  }
  if (quantizes_v()) {
    for (F32& x : v) x = without_nan(k_, x);
  }
  Row before_rotation;
  if (transforms_k(spec_)) transform(k, token, head, spec_.exact ? &before_rotation : nullptr);
  if (spec_.exact && (spec_.rope != Rope::none || spec_.smooth_k))
    exact_k_words = packed(before_rotation);

  Quantizers quantizers;
  if (quantizes_k() || quantizes_v()) quantizers = this->quantizers(k, v);
  if (quantizes_k()) {
    k_words = spec_.k_codes == KvCoding::e4m3
                  ? e4m3_words(k, quantizers.k)
                  : words_of(bytes(k, spec_.k_bits, spec_.k_codes, quantizers.k));
  } else if (transforms_k(spec_)) {
    for (F32& x : k) x = spec_.io == DType::f16 ? saturated(k_, x) : x;
    for (std::size_t i = 0; i < k_words.size(); ++i)
      k_words[i] = k_.pack2(spec_.io, k[2 * i], k[2 * i + 1]);
  }
  std::vector<I32> v_parts;
  if (quantizes_v()) {
    v_parts = bytes(v, spec_.v_bits, spec_.v_codes, quantizers.v);
  } else {
    v_parts = halves(v_words);
  }

  k_.if_(stored, [&] {
    const GlobalPtr block = block_of_place(place, head);
    const I32 in_block = place.token & (kKvBlockTokens - 1);
    store_rows(block_, block, in_block, k_words, v_parts);
    if (block_.parameter_bytes() > 0) store_parameters(block, in_block, quantizers);
  });
  if (!spec_.exact) return;
  k_.if_(exact_stored, [&] {
    store_rows(exact_block_of(spec_), block_of_exact(exact, head), exact.token, exact_k_words,
               halves(v_words));
  });
}

void KvAppend::build() {
  const I32 rows = p_(&Params::rows);
  const I32 first = k_.block_idx(0) * rows_of_block(spec_) + k_.thread_idx() / lane_count();
  const I32 row = k_.min(first, rows - 1);  // lanes without a row reduce with the others
  const I32 token = quotient(k_, row, p_(&Params::heads_reciprocal), p_(&Params::heads_shift));
  const I32 head = row - token * p_(&Params::heads);
  const Place place =
      spec_.addressing == Addressing::slots ? place_of_slot(token) : place_in_pages(token);
  const Pred stored = first < rows && place.there;
  if (!spec_.exact) {
    k_.if_(k_.any(stored), [&] { append(place, token, head, stored, {}, {}); });
    return;
  }
  const Place exact = place_of_exact(token);
  const Pred exact_stored = first < rows && exact.there;
  k_.if_(k_.any(stored || exact_stored),
         [&] { append(place, token, head, stored, exact, exact_stored); });
}

}  // namespace

void build(KernelBuilder& k, const Kernel& kernel) {
  KvAppend(k, kernel.view(family()).spec).build();
}

}  // namespace sagegen::kv_append
