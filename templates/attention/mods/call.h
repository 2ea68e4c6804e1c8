// What a mod knows of a call, and what the plan asks of it. The header of mod NAME has in namespace NAME
//   struct Arguments      what a call gives, at run time; fields() names its members: NAME.left
//   struct Params         the parameter block that its kernel reads
//   const char* kWhat     in a sentence, for `sagegen inspect`
//   bool kLoadsScores     whether it loads something for each score
//   bool kSeesSmoothing   K smoothing takes a number from all scores of a row: whether that matters to it
//   std::string refusal(const Arguments&, const ModCall&)          why the arguments cannot be; empty if they can
//   std::vector<ModTensor> tensors(const Arguments&, const ModCall&)  the caller's memory that the kernel reads, or writes
//   Arguments part(const Arguments&, const ModCall&, const ModPart&)  those of a call for a part of the batches or heads
//   Params params(const Arguments&, const ModCall&)                of arguments that are not refused
//   Mod mod(dsl::KernelBuilder&, const View&)                      the kernel's part (mod.h), called once; without the
//                         View if another family has the mod, too (decode/mods/mods.def)
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "sagegen/params.h"
#include "sagegen/types.h"
#include "templates/attention/spec.h"

namespace sagegen::dsl {
class KernelBuilder;
}

namespace sagegen::attention {

struct Mod;

struct ModCall {
  std::int64_t batch, q_heads, q_len, kv_len;
  // Query i stands at key i + offset: 0 (top left) or kv_len - q_len (bottom right).
  std::int32_t offset;
  int cta_q, cta_k;  // tiles of the kernel
  std::int64_t group = 1;  // with pack_gqa G, of which a tile has rows: row r is of query r / G
};

// Where a part of a call begins: its batches have all heads, or it is some heads of one batch, or of all packed sequences.
struct ModPart {
  std::int64_t batch = 0, q_head = 0;
};

struct ModTensor {
  const char* name;
  Address data;
  std::uint64_t bytes;      // from data on, that the kernel may read
  std::uint64_t alignment;  // of data, in bytes
  bool written = false;     // by the kernel, which may read it, too
};

// A tensor [batch, q_heads, q_len, kv_len] of the caller. Strides in elements, at least 0; 0 is one value for
// the whole axis.
struct ScoreTensor {
  Address data = 0;
  std::int64_t stride_batch = 0, stride_head = 0, stride_query = 0, stride_key = 0;

  static std::vector<ParamField> fields() {
    using T = ScoreTensor;
    return {param_field("data", &T::data), param_field("stride_batch", &T::stride_batch),
            param_field("stride_head", &T::stride_head),
            param_field("stride_query", &T::stride_query),
            param_field("stride_key", &T::stride_key)};
  }
  friend bool operator==(const ScoreTensor&, const ScoreTensor&) = default;
};
struct ScoreAxis {
  const char* name;
  std::int64_t size,
      stride;         // 0 where the size is 1: it is never used, and frameworks put anything there
  std::int64_t most;  // that the stride may be
};
inline std::array<ScoreAxis, 4> axes_of(const ScoreTensor& tensor, const ModCall& call) {
  constexpr std::int64_t kAny = std::numeric_limits<std::int64_t>::max();
  constexpr std::int64_t kMostOfKeys =
      (std::int64_t{1} << 30) - 1;  // of bytes or of 2 bytes, in 32 bits
  std::array<ScoreAxis, 4> axes{{{"stride_batch", call.batch, tensor.stride_batch, kAny},
                                 {"stride_head", call.q_heads, tensor.stride_head, kAny},
                                 {"stride_query", call.q_len, tensor.stride_query, kAny},
                                 {"stride_key", call.kv_len, tensor.stride_key, kMostOfKeys}}};
  for (ScoreAxis& axis : axes) axis.stride = axis.size == 1 ? 0 : axis.stride;
  return axes;
}
// One past the last element that a call reads; -1 beyond 2^60. Strides are not negative.
inline std::int64_t elements_of(const ScoreTensor& tensor, const ModCall& call) {
  constexpr std::int64_t kMost = std::int64_t{1} << 60;
  std::int64_t end = 1;
  for (const ScoreAxis& axis : axes_of(tensor, call)) {
    if (axis.size > 1 && axis.stride > (kMost - end) / (axis.size - 1)) return -1;
    end += (axis.size - 1) * axis.stride;
  }
  return end;
}
// Empty, or why it cannot be.
inline std::string refusal_of(const ScoreTensor& tensor, const ModCall& call) {
  for (const ScoreAxis& axis : axes_of(tensor, call)) {
    if (axis.stride >= 0 && axis.stride <= axis.most) continue;
    return std::string(axis.name) + " is " + std::to_string(axis.stride) +
           "; it can be 0 (one value for the axis) to " + std::to_string(axis.most);
  }
  if (elements_of(tensor, call) < 0) return "its elements span more than 2^60";
  return {};
}

inline ScoreTensor part_of(const ScoreTensor& tensor, std::int64_t element_bytes, const ModPart& part) {
  ScoreTensor of_part = tensor;
  of_part.data += static_cast<Address>(
      (part.batch * tensor.stride_batch + part.q_head * tensor.stride_head) * element_bytes);
  return of_part;
}

// As a kernel reads it. Name: a struct with the block's kName.
template <typename Name>
struct ScoreTensorParams {
  Address data;
  std::int64_t stride_batch, stride_head, stride_query;
  std::int32_t stride_key;            // an address costs one instruction
  std::int32_t last_query, last_key;  // what is behind them is not read

  static constexpr std::string_view kName = Name::kName;
  static std::vector<ParamField> fields() {
    using P = ScoreTensorParams;
    return {param_field("data", &P::data),
            param_field("stride_batch", &P::stride_batch),
            param_field("stride_head", &P::stride_head),
            param_field("stride_query", &P::stride_query),
            param_field("stride_key", &P::stride_key),
            param_field("last_query", &P::last_query),
            param_field("last_key", &P::last_key)};
  }
};
template <typename Params>
Params score_tensor_params(const ScoreTensor& tensor, const ModCall& call) {
  const auto [batch, head, query, key] = axes_of(tensor, call);
  return {.data = tensor.data,
          .stride_batch = batch.stride,
          .stride_head = head.stride,
          .stride_query = query.stride,
          .stride_key = static_cast<std::int32_t>(key.stride),
          .last_query = static_cast<std::int32_t>(call.q_len - 1),
          .last_key = static_cast<std::int32_t>(call.kv_len - 1)};
}

}  // namespace sagegen::attention
