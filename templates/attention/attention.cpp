// Quantized attention, SageAttention2 algorithm 1: INT8 or INT4 Q K^T, online softmax in base 2, P V in FP8 with
// two-level accumulation or in FP16; either product in the io dtype, too. A thread block walks the keys for cta_q
// queries of one head, or cta_q rows of the heads that share K and V (pack_gqa); each warp owns 16 or 32 of them.
#include "templates/attention/attention.h"

#include <functional>
#include <optional>
#include <utility>

#include "sagegen/dsl/ring.h"
#include "templates/attention/mod_list.h"
#include "templates/attention/modify.h"
#include "templates/attention/output.h"

namespace sagegen::attention {

using namespace dsl;

namespace {

// Where the tiles end that are whole, as those are that are copied meanwhile, and that all queries see.
I32 inner_end(const AttentionBlock& block, const Scores& scores, const TileRange& tiles,
              int ahead) {
  KernelBuilder& k = block.k;
  const int tile_keys = block.plan.cta_k;
  const I32 whole_rows = block.kv_len() / tile_keys;
  const bool padded = block.plan.qk_quantized && block.plan.v_quantized && !block.plan.given;
  const I32 whole = padded ? tiles.end : k.min(tiles.end, whole_rows);
  const I32 end = k.min(block.mods.whole_tiles_end(block.first_query(), tile_keys), whole - ahead);
  return k.select(scores.next_is_large(), k.i32(0), end);
}

// Skip-softmax (BLASST, arXiv 2512.12087): a warp leaves out P and P V of tiles that weigh next to nothing, and counts them.
class LightTiles {
 public:
  explicit LightTiles(const AttentionBlock& block)
      : block_(block),
        skipped_(block.k.var(block.k.i32(0))),
        computed_(block.k.var(block.k.i32(0))) {}
  void leave_out_or(Pred is_light, const std::function<void()>& compute) {
    block_.k.if_else(
        is_light, [&] { skipped_ = skipped_.get() + 1; },
        [&] {
          computed_ = computed_.get() + 1;
          compute();
        });
  }
  // Of a warp that has a query.
  void report(const AttentionPosition& at, const BlockSequences& sequences) {
    KernelBuilder& k = block_.k;
    const Pred has_query = at.first_query + at.warp_row < block_.rows(sequences);
    k.if_(has_query && at.thread % 32 == 0,
          [&] { block_.mods.count_tiles(at.batch, skipped_, computed_); });
  }

 private:
  const AttentionBlock& block_;
  Var<I32> skipped_, computed_;
};

void attend(KernelBuilder& k, const AttentionBlock& block) {
  const AttentionPlan& plan = block.plan;
  const AttentionPosition& at = block.at;
  const AttentionInputs& inputs = block.inputs;
  Scores scores(block);
  Output output(block);
  OnlineSoftmax softmax(block);
  const TileRange tiles = block.mods.tiles(block.first_query(), block.last_query(), plan.cta_k);

  inputs.load_queries(at.thread, {plan.q_tile, block.shared});
  k.cp_async_commit();
  scores.load_q_scale(at.thread);
  scores.load_k_scale(tiles.first, at.thread);
  scores.next_tile();

  const auto keys_walk = inputs.walk_keys(at.thread, tiles.first);
  const auto values_walk = inputs.walk_values(at.thread, tiles.first);
  enum Source { kKeys, kValues };
  const auto keys = [&](RingPart part, I32 tile, SharedPtr to) {
    inputs.load_keys(k.reread_thread_idx(), tile, {plan.k_tile, to}, part == RingPart::inner,
                     keys_walk);
    if (plan.mean_scores)
      inputs.load_mean_scores(k.reread_thread_idx(), tile, to + std::int64_t{plan.k_tile.bytes()});
  };
  const auto values = [&](RingPart part, I32 tile, SharedPtr to) {
    inputs.load_values(k.reread_thread_idx(), tile, {plan.v_tile, to}, part == RingPart::inner,
                       values_walk);
  };
  std::function<Pred(I32)> skipped;
  if (block.mods.skip_tiles()) {
    skipped = [&](I32 tile) { return block.mods.skipped(block.first_of_tile(), tile); };
  }
  Ring ring(k, {.stages = plan.stages,
                .first = tiles.first,
                .end = tiles.end,
                .buffers = block.shared + std::int64_t{plan.q_tile.bytes()},
                .sources = {{plan.k_stage_bytes(), keys}, {plan.v_tile.bytes(), values}},
                .skipped = skipped});
  std::optional<LightTiles> light_tiles;
  if (block.mods.skip_light_tiles()) light_tiles.emplace(block);
  if (plan.queries_in_registers) {
    ring.wait_for_earlier_copies();
    scores.hold_queries();
  }

  const auto step = [&](Ring::Tile& tile) {
    const bool inner = tile.part() == RingPart::inner;
    const auto load_next_k_scale = [&] {
      const I32 next = tile.index() + 1;
      const std::optional<I32> end = inner ? std::nullopt : std::optional(tiles.end);
      scores.load_next_k_scale(next, end, k.reread_thread_idx());
    };
    if (!plan.holds_q_scale) scores.load_q_scale(k.reread_thread_idx());
    if (skipped) {  // the tile before this one may not have been here
      scores.load_k_scale(tile.index(), k.reread_thread_idx());
      scores.next_tile();
    } else if (!plan.k_scale_late) {
      load_next_k_scale();
    }
    scores.multiply(tile.wait(kKeys));  // S = Q K^T
    modify(block, tile, scores);        // what mods hide and change
    tile.release(kKeys);
    const auto wait_for_values = [&] {
      if (!skipped && plan.k_scale_late) load_next_k_scale();
      return tile.wait(kValues);
    };
    const auto weigh = [&](const std::function<SharedPtr()>& values_of_tile) {
      // m = max(m, S), P = exp(S - m)
      softmax.update(scores, [&](int row, F32 factor) { output.rescale(row, factor); });
      const SharedPtr v = values_of_tile();
      block.apart_if(plan.apart == Apart::products, [&] {
        softmax.pack(scores);
        if (!plan.sums_p_last) softmax.sum();  // l = l * rescale + sum of P
        output.add(softmax, v);                // O = O * rescale + P V
        if (plan.sums_p_last) softmax.sum();
      });
    };
    if (light_tiles || plan.apart == Apart::exponentials) {
      const Pred is_light = light_tiles ? softmax.is_light(scores) : k.pred(false);
      const SharedPtr v = wait_for_values();  // by the whole block
      const auto weigh_with = [&] { weigh([&] { return v; }); };
      light_tiles ? light_tiles->leave_out_or(is_light, weigh_with)
                  : block.apart_if(true, weigh_with);
    } else {
      weigh(wait_for_values);
    }
    tile.release(kValues);
    if (!skipped) scores.next_tile();
    return inner ? scores.next_is_large() : k.pred(false);
  };
  I32 next = tiles.first;
  if (plan.inner_loop) {
    next = ring.walk(RingPart::inner, next, inner_end(block, scores, tiles, ring.ahead()), step);
  }
  ring.walk(RingPart::edge, next, tiles.end, step);

  const AttentionPosition position = block.here();
  const BlockSequences sequences = block.reread_sequences();
  const RowSums sums = softmax.sums(position);
  if (light_tiles) light_tiles->report(position, sequences);
  softmax.write_lse(position, sequences, sums.all);
  output.write(position, sequences, sums);  // O / l
}

}  // namespace

void build(KernelBuilder& k, const View& view, std::vector<Mod> mods) {
  const AttentionBlock block(k, view, Mods(k, std::move(mods)));
  if (!block.plan.varlen) return attend(k, block);
  k.if_(block.at.first_query < block.rows(), [&] { attend(k, block); });
}

void build(KernelBuilder& k, const Kernel& kernel) {
  const View view = kernel.view(family());
  build(k, view, mods_of(k, view));
}

}  // namespace sagegen::attention
