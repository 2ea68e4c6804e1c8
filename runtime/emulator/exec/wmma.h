// Matrix instructions whose fragments are not those of mma.m16n8 in 32-bit registers (wmma.cpp).
#pragma once

#include "runtime/emulator/exec/forms.h"

namespace sagegen::emulator {

// .rn, .rz, .rm or .rp, which f64 has; before the types or, as nvcc prints it, behind them.
bool take_rounding(ModifierReader& m, MmaShape& shape);

// mma of m8n8 with integers or bits: D and C have two registers, A and B one.
Form eight_form(const MmaShape& shape);
// mma of doubles, every shape.
Form doubles_form(const MmaShape& shape);

}  // namespace sagegen::emulator
