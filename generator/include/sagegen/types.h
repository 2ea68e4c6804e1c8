// The small enumerations of the spec. Their words are those of TOML files and of reports, and spell
// the enumerators; kernel keys abbreviate some of them (see key() in spec.h).
#pragma once

#include <optional>
#include <string_view>
#include <vector>

namespace sagegen {

enum class DType { f16, bf16, f32, s32, s8, s4, e4m3 };

// Bits of one element as it is stored.
constexpr int bits(DType type) {
  switch (type) {
    case DType::s4:
      return 4;
    case DType::s8:
    case DType::e4m3:
      return 8;
    case DType::f16:
    case DType::bf16:
      return 16;
    case DType::f32:
    case DType::s32:
      return 32;
  }
  return 0;
}

// none: every query sees every key. causal: key j is visible to query i if j <= i + offset; the offset
// (0 for top-left, kv_len - q_len for bottom-right alignment) is a launch argument.
enum class Mask { none, causal };

// Which elements of Q and K share a scale (SageAttention2 section 3.2).
//   per_thread: all scores that one thread of the attention kernel holds share one Q and one K scale.
//               In a group of rows of Q, row r uses scale r mod 8; of K, row r uses (r mod 8) / 2.
//   per_block:  one scale per group of rows.
enum class Granularity { per_thread, per_block };

// What is subtracted before quantization (SageAttention2 section 3.1). k: the mean over all keys, per
// channel. Softmax does not see it; the LSE output is corrected.
enum class Smoothing { none, k };

// How P V is summed over key tiles. f32: the tensor core accumulates into O. two_level_f32: each key
// tile is summed from zero in the tensor core and then added to O in f32 registers, which keeps the
// 13-bit FP8 accumulators from drifting (SageAttention2 section 3.3).
enum class Accumulation { f32, two_level_f32 };

enum class KernelKind { attention, kv_statistics, quantize_q, quantize_k, quantize_v };

// "?" for a value outside the enumeration.
std::string_view to_string(DType value);
std::string_view to_string(Mask value);
std::string_view to_string(Granularity value);
std::string_view to_string(Smoothing value);
std::string_view to_string(Accumulation value);
std::string_view to_string(KernelKind value);

// False for a value that only a cast can make.
template <typename Enum>
bool is_enumerator(Enum value);

// Inverse of to_string; empty if the word is unknown.
template <typename Enum>
std::optional<Enum> from_string(std::string_view word);

// Every word of an enumeration, in the order of its declaration; for messages that list what is valid.
template <typename Enum>
const std::vector<std::string_view>& words();

}  // namespace sagegen
