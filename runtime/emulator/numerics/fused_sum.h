// How a tensor core sums (MMA-Sim, arXiv 2511.10909): the parameters per device, and the slow but
// complete implementation that every fast path falls back to.
//
// One fused sum: every product is exact, with the exponent of its unnormalised factors; all terms, C too, are
// cut toward zero `fraction_bits` below the largest exponent; their sum is exact; the result is cut to f32 or
// rounded once to f16. What no published model settles is decided so, until a recording says otherwise:
// a sum that cancels is +0; a nonzero sum that is cut or rounded to zero keeps its sign; a sum beyond f32 is
// infinite; a zero C has exponent -126, a zero product none; every NaN is the canonical one. MMA-Sim says
// otherwise of zeros from negative sums and of zero products: tests/hardware/README.md, "Record first".
#pragma once

#include <cstdint>
#include <optional>

#include "runtime/emulator/numerics/numerics.h"

namespace sagegen::emulator {

// Which elements of k one fused sum takes, and what happens between sums.
enum class Chain {
  one_block,  // all of k and C
  halves,     // k < K/2 with C; then the rest with that result as C
  emulated,   // FP8 through two f16 instructions: k mod 4 in {0,1} with C = 0, then {2,3} with that
              // result; C is added to it by an ordinary rounded addition
};

struct FusedRule {
  int fraction_bits = 25;         // F: kept below the largest exponent when terms are aligned
  int result_fraction_bits = 23;  // kept of an f32 result: 23, or 13 on Ada's FP8 path
  Chain chain = Chain::one_block;
  bool exact = false;  // profile ideal: no alignment loss, one rounding to nearest

  constexpr bool operator==(const FusedRule&) const = default;
};

constexpr int bits_of(MmaType type) {
  switch (type) {
    case MmaType::s4:
    case MmaType::u4:
      return 4;
    case MmaType::f16:
    case MmaType::bf16:
      return 16;
    case MmaType::tf32:
      return 32;
    case MmaType::b1:
      return 1;
    case MmaType::f64:
      return 64;
    default:
      return 8;
  }
}
constexpr bool is_integer(MmaType type) {
  return type == MmaType::s8 || type == MmaType::u8 || type == MmaType::s4 || type == MmaType::u4;
}
constexpr bool is_fp8(MmaType type) { return type == MmaType::e4m3 || type == MmaType::e5m2; }

constexpr bool has_fused_sum(MmaType type) {
  return !is_integer(type) && type != MmaType::b1 && type != MmaType::f64;
}

// Smallest exponent of a format, where its subnormals live, and the fraction bits of its
// significand.
constexpr int min_exponent(MmaType type) {
  return type == MmaType::e4m3 ? -6 : type == MmaType::bf16 || type == MmaType::tf32 ? -126 : -14;
}
constexpr int fraction_bits_of(MmaType type) {
  switch (type) {
    case MmaType::e4m3:
      return 3;
    case MmaType::e5m2:
      return 2;
    case MmaType::bf16:
      return 7;
    default:
      return 10;
  }
}

// Position of element k inside the sequence of blocks: blocks are contiguous in it.
constexpr int block_order(Chain chain, int depth, int k) {
  if (chain != Chain::emulated) {
    return k;
  }
  return ((k & 2) != 0 ? depth / 2 : 0) + (k >> 2) * 2 + (k & 1);
}

// What a device does with a floating-point shape; nothing if it has no such instruction. tf32 is an f32
// whose low 13 bits do not count.
constexpr std::optional<FusedRule> fused_rule(Profile profile, const MmaShape& shape) {
  const bool fp8 = is_fp8(shape.a);
  if (!has_fused_sum(shape.a) || shape.m != 16 || shape.conjunction) {
    return std::nullopt;
  }
  const int full = 256 / bits_of(shape.a);
  const bool full_depth = shape.k == full;
  if (shape.saturate || (!full_depth && shape.k != full / 2) ||
      (fp8 ? !is_fp8(shape.b) : shape.a != shape.b) ||
      (shape.f16_accumulator && (shape.a == MmaType::bf16 || shape.a == MmaType::tf32))) {
    return std::nullopt;
  }
  switch (profile) {
    case Profile::sm_80:
    case Profile::sm_86:
    case Profile::sm_89: {
      const Chain chain = full_depth ? Chain::halves : Chain::one_block;
      if (!fp8) {
        return FusedRule{.fraction_bits = 24, .chain = chain};
      }
      if (profile != Profile::sm_89) {
        return std::nullopt;
      }
      return FusedRule{.fraction_bits = 13, .result_fraction_bits = 13, .chain = chain};
    }
    case Profile::sm_90:
      return FusedRule{.fraction_bits = 25, .chain = fp8 ? Chain::emulated : Chain::one_block};
    case Profile::sm_120:
      return FusedRule{.fraction_bits = 25};
    case Profile::ideal:
      return FusedRule{.exact = true};
  }
  return std::nullopt;
}

// A mma of floating-point operands for any bits whatever: infinities, NaN, subnormals, all
// exponents. shape.k elements per row.
void fused_mma_complete(const MmaShape& shape, const FusedRule& rule, MmaRegisters& registers);

}  // namespace sagegen::emulator
