// Numbers that survive all formats, as codes.
#pragma once

#include <cstdint>

#include "sagegen/types.h"

namespace sagegen::pictures {

// Small whole numbers, which all formats hold, as codes of P and V.
constexpr int kDigits = 16;
std::uint32_t code_of(DType type, int digit);  // e4m3, f16 or bf16
// Throws InternalError of another code.
int digit_of(DType type, std::uint32_t code);

}  // namespace sagegen::pictures
