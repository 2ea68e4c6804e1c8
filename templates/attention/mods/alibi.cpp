#include "templates/attention/mods/alibi.h"

#include "templates/attention/mod.h"

namespace sagegen::attention::alibi {

using namespace dsl;

Mod mod(KernelBuilder& k) {
  Mod mod;
  mod.changes = [&k](const ScoreElement& at, F32 score) {
    const auto p = k.params<Params>();
    const GlobalPtr slope = p(&Params::slopes) + k.to_i64(at.head) * std::int64_t{4};
    const F32 from_first = k.to_f32(at.position + p(&Params::offset) - at.first_key);
    const F32 distance = k.abs(from_first - static_cast<float>(at.behind_first));
    return k.fma(distance, k.load<F32>(slope) * -kLog2E, score);
  };
  return mod;
}

}  // namespace sagegen::attention::alibi
