// The routine of a shape on a device: which fused sums it makes, in which order.
#include <array>
#include <utility>

#include "runtime/emulator/numerics/fused_sum.h"
#include "runtime/emulator/numerics/mma_kernels.h"
#include "runtime/emulator/numerics/numerics.h"

namespace sagegen::emulator {
namespace {

using tile::Accumulators;
using tile::Kernels;
using tile::Operands;
using tile::Precision;

void unpack(const Kernels& kernels, const MmaShape& shape, const MmaRegisters& registers,
            Operands& out) {
  const int halves = shape.k * bits_of(shape.a) / 128;  // registers along k
  kernels.unpack_rows[static_cast<int>(shape.a)](registers.a, halves, out);
  kernels.unpack_columns[static_cast<int>(shape.b)](registers.b, halves, out);
}

// ---- every shape on every device as a function ---------------------------------------------------------

constexpr auto kShapes = [] {
  std::array<MmaShape, 56> shapes{};
  std::size_t n = 0;
  for (const auto& [first, second] :
       {std::pair{MmaType::s8, MmaType::u8}, {MmaType::s4, MmaType::u4}}) {
    for (const MmaType a : {first, second}) {
      for (const MmaType b : {first, second}) {
        for (const int k : {128 / bits_of(a), 256 / bits_of(a)}) {
          for (const bool saturate : {false, true}) {
            shapes[n++] = {.a = a, .b = b, .k = k, .saturate = saturate};
          }
        }
      }
    }
  }
  for (const int k : {4, 8}) {
    shapes[n++] = {.a = MmaType::tf32, .b = MmaType::tf32, .k = k};
  }
  for (const bool f16 : {false, true}) {
    for (const int k : {8, 16}) {
      shapes[n++] = {.a = MmaType::f16, .b = MmaType::f16, .k = k, .f16_accumulator = f16};
      if (!f16) {
        shapes[n++] = {.a = MmaType::bf16, .b = MmaType::bf16, .k = k};
      }
    }
    for (const MmaType a : {MmaType::e4m3, MmaType::e5m2}) {
      for (const MmaType b : {MmaType::e4m3, MmaType::e5m2}) {
        for (const int k : {16, 32}) {
          shapes[n++] = {.a = a, .b = b, .k = k, .f16_accumulator = f16};
        }
      }
    }
  }
  return shapes;
}();
static_assert(kShapes.back().k != 0 && kShapes.back().a == MmaType::e5m2);

template <std::size_t kIndex>
void run_integer(MmaRegisters& registers) {
  integer_mma(tile::host_kernels(), kShapes[kIndex], registers);
}

template <Profile kProfile, std::size_t kIndex>
void run_fused(MmaRegisters& registers) {
  constexpr FusedRule kRule = *fused_rule(kProfile, kShapes[kIndex]);
  if constexpr (kShapes[kIndex].a == MmaType::tf32) {  // rare: has no fast kernels
    return fused_mma_complete(kShapes[kIndex], kRule, registers);
  }
  if (!fused_mma_fast(tile::host_kernels(), kShapes[kIndex], kRule, registers)) {
    fused_mma_complete(kShapes[kIndex], kRule, registers);
  }
}

template <Profile kProfile, std::size_t kIndex>
constexpr MmaFunction routine() {
  if constexpr (is_integer(kShapes[kIndex].a)) {
    return run_integer<kIndex>;
  } else if constexpr (fused_rule(kProfile, kShapes[kIndex]).has_value()) {
    return run_fused<kProfile, kIndex>;
  } else {
    return nullptr;
  }
}

using Routines = std::array<MmaFunction, kShapes.size()>;

template <Profile kProfile>
constexpr Routines kRoutines = []<std::size_t... kIndices>(std::index_sequence<kIndices...>) {
  return Routines{routine<kProfile, kIndices>()...};
}
(std::make_index_sequence<kShapes.size()>());

const Routines& routines_of(Profile profile) {
  switch (profile) {
    case Profile::sm_80:
      return kRoutines<Profile::sm_80>;
    case Profile::sm_86:
      return kRoutines<Profile::sm_86>;
    case Profile::sm_89:
      return kRoutines<Profile::sm_89>;
    case Profile::sm_90:
      return kRoutines<Profile::sm_90>;
    case Profile::sm_120:
      return kRoutines<Profile::sm_120>;
    case Profile::ideal:
      break;
  }
  return kRoutines<Profile::ideal>;
}

}  // namespace

void integer_mma(const Kernels& kernels, const MmaShape& shape, MmaRegisters& registers) {
  Operands operands;
  unpack(kernels, shape, registers, operands);
  kernels.integer_sum[shape.saturate ? 1 : 0](operands, shape.k, registers);
}

bool fused_mma_fast(const Kernels& kernels, const MmaShape& shape, const FusedRule& rule,
                    MmaRegisters& registers) {
  const int f16 = shape.f16_accumulator ? 1 : 0;
  const int depth = shape.k;
  Operands operands;
  Accumulators c;
  unpack(kernels, shape, registers, operands);
  kernels.load[rule.exact ? 1 : 0][f16](registers, c);
  if (operands.wild || c.wild) {
    return false;
  }
  if (rule.exact) {
    const int product_fraction_bits = fraction_bits_of(shape.a) + fraction_bits_of(shape.b);
    if (!kernels.exact_sum[f16](operands, depth, product_fraction_bits, c)) {
      return false;
    }
  } else {
    const Precision precision = rule.fraction_bits == 13   ? Precision::ada_fp8
                                : rule.fraction_bits == 24 ? Precision::bits24
                                                           : Precision::bits25;
    auto* const sum = kernels.fused_block[static_cast<int>(precision)][f16];
    const int half = depth / 2;
    switch (rule.chain) {
      case Chain::one_block:
        sum(operands, {0, depth, depth, depth}, c);
        break;
      case Chain::halves:
        sum(operands, {0, half, half, half}, c);
        sum(operands, {half, depth, half, half}, c);
        break;
      case Chain::emulated: {
        Accumulators partial{};
        sum(operands, {0, depth, 4, 2}, partial);
        sum(operands, {2, depth, 4, 2}, partial);
        kernels.add_rounded[f16](partial, c);
        break;
      }
    }
  }
  if (c.wild) {
    return false;
  }
  kernels.store[f16](c, registers);
  return true;
}

MmaFunction mma_function(Profile profile, const MmaShape& shape) {
  if (shape.a == MmaType::b1) {
    return binary_mma_function(shape);
  }
  MmaShape wanted = shape;
  if (shape.m == 8 && is_integer(shape.a) && shape.k * bits_of(shape.a) == 128) {
    wanted.m = 16;
  }
  const Routines& routines = routines_of(profile);
  for (std::size_t i = 0; i < kShapes.size(); ++i) {
    if (kShapes[i] == wanted) {
      return routines[i];
    }
  }
  return nullptr;
}

}  // namespace sagegen::emulator
