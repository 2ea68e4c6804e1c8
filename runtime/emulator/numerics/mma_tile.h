// The vectorizable part of the mma routines: operands unpacked into arrays whose inner index runs
// over rows or columns, plain loops over them. Everything is forced inline, so that the same source
// compiles for several instruction sets; results do not depend on which one runs.
//
// The float loops take only "tame" operands, for which float arithmetic is exact where they need
// it; they report anything else (NaN, infinities, exponents near the ends of f32) and the caller
// then uses fused_mma_complete.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "runtime/emulator/numerics/fused_sum.h"
#include "runtime/emulator/numerics/numerics.h"

namespace sagegen::emulator::tile {

constexpr int kRows = 16, kColumns = 8, kMaxDepth = 64;
constexpr int kNoExponent = -(1 << 20);       // of a zero: sums of two never win a maximum
constexpr int kMinTame = -50, kMaxTame = 55;  // operand exponents
constexpr int kMinTop = -100, kMaxTop = 110;  // exponents of products and C, as a consequence

struct alignas(64) Operands {
  float a[kMaxDepth][kRows];
  float b[kMaxDepth][kColumns];
  std::int32_t a_exponent[kMaxDepth][kRows];
  std::int32_t b_exponent[kMaxDepth][kColumns];
};

// The words of the four-lane groups 0..7 (one row or column each) at lane t of the group.
[[gnu::always_inline]] inline void gather_words(const std::uint32_t (&source)[32], int t,
                                                std::uint32_t* out) {
  for (int g = 0; g < 8; ++g) {
    out[g] = source[4 * g + t];
  }
}

// Element e of each word as value and exponent. Returns nonzero where an element is not tame.
template <MmaType kType, int kCount>
[[gnu::always_inline]] inline std::int32_t decode_float(const std::uint32_t* words, int e,
                                                        float* value, std::int32_t* exponent) {
  constexpr int kBits = bits_of(kType);
  constexpr int kFraction = fraction_bits_of(kType);
  constexpr int kExponentBits = kBits - 1 - kFraction;
  constexpr int kFieldMax = (1 << kExponentBits) - 1;
  constexpr int kBias = (1 << (kExponentBits - 1)) - 1;
  std::int32_t wild[kCount];
  for (int i = 0; i < kCount; ++i) {
    const auto code = static_cast<std::int32_t>((words[i] >> (kBits * e)) & ((1u << kBits) - 1u));
    const std::int32_t field = (code >> kFraction) & kFieldMax;
    const std::int32_t fraction = code & ((1 << kFraction) - 1);
    const std::int32_t significand = fraction | (field != 0 ? 1 << kFraction : 0);
    const std::int32_t unbiased = (field != 0 ? field : 1) - kBias;
    std::int32_t is_wild = 0;
    if constexpr (kType == MmaType::e4m3) {
      is_wild = (code & 0x7f) == 0x7f ? 1 : 0;
    } else if constexpr (kType == MmaType::bf16) {
      is_wild = significand != 0 && (unbiased < kMinTame || unbiased > kMaxTame) ? 1 : 0;
    } else {
      is_wild = field == kFieldMax ? 1 : 0;
    }
    wild[i] = is_wild;
    // A wild element gets a harmless unit; its value is never used.
    const std::int32_t unit_exponent = is_wild != 0 ? 0 : unbiased - kFraction;
    const float unit = std::bit_cast<float>((unit_exponent + 127) << 23);
    const float magnitude = static_cast<float>(significand) * unit;
    const std::uint32_t sign = static_cast<std::uint32_t>(code >> (kBits - 1)) << 31;
    value[i] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
    exponent[i] = significand != 0 ? unbiased : kNoExponent;
  }
  std::int32_t any = 0;
  for (int i = 0; i < kCount; ++i) {
    any |= wild[i];
  }
  return any;
}

template <MmaType kType, int kCount>
[[gnu::always_inline]] inline void decode_integer(const std::uint32_t* words, int e, float* value) {
  constexpr int kBits = bits_of(kType);
  constexpr bool kSigned = kType == MmaType::s8 || kType == MmaType::s4;
  for (int i = 0; i < kCount; ++i) {
    const std::uint32_t top = words[i] << (32 - kBits * (e + 1));
    const std::int32_t wide = kSigned ? static_cast<std::int32_t>(top) >> (32 - kBits)
                                      : static_cast<std::int32_t>(top >> (32 - kBits));
    value[i] = static_cast<float>(wide);
  }
}

// Operands of m16n8kK in block order. Returns whether all are tame.
template <MmaType kA, MmaType kB, int kDepth, Chain kChain>
[[gnu::always_inline]] inline bool unpack(const MmaRegisters& registers, Operands& out) {
  constexpr int kPerWord = 32 / bits_of(kA);
  constexpr int kHalves = kDepth / (4 * kPerWord);  // registers along k: 1 or 2
  std::int32_t wild = 0;
  for (int h = 0; h < kHalves; ++h) {
    for (int t = 0; t < 4; ++t) {
      std::uint32_t rows[kRows];
      std::uint32_t columns[kColumns];
      gather_words(registers.a[2 * h], t, rows);
      gather_words(registers.a[2 * h + 1], t, rows + 8);
      gather_words(registers.b[h], t, columns);
      for (int e = 0; e < kPerWord; ++e) {
        const int k = block_order(kChain, kDepth, (4 * h + t) * kPerWord + e);
        if constexpr (is_integer(kA)) {
          decode_integer<kA, kRows>(rows, e, out.a[k]);
          decode_integer<kB, kColumns>(columns, e, out.b[k]);
        } else {
          wild |= decode_float<kA, kRows>(rows, e, out.a[k], out.a_exponent[k]);
          wild |= decode_float<kB, kColumns>(columns, e, out.b[k], out.b_exponent[k]);
        }
      }
    }
  }
  return wild == 0;
}

// Accumulators as [column][row].
[[gnu::always_inline]] inline void load_accumulators(const std::uint32_t (&c)[4][32],
                                                     std::uint32_t (&out)[kColumns][kRows]) {
  for (int t = 0; t < 4; ++t) {
    for (int g = 0; g < 8; ++g) {
      out[2 * t][g] = c[0][4 * g + t];
      out[2 * t + 1][g] = c[1][4 * g + t];
      out[2 * t][g + 8] = c[2][4 * g + t];
      out[2 * t + 1][g + 8] = c[3][4 * g + t];
    }
  }
}
[[gnu::always_inline]] inline void store_accumulators(const std::uint32_t (&in)[kColumns][kRows],
                                                      std::uint32_t (&d)[4][32]) {
  for (int t = 0; t < 4; ++t) {
    for (int g = 0; g < 8; ++g) {
      d[0][4 * g + t] = in[2 * t][g];
      d[1][4 * g + t] = in[2 * t + 1][g];
      d[2][4 * g + t] = in[2 * t][g + 8];
      d[3][4 * g + t] = in[2 * t + 1][g + 8];
    }
  }
}

// Two f16 accumulators per word, as in load_accumulators.
[[gnu::always_inline]] inline void load_accumulators_f16(const std::uint32_t (&c)[4][32],
                                                         std::uint32_t (&out)[kColumns][kRows]) {
  for (int t = 0; t < 4; ++t) {
    for (int g = 0; g < 8; ++g) {
      out[2 * t][g] = c[0][4 * g + t] & 0xffffu;
      out[2 * t + 1][g] = c[0][4 * g + t] >> 16;
      out[2 * t][g + 8] = c[1][4 * g + t] & 0xffffu;
      out[2 * t + 1][g + 8] = c[1][4 * g + t] >> 16;
    }
  }
}
[[gnu::always_inline]] inline void store_accumulators_f16(
    const std::uint32_t (&in)[kColumns][kRows], std::uint32_t (&d)[4][32]) {
  for (int t = 0; t < 4; ++t) {
    for (int g = 0; g < 8; ++g) {
      d[0][4 * g + t] = in[2 * t][g] | (in[2 * t + 1][g] << 16);
      d[1][4 * g + t] = in[2 * t][g + 8] | (in[2 * t + 1][g + 8] << 16);
    }
  }
}

// Integer mma. All sums of products stay below 2^24, so floats hold them exactly.
template <MmaType kA, MmaType kB, int kDepth, bool kSaturate>
[[gnu::always_inline]] inline void integer_mma(MmaRegisters& registers) {
  Operands operands;
  unpack<kA, kB, kDepth, Chain::one_block>(registers, operands);
  alignas(64) std::uint32_t c[kColumns][kRows];
  load_accumulators(registers.c, c);
  for (int j = 0; j < kColumns; ++j) {
    alignas(64) float sum[kRows] = {};
    for (int k = 0; k < kDepth; ++k) {
      for (int i = 0; i < kRows; ++i) {
        sum[i] += operands.a[k][i] * operands.b[k][j];
      }
    }
    for (int i = 0; i < kRows; ++i) {
      const auto products = static_cast<std::int32_t>(sum[i]);
      const std::uint32_t wrapped = c[j][i] + static_cast<std::uint32_t>(products);
      if constexpr (kSaturate) {
        // Overflow: both addends have the sign that the wrapped sum lost.
        const std::uint32_t overflow =
            (c[j][i] ^ wrapped) & (static_cast<std::uint32_t>(products) ^ wrapped);
        const std::uint32_t limit = 0x7fffffffu + (c[j][i] >> 31);
        c[j][i] = (overflow >> 31) != 0 ? limit : wrapped;
      } else {
        c[j][i] = wrapped;
      }
    }
  }
  store_accumulators(c, registers.d);
}

[[gnu::always_inline]] inline float power_of_two(std::int32_t exponent) {
  return std::bit_cast<float>((exponent + 127) << 23);
}

// x, an exact sum, rounded to the nearest f16, as a double. Beyond the f16 range the result is
// 65536 or more.
[[gnu::always_inline]] inline double nearest_f16(double x) {
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(x);
  const auto exponent = static_cast<std::int64_t>((bits >> 52) & 0x7ffu) - 1023;
  const std::int64_t quantum = exponent < -14 ? -24 : exponent - 10;
  // Adding 1.5 * 2^52 quanta leaves no bit below one quantum; the addition itself rounds to nearest
  // even.
  const double magic =
      std::bit_cast<double>((static_cast<std::uint64_t>(quantum + 52 + 1023) << 52) | (1ull << 51));
  const double rounded = (x + magic) - magic;
  const std::uint64_t magnitude = std::bit_cast<std::uint64_t>(rounded) & ~(1ull << 63);
  return std::bit_cast<double>(magnitude | (bits & (1ull << 63)));
}

// Code of a finite f16 value held by a float.
[[gnu::always_inline]] inline std::uint32_t code_f16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const float magnitude = std::bit_cast<float>(bits & 0x7fffffffu);
  const std::uint32_t normal = ((bits & 0x7fffffffu) >> 13) - (112u << 10);
  const float small = magnitude < 0x1p-14f ? magnitude : 0.0f;
  const auto subnormal = static_cast<std::uint32_t>(static_cast<std::int32_t>(small * 0x1p24f));
  const std::uint32_t code = magnitude < 0x1p-14f ? subnormal : normal;
  return code | ((bits >> 31) << 15);
}

// An accumulator as value and exponent; f16 ones arrive as codes the first time.
[[gnu::always_inline]] inline std::int32_t exponent_of(float value, std::int32_t lowest) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value) & 0x7fffffffu;
  const std::int32_t exponent = static_cast<std::int32_t>(bits >> 23) - 127;
  const std::int32_t clamped = exponent < lowest ? lowest : exponent;
  return bits != 0 ? clamped : kNoExponent;
}

// An f16 result that became infinite; also with rounded values not yet turned into codes.
[[gnu::always_inline]] inline bool beyond_f16(float value) {
  return (std::bit_cast<std::uint32_t>(value) & 0x7fffffffu) >= 0x47800000u;
}

// One fused sum over elements [from, from + kLength) for 16 rows of column j; c is replaced by the
// result. Returns nonzero if an f16 result overflowed: what follows must see infinity.
template <int kFrom, int kLength, int kF, int kResultBits, bool kF16>
[[gnu::always_inline]] inline std::int32_t fused_block(const Operands& operands, int j,
                                                       float (&c)[kRows]) {
  alignas(64) std::int32_t top[kRows];
  for (int i = 0; i < kRows; ++i) {
    const std::int32_t exponent = exponent_of(c[i], kF16 ? -14 : -126);
    top[i] = exponent < kMinTop ? kMinTop : exponent;
  }
  for (int k = kFrom; k < kFrom + kLength; ++k) {
    const std::int32_t b_exponent = operands.b_exponent[k][j];
    for (int i = 0; i < kRows; ++i) {
      const std::int32_t exponent = operands.a_exponent[k][i] + b_exponent;
      top[i] = top[i] < exponent ? exponent : top[i];
    }
  }
  alignas(64) float scale[kRows];
  for (int i = 0; i < kRows; ++i) {
    scale[i] = power_of_two(kF - top[i]);
  }
  // Products and their scaled values are exact in f32 (or below 1 and cut to 0 whatever their
  // rounding); the conversion truncates toward zero. Sixteen terms below 2^(F+2) fit an int32, C
  // apart.
  constexpr int kChunk = kLength < 16 || kF <= 13 ? kLength : 16;
  alignas(64) double total[kRows];
  for (int i = 0; i < kRows; ++i) {
    total[i] = static_cast<std::int32_t>(c[i] * scale[i]);
  }
  for (int chunk = kFrom; chunk < kFrom + kLength; chunk += kChunk) {
    alignas(64) std::int32_t sum[kRows] = {};
    for (int k = chunk; k < chunk + kChunk; ++k) {
      const float b = operands.b[k][j];
      for (int i = 0; i < kRows; ++i) {
        sum[i] += static_cast<std::int32_t>(operands.a[k][i] * b * scale[i]);
      }
    }
    for (int i = 0; i < kRows; ++i) {
      total[i] += sum[i];
    }
  }
  for (int i = 0; i < kRows; ++i) {
    const float unit = power_of_two(top[i] - kF);
    if constexpr (kF16) {
      c[i] = static_cast<float>(nearest_f16(total[i] * static_cast<double>(unit)));
    } else {
      constexpr std::uint64_t kMask = ~((1ull << (52 - kResultBits)) - 1);
      const double kept = std::bit_cast<double>(std::bit_cast<std::uint64_t>(total[i]) & kMask);
      // Adding +0 turns a cancelled sum into +0.
      c[i] = static_cast<float>(kept) * unit + 0.0f;
    }
  }
  std::int32_t overflow = 0;
  if constexpr (kF16) {
    for (int i = 0; i < kRows; ++i) {
      overflow |= beyond_f16(c[i]) ? 1 : 0;
    }
  }
  return overflow;
}

// The exact sum plus C, rounded to odd at 53 bits.
[[gnu::always_inline]] inline double add_to_odd(double x, double y) {
  const double sum = x + y;
  const double y_part = sum - x;
  const double error = (x - (sum - y_part)) + (y - y_part);
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(sum);
  // An inexact even sum moves one unit toward the lost part: away from zero if the signs agree.
  const bool adjust = error != 0.0 && (bits & 1u) == 0;
  const bool grow = (error > 0.0) == (sum > 0.0);
  const std::uint64_t moved = grow ? bits + 1 : bits - 1;
  return std::bit_cast<double>(adjust ? moved : bits);
}

// All of k and C exactly, one rounding; the sums of products fit a double.
template <int kDepth, bool kF16>
[[gnu::always_inline]] inline void exact_column(const Operands& operands, int j,
                                                float (&c)[kRows]) {
  alignas(64) double sum[kRows] = {};
  for (int k = 0; k < kDepth; ++k) {
    const double b = operands.b[k][j];
    for (int i = 0; i < kRows; ++i) {
      sum[i] += static_cast<double>(operands.a[k][i]) * b;
    }
  }
  for (int i = 0; i < kRows; ++i) {
    const double total = add_to_odd(sum[i], c[i]);
    c[i] = static_cast<float>(kF16 ? nearest_f16(total) : total);
  }
}

// Whether every sum of products fits a double: the spread of the exponents bounds it.
template <int kDepth, int kProductFractionBits>
[[gnu::always_inline]] inline bool sums_fit_double(const Operands& operands) {
  std::int32_t low[kRows], high[kRows];
  for (int i = 0; i < kRows; ++i) {
    low[i] = 1 << 20;
    high[i] = kNoExponent;
  }
  for (int k = 0; k < kDepth; ++k) {
    for (int i = 0; i < kRows; ++i) {
      const std::int32_t e = operands.a_exponent[k][i];
      low[i] = e != kNoExponent && e < low[i] ? e : low[i];
      high[i] = e > high[i] ? e : high[i];
    }
  }
  std::int32_t a_low = 1 << 20, a_high = kNoExponent, b_low = 1 << 20, b_high = kNoExponent;
  for (int i = 0; i < kRows; ++i) {
    a_low = low[i] < a_low ? low[i] : a_low;
    a_high = high[i] > a_high ? high[i] : a_high;
  }
  for (int k = 0; k < kDepth; ++k) {
    for (int j = 0; j < kColumns; ++j) {
      const std::int32_t e = operands.b_exponent[k][j];
      b_low = e != kNoExponent && e < b_low ? e : b_low;
      b_high = e > b_high ? e : b_high;
    }
  }
  if (a_high == kNoExponent || b_high == kNoExponent) {
    return true;
  }
  constexpr int kCarry =
      std::bit_width(static_cast<unsigned>(kDepth)) + 1;  // products below 4, kDepth of them
  return (a_high - a_low) + (b_high - b_low) + kProductFractionBits + kCarry <= 53;
}

// Floating-point mma of tame operands; false if operands or an intermediate are not.
template <MmaType kA, MmaType kB, int kDepth, FusedRule kRule, bool kF16>
[[gnu::always_inline]] inline bool fused_mma(MmaRegisters& registers) {
  Operands operands;
  if (!unpack<kA, kB, kDepth, kRule.chain>(registers, operands)) {
    return false;
  }
  if constexpr (kRule.exact) {
    if (!sums_fit_double<kDepth, fraction_bits_of(kA) + fraction_bits_of(kB)>(operands)) {
      return false;
    }
  }
  alignas(64) std::uint32_t bits[kColumns][kRows];
  alignas(64) float c[kColumns][kRows];
  std::int32_t wild = 0;
  if constexpr (kF16) {
    load_accumulators_f16(registers.c, bits);
    for (int j = 0; j < kColumns; ++j) {
      std::int32_t unused[kRows];
      wild |= decode_float<MmaType::f16, kRows>(bits[j], 0, c[j], unused);
    }
  } else {
    load_accumulators(registers.c, bits);
    std::int32_t lane_wild[kRows] = {};
    for (int j = 0; j < kColumns; ++j) {
      for (int i = 0; i < kRows; ++i) {
        c[j][i] = std::bit_cast<float>(bits[j][i]);
        const auto exponent = static_cast<std::int32_t>((bits[j][i] >> 23) & 0xffu) - 127;
        const bool zero = (bits[j][i] & 0x7fffffffu) == 0;
        const bool bad =
            kRule.exact ? exponent == 128 : !zero && (exponent < kMinTop || exponent > kMaxTop);
        lane_wild[i] |= bad ? 1 : 0;
      }
    }
    for (int i = 0; i < kRows; ++i) {
      wild |= lane_wild[i];
    }
  }
  if (wild != 0) {
    return false;
  }
  constexpr int kF = kRule.fraction_bits;
  constexpr int kBits = kRule.result_fraction_bits;
  constexpr int kHalf = kDepth / 2;
  for (int j = 0; j < kColumns; ++j) {
    if constexpr (kRule.exact) {
      exact_column<kDepth, kF16>(operands, j, c[j]);
    } else if constexpr (kRule.chain == Chain::one_block) {
      wild |= fused_block<0, kDepth, kF, kBits, kF16>(operands, j, c[j]);
    } else if constexpr (kRule.chain == Chain::halves) {
      wild |= fused_block<0, kHalf, kF, kBits, kF16>(operands, j, c[j]);
      wild |= fused_block<kHalf, kHalf, kF, kBits, kF16>(operands, j, c[j]);
    } else {
      alignas(64) float sum[kRows] = {};
      wild |= fused_block<0, kHalf, kF, kBits, kF16>(operands, j, sum);
      wild |= fused_block<kHalf, kHalf, kF, kBits, kF16>(operands, j, sum);
      for (int i = 0; i < kRows; ++i) {
        c[j][i] = kF16 ? static_cast<float>(nearest_f16(static_cast<double>(c[j][i]) + sum[i]))
                       : c[j][i] + sum[i];
      }
    }
  }
  if constexpr (kF16) {
    for (int j = 0; j < kColumns; ++j) {
      for (int i = 0; i < kRows; ++i) {
        bits[j][i] = code_f16(c[j][i]);
        wild |= beyond_f16(c[j][i]) ? 1 : 0;
      }
    }
    if (wild != 0) {
      return false;
    }
    store_accumulators_f16(bits, registers.d);
  } else {
    for (int j = 0; j < kColumns; ++j) {
      for (int i = 0; i < kRows; ++i) {
        bits[j][i] = std::bit_cast<std::uint32_t>(c[j][i]);
      }
    }
    store_accumulators(bits, registers.d);
  }
  return true;
}

}  // namespace sagegen::emulator::tile
