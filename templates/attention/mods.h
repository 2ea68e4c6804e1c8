// All mods of a kernel, as one: what the template asks them.
#pragma once

#include <vector>

#include "templates/attention/mod.h"

namespace sagegen::attention {

// Tiles of keys: first to end - 1, at least one.
struct TileRange {
  dsl::I32 first, end;
};

class Mods {
 public:
  // One of them bounds the keys from above (key_length): there is a last tile.
  Mods(dsl::KernelBuilder& k, std::vector<Mod> mods);

  // Of a sequence of a batch: it has so many keys, and its queries stand so much further among them.
  void place(dsl::I32 kv_len, dsl::I32 further);

  // Whether any mod has the hook.
  bool change_scores() const;
  bool change_whole_scores() const;
  bool hide_elements() const;
  bool have_sink() const;
  bool skip_tiles() const;
  bool skip_light_tiles() const;
  bool later_queries_see_more() const;

  // Tiles that a block of queries first .. last walks. One tile at least, all of which is hidden if none of
  // its queries sees a key: a loop that is known to run needs no second way around it.
  TileRange tiles(dsl::I32 first_query, dsl::I32 last_query, int tile_keys) const;
  // Whether there may be such tiles as whole_tiles_end() counts, and none is skipped.
  bool first_tiles_may_be_whole() const;
  // Where the tiles end that all of these queries see whole, from the first tile on.
  dsl::I32 whole_tiles_end(dsl::I32 first_query, int tile_keys) const;
  // Whether any query sees no keys before some.
  bool bound_from_below() const;
  // Whether the tile has keys that this query does not see because they are before its own.
  dsl::Pred hides_before(dsl::I32 last_query, dsl::I32 tile, int tile_keys) const;
  // False if all these queries see all keys of the tile.
  dsl::Pred may_hide(dsl::I32 first_query, dsl::I32 last_query, dsl::I32 tile, int tile_keys) const;

  // Of a query, among the keys, as ScoreElement::position.
  dsl::I32 position(dsl::I32 query) const;
  // What a query sees of the keys from `origin` on, as far as it is a range: its end is not empty.
  KeyRange keys_of(dsl::I32 query, dsl::I32 origin) const;
  // The rest of it; hide_elements() says whether there is one.
  dsl::Pred hides(const ScoreElement& at) const;
  dsl::F32 changed(const ScoreElement& at, dsl::F32 score) const;
  // In base 2, of all sinks together; have_sink() says whether there is one.
  dsl::F32 sink(const ScoreRow& row) const;
  dsl::Pred skipped(const ScoreRow& first_query, dsl::I32 tile) const;
  // skip_light_tiles() says whether there is one.
  dsl::F32 least_weight(dsl::I32 batch) const;
  void count_tiles(dsl::I32 batch, dsl::I32 skipped, dsl::I32 computed) const;

 private:
  dsl::I32 seen_end(dsl::I32 query) const;

  dsl::KernelBuilder* k_;
  std::vector<Mod> mods_;
  dsl::I32 further_;  // empty: not at all
};

}  // namespace sagegen::attention
