#include "templates/attention/mods/sinks.h"

#include "templates/attention/mod.h"

namespace sagegen::attention::sinks {

using namespace dsl;

Mod mod(KernelBuilder& k) {
  Mod mod;
  mod.sink = [&k](const ScoreRow& row) {
    const GlobalPtr logits = k.params<Params>()(&Params::logits);
    return k.load<F32>(logits + k.to_i64(row.head) * std::int64_t{4}) * kLog2E;
  };
  return mod;
}

}  // namespace sagegen::attention::sinks
