// How SageAttention2 quantizes: the choices that several families share, and the layout of their scales.
//
// Shapes of the tensors between the kernels: B batch, Hq and Hkv heads, D head_dim, of V value_dim, Lq and Lk lengths. LqP is
// Lq rounded up to a multiple of the larger of q_group and cta_q, LkP is Lk rounded up to a multiple of the
// larger of k_group and cta_k. They are contiguous. Rows of codes between the length and the padded length
// are written as zero, so attention loads whole tiles without bounds. So are the channels of codes behind the last
// one of the head: Dc = code_channels() of Q and K, Dv = value_channels() of V.
#pragma once

#include <bit>
#include <cstdint>
#include <string>

#include "sagegen/fields.h"
#include "sagegen/types.h"

namespace sagegen {

// Which elements of Q and K share a scale (SageAttention2 section 3.2).
//   per_thread: all scores that one thread of the attention kernel holds share one Q and one K scale.
//               In a group of rows of Q, row r uses scale r mod 8; of K, row r uses (r mod 8) / 2.
//   per_block:  one scale per group of rows: of a thread block's rows or, in groups of a warp's, "per warp".
//   per_token:  one scale per row. The finest, and slow: every score has another product of scales.
//   per_tensor: one scale per head. The coarsest, and slow: all rows are read once more, to find it.
enum class Granularity { per_thread, per_block, per_token, per_tensor };

// What is subtracted before quantization (SageAttention2 section 3.1). k: of K the mean over all keys, per
// channel. Softmax does not see it; the LSE output is corrected. qk: besides, of Q the mean over each block of
// kMeanRows rows. Its scores, of all keys, come back as what the integer sums start from.
enum class Smoothing { none, k, qk };
constexpr bool smooths_k(Smoothing s) { return s != Smoothing::none; }

// Whether of V the mean over all keys, per channel, is subtracted before quantization: codes then are of what is left,
// and O gets the mean back (SageAttention2's smooth_v). It takes the offset of a channel from what e4m3 has to round.
enum class ValueSmoothing { none, mean };
// An orthogonal transform of Q and K, of channels, that leaves scores as they are: it spreads what single channels have of
// a row over all of them. hadamard: that of Hadamard, of each rotation_block() channels (QuaRot, arXiv 2404.00456).
enum class Rotation { none, hadamard };
// Channels that are transformed together: a power of two that divides head_dim, the largest.
constexpr int rotation_block(int head_dim) { return head_dim & -head_dim; }

// Rows of Q that share a mean: what the paper's thread block works on, whatever ours does.
inline constexpr int kMeanRows = 128;

// How P V is summed over key tiles. f32: the tensor core accumulates into O. two_level_f32: each key
// tile is summed from zero in the tensor core and then added to O in f32 registers, which keeps the
// 13-bit FP8 accumulators from drifting (SageAttention2 section 3.3). f32_f16: the same with f16 in the
// tensor core, which GeForce multiplies twice as fast (SageAttention2++, arXiv 2505.21136).
enum class Accumulation { f32, two_level_f32, f32_f16 };

// Where the codes of P and V end. Sums of f16 end at 65504, so of the products of e4m3 codes that they take up the
// largest are less than their formats allow, and a range that one of the two has is one that the other lacks.
//   usual:  as far as accumulators and formats go. P has most of it: what P loses, weak keys lose.
//   fine_v: V has an octave of P's, for values far below the largest of their channel: attention sinks.
enum class CodeRange { usual, fine_v };

std::string_view to_string(Granularity value);
std::string_view to_string(Smoothing value);
std::string_view to_string(ValueSmoothing value);
std::string_view to_string(Rotation value);
std::string_view to_string(Accumulation value);
std::string_view to_string(CodeRange value);

// Keys whose products are summed in f16 before the sum goes to f32.
inline constexpr int kKeysOfHalfSums = 64;

// The largest codes of P, and of V with a scale per channel, as octaves below those that f32 accumulators take:
// 448 and 448 (e4m3), 1 and 1024 (f16). So a maximum is an exact code in every range.
struct CodeOctaves {
  int p = 0, v = 0;
};
// Sums of f16 stay finite: kKeysOfHalfSums * largest P * largest V is 50176 of e4m3, 32768 of f16. It is a number of
// f16, and so are the sums of the first 8, 16, 24, ... keys; rounding them on the way leads to no larger one. Of the
// range that f16 codes have, P takes nine octaves beyond 1: what it loses is the same for all weak keys and grows
// with their number, V's does not.
constexpr CodeOctaves code_octaves(DType pv, Accumulation accumulation, CodeRange range) {
  if (accumulation != Accumulation::f32_f16) return {};
  if (pv == DType::f16) return {.p = -9, .v = 10};
  return range == CodeRange::usual ? CodeOctaves{.p = 1, .v = 7} : CodeOctaves{.p = 2, .v = 6};
}
// Of V, that many octaves below 448 (e4m3) or 1024 (f16).
constexpr float largest_v_code(DType codes, int octaves) {
  return (codes == DType::e4m3 ? 448.0f : 1024.0f) / static_cast<float>(1 << octaves);
}

// Kernels take scores in base 2, natural ones times this.
inline constexpr float kLog2E = 1.44269504f;

// Scales of one group of rows; 0: the head has one.
constexpr int scales_per_group(Granularity g, int group, int of_thread) {
  switch (g) {
    case Granularity::per_thread:
      return of_thread;
    case Granularity::per_block:
      return 1;
    case Granularity::per_token:
      return group;
    case Granularity::per_tensor:
      return 0;
  }
  return 0;
}
constexpr int q_scales_per_group(Granularity g, int group) { return scales_per_group(g, group, 8); }
constexpr int k_scales_per_group(Granularity g, int group) { return scales_per_group(g, group, 4); }

// ---- channels ----
// The one place that says how the channels of a head are padded. Only what lies in the workspace, in shared memory or
// in registers is: the caller's tensors have head_dim channels.

constexpr int rounded_up(int number, int unit) { return (number + unit - 1) / unit * unit; }

// Q and K come in whole steps of their product, which are 32 bytes: so many channels.
constexpr int product_channels(DType codes) {
  return bits(codes) == 4 ? 64 : bits(codes) == 16 ? 16 : 32;
}
constexpr int code_channels(DType codes, int head_dim) {
  return rounded_up(head_dim, product_channels(codes));
}
constexpr int code_row_bytes(DType codes, int head_dim) {
  return code_channels(codes, head_dim) * bits(codes) / 8;
}

// V comes in slices of P V: two column blocks, of which the last may be padding. Nothing is computed of that.
inline constexpr int kSliceChannels = 16;
constexpr int value_channels(int head_dim) { return rounded_up(head_dim, kSliceChannels); }

// O as it lies in shared memory: whole lines, so that threads which read rows of it meet no bank twice.
constexpr int output_row_bytes(int channels, int element_bytes = 2) {
  return rounded_up(element_bytes * channels, 128);
}

// Channels that the lanes of a row hold, 8 each, in kernels that prepare inputs (shared/rows.h): shuffles reduce over
// a power of two of lanes. Those behind the last channel hold zeros.
constexpr int lane_channels(int channels) {
  return static_cast<int>(std::bit_ceil(static_cast<unsigned>(channels)));
}

// ---- codes ----

// Codes of Q and K are symmetric: -largest to largest.
constexpr float largest_code(DType codes) { return codes == DType::s4 ? 7.0f : 127.0f; }

// Integer scores are sums of code * code, read as f32 that count them exactly below this (attention/scores.h).
inline constexpr float kExactScores = 0x1p22f;
// With Smoothing::qk a sum starts from m . k / (q scale * k scale) for the mean m of the queries. No |k| is more
// than largest_code * k scale, so it stays below kExactScores if largest |q - m| counts as at least this times
// the sum of |m| over the channels.
constexpr float square_of_largest_code(DType codes) {
  return largest_code(codes) * largest_code(codes);
}
constexpr float room_for_mean(DType codes, int head_dim) {
  constexpr float kRoundings = 0.98f;  // of mean, scales and quotient; far more than they need
  return kRoundings * kExactScores - square_of_largest_code(codes) * static_cast<float>(head_dim);
}
constexpr float least_amax_of_mean(DType codes, int head_dim) {
  return square_of_largest_code(codes) / room_for_mean(codes, head_dim);
}

// The kernels that prepare inputs hold this many rows at a time (shared/rows.h). What their threads reduce over
// their own rows meets in a table in shared memory, f32 [row of the pass, channel].
inline constexpr int kRowsPerPass = 8;
constexpr int column_table_bytes(int channels) {
  return kRowsPerPass * lane_channels(channels) * 4;
}

// A thread of a quantization kernel keeps its part of a group, one value per row, in registers between
// finding the scale and applying it. Of 255 registers 256 values do not fit: they would spill.
inline constexpr int kMinGroup = 16, kMaxGroup = 128;

// Values and advice of fields that several families have.
Values head_dims();
// The smallest of them that holds so many channels; the number itself if there is none.
int head_dim_for(std::int64_t channels);
Values io_types();
Values value_code_types();  // of V
Values code_types();        // of Q and K
Values groups();
std::string head_dim_advice(int head_dim);
std::string io_advice(int type);
std::string codes_advice(int type);
std::string value_codes_advice(int type);
// Why sums of INT8 cannot start from the scores of mean queries.
std::string no_room_for_mean(DType codes, int head_dim);
std::string group_advice(int rows);

}  // namespace sagegen
