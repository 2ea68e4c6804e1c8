// FlashDecoding on codes: each warp walks over tiles of its split, with its rows of Q in registers; what warps and
// splits come to is merged in the end (spec.h has the arithmetic, the parts have files of their own).
#include "templates/decode/merge.h"
#include "templates/decode/score_changes.h"

namespace sagegen::decode {

using namespace dsl;

namespace {

class Decode {
 public:
  Decode(KernelBuilder& k, const View& view, const View& kernel, SharedPtr shared)
      : k_(k),
        block_(k, view, kernel, shared),
        tiles_(block_),
        queries_(block_),
        changes_(block_, queries_),
        softmax_(block_, queries_),
        values_(block_) {}

  void build() {
    const I32 first = tiles_.first + block_.warp;
    k_.if_(first < tiles_.end && block_.tile.rows_asked > 0, [&] {
      CacheRing ring(block_, tiles_, first);
      if (block_.spec.window) {
        // Tiles in part, at both ends of the window, and whole ones between them: each time around, some whole ones and
        // one in part.
        const Var<I32> next = k_.var(first);
        k_.while_([&] { return next.get() < tiles_.end; },
                  [&] {
                    const I32 whole =
                        k_.select(next.get() < tiles_.whole_from, next.get(), tiles_.whole);
                    next = walk(ring, next, whole, /*go_on=*/true) + block_.schedule.warps;
                  });
      } else {
        walk(ring, first, tiles_.whole, /*go_on=*/false);
      }
      k_.cp_async_wait(0);
    });
    merge_and_write(block_, softmax_, values_);
  }

  // Of the block that has the exact tokens, whose tiles are blocks of 16. There are few, so that all are masked.
  void build_exact() {
    const ExactTokens tokens(block_);
    const I32 first = block_.warp;
    k_.if_(first < k_.min(tokens.count, k_.i32(kExactWarps)) && block_.tile.rows_asked > 0, [&] {
      CacheRing ring(block_, tokens, first);
      k_.for_range(first, tokens.count, kExactWarps, [&](I32 number) {
        const I32 tile = tokens.block_of(number);
        const TokenMask mask(block_, tile);
        attend(ring.next(/*go_on=*/true), tile, &mask);
      });
      k_.cp_async_wait(0);
    });
    merge_and_write(block_, softmax_, values_);
  }

 private:
  // Tiles from the first on up to `whole`, and the one behind them, which it returns. go_on: that one is not the last.
  I32 walk(CacheRing& ring, I32 first, I32 whole, bool go_on) {
    const I32 rest = k_.for_range_until(first, whole, block_.schedule.warps, [&](I32 tile) {
      attend(ring.next(/*go_on=*/true), tile, nullptr);
      return k_.pred(false);
    });
    k_.if_(rest < tiles_.end, [&] {
      const TokenMask mask(block_, rest);
      attend(ring.next(go_on), rest, &mask);
    });
    return rest;
  }

  // mask: of a tile with tokens that not all rows see.
  void attend(const CacheTile& tile, I32 index, const TokenMask* mask) {
    std::vector<TokenParameters> parameters;
    for (int i = 0; i < tile_blocks(block_.schedule); ++i) {
      parameters.push_back(tile.parameters(i));
      if (mask != nullptr) parameters.back() = mask->masked(parameters.back(), i);
    }
    Scores scores = scores_of(block_, queries_, tile, parameters);
    changes_.apply(index, scores);
    if (mask != nullptr) hide(block_, *mask, scores);
    softmax_.raise_maxima(scores, [&](int half, const std::array<F32, 2>& factors) {
      values_.rescale(half, factors);
    });
    const std::vector<Weights> weights = softmax_.weights(scores, parameters);
    softmax_.sum(weights, parameters);
    values_.add(tile, weights, mask);
  }

  KernelBuilder& k_;
  const DecodeBlock block_;
  const Tiles tiles_;
  const Queries queries_;
  const ScoreChanges changes_;
  Softmax softmax_;
  Values values_;
};

}  // namespace

void build(KernelBuilder& k, const Kernel& kernel) {
  const View view = kernel.view(family());
  const SharedPtr shared = k.shared(shared_bytes(view.spec, view.schedule), kBankBytes);
  if (!view.spec.exact) {
    Decode(k, view, view, shared).build();
    return;
  }
  const Spec spec = exact_spec(view.spec);
  const Schedule schedule = exact_schedule(view.schedule);
  k.if_else(
      k.block_idx(0) == k.grid_dim(0) - 1,
      [&] {
        Decode(k, {spec, schedule, view.target}, view, shared).build_exact();
      },
      [&] { Decode(k, view, view, shared).build(); });
}

}  // namespace sagegen::decode
