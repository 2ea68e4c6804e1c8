// Blocks of launch parameters that several families have.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string_view>
#include <vector>

#include "sagegen/params.h"

namespace sagegen {

// With pack_gqa: rows of Q are those of all query heads that share a KV head, G of them. Row r is query r / G of head
// r mod G of the group: what a query needs of K and V, all of its heads need, too, and masks bound neighbours alike.
//
// A quotient is a product: with 2^(s - 1) < G <= 2^s and m = 2^(31 + s) / G, rounded up, r / G is r * m / 2^(31 + s),
// rounded down, for every r below 2^31. For m * G = 2^(31 + s) + e with 0 <= e < G, so r * m / 2^(31 + s) is
// r / G + r * e / (G * 2^(31 + s)), and r * e < 2^31 * G <= 2^(31 + s): the second term is less than 1 / G, while r / G
// is at least 1 / G below the next whole number. m is at most 2^32 - 1: G is 2^s and m 2^31, or G is at least
// 2^(s - 1) + 1.
struct PackParams {
  std::int32_t heads;       // G
  std::int32_t reciprocal;  // m, without a sign
  std::int32_t shift;       // 31 + s

  static constexpr std::string_view kName = "pack_gqa";
  static std::vector<ParamField> fields() {
    using P = PackParams;
    return {param_field("heads", &P::heads), param_field("reciprocal", &P::reciprocal),
            param_field("shift", &P::shift)};
  }
  static constexpr PackParams of(std::int32_t heads) {
    const auto g = static_cast<std::uint32_t>(heads);
    const int shift = 31 + std::bit_width(g - 1);
    const std::uint64_t m = ((std::uint64_t{1} << shift) + g - 1) / g;
    return {.heads = heads,
            .reciprocal = static_cast<std::int32_t>(static_cast<std::uint32_t>(m)),
            .shift = shift};
  }
};

// Sequences of different lengths, packed one after the other. Lengths lie on the device, as sums: sequence b of a batch has
// rows sums[b] to sums[b + 1] - 1 of the packed tensor. The host knows bounds of them; grids and workspace follow from these.
//
// In the workspace, sequence b of a head begins at row (sums[b] / granule + b) * granule: no kernel has to know how
// long the padded sequences before it are. Each has room for ceil(len / granule) granules and for one at least, as the
// next one begins so many later, and (total / granule + batch) * granule rows are enough for all. With pack_gqa all of
// this is said of rows, G for each query: sums, len and total are times G.
enum class SequencesOf { rows, queries, keys };

template <SequencesOf Of>
struct SequenceParams {
  Address sums;          // i32 [B + 1]; 0: no packed call, all sequences are as long as they may be
  std::int32_t total;    // rows of the packed tensor; else of a sequence
  std::int32_t longest;  // rows that a sequence may have
  std::int32_t granule;  // rows: a power of two
  std::int32_t head_rows;  // from one head of the workspace to the next
  std::int32_t heads;      // from one batch to the next; 0 if packed: all batches lie in a head

  static constexpr std::string_view kName = Of == SequencesOf::rows      ? "sequences"
                                            : Of == SequencesOf::queries ? "query_sequences"
                                                                         : "key_sequences";
  static std::vector<ParamField> fields() {
    using P = SequenceParams;
    return {param_field("sums", &P::sums),           param_field("total", &P::total),
            param_field("longest", &P::longest),     param_field("granule", &P::granule),
            param_field("head_rows", &P::head_rows), param_field("heads", &P::heads)};
  }
};
using RowSequences = SequenceParams<SequencesOf::rows>;
using QuerySequences = SequenceParams<SequencesOf::queries>;
using KeySequences = SequenceParams<SequencesOf::keys>;

// Rows of a head of the workspace.
constexpr std::int64_t packed_rows(std::int64_t total, std::int64_t batch, std::int64_t granule) {
  return (total / granule + batch) * granule;
}

// For `sagegen inspect`.
inline constexpr const char* kPackedSequences =
    "sequences of a batch may be packed: it reads their lengths on the device, and grids are those "
    "of the largest";

// Keys are reduced in chunks (kv_statistics): enough of them that the reduction fills a GPU, few enough that reading
// the partial results back costs nothing. Those of a sequence depend on its own length, as do the sums of its chunks.
inline constexpr int kKeysPerChunk = 512;
inline constexpr int kMostChunks = 16;
inline constexpr int kChunkStep = 64;
// The most that sequences of up to so many keys have.
constexpr std::int64_t most_chunks(std::int64_t keys) {
  return std::clamp<std::int64_t>((keys + kKeysPerChunk - 1) / kKeysPerChunk, 1, kMostChunks);
}

}  // namespace sagegen
