// Matrix instructions whose fragments are not those of one mma.m16n8 in 32-bit registers.
//
// The PTX ISA leaves the layout of wmma fragments open. Here they are made of fragments of mma.sync, in the
// number of registers that the ISA gives: m16n16 is two n8 columns side by side, m32n8 two m16 rows one
// upon the other, m8n32 the latter transposed (its B is A's fragment and the other way round), m8n8 a
// single one. f16 operands have more registers than elements; the rest holds copies.
#pragma once

#include "runtime/emulator/exec/forms.h"
#include "runtime/emulator/exec/warp.h"

namespace sagegen::emulator {

inline constexpr int kMaxRegisters = 8;  // of a fragment

inline const std::uint16_t* operands_of(const Warp& w, const Op& op, int count) {
  return count <= kInlineOperands ? op.r.data() : pooled(w, op);
}

// .rn, .rz, .rm or .rp, which f64 has; before the types or, as nvcc prints it, behind them.
bool take_rounding(ModifierReader& m, MmaShape& shape);

// mma of m8n8 with integers or bits: D and C have two registers, A and B one.
Form eight_form(const MmaShape& shape);
// mma of doubles, every shape.
Form doubles_form(const MmaShape& shape);
// wmma.mma of two m16n8 products; D and C of f16 or not.
Form parts_form(const MmaShape& shape, int m, int n, bool d_half, bool c_half);

}  // namespace sagegen::emulator
