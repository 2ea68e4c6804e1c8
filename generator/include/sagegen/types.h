// The element types that kernels store and multiply.
#pragma once

#include <string_view>

namespace sagegen {

enum class DType { f16, bf16, f32, s32, s8, s4, e4m3 };

// Bits of one element as it is stored.
constexpr int bits(DType type) {
  switch (type) {
    case DType::s4:
      return 4;
    case DType::s8:
    case DType::e4m3:
      return 8;
    case DType::f16:
    case DType::bf16:
      return 16;
    case DType::f32:
    case DType::s32:
      return 32;
  }
  return 0;
}

// The word that TOML files, keys and reports spell it with; "?" for a value outside the enumeration.
constexpr std::string_view to_string(DType type) {
  switch (type) {
    case DType::f16:
      return "f16";
    case DType::bf16:
      return "bf16";
    case DType::f32:
      return "f32";
    case DType::s32:
      return "s32";
    case DType::s8:
      return "s8";
    case DType::s4:
      return "s4";
    case DType::e4m3:
      return "e4m3";
  }
  return "?";
}

}  // namespace sagegen
