// Chooses the routine of a shape on a device, and among its versions the one for this host.
#include <array>
#include <utility>

#include "runtime/emulator/numerics/fused_sum.h"
#include "runtime/emulator/numerics/mma_tile.h"
#include "runtime/emulator/numerics/numerics.h"

namespace sagegen::emulator {
namespace {

template <MmaType kA, MmaType kB, int kDepth, bool kSaturate>
struct IntegerMma {
  [[gnu::always_inline]] static void run(MmaRegisters& registers) {
    tile::integer_mma<kA, kB, kDepth, kSaturate>(registers);
  }
};

template <MmaType kA, MmaType kB, int kDepth, FusedRule kRule, bool kF16>
struct FusedMma {
  [[gnu::always_inline]] static void run(MmaRegisters& registers) {
    if (!tile::fused_mma<kA, kB, kDepth, kRule, kF16>(registers)) [[unlikely]] {
      fused_mma_complete({.a = kA, .b = kB, .k = kDepth, .f16_accumulator = kF16}, kRule,
                         registers);
    }
  }
};

template <typename Body>
void run_portable(MmaRegisters& registers) {
  Body::run(registers);
}

#if defined(__x86_64__) && defined(__GNUC__)
template <typename Body>
[[gnu::target("avx2")]] void run_avx2(MmaRegisters& registers) {
  Body::run(registers);
}
template <typename Body>
[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")]] void run_avx512(
    MmaRegisters& registers) {
  Body::run(registers);
}
#endif

enum class HostSet { portable, avx2, avx512 };

HostSet detect_host() {
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return HostSet::avx512;
  }
  if (__builtin_cpu_supports("avx2")) {
    return HostSet::avx2;
  }
#endif
  return HostSet::portable;
}

template <typename Body>
MmaFunction pick() {
  static const HostSet host = detect_host();
#if defined(__x86_64__) && defined(__GNUC__)
  if (host == HostSet::avx512) {
    return run_avx512<Body>;
  }
  if (host == HostSet::avx2) {
    return run_avx2<Body>;
  }
#endif
  return run_portable<Body>;
}

// ---- integers: the same on every device
// -----------------------------------------------------------

template <MmaType kA, MmaType kB, int kDepth>
MmaFunction integer_by_overflow(bool saturate) {
  return saturate ? pick<IntegerMma<kA, kB, kDepth, true>>()
                  : pick<IntegerMma<kA, kB, kDepth, false>>();
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

// ---- floating point: by device
// -----------------------------------------------------------------------

template <MmaType kA, MmaType kB, int kDepth, FusedRule kRule>
MmaFunction fused_by_accumulator(bool f16) {
  if constexpr (kA == MmaType::bf16) {
    return f16 ? nullptr : pick<FusedMma<kA, kB, kDepth, kRule, false>>();
  } else {
    return f16 ? pick<FusedMma<kA, kB, kDepth, kRule, true>>()
               : pick<FusedMma<kA, kB, kDepth, kRule, false>>();
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

// FP8 operands. Ada: 13 bits, 16 elements at a time. Hopper: through f16 instructions. sm_120: f32
// accuracy.
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

}  // namespace

MmaFunction mma_function(Profile profile, const MmaShape& shape) {
  const bool same = shape.a == shape.b;
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
  if (is_fp8(shape.a)) {
    if (shape.a == MmaType::e4m3) {
      return same                       ? fp8<MmaType::e4m3, MmaType::e4m3>(profile, shape)
             : shape.b == MmaType::e5m2 ? fp8<MmaType::e4m3, MmaType::e5m2>(profile, shape)
                                        : nullptr;
    }
    return same                       ? fp8<MmaType::e5m2, MmaType::e5m2>(profile, shape)
           : shape.b == MmaType::e4m3 ? fp8<MmaType::e5m2, MmaType::e4m3>(profile, shape)
                                      : nullptr;
  }
  if (!same) {
    return nullptr;
  }
  return shape.a == MmaType::f16 ? half_precision<MmaType::f16>(profile, shape)
                                 : half_precision<MmaType::bf16>(profile, shape);
}

}  // namespace sagegen::emulator
