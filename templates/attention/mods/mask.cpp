#include "templates/attention/mods/mask.h"

#include "templates/attention/score_tensor.h"

namespace sagegen::attention::mask {

using namespace dsl;

Mod mod(KernelBuilder& k, const View&) {
  Mod mod;
  mod.hides = [&k](const ScoreElement& at) {
    return k.load_u8(element_address<Params>(k, at, 1)) == 0;
  };
  return mod;
}

}  // namespace sagegen::attention::mask
