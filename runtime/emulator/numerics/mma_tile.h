// The fast part of the mma routines: vector arithmetic over the 16 rows of a tile. Each mma_host_*.cpp
// defines kLanes, the 32-bit lanes of its vector registers, and includes this file to compile it for its
// instruction set; results do not depend on which of them runs. (GNU vectors wider than the registers would
// need no such constant, but GCC turns most of their operations into scalar code.)
//
// The floating-point loops take only "tame" operands, for which f32 arithmetic is exact where it has to
// be. They flag anything else (NaN, infinities, exponents near the ends of f32, f16 overflow between
// chained sums) as wild, and the caller then uses fused_mma_complete.
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

// ---- integers -------------------------------------------------------------------------------------------

// D = A * B + C. All sums of products stay below 2^24, so floats hold them exactly.
template <bool kSaturate>
inline void integer_sum(const Operands& operands, int depth, MmaRegisters& registers) {
  alignas(64) ColumnWords c;
  load_words(registers.c, c);
  for (int row = 0; row < kRows; row += kLanes) {
    for (int j = 0; j < kColumns; j += 4) {
      VecF sum[4] = {};
      for (int k = 0; k < depth; ++k) {
        VecF a;
        load(&operands.a[k][row], a);
        for (int n = 0; n < 4; ++n) {
          sum[n] += a * operands.b[k][j + n];
        }
      }
      for (int n = 0; n < 4; ++n) {
        VecU accumulator;
        load(&c[j + n][row], accumulator);
        const VecU products = reinterpret_cast<VecU>(__builtin_convertvector(sum[n], VecI));
        VecU result = accumulator + products;
        if constexpr (kSaturate) {
          // Overflow: both addends have the sign that the wrapped sum lost.
          const VecU overflow = (accumulator ^ result) & (products ^ result);
          const VecU limit = 0x7fffffffu + (accumulator >> 31);
          result = reinterpret_cast<VecI>(overflow) < 0 ? limit : result;
        }
        store(result, &c[j + n][row]);
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

// Whether any of the f16 results has become infinite.
inline bool overflows_f16(const Accumulators& accumulators) {
  VecI wild = {};
  for (int j = 0; j < kColumns; ++j) {
    for (int row = 0; row < kRows; row += kLanes) {
      VecI bits;
      load(&accumulators.value[j][row], bits);
      wild |= (bits & 0x7fffffff) >= kF16Infinity;
    }
  }
  return any(wild);
}

// The largest exponent of the terms of four columns: accumulators and products of `block`.
template <bool kF16>
inline void largest_exponents(const Operands& operands, const Block& block, const VecF (&c)[4],
                              int row, int j, VecI (&top)[4]) {
  for (int n = 0; n < 4; ++n) {
    const VecI magnitude = reinterpret_cast<VecI>(c[n]) & 0x7fffffff;
    top[n] = (magnitude >> 23) - 127;
    if constexpr (kF16) {  // an f16 subnormal has its format's lowest exponent
      top[n] = ((magnitude != 0) & (top[n] < -14)) != 0 ? VecI{} - 14 : top[n];
    }
    top[n] = top[n] < kMinTop ? VecI{} + kMinTop : top[n];
  }
  for (int group = block.first; group < block.end; group += block.stride) {
    for (int k = group; k < group + block.run; ++k) {
      VecI a;
      load(&operands.a_exponent[k][row], a);
      for (int n = 0; n < 4; ++n) {
        const VecI exponent = a + operands.b_exponent[k][j + n];
        top[n] = top[n] < exponent ? exponent : top[n];
      }
    }
  }
}

// One fused sum: elements of k of `block` and the accumulators, which receive the result.
template <int kF, int kResultBits, bool kF16>
inline void fused_block(const Operands& operands, const Block& block, Accumulators& accumulators) {
  for (int row = 0; row < kRows; row += kLanes) {
    for (int j = 0; j < kColumns; j += 4) {
      VecF c[4], scale[4];
      VecI top[4], of_c[4], first[4] = {}, second[4] = {};
      for (int n = 0; n < 4; ++n) {
        load(&accumulators.value[j + n][row], c[n]);
      }
      largest_exponents<kF16>(operands, block, c, row, j, top);
      // Products and their scaled values are exact in f32, or below 1 and cut to 0 whatever their
      // rounding; the conversion truncates toward zero. Sixteen terms below 2^(F+2) fit an int32; hence
      // two sums, and C apart.
      for (int n = 0; n < 4; ++n) {
        power_of_two(kF - top[n], scale[n]);
        of_c[n] = __builtin_convertvector(c[n] * scale[n], VecI);
      }
      int used = 0;
      for (int group = block.first; group < block.end; group += block.stride) {
        for (int k = group; k < group + block.run; ++k) {
          VecF a;
          load(&operands.a[k][row], a);
          for (int n = 0; n < 4; ++n) {
            first[n] += __builtin_convertvector(a * operands.b[k][j + n] * scale[n], VecI);
          }
          if (kF > 13 && ++used == 16) {
            for (int n = 0; n < 4; ++n) {
              second[n] = first[n];
              first[n] = VecI{};
            }
          }
        }
      }
      alignas(64) std::int32_t parts[3][4 * kLanes], exponent[4 * kLanes];
      alignas(64) float result[4 * kLanes];
      std::memcpy(parts[0], of_c, sizeof(of_c));
      std::memcpy(parts[1], first, sizeof(first));
      std::memcpy(parts[2], second, sizeof(second));
      std::memcpy(exponent, top, sizeof(top));
      for (int i = 0; i < 4 * kLanes; ++i) {
        const double sum = static_cast<double>(parts[0][i]) + parts[1][i] + parts[2][i];
        const float unit = std::bit_cast<float>((exponent[i] - kF + 127) << 23);
        if constexpr (kF16) {
          result[i] = static_cast<float>(nearest_f16(sum * static_cast<double>(unit)));
        } else {
          constexpr std::uint64_t kMask = ~((1ull << (52 - kResultBits)) - 1);
          const double kept = std::bit_cast<double>(std::bit_cast<std::uint64_t>(sum) & kMask);
          result[i] = static_cast<float>(kept) * unit;
        }
      }
      for (int n = 0; n < 4; ++n) {
        std::memcpy(&accumulators.value[j + n][row], result + n * kLanes, sizeof(c[n]));
      }
    }
  }
  if constexpr (kF16) {
    accumulators.wild = accumulators.wild || overflows_f16(accumulators);
  }
}

// The ordinary addition of the ALU: `sum` into the accumulators.
template <bool kF16>
inline void add_rounded(const Accumulators& sum, Accumulators& accumulators) {
  for (int j = 0; j < kColumns; ++j) {
    for (int i = 0; i < kRows; ++i) {
      const float x = accumulators.value[j][i];
      const float y = sum.value[j][i];
      accumulators.value[j][i] =
          kF16 ? static_cast<float>(nearest_f16(static_cast<double>(x) + y)) : x + y;
    }
  }
  accumulators.wild = accumulators.wild || sum.wild || (kF16 && overflows_f16(accumulators));
}

// Bits that the sums of products span: from the lowest bit of any to the top of the largest sum.
inline int span_of_sums(const Operands& operands, int depth, int product_fraction_bits) {
  constexpr std::int32_t kNone = 1 << 20;
  std::int32_t low[2][kRows], high[2][kRows];
  for (int i = 0; i < kRows; ++i) {
    low[0][i] = low[1][i] = kNone;
    high[0][i] = high[1][i] = kNoExponent;
  }
  auto take = [](std::int32_t e, std::int32_t& lowest, std::int32_t& highest) {
    const std::int32_t known = e == kNoExponent ? kNone : e;
    lowest = known < lowest ? known : lowest;
    highest = e > highest ? e : highest;
  };
  for (int k = 0; k < depth; ++k) {
    for (int i = 0; i < kRows; ++i) {
      take(operands.a_exponent[k][i], low[0][i], high[0][i]);
    }
    for (int j = 0; j < kColumns; ++j) {
      take(operands.b_exponent[k][j], low[1][j], high[1][j]);
    }
  }
  int span =
      product_fraction_bits + std::bit_width(static_cast<unsigned>(depth)) + 1;  // products below 4
  for (int side = 0; side < 2; ++side) {
    std::int32_t lowest = kNone, highest = kNoExponent;
    for (int i = 0; i < kRows; ++i) {
      lowest = low[side][i] < lowest ? low[side][i] : lowest;
      highest = high[side][i] > highest ? high[side][i] : highest;
    }
    if (highest == kNoExponent) {
      return 0;  // all products are zero
    }
    span += highest - lowest;
  }
  return span;
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

inline void load_widened(const float* from, VecD& out) {
  using Half [[gnu::vector_size(2 * kLanes)]] = float;
  Half half;
  load(from, half);
  out = __builtin_convertvector(half, VecD);
}

// All of k and C exactly, one rounding. False where the products span more than two doubles hold.
template <bool kF16>
inline bool exact_sum(const Operands& operands, int depth, int product_fraction_bits,
                      Accumulators& accumulators) {
  const int span = span_of_sums(operands, depth, product_fraction_bits);
  if (span > 96) {  // the losses, each a multiple of the lowest bit, would not fit `rest`
    return false;
  }
  for (int row = 0; row < kRows; row += kDoubles) {
    for (int j = 0; j < kColumns; ++j) {
      VecD sum = {}, rest = {};
      for (int k = 0; k < depth; ++k) {
        VecD a;
        load_widened(&operands.a[k][row], a);
        const VecD product = a * static_cast<double>(operands.b[k][j]);
        if (span <= 53) {
          sum += product;
        } else {
          add_exactly(sum, product, rest);
        }
      }
      // sum + rest + c, each exact, as a sum and one rest that only says in which direction to round.
      VecD c, lost = {}, tiny = {};
      load_widened(&accumulators.value[j][row], c);
      add_exactly(sum, c, lost);
      add_exactly(rest, lost, tiny);
      lost = VecD{};
      add_exactly(sum, rest, lost);
      lost += tiny;
      alignas(64) double total[kDoubles], missing[kDoubles];
      store(sum, total);
      store(lost, missing);
      for (int i = 0; i < kDoubles; ++i) {
        const double odd = round_to_odd(total[i], missing[i]);
        accumulators.value[j][row + i] = static_cast<float>(kF16 ? nearest_f16(odd) : odd);
      }
    }
  }
  accumulators.wild = accumulators.wild || (kF16 && overflows_f16(accumulators));
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
