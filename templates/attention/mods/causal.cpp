#include "templates/attention/mods/causal.h"

namespace sagegen::attention {

using namespace dsl;

Mod causal(I32 offset) {
  Mod mod;
  mod.keys_of = [=](I32 query, I32 origin) {
    return KeyRange{.begin = {}, .end = query - origin + (offset + 1)};
  };
  mod.later_queries_see_more = true;
  return mod;
}

}  // namespace sagegen::attention
