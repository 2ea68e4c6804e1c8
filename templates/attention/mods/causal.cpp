#include "templates/attention/mods/causal.h"

#include "templates/attention/mod.h"

namespace sagegen::attention::causal {

using namespace dsl;

Mod mod(KernelBuilder& k, const View&) {
  const I32 offset = k.params<Params>()(&Params::offset);
  Mod mod;
  mod.keys_of = [=](I32 query, I32 origin) {
    return KeyRange{.begin = {}, .end = query - origin + (offset + 1)};
  };
  mod.later_queries_see_more = true;
  return mod;
}

}  // namespace sagegen::attention::causal
