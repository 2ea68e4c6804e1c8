// How a KV cache stores keys and values in few bits: one description that kernels, plans, engines and tests share.
//
// Tokens lie in blocks of 16 of one KV head (KvBlock), blocks in pages, pages in a pool that an engine owns; a page table
// says which pages a sequence has. Each token of a head has its own scale and, as KvCoding has it, zero point:
// x = scale * code + zero.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sagegen/fields.h"
#include "sagegen/types.h"

namespace sagegen {

inline constexpr int kKvBlockTokens = 16;
// Tokens that share the scales and zero points of K by channel (KvCoding::channel): two blocks.
inline constexpr int kKvGroupTokens = 2 * kKvBlockTokens;

// Of a page, which has the blocks of all KV heads: hnd has those of a head together, nhd those of the heads of 16 tokens.
enum class KvPageLayout { hnd, nhd };
std::string_view to_string(KvPageLayout value);

// What codes of K or V of less than 16 bits stand for, per token of a head.
//   asymmetric: unsigned numbers c of so many bits, s c + z (KVTuner's and KIVI's "per token", arXiv 2502.04420 section 3).
//   symmetric:  s (c - 2^(bits - 1)), without zero point: c has an offset, so that it is unsigned, too.
//   e4m3:       s c of FP8 numbers c, 8 bits; NaN is none of them.
// Or per channel of a head, of K alone and of 2 or 4 bits (KIVI's and KVTuner's "per channel", arXiv 2402.02750 section 3.2):
//   channel:    s c + z as asymmetric, where s and z are those of a channel and of a group of kKvGroupTokens tokens. A group is
//               written as a whole. A page has whole groups.
enum class KvCoding { asymmetric, symmetric, e4m3, channel };
std::string_view to_string(KvCoding value);
constexpr bool kv_has_zero_point(KvCoding codes) {
  return codes == KvCoding::asymmetric || codes == KvCoding::channel;
}
// By which an unsigned code exceeds what is multiplied by the scale.
constexpr int kv_code_offset(KvCoding codes, int code_bits) {
  return codes == KvCoding::symmetric ? 1 << (code_bits - 1) : 0;
}
// The largest magnitude that codes without zero point have: the largest one of a token gets it.
constexpr int kv_largest_magnitude(KvCoding codes, int code_bits) {
  return codes == KvCoding::e4m3 ? 448 : (1 << (code_bits - 1)) - 1;
}

struct KvFormat {
  int head_dim = 128;
  DType io = DType::f16;       // of K and V as they come, and as 16 bits store them
  int k_bits = 8, v_bits = 8;  // of a code: 2, 4, 8; 16: as they come, without scale and zero point
  KvCoding k_codes = KvCoding::asymmetric, v_codes = KvCoding::asymmetric;
  int page_tokens = 64;  // of a page: a multiple of kKvBlockTokens
  KvPageLayout layout = KvPageLayout::hnd;

  friend bool operator==(const KvFormat&, const KvFormat&) = default;
};

// Bits of a code, and whether there is a scale with it.
Values kv_bits();
constexpr bool kv_quantized(int code_bits) { return code_bits < 16; }
// KvCoding as fields `k_codes` and `v_codes` have them: tag is "k" or "v". Without `channel`, which kernels name that have it.
Values kv_codes(char tag);
Values kv_codes_with_channel(char tag);
// What a page is a multiple of, in tokens.
constexpr int kv_page_unit(KvCoding k_codes) {
  return k_codes == KvCoding::channel ? kKvGroupTokens : kKvBlockTokens;
}
// Why codes of K or V (`tensor`) are none of so many bits; empty: they are.
std::string kv_codes_refusal(char tensor, int code_bits, KvCoding codes);

// Channels that codes have. Those behind the last one of the head have code 0, and of 16 bits they are zeros; scale and zero
// point of a token are those of the channels of the head.
constexpr int kv_code_channels(int head_dim) {
  int channels = 64;
  while (channels < head_dim) channels *= 2;
  return channels;
}

// Where everything of a block lies, which is contiguous: codes of K, codes of V, scales and zero points (f16). It is the
// order in which the lanes of a warp read it as operands of mma (m16n8k32 of K, m16n8k16 of V): lane l = 4 g + t has the
// tokens 2 g and 2 g + 1 of K and the tokens 4 t to 4 t + 3 of V, and what it reads at once lies at l times its size.
// No byte is of two tokens, so that a token is written without reading another one.
struct KvBlock {
  int k_bits, v_bits;
  KvCoding k_codes, v_codes;
  int channels;  // kv_code_channels()

  explicit constexpr KvBlock(const KvFormat& format)
      : k_bits(format.k_bits),
        v_bits(format.v_bits),
        k_codes(format.k_codes),
        v_codes(format.v_codes),
        channels(kv_code_channels(format.head_dim)) {}

  constexpr int k_row_bytes() const { return channels * k_bits / 8; }  // of a token
  constexpr int v_row_bytes() const { return channels * v_bits / 8; }
  constexpr int k_bytes() const { return kKvBlockTokens * k_row_bytes(); }
  constexpr int v_bytes() const { return kKvBlockTokens * v_row_bytes(); }
  // Both with parameters of each token.
  constexpr bool both_quantized() const { return k_of_tokens() && kv_quantized(v_bits); }
  constexpr bool k_has_zero_point() const {
    return kv_quantized(k_bits) && kv_has_zero_point(k_codes);
  }
  // Parameters of K are those of channels, or of tokens; neither: 16 bits.
  constexpr bool k_of_channels() const { return k_codes == KvCoding::channel; }
  constexpr bool k_of_tokens() const { return kv_quantized(k_bits) && !k_of_channels(); }
  constexpr bool v_has_zero_point() const {
    return kv_quantized(v_bits) && kv_has_zero_point(v_codes);
  }
  constexpr int parameter_bytes() const {
    const int of_k = k_of_tokens() ? 1 + k_has_zero_point() : 0;
    return 2 * kKvBlockTokens * of_k + v_parameter_bytes() + (k_of_channels() ? 2 * channels : 0);
  }
  constexpr int v_offset() const { return k_bytes(); }
  constexpr int parameter_offset() const { return k_bytes() + v_bytes(); }
  constexpr int bytes() const { return parameter_offset() + parameter_bytes(); }

  // K: a lane has k_row_bytes() / 4 consecutive bytes of a token's row, in units of at most 16 bytes:
  // unit (h, l) of token 2 g + p. Rows that give a lane less than 16 bytes have both of its tokens in a unit, p = 0 first.
  constexpr int k_lane_bytes() const { return k_row_bytes() / 4; }
  constexpr int k_piece_bytes() const { return k_lane_bytes() < 16 ? k_lane_bytes() : 16; }
  constexpr bool k_unit_has_both() const { return k_lane_bytes() < 16; }
  constexpr int k_unit_bytes() const { return k_unit_has_both() ? 2 * k_lane_bytes() : 16; }
  constexpr int k_units() const { return k_bytes() / (32 * k_unit_bytes()); }  // of a lane

  // V of at most 8 bits: a lane has v_piece_bytes() consecutive bytes of each of its four tokens, byte by byte: byte r of
  // the tokens 4 t, 4 t + 1, 4 t + 2, 4 t + 3, then byte r + 1. Unit (i, l) begins at byte v_piece_bytes() (8 i + g) of the
  // rows. V of 16 bits: unit (m, l) has channels c = 16 m + 2 g and c + 1:
  // c of the tokens 4 t and 4 t + 2, c + 1 of them, c of the tokens 4 t + 1 and 4 t + 3, c + 1 of them.
  constexpr int v_piece_bytes() const {
    return v_bits == 16 || v_row_bytes() >= 32 ? 4 : v_row_bytes() / 8;
  }
  constexpr int v_unit_bytes() const { return 4 * v_piece_bytes(); }
  constexpr int v_units() const { return v_bytes() / (32 * v_unit_bytes()); }  // of a lane

  // Bytes from the start of the block to the byte of a row of K or V, for 16 bits of V to an even one.
  constexpr int k_byte(int token, int row_byte) const {
    const int lane = 4 * (token / 2) + row_byte % (4 * k_piece_bytes()) / k_piece_bytes();
    const int parity = token % 2, in_piece = row_byte % k_piece_bytes();
    if (k_unit_has_both()) return k_unit_bytes() * lane + k_lane_bytes() * parity + in_piece;
    const int of_lane = k_lane_bytes() / 16;  // pieces of a token
    return 16 * (32 * (of_lane * parity + row_byte / 64) + lane) + in_piece;
  }
  constexpr int v_byte(int token, int row_byte) const {
    const int t = token / 4, j = token % 4;
    if (v_bits == 16) {
      const int channel = row_byte / 2, lane = 4 * (channel % 16 / 2) + t;
      return v_offset() + 16 * (32 * (channel / 16) + lane) + 4 * (2 * (j % 2) + channel % 2) +
             2 * (j / 2) + row_byte % 2;
    }
    const int piece = row_byte / v_piece_bytes(), lane = 4 * (piece % 8) + t;
    return v_offset() + v_unit_bytes() * (32 * (piece / 8) + lane) +
           4 * (row_byte % v_piece_bytes()) + j;
  }

  // Scales and zero points of a token, f16; K by channel has none of a token. Those of a quad of tokens 4 t to 4 t + 3 that both are quantized:
  //   z_v0 z_v2 s_k0 s_k2 z_v1 z_v3 s_k1 s_k3, which is an A operand of m16n8k16 (z_v in rows 0-7);
  // behind them of each quad s_v0 s_v2 s_v1 s_v3, behind these z_k of the tokens in their order.
  // V alone: z_v0 z_v2 s_v0 s_v2 z_v1 z_v3 s_v1 s_v3 of each quad. K alone: s_k0 s_k2 s_k1 s_k3 of each, then z_k.
  // Without zero point of V s_v is in the place of z_v, and what was behind comes forward; without one of K there is no z_k.
  constexpr int z_v(int token) const { return wide(token); }
  constexpr int s_k(int token) const { return both_quantized() ? wide(token) + 4 : narrow(token); }
  constexpr int s_v(int token) const {
    if (both_quantized()) return v_has_zero_point() ? 64 + narrow(token) : wide(token);
    return v_has_zero_point() ? wide(token) + 4 : narrow(token);
  }
  constexpr int z_k(int token) const {
    return parameter_offset() + parameter_bytes() - 2 * kKvBlockTokens + 2 * token;
  }

  // Parameters of K by channel, f16, behind those of V: the scales of a group of tokens in its first block, the zero points at
  // the same places of its second one. Units of 16 bytes, unit (j, t) at 16 (4 j + t), are of the channels that quad t has in its
  // rows of K, word after word: n codes of a word are n / 2 pairs, code i and code i + n / 2, which a mask makes two f16 of a
  // register (n / 2 codes are 16 bits), so that a lane reads the operand that its codes are multiplied by.
  constexpr int channel_offset() const { return parameter_offset() + v_parameter_bytes(); }
  constexpr int k_channel(int channel) const {
    const int codes = 32 / k_bits, row_byte = channel * k_bits / 8, piece = k_piece_bytes();
    const int t = row_byte % (4 * piece) / piece;
    const int word = row_byte / (4 * piece) * (piece / 4) + row_byte % piece / 4;
    const int code = channel % codes, pair = code % (codes / 2), high = code / (codes / 2);
    const int unit = word * (codes / 8) + pair / 4;
    return channel_offset() + 16 * (4 * unit + t) + 4 * (pair % 4) + 2 * high;
  }

 private:
  constexpr int v_parameter_bytes() const {
    return kv_quantized(v_bits) ? 2 * kKvBlockTokens * (1 + v_has_zero_point()) : 0;
  }
  // Of a quad with two parameters that are read at once, or with one.
  constexpr int wide(int token) const {
    return quad(token, 16) + 8 * (token % 2) + 2 * high(token);
  }
  constexpr int narrow(int token) const {
    return quad(token, 8) + 4 * (token % 2) + 2 * high(token);
  }
  constexpr int quad(int token, int bytes_of_quad) const {
    return parameter_offset() + bytes_of_quad * (token / 4);
  }
  static constexpr int high(int token) { return token % 4 / 2; }
};

// Of one KV head: bytes of a token with its share of everything (of parameters by channel, too); a head of a page; and what that is per element of K and V.
constexpr int kv_token_bytes(const KvFormat& format) {
  return KvBlock(format).bytes() / kKvBlockTokens;
}
constexpr double kv_nominal_bits(const KvFormat& format) {
  return (format.k_bits + format.v_bits) / 2.0;
}
constexpr double kv_effective_bits(const KvFormat& format) {
  return 8.0 * kv_token_bytes(format) / (2.0 * format.head_dim);
}

// Bytes from one to the next in a contiguous pool: pages [heads, blocks] (hnd) or [blocks, heads] (nhd).
struct KvStrides {
  std::int64_t page = 0, head = 0, block = 0;
};
KvStrides kv_strides(const KvFormat& format, int kv_heads);

// The members by name: "head_dim=128 io=f16 k_bits=4 v_bits=2 page_tokens=528 layout=nhd k_codes=symmetric v_codes=symmetric".
const Fields& kv_format_fields();
std::string to_string(const KvFormat& format);
// From such a text, in any order; what is not named is the default. Throws SpecError that says what is valid.
KvFormat kv_format_of(std::string_view text);
// Throws SpecError: what is wrong with a format, by which rule, and what to change.
void validate(const KvFormat& format);
// Of the whole layout, the same in all processes: bytes of caches of equal digest mean the same codes. What was done to K
// before (a mean, a Hadamard matrix) is not in it.
std::uint64_t kv_digest(const KvFormat& format);

// Tokens of a sequence that are kept in 16 bits beside the codes that all tokens have: its first ones, which many queries
// look at (arXiv 2309.17453), and its last ones (KIVI's residual window, arXiv 2402.02750). They are in blocks of 16 of a pool of
// their own, whose format has 16 bits and pages of 16 tokens: first those of the sinks, behind them a ring, in which the block of a
// token that has left the window is that of a later one. Lengths in tokens: sinks and unit are multiples of 32, the others of 16.
struct KvExact {
  std::int64_t sinks = 0;
  std::int64_t window = 0;  // the last tokens of which none is a code
  // By how much the codes grow at a time: up to unit - 1 tokens more than the window are exact.
  std::int64_t unit = 32;
  std::int64_t taken_back =
      0;  // by how much a sequence may become shorter again, as of drafts that are rejected

  // Blocks of a sequence in the pool: entries of its table.
  constexpr std::int64_t ring_blocks() const {
    return (window + unit + taken_back) / kKvBlockTokens;
  }
  constexpr std::int64_t blocks() const { return sinks / kKvBlockTokens + ring_blocks(); }
  // The codes that are read of a sequence of so many tokens are those from the sinks up to here.
  constexpr std::int64_t codes_end(std::int64_t length) const {
    const std::int64_t behind = length - window - sinks;
    return behind < unit ? sinks : sinks + behind / unit * unit;
  }
  // Of a sequence that has so many tokens when all that come with this one are there: where it is to be written, as block
  // in the table times 16 and place in it; -1: nowhere, as a later one is to be there, or will be.
  constexpr std::int64_t place(std::int64_t token, std::int64_t length) const {
    if (token < sinks) return token;
    const std::int64_t of_ring = ring_blocks() * kKvBlockTokens;
    const std::int64_t first_kept =
        (length + kKvBlockTokens - 1) / kKvBlockTokens * kKvBlockTokens - of_ring;
    return token < first_kept ? -1 : sinks + (token - sinks) % of_ring;
  }

  friend bool operator==(const KvExact&, const KvExact&) = default;
};
// Throws SpecError: a number that is none of those.
void validate(const KvExact& exact);
// Of that pool, beside codes of this format.
KvFormat kv_exact_format(KvFormat format);

}  // namespace sagegen
