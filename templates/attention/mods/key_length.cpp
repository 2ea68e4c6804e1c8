#include "templates/attention/mods/key_length.h"

namespace sagegen::attention {

using namespace dsl;

Mod key_length(I32 kv_len) {
  Mod mod;
  mod.keys_of = [=](I32, I32 origin) { return KeyRange{.begin = {}, .end = kv_len - origin}; };
  return mod;
}

}  // namespace sagegen::attention
