#include "templates/attention/mods/skipsoftmax.h"

#include "templates/attention/mod.h"

namespace sagegen::attention::skipsoftmax {

using namespace dsl;

Mod mod(KernelBuilder& k, const View&) {
  Mod mod;
  mod.least_weight = [&k](I32 batch) {
    const auto p = k.params<Params>();
    const GlobalPtr thresholds = p(&Params::thresholds);
    const Var<F32> threshold = k.var(p(&Params::threshold));
    k.if_(!k.is_null(thresholds),
          [&] { threshold = k.load<F32>(thresholds + k.to_i64(batch) * std::int64_t{4}); });
    return k.log2(threshold.get());
  };
  mod.count_tiles = [&k](I32 batch, I32 skipped, I32 computed) {
    const GlobalPtr counts = k.params<Params>()(&Params::counts);
    k.if_(!k.is_null(counts), [&] {
      const GlobalPtr of_batch = counts + k.to_i64(batch) * std::int64_t{8};
      k.atomic_add(of_batch, skipped);
      k.atomic_add(of_batch + std::int64_t{4}, computed);
    });
  };
  return mod;
}

}  // namespace sagegen::attention::skipsoftmax
