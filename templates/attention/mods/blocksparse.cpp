#include "templates/attention/mods/blocksparse.h"

#include "templates/attention/mod.h"

namespace sagegen::attention::blocksparse {

using namespace dsl;

Mod mod(KernelBuilder& k, const View& view) {
  Mod mod;
  mod.skipped = [&k, cta_q = view.schedule.cta_q](const ScoreRow& first_query, I32 tile) {
    const auto p = k.params<Params>();
    const I32 tiles = p(&Params::query_tiles);
    const I64 row =
        k.to_i64(first_query.head_of_all) * k.to_i64(tiles) + k.to_i64(k.min(first_query.query / cta_q, tiles - 1));
    const I64 word = row * k.to_i64(p(&Params::row_words)) + k.to_i64(tile / 32);
    const I32 bits = k.load<I32>(p(&Params::bits) + word * std::int64_t{4});
    return (bits >> (tile % 32) & 1) == 0;
  };
  return mod;
}

}  // namespace sagegen::attention::blocksparse
