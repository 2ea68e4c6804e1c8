#include "templates/attention/mods.h"

#include <algorithm>
#include <utility>

#include "sagegen/error.h"

namespace sagegen::attention {

using namespace dsl;

namespace {

template <typename Hook>
bool any(const std::vector<Mod>& mods, Hook Mod::*hook) {  // a function or a flag
  return std::any_of(mods.begin(), mods.end(),
                     [&](const Mod& mod) { return static_cast<bool>(mod.*hook); });
}

bool is_bound(I32 end) { return end.v != nullptr; }

}  // namespace

Mods::Mods(KernelBuilder& k, std::vector<Mod> mods) : k_(&k), mods_(std::move(mods)) {
  if (!any(mods_, &Mod::keys_of)) {
    throw InternalError("mods: none has keys_of; every kernel has key_length");
  }
}

void Mods::place(I32 kv_len, I32 further) {
  further_ = further;
  for (Mod& mod : mods_) {
    if (!mod.keys_are_all) continue;
    mod.keys_of = [=](I32, I32 origin) { return KeyRange{.begin = {}, .end = kv_len - origin}; };
  }
}

I32 Mods::position(I32 query) const { return further_.v == nullptr ? query : query + further_; }

bool Mods::change_scores() const { return any(mods_, &Mod::changes); }
bool Mods::hide_elements() const { return any(mods_, &Mod::hides); }
bool Mods::have_sink() const { return any(mods_, &Mod::sink); }
bool Mods::skip_tiles() const { return any(mods_, &Mod::skipped); }
bool Mods::skip_light_tiles() const { return any(mods_, &Mod::least_weight); }
bool Mods::later_queries_see_more() const { return any(mods_, &Mod::later_queries_see_more); }
bool Mods::change_whole_scores() const { return any(mods_, &Mod::changes_whole_scores); }

TileRange Mods::tiles(I32 first_query, I32 last_query, int tile_keys) const {
  const I32 end = k_->max((seen_end(last_query) + (tile_keys - 1)) / tile_keys, k_->i32(1));
  const I32 begin = keys_of(first_query, k_->i32(0)).begin;
  if (!is_bound(begin)) return {.first = k_->i32(0), .end = end};
  return {.first = k_->min(k_->max(begin, k_->i32(0)) / tile_keys, end - 1), .end = end};
}

bool Mods::bound_from_below() const { return is_bound(keys_of(k_->i32(0), k_->i32(0)).begin); }

bool Mods::first_tiles_may_be_whole() const {
  return !bound_from_below() && !hide_elements() && !skip_tiles();
}

I32 Mods::whole_tiles_end(I32 first_query, int tile_keys) const {
  return seen_end(first_query) / tile_keys;
}

Pred Mods::hides_before(I32 last_query, I32 tile, int tile_keys) const {
  return tile * tile_keys < keys_of(last_query, k_->i32(0)).begin;
}

Pred Mods::may_hide(I32 first_query, I32 last_query, I32 tile, int tile_keys) const {
  if (hide_elements()) return k_->pred(true);
  const Pred behind = tile >= seen_end(first_query) / tile_keys;
  return bound_from_below() ? behind || hides_before(last_query, tile, tile_keys) : behind;
}

KeyRange Mods::keys_of(I32 query, I32 origin) const {
  KeyRange all;
  for (const Mod& mod : mods_) {
    if (!mod.keys_of) continue;
    const auto [begin, end] = mod.keys_of(position(query), origin);
    if (is_bound(begin)) all.begin = is_bound(all.begin) ? k_->max(all.begin, begin) : begin;
    if (is_bound(end)) all.end = is_bound(all.end) ? k_->min(all.end, end) : end;
  }
  return all;
}

// Not negative, as the number of keys is not; but a query may stand before all of them.
I32 Mods::seen_end(I32 query) const {
  const I32 end = keys_of(query, k_->i32(0)).end;
  const bool only_length = std::count_if(mods_.begin(), mods_.end(), [](const Mod& mod) {
                             return static_cast<bool>(mod.keys_of);
                           }) == 1;
  return only_length ? end : k_->max(end, k_->i32(0));
}

Pred Mods::hides(const ScoreElement& at) const {
  Pred hidden = k_->pred(false);
  for (const Mod& mod : mods_) {
    if (mod.hides) hidden = hidden || mod.hides(at);
  }
  return hidden;
}

F32 Mods::changed(const ScoreElement& at, F32 score) const {
  for (const Mod& mod : mods_) {
    if (mod.changes) score = mod.changes(at, score);
  }
  return score;
}

F32 Mods::sink(const ScoreRow& row) const {
  F32 all;
  for (const Mod& mod : mods_) {
    if (!mod.sink) continue;
    if (all.v != nullptr) throw InternalError("mods: two of them have a sink; a row has one");
    all = mod.sink(row);
  }
  return all;
}

Pred Mods::skipped(const ScoreRow& first_query, I32 tile) const {
  Pred skipped = k_->pred(false);
  for (const Mod& mod : mods_) {
    if (mod.skipped) skipped = skipped || mod.skipped(first_query, tile);
  }
  return skipped;
}

F32 Mods::least_weight(I32 batch) const {
  F32 least;
  for (const Mod& mod : mods_) {
    if (!mod.least_weight) continue;
    if (least.v != nullptr) throw InternalError("mods: two of them have a least weight");
    least = mod.least_weight(batch);
  }
  return least;
}

void Mods::count_tiles(I32 batch, I32 skipped, I32 computed) const {
  for (const Mod& mod : mods_)
    if (mod.count_tiles) mod.count_tiles(batch, skipped, computed);
}

}  // namespace sagegen::attention
