#include "templates/attention/mod_list.h"

#include "templates/attention/mods/all.h"
#include "templates/attention/params.h"

namespace sagegen::attention {

using namespace dsl;

Mod key_length(KernelBuilder& k) {
  const I32 kv_len = k.params<Params>()(&Params::kv_len);
  Mod mod;
  mod.keys_of = [=](I32, I32 origin) { return KeyRange{.begin = {}, .end = kv_len - origin}; };
  mod.keys_are_all = true;
  return mod;
}

namespace {

template <typename Make>
Mod made(Make* mod, KernelBuilder& k, const View& view) {
  if constexpr (requires { mod(k); })
    return mod(k);
  else
    return mod(k, view);
}

}  // namespace

std::vector<Mod> mods_of(KernelBuilder& k, const View& view) {
  std::vector<Mod> mods{key_length(k)};
#define SAGEGEN_MOD(name) \
  if (view.spec.name) mods.push_back(made(name::mod, k, view));
#include "templates/attention/mods/mods.def"
  return mods;
}

}  // namespace sagegen::attention
