// Blocks of launch parameters that several families have.
#pragma once

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

}  // namespace sagegen
