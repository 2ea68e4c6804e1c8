#include "templates/attention/mods/bias.h"

#include "templates/attention/score_tensor.h"

namespace sagegen::attention::bias {

using namespace dsl;

Mod mod(KernelBuilder& k, const View& view) {
  Mod mod;
  mod.changes = [&k, io = view.spec.io](const ScoreElement& at, F32 score) {
    const I32 bits = k.load_u16(element_address<Params>(k, at, 2));
    return k.fma(k.unpack2(io, bits)[0], k.f32(kLog2E), score);
  };
  return mod;
}

}  // namespace sagegen::attention::bias
