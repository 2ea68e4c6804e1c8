// The routine of a shape on a device: which fused sums it makes, in which order.
#include <cstring>

#include "runtime/emulator/numerics/fused_sum.h"
#include "runtime/emulator/numerics/mma_kernels.h"
#include "runtime/emulator/numerics/numerics.h"

namespace sagegen::emulator {
namespace {

using tile::Accumulators;
using tile::Block;
using tile::Kernels;
using tile::Operands;
using tile::Precision;

bool all_zero(const tile::VecI& lanes) {
  std::uint64_t words[8];
  static_assert(sizeof(words) == sizeof(lanes));
  std::memcpy(words, &lanes, sizeof(words));
  std::uint64_t any = 0;
  for (const std::uint64_t word : words) {
    any |= word;
  }
  return any == 0;
}

constexpr int index_of(MmaType type) { return static_cast<int>(type); }

// Registers along k of an operand.
constexpr int halves_of(const MmaShape& shape) { return shape.k * bits_of(shape.a) / 128; }

void unpack(const Kernels& kernels, const MmaShape& shape, const MmaRegisters& registers,
            Operands& out) {
  kernels.unpack_rows[index_of(shape.a)](registers.a, halves_of(shape), out);
  kernels.unpack_columns[index_of(shape.b)](registers.b, halves_of(shape), out);
}

void integer_mma(const MmaShape& shape, MmaRegisters& registers) {
  const Kernels& kernels = tile::host_kernels();
  Operands operands;
  unpack(kernels, shape, registers, operands);
  kernels.integer_sum[shape.saturate ? 1 : 0](operands, shape.k, registers);
}

// False if the operands need the complete implementation.
bool fused_mma_fast(const MmaShape& shape, const FusedRule& rule, MmaRegisters& registers) {
  const Kernels& kernels = tile::host_kernels();
  const int f16 = shape.f16_accumulator ? 1 : 0;
  const int depth = shape.k;
  Operands operands;
  Accumulators c;
  unpack(kernels, shape, registers, operands);
  kernels.load[rule.exact ? 1 : 0][f16](registers, c);
  if (!all_zero(operands.wild | c.wild)) {
    return false;
  }
  if (rule.exact) {
    if (!kernels.sums_fit_double(operands, depth,
                                 fraction_bits_of(shape.a) + fraction_bits_of(shape.b))) {
      return false;
    }
    kernels.exact_sum[f16](operands, depth, c);
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
  if (!all_zero(c.wild)) {
    return false;
  }
  kernels.store[f16](c, registers);
  return true;
}

void fused_mma(const MmaShape& shape, const FusedRule& rule, MmaRegisters& registers) {
  if (!fused_mma_fast(shape, rule, registers)) {
    fused_mma_complete(shape, rule, registers);
  }
}

// ---- from a shape to a function --------------------------------------------------------------------

template <MmaType kA, MmaType kB, int kDepth>
MmaFunction integer_by_overflow(bool saturate) {
  return saturate ? [](MmaRegisters&
                           r) { integer_mma({.a = kA, .b = kB, .k = kDepth, .saturate = true}, r); }
                  : [](MmaRegisters& r) { integer_mma({.a = kA, .b = kB, .k = kDepth}, r); };
}

template <MmaType kA, MmaType kB>
MmaFunction integer_by_depth(const MmaShape& shape) {
  constexpr int kFull = 256 / bits_of(kA);
  if (shape.k == kFull) {
    return integer_by_overflow<kA, kB, kFull>(shape.saturate);
  }
  return shape.k == kFull / 2 ? integer_by_overflow<kA, kB, kFull / 2>(shape.saturate) : nullptr;
}

template <MmaType kSigned, MmaType kUnsigned>
MmaFunction integer_by_type(const MmaShape& shape) {
  if (shape.a == kSigned) {
    return shape.b == kSigned ? integer_by_depth<kSigned, kSigned>(shape)
                              : integer_by_depth<kSigned, kUnsigned>(shape);
  }
  return shape.b == kSigned ? integer_by_depth<kUnsigned, kSigned>(shape)
                            : integer_by_depth<kUnsigned, kUnsigned>(shape);
}

template <MmaType kA, MmaType kB, int kDepth, FusedRule kRule>
MmaFunction fused_by_accumulator(bool f16) {
  if (!f16) {
    return [](MmaRegisters& r) { fused_mma({.a = kA, .b = kB, .k = kDepth}, kRule, r); };
  }
  if constexpr (kA == MmaType::bf16) {
    return nullptr;
  } else {
    return [](MmaRegisters& r) {
      fused_mma({.a = kA, .b = kB, .k = kDepth, .f16_accumulator = true}, kRule, r);
    };
  }
}

constexpr FusedRule kExact{.exact = true};
constexpr FusedRule kBlock25{.fraction_bits = 25};

// 16-bit operands. Ampere and Ada take 8 elements at a time, Hopper and later all 16.
template <MmaType kType>
MmaFunction half_precision(Profile profile, const MmaShape& shape) {
  constexpr FusedRule kHalves24{.fraction_bits = 24, .chain = Chain::halves};
  constexpr FusedRule kBlock24{.fraction_bits = 24};
  const bool f16 = shape.f16_accumulator;
  if (shape.k != 8 && shape.k != 16) {
    return nullptr;
  }
  const bool full = shape.k == 16;
  switch (profile) {
    case Profile::sm_80:
    case Profile::sm_86:
    case Profile::sm_89:
      return full ? fused_by_accumulator<kType, kType, 16, kHalves24>(f16)
                  : fused_by_accumulator<kType, kType, 8, kBlock24>(f16);
    case Profile::sm_90:
    case Profile::sm_120:
      return full ? fused_by_accumulator<kType, kType, 16, kBlock25>(f16)
                  : fused_by_accumulator<kType, kType, 8, kBlock25>(f16);
    case Profile::ideal:
      return full ? fused_by_accumulator<kType, kType, 16, kExact>(f16)
                  : fused_by_accumulator<kType, kType, 8, kExact>(f16);
  }
  return nullptr;
}

// FP8 operands. Ada: 13 bits, 16 elements at a time. Hopper: through f16 instructions. sm_120: f32 accuracy.
template <MmaType kA, MmaType kB>
MmaFunction fp8(Profile profile, const MmaShape& shape) {
  constexpr FusedRule kAdaHalves{
      .fraction_bits = 13, .result_fraction_bits = 13, .chain = Chain::halves};
  constexpr FusedRule kAdaBlock{.fraction_bits = 13, .result_fraction_bits = 13};
  constexpr FusedRule kEmulated{.fraction_bits = 25, .chain = Chain::emulated};
  const bool f16 = shape.f16_accumulator;
  if (shape.k != 16 && shape.k != 32) {
    return nullptr;
  }
  const bool full = shape.k == 32;
  switch (profile) {
    case Profile::sm_80:
    case Profile::sm_86:
      return nullptr;
    case Profile::sm_89:
      return full ? fused_by_accumulator<kA, kB, 32, kAdaHalves>(f16)
                  : fused_by_accumulator<kA, kB, 16, kAdaBlock>(f16);
    case Profile::sm_90:
      return full ? fused_by_accumulator<kA, kB, 32, kEmulated>(f16)
                  : fused_by_accumulator<kA, kB, 16, kEmulated>(f16);
    case Profile::sm_120:
      return full ? fused_by_accumulator<kA, kB, 32, kBlock25>(f16)
                  : fused_by_accumulator<kA, kB, 16, kBlock25>(f16);
    case Profile::ideal:
      return full ? fused_by_accumulator<kA, kB, 32, kExact>(f16)
                  : fused_by_accumulator<kA, kB, 16, kExact>(f16);
  }
  return nullptr;
}

template <MmaType kA>
MmaFunction fp8_by_second(Profile profile, const MmaShape& shape) {
  if (shape.b == MmaType::e4m3) {
    return fp8<kA, MmaType::e4m3>(profile, shape);
  }
  return shape.b == MmaType::e5m2 ? fp8<kA, MmaType::e5m2>(profile, shape) : nullptr;
}

}  // namespace

MmaFunction mma_function(Profile profile, const MmaShape& shape) {
  if (is_integer(shape.a)) {
    if (!is_integer(shape.b) || bits_of(shape.a) != bits_of(shape.b) || shape.f16_accumulator) {
      return nullptr;
    }
    return bits_of(shape.a) == 8 ? integer_by_type<MmaType::s8, MmaType::u8>(shape)
                                 : integer_by_type<MmaType::s4, MmaType::u4>(shape);
  }
  if (shape.saturate) {
    return nullptr;
  }
  switch (shape.a) {
    case MmaType::e4m3:
      return fp8_by_second<MmaType::e4m3>(profile, shape);
    case MmaType::e5m2:
      return fp8_by_second<MmaType::e5m2>(profile, shape);
    case MmaType::f16:
      return shape.b == MmaType::f16 ? half_precision<MmaType::f16>(profile, shape) : nullptr;
    case MmaType::bf16:
      return shape.b == MmaType::bf16 ? half_precision<MmaType::bf16>(profile, shape) : nullptr;
    default:
      return nullptr;
  }
}

}  // namespace sagegen::emulator
