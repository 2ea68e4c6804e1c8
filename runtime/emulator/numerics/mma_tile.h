// The fast part of the mma routines: operands unpacked into vectors over the 16 rows of a tile, and plain
// vector arithmetic on them. Included once by each mma_host_*.cpp, which compiles it for one instruction
// set; results do not depend on which of them runs. (Functions with a target attribute that inline common
// ones are no way around the separate files: GCC splits vectors wider than the registers before it
// inlines.)
//
// The floating-point loops take only "tame" operands, for which f32 arithmetic is exact where it has to
// be. They report anything else (NaN, infinities, exponents near the ends of f32, f16 overflow between
// chained sums) by a nonzero lane, and the caller then uses fused_mma_complete.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "runtime/emulator/numerics/fused_sum.h"
#include "runtime/emulator/numerics/mma_kernels.h"

namespace sagegen::emulator::tile {
namespace {  // every including file has its own

constexpr int kMinTame = -50, kMaxTame = 55;  // operand exponents
constexpr int kMinTop = -100, kMaxTop = 110;  // hence exponents of products; the same asked of C
constexpr std::int32_t kF16Infinity = 0x47800000;  // bits of 65536.0f: a rounded sum beyond f16

// 2^exponent, for exponents of normal floats.
inline void power_of_two(const VecI& exponent, VecF& out) {
  out = reinterpret_cast<VecF>((exponent + 127) << 23);
}

inline void widen(const VecF& value, VecD (&out)[2]) {
  using Half [[gnu::vector_size(32)]] = float;
  Half half[2];
  std::memcpy(half, &value, sizeof(half));
  out[0] = __builtin_convertvector(half[0], VecD);
  out[1] = __builtin_convertvector(half[1], VecD);
}

// Element e of each word as value and exponent; kNoExponent for zeros.
template <MmaType kType>
inline void decode_float(const VecU& words, int e, VecF& value, VecI& exponent, VecI& wild) {
  constexpr int kBits = bits_of(kType);
  constexpr int kFraction = fraction_bits_of(kType);
  constexpr int kFieldMax = (1 << (kBits - 1 - kFraction)) - 1;
  constexpr int kBias = kFieldMax >> 1;
  const VecI code = reinterpret_cast<VecI>((words >> (kBits * e)) & ((1u << kBits) - 1u));
  const VecI field = (code >> kFraction) & kFieldMax;
  const VecI fraction = code & ((1 << kFraction) - 1);
  const VecI significand = field != 0 ? fraction | (1 << kFraction) : fraction;
  const VecI unbiased = (field != 0 ? field : VecI{} + 1) - kBias;
  VecI is_wild;
  if constexpr (kType == MmaType::e4m3) {
    is_wild = (code & 0x7f) == 0x7f;
  } else if constexpr (kType == MmaType::bf16) {
    is_wild = (significand != 0) & ((unbiased < kMinTame) | (unbiased > kMaxTame));
  } else {
    is_wild = field == kFieldMax;
  }
  wild |= is_wild;
  VecF unit;
  power_of_two((is_wild != 0 ? VecI{} + 0 : unbiased) - kFraction, unit);
  const VecF magnitude = __builtin_convertvector(significand, VecF) * unit;
  value = reinterpret_cast<VecF>(reinterpret_cast<VecI>(magnitude) | ((code >> (kBits - 1)) << 31));
  exponent = significand != 0 ? unbiased : VecI{} + kNoExponent;
}

template <MmaType kType>
inline void decode_integer(const VecU& words, int e, VecF& value) {
  constexpr int kBits = bits_of(kType);
  constexpr bool kSigned = kType == MmaType::s8 || kType == MmaType::s4;
  const VecU top = words << (32 - kBits * (e + 1));
  const VecI wide = kSigned ? reinterpret_cast<VecI>(top) >> (32 - kBits)
                            : reinterpret_cast<VecI>(top >> (32 - kBits));
  value = __builtin_convertvector(wide, VecF);
}

// The words of two registers by position in their four-lane groups: out[t] has word t of each group, the
// eight of `low` (rows or columns 0-7) before the eight of `high`. This and scatter are transpositions.
inline void gather(const std::uint32_t (&low)[32], const std::uint32_t (&high)[32],
                   VecU (&out)[4]) {
  VecU half[4];
  std::memcpy(&half[0], low, sizeof(low));
  std::memcpy(&half[2], high, sizeof(high));
  VecU pairs[2][2];  // [t / 2][low or high]: eight groups' word t, then their word t + 1
  for (int side = 0; side < 2; ++side) {
    const VecU& first = half[2 * side];
    const VecU& second = half[2 * side + 1];
    pairs[0][side] = __builtin_shufflevector(first, second, 0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9,
                                             13, 17, 21, 25, 29);
    pairs[1][side] = __builtin_shufflevector(first, second, 2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11,
                                             15, 19, 23, 27, 31);
  }
  for (int pair = 0; pair < 2; ++pair) {
    const VecU& first = pairs[pair][0];
    const VecU& second = pairs[pair][1];
    out[2 * pair] = __builtin_shufflevector(first, second, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19,
                                            20, 21, 22, 23);
    out[2 * pair + 1] = __builtin_shufflevector(first, second, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25,
                                                26, 27, 28, 29, 30, 31);
  }
}

// The inverse of gather.
inline void scatter(const VecU (&in)[4], std::uint32_t (&low)[32], std::uint32_t (&high)[32]) {
  VecU pairs[2][2];  // [t / 2][low or high]: word t and t + 1 of each of eight groups in turn
  for (int pair = 0; pair < 2; ++pair) {
    const VecU& even = in[2 * pair];
    const VecU& odd = in[2 * pair + 1];
    pairs[pair][0] =
        __builtin_shufflevector(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    pairs[pair][1] = __builtin_shufflevector(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13,
                                             29, 14, 30, 15, 31);
  }
  VecU half[4];
  for (int side = 0; side < 2; ++side) {
    const VecU& first = pairs[0][side];
    const VecU& second = pairs[1][side];
    half[2 * side] = __builtin_shufflevector(first, second, 0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20,
                                             21, 6, 7, 22, 23);
    half[2 * side + 1] = __builtin_shufflevector(first, second, 8, 9, 24, 25, 10, 11, 26, 27, 12,
                                                 13, 28, 29, 14, 15, 30, 31);
  }
  std::memcpy(low, &half[0], sizeof(low));
  std::memcpy(high, &half[2], sizeof(high));
}

template <MmaType kType>
inline void unpack_rows(const std::uint32_t (&a)[4][32], int halves, Operands& out) {
  constexpr int kPerWord = 32 / bits_of(kType);
  for (int h = 0; h < halves; ++h) {
    VecU words[4];
    gather(a[2 * h], a[2 * h + 1], words);
    for (int t = 0; t < 4; ++t) {
      for (int e = 0; e < kPerWord; ++e) {
        const int k = (4 * h + t) * kPerWord + e;
        if constexpr (is_integer(kType)) {
          decode_integer<kType>(words[t], e, out.a[k]);
        } else {
          decode_float<kType>(words[t], e, out.a[k], out.a_exponent[k], out.wild);
        }
      }
    }
  }
}

// The lower eight lanes to one place, the upper eight to another.
inline void split(const auto& vector, auto& low, auto& high) {
  static_assert(sizeof(vector) == 2 * sizeof(low) && sizeof(low) == sizeof(high));
  std::memcpy(&low, &vector, sizeof(low));
  std::memcpy(&high, reinterpret_cast<const char*>(&vector) + sizeof(low), sizeof(high));
}

// Both halves of k at once: columns of the first register in lanes 0-7, of the second in lanes 8-15.
template <MmaType kType>
inline void unpack_columns(const std::uint32_t (&b)[2][32], int halves, Operands& out) {
  constexpr int kPerWord = 32 / bits_of(kType);
  VecU words[4];
  gather(b[0], b[halves - 1], words);
  for (int t = 0; t < 4; ++t) {
    for (int e = 0; e < kPerWord; ++e) {
      const int k = t * kPerWord + e;
      const int k_high = k + 4 * kPerWord;
      VecF value;
      if constexpr (is_integer(kType)) {
        decode_integer<kType>(words[t], e, value);
      } else {
        VecI exponent;
        decode_float<kType>(words[t], e, value, exponent, out.wild);
        split(exponent, out.b_exponent[k], out.b_exponent[k_high]);
      }
      split(value, out.b[k], out.b[k_high]);
    }
  }
}

// ---- accumulators as [column] vectors over rows ------------------------------------------------------

inline void load_words(const std::uint32_t (&c)[4][32], VecU (&out)[kColumns]) {
  VecU even[4], odd[4];
  gather(c[0], c[2], even);
  gather(c[1], c[3], odd);
  for (int t = 0; t < 4; ++t) {
    out[2 * t] = even[t];
    out[2 * t + 1] = odd[t];
  }
}

inline void store_words(const VecU (&in)[kColumns], std::uint32_t (&d)[4][32]) {
  const VecU even[4] = {in[0], in[2], in[4], in[6]};
  const VecU odd[4] = {in[1], in[3], in[5], in[7]};
  scatter(even, d[0], d[2]);
  scatter(odd, d[1], d[3]);
}

// kExact: any finite C will do.
template <bool kExact>
inline void load_f32(const MmaRegisters& registers, Accumulators& out) {
  VecU words[kColumns];
  load_words(registers.c, words);
  for (int j = 0; j < kColumns; ++j) {
    out.value[j] = reinterpret_cast<VecF>(words[j]);
    const VecI magnitude = reinterpret_cast<VecI>(words[j] & 0x7fffffffu);
    const VecI exponent = (magnitude >> 23) - 127;
    if constexpr (kExact) {
      out.wild |= exponent == 128;
    } else {
      out.wild |= (magnitude != 0) & ((exponent < kMinTop) | (exponent > kMaxTop));
    }
  }
}

inline void store_f32(const Accumulators& in, MmaRegisters& registers) {
  VecU words[kColumns];
  for (int j = 0; j < kColumns; ++j) {
    words[j] = reinterpret_cast<VecU>(in.value[j]);
  }
  store_words(words, registers.d);
}

inline void load_f16(const MmaRegisters& registers, Accumulators& out) {
  VecU words[4];
  gather(registers.c[0], registers.c[1], words);
  for (int t = 0; t < 4; ++t) {
    VecI exponent;
    decode_float<MmaType::f16>(words[t], 0, out.value[2 * t], exponent, out.wild);
    decode_float<MmaType::f16>(words[t], 1, out.value[2 * t + 1], exponent, out.wild);
  }
}

// Codes of f16 values held by floats.
inline void encode_f16(const VecF& value, VecU& code) {
  const VecU bits = reinterpret_cast<VecU>(value);
  const VecF magnitude = reinterpret_cast<VecF>(bits & 0x7fffffffu);
  const VecF zero = {};
  const VecF small = magnitude < 0x1p-14f ? magnitude : zero;
  const VecI subnormal = __builtin_convertvector(small * 0x1p24f, VecI);
  const VecI normal = reinterpret_cast<VecI>(((bits & 0x7fffffffu) >> 13) - (112u << 10));
  const VecI chosen = magnitude < 0x1p-14f ? subnormal : normal;
  code = reinterpret_cast<VecU>(chosen) | ((bits >> 31) << 15);
}

inline void store_f16(const Accumulators& in, MmaRegisters& registers) {
  VecU words[4];
  for (int t = 0; t < 4; ++t) {
    VecU even, odd;
    encode_f16(in.value[2 * t], even);
    encode_f16(in.value[2 * t + 1], odd);
    words[t] = even | (odd << 16);
  }
  scatter(words, registers.d[0], registers.d[1]);
}

// ---- integers -------------------------------------------------------------------------------------------

// D = A * B + C. All sums of products stay below 2^24, so floats hold them exactly.
template <bool kSaturate>
inline void integer_sum(const Operands& operands, int depth, MmaRegisters& registers) {
  VecU c[kColumns];
  load_words(registers.c, c);
  for (int j = 0; j < kColumns; j += 4) {
    VecF sum[4] = {};
    for (int k = 0; k < depth; ++k) {
      for (int n = 0; n < 4; ++n) {
        sum[n] += operands.a[k] * operands.b[k][j + n];
      }
    }
    for (int n = 0; n < 4; ++n) {
      VecU& accumulator = c[j + n];
      const VecU products = reinterpret_cast<VecU>(__builtin_convertvector(sum[n], VecI));
      const VecU wrapped = accumulator + products;
      if constexpr (kSaturate) {
        // Overflow: both addends have the sign that the wrapped sum lost.
        const VecU overflow = (accumulator ^ wrapped) & (products ^ wrapped);
        const VecU limit = 0x7fffffffu + (accumulator >> 31);
        accumulator = reinterpret_cast<VecI>(overflow) < 0 ? limit : wrapped;
      } else {
        accumulator = wrapped;
      }
    }
  }
  store_words(c, registers.d);
}

// ---- floating point -------------------------------------------------------------------------------------

// x, an exact sum, rounded to the nearest f16, as a double. Beyond the f16 range the result is 65536 or more.
inline double nearest_f16(double x) {
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(x);
  const auto exponent = static_cast<std::int64_t>((bits >> 52) & 0x7ffu) - 1023;
  const std::int64_t quantum = exponent < -14 ? -24 : exponent - 10;
  // Adding 1.5 * 2^52 quanta leaves no bit below one quantum; the addition itself rounds to nearest even.
  const double magic =
      std::bit_cast<double>((static_cast<std::uint64_t>(quantum + 52 + 1023) << 52) | (1ull << 51));
  const double rounded = (x + magic) - magic;
  const std::uint64_t magnitude = std::bit_cast<std::uint64_t>(rounded) & ~(1ull << 63);
  return std::bit_cast<double>(magnitude | (bits & (1ull << 63)));
}

inline void note_f16_overflow(const VecF& value, VecI& wild) {
  wild |= (reinterpret_cast<VecI>(value) & 0x7fffffff) >= kF16Infinity;
}

// One fused sum: elements of k of `block` and the accumulators, which receive the result.
template <int kF, int kResultBits, bool kF16>
inline void fused_block(const Operands& operands, const Block& block, Accumulators& accumulators) {
  for (int j = 0; j < kColumns; j += 4) {
    VecF* c = accumulators.value + j;
    VecI top[4];
    for (int n = 0; n < 4; ++n) {
      const VecI magnitude = reinterpret_cast<VecI>(c[n]) & 0x7fffffff;
      const VecI exponent = (magnitude >> 23) - 127;
      // An f16 subnormal has its format's lowest exponent; zeros have none.
      top[n] = exponent;
      if constexpr (kF16) {
        top[n] = ((magnitude != 0) & (exponent < -14)) != 0 ? VecI{} - 14 : exponent;
      }
      top[n] = top[n] < kMinTop ? VecI{} + kMinTop : top[n];
    }
    for (int group = block.first; group < block.end; group += block.stride) {
      for (int k = group; k < group + block.run; ++k) {
        for (int n = 0; n < 4; ++n) {
          const VecI exponent = operands.a_exponent[k] + operands.b_exponent[k][j + n];
          top[n] = top[n] < exponent ? exponent : top[n];
        }
      }
    }
    // Products and their scaled values are exact in f32, or below 1 and cut to 0 whatever their rounding;
    // the conversion truncates toward zero. Sixteen terms below 2^(F+2) fit an int32; hence two sums.
    VecF scale[4];
    VecI low[4], high[4] = {};
    for (int n = 0; n < 4; ++n) {
      power_of_two(kF - top[n], scale[n]);
      low[n] = __builtin_convertvector(c[n] * scale[n], VecI);
    }
    alignas(64) double total[4][kRows];
    for (int n = 0; n < 4; ++n) {
      alignas(64) std::int32_t lanes[kRows];
      std::memcpy(lanes, &low[n], sizeof(lanes));
      for (int i = 0; i < kRows; ++i) {
        total[n][i] = lanes[i];
      }
      low[n] = VecI{};
    }
    int used = 0;
    for (int group = block.first; group < block.end; group += block.stride) {
      for (int k = group; k < group + block.run; ++k) {
        for (int n = 0; n < 4; ++n) {
          const VecF term = operands.a[k] * operands.b[k][j + n] * scale[n];
          low[n] += __builtin_convertvector(term, VecI);
        }
        if (kF > 13 && ++used == 16) {
          for (int n = 0; n < 4; ++n) {
            high[n] = low[n];
            low[n] = VecI{};
          }
        }
      }
    }
    for (int n = 0; n < 4; ++n) {
      alignas(64) std::int32_t first[kRows], second[kRows], exponent[kRows];
      alignas(64) float result[kRows];
      std::memcpy(first, &low[n], sizeof(first));
      std::memcpy(second, &high[n], sizeof(second));
      std::memcpy(exponent, &top[n], sizeof(exponent));
      for (int i = 0; i < kRows; ++i) {
        const double sum = total[n][i] + first[i] + second[i];
        const float unit = std::bit_cast<float>((exponent[i] - kF + 127) << 23);
        if constexpr (kF16) {
          result[i] = static_cast<float>(nearest_f16(sum * static_cast<double>(unit)));
        } else {
          constexpr std::uint64_t kMask = ~((1ull << (52 - kResultBits)) - 1);
          const double kept = std::bit_cast<double>(std::bit_cast<std::uint64_t>(sum) & kMask);
          result[i] = static_cast<float>(kept) * unit;
        }
      }
      std::memcpy(&c[n], result, sizeof(result));
      if constexpr (kF16) {
        note_f16_overflow(c[n], accumulators.wild);
      }
    }
  }
}

// The ordinary addition of the ALU: `sum` into the accumulators.
template <bool kF16>
inline void add_rounded(const Accumulators& sum, Accumulators& accumulators) {
  for (int j = 0; j < kColumns; ++j) {
    if constexpr (kF16) {
      for (int i = 0; i < kRows; ++i) {
        accumulators.value[j][i] = static_cast<float>(
            nearest_f16(static_cast<double>(accumulators.value[j][i]) + sum.value[j][i]));
      }
      note_f16_overflow(accumulators.value[j], accumulators.wild);
    } else {
      accumulators.value[j] += sum.value[j];
    }
  }
  accumulators.wild |= sum.wild;
}

// Bits that the sums of products span: from the lowest bit of any to the top of the largest sum.
inline int span_of_sums(const Operands& operands, int depth, int product_fraction_bits) {
  constexpr std::int32_t kNone = 1 << 20;
  VecI low = VecI{} + kNone, high = VecI{} + kNoExponent;
  std::int32_t b_low = kNone, b_high = kNoExponent;
  for (int k = 0; k < depth; ++k) {
    const VecI& a = operands.a_exponent[k];
    low = ((a != kNoExponent) & (a < low)) != 0 ? a : low;
    high = a > high ? a : high;
    for (const std::int32_t b : operands.b_exponent[k]) {
      b_low = b != kNoExponent && b < b_low ? b : b_low;
      b_high = b > b_high ? b : b_high;
    }
  }
  std::int32_t a_low = kNone, a_high = kNoExponent;
  for (int i = 0; i < kRows; ++i) {
    a_low = low[i] < a_low ? low[i] : a_low;
    a_high = high[i] > a_high ? high[i] : a_high;
  }
  if (a_high == kNoExponent || b_high == kNoExponent) {
    return 0;  // all products are zero
  }
  const int carry = std::bit_width(static_cast<unsigned>(depth)) + 1;  // each product is below 4
  return (a_high - a_low) + (b_high - b_low) + product_fraction_bits + carry;
}

// sum = the double nearest to x + y; what it misses is added to rest.
inline void add_exactly(VecD& sum, const VecD& y, VecD& rest) {
  const VecD x = sum;
  sum = x + y;
  const VecD y_part = sum - x;
  rest += (x - (sum - y_part)) + (y - y_part);
}

// sum + rest rounded to odd at 53 bits; |rest| is below one unit of sum.
inline double round_to_odd(double sum, double rest) {
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(sum);
  // An inexact even sum moves one unit toward the lost part: away from zero if the signs agree.
  const bool adjust = rest != 0.0 && (bits & 1u) == 0;
  const bool grow = (rest > 0.0) == (sum > 0.0);
  const std::uint64_t moved = grow ? bits + 1 : bits - 1;
  return std::bit_cast<double>(adjust ? moved : bits);
}

// Sums of products of one column, exact as sum + rest; kShort: a single double holds them.
template <bool kShort>
inline void sum_products(const Operands& operands, int depth, int j, VecD (&sum)[2],
                         VecD (&rest)[2]) {
  for (int k = 0; k < depth; ++k) {
    VecD a[2];
    widen(operands.a[k], a);
    const VecD b = VecD{} + static_cast<double>(operands.b[k][j]);
    for (int n = 0; n < 2; ++n) {
      if constexpr (kShort) {
        sum[n] += a[n] * b;
      } else {
        add_exactly(sum[n], a[n] * b, rest[n]);
      }
    }
  }
}

// All of k and C exactly, one rounding. False where the products span more than two doubles hold.
template <bool kF16>
inline bool exact_sum(const Operands& operands, int depth, int product_fraction_bits,
                      Accumulators& accumulators) {
  const int span = span_of_sums(operands, depth, product_fraction_bits);
  if (span > 96) {  // the losses, each a multiple of the lowest bit, would not fit `rest`
    return false;
  }
  for (int j = 0; j < kColumns; ++j) {
    VecD sum[2] = {}, rest[2] = {}, c[2];
    if (span <= 53) {
      sum_products<true>(operands, depth, j, sum, rest);
    } else {
      sum_products<false>(operands, depth, j, sum, rest);
    }
    widen(accumulators.value[j], c);
    alignas(64) float result[kRows];
    for (int n = 0; n < 2; ++n) {
      // sum + rest + c, each exact, as a sum and one rest that only says in which direction to round.
      VecD lost = {}, tiny = {};
      add_exactly(sum[n], c[n], lost);
      add_exactly(rest[n], lost, tiny);
      lost = VecD{};
      add_exactly(sum[n], rest[n], lost);
      lost += tiny;
      alignas(64) double total[kRows / 2], missing[kRows / 2];
      std::memcpy(total, &sum[n], sizeof(total));
      std::memcpy(missing, &lost, sizeof(missing));
      for (int i = 0; i < kRows / 2; ++i) {
        const double odd = round_to_odd(total[i], missing[i]);
        result[n * (kRows / 2) + i] = static_cast<float>(kF16 ? nearest_f16(odd) : odd);
      }
    }
    std::memcpy(&accumulators.value[j], result, sizeof(result));
    if constexpr (kF16) {
      note_f16_overflow(accumulators.value[j], accumulators.wild);
    }
  }
  return true;
}

constexpr Kernels kTable{
    .unpack_rows = {unpack_rows<MmaType::s8>, unpack_rows<MmaType::u8>, unpack_rows<MmaType::s4>,
                    unpack_rows<MmaType::u4>, unpack_rows<MmaType::f16>, unpack_rows<MmaType::bf16>,
                    unpack_rows<MmaType::e4m3>, unpack_rows<MmaType::e5m2>},
    .unpack_columns = {unpack_columns<MmaType::s8>, unpack_columns<MmaType::u8>,
                       unpack_columns<MmaType::s4>, unpack_columns<MmaType::u4>,
                       unpack_columns<MmaType::f16>, unpack_columns<MmaType::bf16>,
                       unpack_columns<MmaType::e4m3>, unpack_columns<MmaType::e5m2>},
    .integer_sum = {integer_sum<false>, integer_sum<true>},
    .load = {{load_f32<false>, load_f16}, {load_f32<true>, load_f16}},
    .store = {store_f32, store_f16},
    .fused_block = {{fused_block<13, 13, false>, fused_block<13, 13, true>},
                    {fused_block<24, 23, false>, fused_block<24, 23, true>},
                    {fused_block<25, 23, false>, fused_block<25, 23, true>}},
    .add_rounded = {add_rounded<false>, add_rounded<true>},
    .exact_sum = {exact_sum<false>, exact_sum<true>},
};

}  // namespace
}  // namespace sagegen::emulator::tile
