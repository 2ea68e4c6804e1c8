// What the mods of a kernel ask of a call, for the plan.
#pragma once

#include "sagegen/runtime/argument_check.h"
#include "templates/attention/plan.h"

namespace sagegen::attention {

// Whether what K smoothing takes from scores matters to some mod.
bool mods_need_lse_correction(const Spec& spec);

// Throws ArgumentError: refused arguments, and arguments of mods that the kernel does not have.
void check_mods(runtime::ArgumentCheck& check, const Kernel& kernel, const Spec& spec,
                const ModArguments& arguments, const ModCall& call);
void set_mod_params(ParamPack& params, const Spec& spec, const ModArguments& arguments,
                    const ModCall& call);

// Those of a part of the call.
ModArguments part_of(const ModArguments& arguments, const Spec& spec, const ModCall& call,
                     const ModPart& part);

}  // namespace sagegen::attention
