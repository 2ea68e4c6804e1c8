// New keys and values to the pages of a low-bit KV cache (shared/kv_format.h): each token of a head by itself, in one
// kernel for all new tokens of all sequences, of a step of decoding as of a prompt.
//
// K may be transformed first, in this order: rotary embedding, minus a frozen mean, Hadamard matrix. Whoever reads the
// cache does to Q what the scores need: the embedding, and the same Hadamard matrix; the mean needs nothing for O, which
// does not see it, but an LSE is less by softmax_scale (q . mean).
//
// What is stored of a row x of K or V in 2, 4 or 8 bits; everything in f32, each operation rounded to nearest even:
//   NaN counts as 0, and what is beyond +-65504 as that: before K is transformed, and of what is stored
//   z = f16(min x)
//   s = f16(max(max x - z, 0) * c), c = f32((1 + 2^-11) / (2^bits - 1)): where s is a normal number it is no less than
//       the step that the row needs, so that its largest has the largest code
//   code = round((x - z) * (1 / s)), ties to even, at least 0 and at most 2^bits - 1; with s = 0 it is 0
// where z and s are the rounded ones that the cache holds. |x - (s * code + z)| is at most s / 2 and what z was rounded
// by; where s is not a normal number (below 2^-14) 2^-25 times the largest code more, as codes end early.
// Without zero point (KvCoding), m the largest magnitude of codes, 2^(bits - 1) - 1, or 448 of e4m3:
//   s = f16(min(max |x| * c, 65504)), c = f32((1 + 2^-11) / m)
//   code = x * (1 / s), to the nearest of the numbers from -m to m that codes have, ties to even; symmetric ones are stored
//       with an offset, 2^(bits - 1)
// Codes of a byte begin in its lowest bits. In 16 bits a row is stored in the dtype of K and V: V, and K if nothing
// transforms it, as they come; what a transform makes of finite K is finite, in f16 at most 65504.
#pragma once

#include <numeric>
#include <string_view>

#include "sagegen/kernel.h"
#include "templates/shared/kv_format.h"
#include "templates/shared/quantization.h"

namespace sagegen::kv_append {

// Rotary embedding of K: of channel c with c + half of the rotated ones (neox), or of 2 c with 2 c + 1.
enum class Rope { none, neox, interleaved };
std::string_view to_string(Rope value);

// Where tokens go. slots: each has the number of its place, page * page tokens + place in it, as vLLM has it. pages: they
// are the last ones of sequences whose pages a table lists, as FlashInfer has it.
enum class Addressing { slots, pages };
std::string_view to_string(Addressing value);

struct Spec {
  int head_dim = 128;
  DType io = DType::f16;
  int k_bits = 8, v_bits = 8;
  KvCoding k_codes = KvCoding::asymmetric, v_codes = KvCoding::asymmetric;
  Rope rope = Rope::none;
  bool smooth_k =
      false;  // minus a mean of each head and channel that stays what it is for all tokens of a cache
  // Of K, orthonormal: of each rotation_block() channels.
  Rotation rotation = Rotation::none;
  Addressing addressing = Addressing::slots;
  // Tokens that have a place in a pool of 16 bits (KvExact) go there, too: V as it comes, and K before it is rotated, as it comes
  // if it is neither embedded nor made less by a mean. Scores of both are the same ones: decode takes queries for these
  // keys as they come, and rotated ones for the codes.
  bool exact = false;
};

constexpr bool transforms_k(const Spec& spec) {
  return spec.rope != Rope::none || spec.smooth_k || spec.rotation != Rotation::none;
}
constexpr KvBlock block_of(const Spec& spec) {
  return KvBlock({.head_dim = spec.head_dim,
                  .k_bits = spec.k_bits,
                  .v_bits = spec.v_bits,
                  .k_codes = spec.k_codes,
                  .v_codes = spec.v_codes});
}

constexpr KvBlock exact_block_of(const Spec& spec) {
  return KvBlock({.head_dim = spec.head_dim, .k_bits = 16, .v_bits = 16});
}

// A row is one token of one head. Its codes have 64, 128 or 256 channels; a lane has neighbouring ones of them.
inline constexpr int kThreads = 128;
constexpr int channels_of_lane(int head_dim) { return kv_code_channels(head_dim) == 256 ? 8 : 4; }
constexpr int lanes_of_row(int head_dim) {
  return kv_code_channels(head_dim) / channels_of_lane(head_dim);
}
constexpr int rows_of_block(const Spec& spec) { return kThreads / lanes_of_row(spec.head_dim); }
// Elements of K and V, and of the mean, that are read at once: addresses and strides are multiples of them.
constexpr int elements_at_once(int head_dim) {
  return std::gcd(head_dim, channels_of_lane(head_dim));
}
// Channels that are rotated are whole lanes, and so are their halves.
constexpr int rotary_step(int head_dim) { return 2 * channels_of_lane(head_dim); }

using View = ViewOf<Spec, NoSchedule>;
const FamilyOf<Spec>& family();

}  // namespace sagegen::kv_append
