// A warp has a block of 16 tokens of a head, and its lanes what KvBlock gives them of it: lane l = 4 g + t channels of the
// tokens 2 g and 2 g + 1 of K, and of the tokens 4 t to 4 t + 3 of V. Units are read whole, and all of a block is read once.
#include <array>
#include <vector>

#include "sagegen/dsl/kernel_builder.h"
#include "templates/kv_gather/params.h"
#include "templates/kv_gather/spec.h"
#include "templates/shared/hadamard.h"
#include "templates/shared/packed_rows.h"
#include "templates/shared/tensor.h"

namespace sagegen::kv_gather {

using namespace dsl;

namespace {

constexpr float kLargestHalf = 65504.0f;

using Row = std::vector<F32>;    // neighbouring channels, or pieces of them
using Words = std::vector<I32>;  // as they are stored

class KvGather {
 public:
  KvGather(KernelBuilder& k, const Spec& spec);
  void build();

 private:
  // Of K by channel, of the channels of a lane in their order; else empty.
  struct Channels {
    Row s, z;
  };
  void gather(GlobalPtr block, const Channels& channels, I32 first_row, I32 tokens) const;
  void gather_key(GlobalPtr block, const Channels& channels, int parity, GlobalPtr row,
                  Pred there) const;
  void gather_values(GlobalPtr block, int unit, GlobalPtr rows, I32 tokens) const;
  void gather_values_of_16_bits(GlobalPtr block, int unit, GlobalPtr rows, I32 tokens) const;

  Words load(GlobalPtr from, int bytes) const;
  void store(GlobalPtr row, I32 channel, const Words& words, Pred there) const;
  F32 half(GlobalPtr from) const { return k_.unpack2(DType::f16, k_.load_u16(from))[0]; }
  Words packed(const Row& row) const;
  // What codes of `bits` bits stand for, of the lowest ones of a word and of so many in all.
  struct Coding {
    int bits;
    KvCoding codes;
    F32 s, z;  // z: of codes with a zero point
  };
  void add_codes(Row& row, I32 word, int count, const Coding& coding) const;
  void add_codes_by_channel(Row& row, I32 word, const Channels& channels) const;
  Row parameters_of_channels(GlobalPtr block) const;

  KernelBuilder& k_;
  const Spec& spec_;
  const ParamReader<Params> p_;
  const KvBlock block_;
  const I32 row_, quad_;  // g and t of the lane
  const I32 head_, sequence_;
};

KvGather::KvGather(KernelBuilder& k, const Spec& spec)
    : k_(k),
      spec_(spec),
      p_(k.params<Params>()),
      block_(block_of(spec)),
      row_(k.lane_idx() >> 2),
      quad_(k.lane_idx() & 3),
      head_(k.block_idx(1)),
      sequence_(k.block_idx(2)) {}

Words KvGather::load(GlobalPtr from, int bytes) const {
  if (bytes == 16) {
    const auto words = k_.load_v4(from);
    return {words.begin(), words.end()};
  }
  if (bytes == 8) {
    const auto words = k_.load_v2(from);
    return {words.begin(), words.end()};
  }
  return {k_.load<I32>(from)};
}

// Of 4, 8, 16, ... channels, all of which the head has, or none.
void KvGather::store(GlobalPtr row, I32 channel, const Words& words, Pred there) const {
  const GlobalPtr to = row + channel * static_cast<std::int32_t>(kElementBytes);
  for (std::size_t i = 0; i < words.size(); i += 4) {
    const int first = 2 * static_cast<int>(i);
    const Pred stored =
        spec_.head_dim == block_.channels ? there : there && channel + first < spec_.head_dim;
    k_.if_(stored, [&] {
      const GlobalPtr part = to + std::int64_t{first} * kElementBytes;
      if (words.size() == 1)
        k_.store(part, words[0]);
      else if (words.size() == 2)
        k_.store_v2(part, {words[0], words[1]});
      else
        k_.store_v4(part, {words[i], words[i + 1], words[i + 2], words[i + 3]});
    });
  }
}

Words KvGather::packed(const Row& row) const {
  Words words;
  for (std::size_t i = 0; i < row.size(); i += 2) {
    std::array<F32, 2> pair{row[i], row[i + 1]};
    if (spec_.io == DType::f16) {
      for (F32& x : pair) x = k_.min(k_.max(x, k_.f32(-kLargestHalf)), k_.f32(kLargestHalf));
    }
    words.push_back(k_.pack2(spec_.io, pair[0], pair[1]));
  }
  return words;
}

void KvGather::add_codes(Row& row, I32 word, int count, const Coding& coding) const {
  for (int i = 0; i < count; ++i) {
    const I32 code = (i == 0 ? word : word >> i * coding.bits) & ((1 << coding.bits) - 1);
    switch (coding.codes) {
      case KvCoding::asymmetric:
        row.push_back(k_.fma(k_.to_f32(code), coding.s, coding.z));
        break;
      case KvCoding::symmetric:
        row.push_back(k_.to_f32(code - kv_code_offset(coding.codes, coding.bits)) * coding.s);
        break;
      case KvCoding::e4m3: {
        // Exponent and mantissa where those of f32 are, whose exponents are 120 more; subnormal numbers are such, too.
        const I32 bits = (code & 0x7F) << 20 | (code & 0x80) << 24;
        row.push_back(k_.as_f32(bits) * 0x1p120f * coding.s);
        break;
      }
      case KvCoding::channel:  // add_codes_by_channel
        break;
    }
  }
}

void KvGather::add_codes_by_channel(Row& row, I32 word, const Channels& channels) const {
  for (int i = 0; i < 32 / spec_.k_bits; ++i) {
    const I32 code = (i == 0 ? word : word >> i * spec_.k_bits) & ((1 << spec_.k_bits) - 1);
    const std::size_t channel = row.size();
    row.push_back(k_.fma(k_.to_f32(code), channels.s[channel], channels.z[channel]));
  }
}

// The first halves of all pairs of a word, then the second ones: KvBlock::k_channel.
Row KvGather::parameters_of_channels(GlobalPtr block) const {
  const std::size_t codes = 32 / static_cast<std::size_t>(spec_.k_bits);
  const std::size_t words = static_cast<std::size_t>(block_.k_lane_bytes()) / 4;
  Row row(words * codes);
  for (std::size_t word = 0; word < words; ++word) {
    for (std::size_t unit = 0; unit < codes / 8; ++unit) {
      const auto offset = static_cast<std::int64_t>(64 * (word * (codes / 8) + unit));
      const auto pairs = k_.load_v4(block + quad_ * 16 + (block_.channel_offset() + offset));
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        const auto pair = k_.unpack2(DType::f16, pairs[i]);
        const std::size_t channel = word * codes + 4 * unit + i;
        row[channel] = pair[0];
        row[channel + codes / 2] = pair[1];
      }
    }
  }
  return row;
}

// ---- K ---------------------------------------------------------------------------------------------

void KvGather::gather_key(GlobalPtr block, const Channels& of_channels, int parity, GlobalPtr row,
                          Pred there) const {
  const int lane_bytes = block_.k_lane_bytes(), piece = block_.k_piece_bytes();
  const int pieces = lane_bytes / piece, channels = piece * 8 / spec_.k_bits;
  Words words;
  for (int i = 0; i < pieces; ++i) {
    const int unit = block_.k_unit_has_both() ? parity * lane_bytes : 512 * (pieces * parity + i);
    const GlobalPtr from = block + k_.lane_idx() * block_.k_unit_bytes() + std::int64_t{unit};
    for (const I32 word : load(from, piece)) words.push_back(word);
  }
  if (kv_quantized(spec_.k_bits) || transforms_k(spec_)) {
    Row x;
    if (block_.k_of_channels()) {
      for (const I32 word : words) add_codes_by_channel(x, word, of_channels);
    } else if (kv_quantized(spec_.k_bits)) {
      Coding coding{.bits = spec_.k_bits, .codes = spec_.k_codes, .s = {}, .z = {}};
      // Of the token 2 g + parity, as s_k has it: quads of tokens, and in these pairs.
      const int quad_bytes = block_.s_k(4) - block_.s_k(0);
      coding.s = half(block + (quad_bytes * (row_ >> 1) + 2 * (row_ & 1)) +
                      std::int64_t{block_.s_k(parity)});
      if (block_.k_has_zero_point())
        coding.z = half(block + 4 * row_ + std::int64_t{block_.z_k(parity)});
      for (const I32 word : words) add_codes(x, word, 32 / spec_.k_bits, coding);
    } else {
      for (const I32 word : words) {
        for (const F32 value : k_.unpack2(spec_.io, word)) x.push_back(value);
      }
    }
    if (spec_.rotation == Rotation::hadamard)
      x = hadamard_of_quad(k_, x, quad_, channels, rotation_block(spec_.head_dim));
    if (spec_.smooth_k) {
      const GlobalPtr mean = k_.params<MeanParams>()(&MeanParams::mean) +
                             k_.to_i64(head_ * spec_.head_dim) * std::int64_t{4};
      for (std::size_t i = 0; i < x.size(); i += 4) {
        const auto in_piece = static_cast<int>(i) % channels;
        const I32 channel = quad_ * channels + (4 * (static_cast<int>(i) - in_piece) + in_piece);
        const I32 known = k_.select(channel < spec_.head_dim, channel, k_.i32(0));
        const auto part = k_.load_v4(mean + k_.to_i64(known) * std::int64_t{4});
        for (std::size_t j = 0; j < part.size(); ++j) x[i + j] = x[i + j] + k_.as_f32(part[j]);
      }
    }
    words = packed(x);
  }
  const auto words_of_piece = static_cast<std::ptrdiff_t>(channels / 2);
  for (int i = 0; i < pieces; ++i) {
    const auto first = words.begin() + i * words_of_piece;
    store(row, quad_ * channels + 4 * channels * i, Words(first, first + words_of_piece), there);
  }
}

// ---- V ---------------------------------------------------------------------------------------------

void KvGather::gather_values(GlobalPtr block, int unit, GlobalPtr rows, I32 tokens) const {
  const int piece = block_.v_piece_bytes(), in_byte = 8 / spec_.v_bits;
  const Words words = load(block + k_.lane_idx() * block_.v_unit_bytes() +
                               std::int64_t{block_.v_offset() + 32 * block_.v_unit_bytes() * unit},
                           4 * piece);
  const auto parameter = [&](int (KvBlock::*of_token)(int) const, int j) {
    const int quad_bytes = (block_.*of_token)(4) - (block_.*of_token)(0);
    return half(block + quad_ * quad_bytes + std::int64_t{(block_.*of_token)(j)});
  };
  for (int j = 0; j < 4; ++j) {
    Coding coding{.bits = spec_.v_bits, .codes = spec_.v_codes, .s = {}, .z = {}};
    coding.s = parameter(&KvBlock::s_v, j);
    if (block_.v_has_zero_point()) coding.z = parameter(&KvBlock::z_v, j);
    Row x;
    for (const I32 word : words) add_codes(x, j == 0 ? word : word >> 8 * j, in_byte, coding);
    const GlobalPtr row =
        rows + k_.to_i64(quad_ * 4 + j) * p_(&Params::v_stride_token) * kElementBytes;
    store(row, (row_ + 8 * unit) * (piece * in_byte), packed(x), quad_ * 4 + j < tokens);
  }
}

void KvGather::gather_values_of_16_bits(GlobalPtr block, int unit, GlobalPtr rows,
                                        I32 tokens) const {
  const auto words =
      k_.load_v4(block + k_.lane_idx() * 16 + std::int64_t{block_.v_offset() + 512 * unit});
  for (std::size_t j = 0; j < 4; ++j) {
    const I32 low = words[2 * (j % 2)], high = words[2 * (j % 2) + 1];
    const I32 pair = j < 2 ? k_.permute_bytes(low, high, {0, 1, 4, 5})
                           : k_.permute_bytes(low, high, {2, 3, 6, 7});
    const I32 token = quad_ * 4 + static_cast<int>(j);
    const GlobalPtr row = rows + k_.to_i64(token) * p_(&Params::v_stride_token) * kElementBytes;
    store(row, row_ * 2 + 16 * unit, {pair}, token < tokens);
  }
}

// ---- the kernel ------------------------------------------------------------------------------------

void KvGather::gather(GlobalPtr block, const Channels& channels, I32 first_row, I32 tokens) const {
  using P = Params;
  const auto rows = [&](Address P::*data, std::int64_t P::*of_token, std::int64_t P::*of_head) {
    const I64 elements =
        k_.to_i64_unsigned(first_row) * p_(of_token) + k_.to_i64_unsigned(head_) * p_(of_head);
    return p_(data) + elements * kElementBytes;
  };
  const GlobalPtr keys = rows(&P::k, &P::k_stride_token, &P::k_stride_head);
  for (int parity = 0; parity < 2; ++parity) {
    const I32 token = row_ * 2 + parity;
    gather_key(block, channels, parity,
               keys + k_.to_i64(token) * p_(&P::k_stride_token) * kElementBytes, token < tokens);
  }
  const GlobalPtr values = rows(&P::v, &P::v_stride_token, &P::v_stride_head);
  for (int unit = 0; unit < block_.v_units(); ++unit) {
    if (kv_quantized(spec_.v_bits))
      gather_values(block, unit, values, tokens);
    else
      gather_values_of_16_bits(block, unit, values, tokens);
  }
}

void KvGather::build() {
  using P = Params;
  const auto load_i32 = [&](Address P::*array, I64 index) {
    return k_.load<I32>(p_(array) + index * std::int64_t{4});
  };
  const I32 block = k_.block_idx(0) * kWarps + k_.warp_idx(), first = block * kKvBlockTokens;
  const I64 sequence = k_.to_i64(sequence_);
  const I32 begin = load_i32(&P::indptr, sequence);
  // Nothing that lies on the device leads out of the rows or the page table.
  const I32 end = k_.min(load_i32(&P::indptr, sequence + 1), p_(&P::rows));
  const Var<I32> tokens = k_.var(k_.min(end - begin, p_(&P::longest)));
  k_.if_(!k_.is_null(p_(&P::lengths)),
         [&] { tokens = k_.min(tokens.get(), load_i32(&P::lengths, sequence)); });
  const I32 page = quotient(k_, block, p_(&P::page_reciprocal), p_(&P::page_shift));
  const Pred there =
      begin >= 0 && begin < p_(&P::rows) && first < tokens.get() && page < p_(&P::max_pages);
  k_.if_(there, [&] {
    const I32 known =
        load_i32(&P::page_table, sequence * k_.to_i64(p_(&P::max_pages)) + k_.to_i64(page));
    const I32 in_page = block - page * p_(&P::blocks_per_page);
    const GlobalPtr at = p_(&P::pool) + k_.to_i64_unsigned(known) * p_(&P::stride_page) +
                         k_.to_i64_unsigned(head_) * p_(&P::stride_head) +
                         k_.to_i64_unsigned(in_page) * p_(&P::stride_block);
    Channels channels;
    if (block_.k_of_channels()) {
      // Of both blocks of the group, whichever of them this one is.
      const I64 back = k_.to_i64_unsigned(in_page & 1) * p_(&P::stride_block);
      const GlobalPtr group = at + back * std::int64_t{-1};
      channels.s = parameters_of_channels(group);
      channels.z = parameters_of_channels(group + p_(&P::stride_block));
    }
    gather(at, channels, begin + first, tokens.get() - first);
  });
}

}  // namespace

void build(KernelBuilder& k, const Kernel& kernel) {
  KvGather(k, kernel.view(family()).spec).build();
}

}  // namespace sagegen::kv_gather
