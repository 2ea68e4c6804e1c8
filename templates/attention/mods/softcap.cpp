#include "templates/attention/mods/softcap.h"

#include "templates/attention/mod.h"

namespace sagegen::attention::softcap {

using namespace dsl;

Mod mod(KernelBuilder& k) {
  const auto p = k.params<Params>();
  const F32 from_score = p(&Params::from_score), to_score = p(&Params::to_score);
  Mod mod;
  mod.changes = [=, &k](const ScoreElement&, F32 score) {
    return k.tanh(score * from_score) * to_score;
  };
  mod.changes_whole_scores = true;
  return mod;
}

}  // namespace sagegen::attention::softcap
