#include "templates/attention/mods/window.h"

#include "templates/attention/mod.h"

namespace sagegen::attention::window {

using namespace dsl;

Mod mod(KernelBuilder& k) {
  const auto p = k.params<Params>();
  const I32 first = p(&Params::offset) - p(&Params::left);
  const I32 end = p(&Params::offset) + p(&Params::right) + 1;
  Mod mod;
  mod.keys_of = [=](I32 query, I32 origin) {
    const I32 here = query - origin;
    return KeyRange{.begin = here + first, .end = here + end};
  };
  return mod;
}

}  // namespace sagegen::attention::window
