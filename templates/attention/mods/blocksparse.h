// A block-sparse mask: of tiles of queries and keys only those are copied and computed whose bit is set.
#pragma once

#include "templates/attention/mods/call.h"

namespace sagegen::attention::blocksparse {

struct Arguments {
  // u32 [batch, q_heads, ceil(q_len / tile_queries), ceil(ceil(kv_len / tile_keys) / 32)], contiguous: bit
  // t mod 32 of word t / 32 is tile t of keys. With pack_gqa tiles are of rows of the G heads that share one of K and V:
  // [batch, kv_heads, ceil(q_len * G / tile_queries), ...].
  Address bits = 0;
  std::int64_t tile_queries = 0, tile_keys = 0;  // of the bits: cta_q and cta_k of the kernel

  static std::vector<ParamField> fields() {
    return {param_field("bits", &Arguments::bits),
            param_field("tile_queries", &Arguments::tile_queries),
            param_field("tile_keys", &Arguments::tile_keys)};
  }
  friend bool operator==(const Arguments&, const Arguments&) = default;
};

struct Params {
  Address bits;
  std::int32_t row_words;    // words of one tile of queries
  std::int32_t query_tiles;  // of a head; a block behind the last query has none

  static constexpr std::string_view kName = "blocksparse";
  static std::vector<ParamField> fields() {
    return {param_field("bits", &Params::bits), param_field("row_words", &Params::row_words),
            param_field("query_tiles", &Params::query_tiles)};
  }
};

inline constexpr const char* kWhat =
    "a bit per tile of queries and tile of keys says whether it is computed";
inline constexpr bool kLoadsScores = false;
inline constexpr bool kSeesSmoothing = false;

inline std::int64_t row_words(const ModCall& call) {
  return (call.kv_len + 32 * call.cta_k - 1) / (32 * call.cta_k);
}
inline std::int64_t tile_heads(const ModCall& call) { return call.q_heads / call.group; }
inline std::int64_t query_tiles(const ModCall& call) {
  return (call.q_len * call.group + call.cta_q - 1) / call.cta_q;
}
inline std::string refusal(const Arguments& arguments, const ModCall& call) {
  if (arguments.tile_queries == call.cta_q && arguments.tile_keys == call.cta_k) return {};
  const auto tiles = [&](std::int64_t queries, std::int64_t keys) {
    return "tiles of " + std::to_string(queries) + (call.group > 1 ? " rows" : " queries") + " and " + std::to_string(keys) + " keys";
  };
  return "the bits are of " + tiles(arguments.tile_queries, arguments.tile_keys) +
         ", the kernel has " + tiles(call.cta_q, call.cta_k) +
         "; give bits of these, or take a kernel whose cta_q and cta_k are those";
}
inline std::vector<ModTensor> tensors(const Arguments& arguments, const ModCall& call) {
  const std::int64_t rows = call.batch * tile_heads(call) * query_tiles(call);
  return {{"blocksparse.bits", arguments.bits,
           static_cast<std::uint64_t>(4 * rows * row_words(call)), 4}};
}
inline Arguments part(const Arguments& arguments, const ModCall& call, const ModPart& part) {
  const std::int64_t head = part.batch * tile_heads(call) + part.q_head / call.group;
  Arguments of_part = arguments;
  of_part.bits += static_cast<Address>(4 * head * query_tiles(call) * row_words(call));
  return of_part;
}
inline Params params(const Arguments& arguments, const ModCall& call) {
  return {.bits = arguments.bits,
          .row_words = static_cast<std::int32_t>(row_words(call)),
          .query_tiles = static_cast<std::int32_t>(query_tiles(call))};
}
Mod mod(dsl::KernelBuilder& k, const View& view);

}  // namespace sagegen::attention::blocksparse
