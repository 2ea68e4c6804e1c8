// FlashDecoding on codes: each warp walks over tiles of its split, with its rows of Q in registers; what warps and
// splits come to is merged in the end (spec.h has the arithmetic, the parts have files of their own).
#include "templates/decode/merge.h"

namespace sagegen::decode {

using namespace dsl;

namespace {

class Decode {
 public:
  Decode(KernelBuilder& k, const View& view)
      : k_(k),
        block_(k, view),
        tiles_(block_),
        queries_(block_),
        softmax_(block_, queries_),
        values_(block_) {}

  void build() {
    const I32 first = tiles_.first + block_.warp;
    k_.if_(first < tiles_.end, [&] {
      CacheRing ring(block_, tiles_, first);
      const I32 rest = k_.for_range_until(first, tiles_.whole, block_.schedule.warps, [&](I32) {
        attend(ring.next(/*go_on=*/true), nullptr);
        return k_.pred(false);
      });
      k_.if_(rest < tiles_.end, [&] {
        const TokenMask mask(block_, rest);
        attend(ring.next(/*go_on=*/false), &mask);
      });
      k_.cp_async_wait(0);
    });
    merge_and_write(block_, softmax_, values_);
  }

 private:
  // mask: of a tile with tokens that not all rows see.
  void attend(const CacheTile& tile, const TokenMask* mask) {
    std::vector<TokenParameters> parameters;
    for (int i = 0; i < tile_blocks(block_.schedule); ++i) {
      parameters.push_back(tile.parameters(i));
      if (mask != nullptr) parameters.back() = mask->masked(parameters.back(), i);
    }
    Scores scores = scores_of(block_, queries_, tile, parameters);
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
  Softmax softmax_;
  Values values_;
};

}  // namespace

void build(KernelBuilder& k, const Kernel& kernel) { Decode(k, kernel.view(family())).build(); }

}  // namespace sagegen::decode
