#include "templates/attention/mods/list.h"

#include "templates/attention/mods/causal.h"
#include "templates/attention/mods/key_length.h"
#include "templates/attention/params.h"

namespace sagegen::attention {

std::vector<Mod> mods_of(dsl::KernelBuilder& k, const Spec& spec) {
  std::vector<Mod> mods{key_length(k.params<Params>()(&Params::kv_len))};
  if (spec.causal) mods.push_back(causal(k.params<CausalParams>()(&CausalParams::offset)));
  return mods;
}

}  // namespace sagegen::attention
