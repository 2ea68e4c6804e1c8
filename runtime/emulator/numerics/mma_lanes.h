// Vectors over the rows of a tile, and the way between them and the fragments in registers: transposition,
// decoding, accumulators. See mma_tile.h for how this is compiled.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "runtime/emulator/numerics/fused_sum.h"
#include "runtime/emulator/numerics/mma_kernels.h"

namespace sagegen::emulator::tile {
namespace {  // every including file has its own

using VecF [[gnu::vector_size(4 * kLanes)]] = float;
using VecI [[gnu::vector_size(4 * kLanes)]] = std::int32_t;
using VecU [[gnu::vector_size(4 * kLanes)]] = std::uint32_t;
using VecD [[gnu::vector_size(4 * kLanes)]] = double;
constexpr int kDoubles = kLanes / 2;

constexpr int kMinTame = -50, kMaxTame = 55;  // operand exponents
constexpr int kMinTop = -100, kMaxTop = 110;  // hence exponents of products; the same asked of C
constexpr std::int32_t kF16Infinity = 0x47800000;  // bits of 65536.0f: a rounded sum beyond f16

inline void load(const void* from, auto& vector) { std::memcpy(&vector, from, sizeof(vector)); }
inline void store(const auto& vector, void* to) { std::memcpy(to, &vector, sizeof(vector)); }

inline bool any(const VecI& mask) {
  std::uint64_t words[kLanes / 2], all = 0;
  store(mask, words);
  for (const std::uint64_t word : words) {
    all |= word;
  }
  return all != 0;
}

// 2^exponent, for exponents of normal floats.
inline void power_of_two(const VecI& exponent, VecF& out) {
  out = reinterpret_cast<VecF>((exponent + 127) << 23);
}

// ---- fragments as rows of words --------------------------------------------------------------------------

// Four by four words, transposed.
inline void transpose(const std::uint32_t* from, int from_stride, std::uint32_t* to,
                      int to_stride) {
  using Quad [[gnu::vector_size(16)]] = std::uint32_t;
  Quad r[4];
  for (int i = 0; i < 4; ++i) {
    load(from + i * from_stride, r[i]);
  }
  const Quad even_low = __builtin_shufflevector(r[0], r[2], 0, 4, 1, 5);
  const Quad even_high = __builtin_shufflevector(r[0], r[2], 2, 6, 3, 7);
  const Quad odd_low = __builtin_shufflevector(r[1], r[3], 0, 4, 1, 5);
  const Quad odd_high = __builtin_shufflevector(r[1], r[3], 2, 6, 3, 7);
  store(__builtin_shufflevector(even_low, odd_low, 0, 4, 1, 5), to);
  store(__builtin_shufflevector(even_low, odd_low, 2, 6, 3, 7), to + to_stride);
  store(__builtin_shufflevector(even_high, odd_high, 0, 4, 1, 5), to + 2 * to_stride);
  store(__builtin_shufflevector(even_high, odd_high, 2, 6, 3, 7), to + 3 * to_stride);
}

// The words of two registers by position in their four-lane groups: out[t] has word t of each group, the
// eight of `low` (rows or columns 0-7) before the eight of `high`.
using Words = std::uint32_t[4][kRows];

inline void gather(const std::uint32_t (&low)[32], const std::uint32_t (&high)[32], Words& out) {
  if constexpr (kLanes == 16) {  // whole vectors, as the loads that follow want them
    using Vec [[gnu::vector_size(64)]] = std::uint32_t;
    Vec half[4], pairs[2][2];  // [t / 2][low or high]: eight groups' word t, then their word t + 1
    std::memcpy(&half[0], low, sizeof(low));
    std::memcpy(&half[2], high, sizeof(high));
    for (int side = 0; side < 2; ++side) {
      pairs[0][side] = __builtin_shufflevector(half[2 * side], half[2 * side + 1], 0, 4, 8, 12, 16,
                                               20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
      pairs[1][side] = __builtin_shufflevector(half[2 * side], half[2 * side + 1], 2, 6, 10, 14, 18,
                                               22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31);
    }
    for (int pair = 0; pair < 2; ++pair) {
      store(__builtin_shufflevector(pairs[pair][0], pairs[pair][1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17,
                                    18, 19, 20, 21, 22, 23),
            out[2 * pair]);
      store(__builtin_shufflevector(pairs[pair][0], pairs[pair][1], 8, 9, 10, 11, 12, 13, 14, 15,
                                    24, 25, 26, 27, 28, 29, 30, 31),
            out[2 * pair + 1]);
    }
  } else {
    for (int group = 0; group < 8; group += 4) {
      transpose(low + 4 * group, 4, &out[0][group], kRows);
      transpose(high + 4 * group, 4, &out[0][8 + group], kRows);
    }
  }
}

// The inverse of gather.
inline void scatter(const Words& in, std::uint32_t (&low)[32], std::uint32_t (&high)[32]) {
  for (int group = 0; group < 8; group += 4) {
    transpose(&in[0][group], kRows, low + 4 * group, 4);
    transpose(&in[0][8 + group], kRows, high + 4 * group, 4);
  }
}

// Accumulators by column.
using ColumnWords = std::uint32_t[kColumns][kRows];

inline void load_words(const std::uint32_t (&c)[4][32], ColumnWords& out) {
  alignas(64) Words words;
  for (int parity = 0; parity < 2; ++parity) {
    gather(c[parity], c[2 + parity], words);
    for (int t = 0; t < 4; ++t) {
      std::memcpy(out[2 * t + parity], words[t], sizeof(words[t]));
    }
  }
}

inline void store_words(const ColumnWords& in, std::uint32_t (&d)[4][32]) {
  alignas(64) Words words;
  for (int parity = 0; parity < 2; ++parity) {
    for (int t = 0; t < 4; ++t) {
      std::memcpy(words[t], in[2 * t + parity], sizeof(words[t]));
    }
    scatter(words, d[parity], d[2 + parity]);
  }
}

// ---- decoding ---------------------------------------------------------------------------------------------

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
  power_of_two((unbiased - kFraction) & ~is_wild, unit);  // a wild element gets a harmless one
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

template <MmaType kType>
inline void unpack_rows(const std::uint32_t (&a)[4][32], int halves, Operands& out) {
  constexpr int kPerWord = 32 / bits_of(kType);
  VecI wild = {};
  for (int h = 0; h < halves; ++h) {
    alignas(64) Words words;
    gather(a[2 * h], a[2 * h + 1], words);
    for (int t = 0; t < 4; ++t) {
      for (int row = 0; row < kRows; row += kLanes) {
        VecU word;
        load(&words[t][row], word);
        for (int e = 0; e < kPerWord; ++e) {
          const int k = (4 * h + t) * kPerWord + e;
          VecF value;
          if constexpr (is_integer(kType)) {
            decode_integer<kType>(word, e, value);
          } else {
            VecI exponent;
            decode_float<kType>(word, e, value, exponent, wild);
            store(exponent, &out.a_exponent[k][row]);
          }
          store(value, &out.a[k][row]);
        }
      }
    }
  }
  out.wild = out.wild || any(wild);
}

// The first eight lanes of sixteen to one place, the others to another.
template <typename T>
inline void split(const T (&lanes)[kRows], T (&low)[kColumns], T (&high)[kColumns]) {
  std::memcpy(low, lanes, sizeof(low));
  std::memcpy(high, lanes + kColumns, sizeof(high));
}

// Both halves of k at once: columns of the first register in lanes 0-7, of the second in lanes 8-15.
template <MmaType kType>
inline void unpack_columns(const std::uint32_t (&b)[2][32], int halves, Operands& out) {
  constexpr int kPerWord = 32 / bits_of(kType);
  VecI wild = {};
  alignas(64) Words words;
  gather(b[0], b[halves - 1], words);
  for (int t = 0; t < 4; ++t) {
    for (int e = 0; e < kPerWord; ++e) {
      const int k = t * kPerWord + e;
      const int k_high = k + 4 * kPerWord;
      alignas(64) float values[kRows];
      alignas(64) std::int32_t exponents[kRows];
      for (int lane = 0; lane < kRows; lane += kLanes) {
        VecU word;
        VecF value;
        load(&words[t][lane], word);
        if constexpr (is_integer(kType)) {
          decode_integer<kType>(word, e, value);
        } else {
          VecI exponent;
          decode_float<kType>(word, e, value, exponent, wild);
          store(exponent, &exponents[lane]);
        }
        store(value, &values[lane]);
      }
      split(values, out.b[k], out.b[k_high]);
      if constexpr (!is_integer(kType)) {
        split(exponents, out.b_exponent[k], out.b_exponent[k_high]);
      }
    }
  }
  out.wild = out.wild || any(wild);
}

// ---- accumulators -------------------------------------------------------------------------------------------

// kExact: any finite C will do.
template <bool kExact>
inline void load_f32(const MmaRegisters& registers, Accumulators& out) {
  alignas(64) ColumnWords words;
  load_words(registers.c, words);
  VecI wild = {};
  for (int j = 0; j < kColumns; ++j) {
    for (int row = 0; row < kRows; row += kLanes) {
      VecI bits;
      load(&words[j][row], bits);
      const VecI magnitude = bits & 0x7fffffff;
      const VecI exponent = (magnitude >> 23) - 127;
      if constexpr (kExact) {
        wild |= exponent == 128;
      } else {
        wild |= (magnitude != 0) & ((exponent < kMinTop) | (exponent > kMaxTop));
      }
    }
  }
  std::memcpy(out.value, words, sizeof(words));
  out.wild = out.wild || any(wild);
}

inline void store_f32(const Accumulators& in, MmaRegisters& registers) {
  alignas(64) ColumnWords words;
  std::memcpy(words, in.value, sizeof(words));
  store_words(words, registers.d);
}

inline void load_f16(const MmaRegisters& registers, Accumulators& out) {
  alignas(64) Words words;
  gather(registers.c[0], registers.c[1], words);
  VecI wild = {};
  for (int t = 0; t < 4; ++t) {
    for (int row = 0; row < kRows; row += kLanes) {
      VecU word;
      load(&words[t][row], word);
      for (int e = 0; e < 2; ++e) {
        VecF value;
        VecI exponent;
        decode_float<MmaType::f16>(word, e, value, exponent, wild);
        store(value, &out.value[2 * t + e][row]);
      }
    }
  }
  out.wild = out.wild || any(wild);
}

// Codes of f16 values held by floats.
inline void encode_f16(const VecF& value, VecU& code) {
  const VecU bits = reinterpret_cast<VecU>(value);
  const VecF magnitude = reinterpret_cast<VecF>(bits & 0x7fffffffu);
  const VecI is_small = magnitude < 0x1p-14f;
  const VecF small = reinterpret_cast<VecF>(reinterpret_cast<VecI>(magnitude) & is_small);
  const VecI subnormal = __builtin_convertvector(small * 0x1p24f, VecI);
  const VecI normal = reinterpret_cast<VecI>(((bits & 0x7fffffffu) >> 13) - (112u << 10));
  const VecI chosen = is_small != 0 ? subnormal : normal;
  code = reinterpret_cast<VecU>(chosen) | ((bits >> 31) << 15);
}

inline void store_f16(const Accumulators& in, MmaRegisters& registers) {
  alignas(64) Words words;
  for (int t = 0; t < 4; ++t) {
    for (int row = 0; row < kRows; row += kLanes) {
      VecF value;
      VecU even, odd;
      load(&in.value[2 * t][row], value);
      encode_f16(value, even);
      load(&in.value[2 * t + 1][row], value);
      encode_f16(value, odd);
      store(even | (odd << 16), &words[t][row]);
    }
  }
  scatter(words, registers.d[0], registers.d[1]);
}

}  // namespace
}  // namespace sagegen::emulator::tile
