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
#include <iterator>

#include "runtime/emulator/numerics/mma_kernels.h"
#include "runtime/emulator/numerics/mma_lanes.h"

namespace sagegen::emulator::tile {
namespace {

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

inline void load_widened(const void* from, VecD& out) {
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

// ---- special functions -----------------------------------------------------------------------------------

// f32 bits of the values nearest to 2^x, for `count` lanes, a multiple of kDoubles. 2^x = 2^n 2^f with |f| <= 1/2, the
// latter by its Taylor series to 2^-56; where that does not decide the rounding, and for NaN, the slow way.
inline void ex2(const std::uint32_t* from, std::uint32_t* to, int count, bool ftz) {
  // ln(2)^k / k!
  constexpr double kTerms[] = {
      1.0,
      0.693147180559945309417,
      0.240226506959100712333,
      0.0555041086648215799532,
      0.00961812910762847716197,
      0.00133335581464284434234,
      0.000154035303933816099544,
      1.52527338040598402800e-05,
      1.32154867901443094884e-06,
      1.01780860092396997275e-07,
      7.05491162080112332987e-09,
      4.44553827187081149760e-10,
      2.56784359934882051419e-11,
      1.36914888539041288809e-12,
  };
  constexpr double kMagic = 0x1.8p52;  // adding it leaves an integer in the low bits
  constexpr double kMargin = 0x1p-49;
  using VecL [[gnu::vector_size(4 * kLanes)]] = std::int64_t;
  using Half [[gnu::vector_size(2 * kLanes)]] = float;
  using HalfI [[gnu::vector_size(2 * kLanes)]] = std::int32_t;
  const float smallest = ftz ? 0x1p-126f : 0.0f;
  for (int lane = 0; lane < count; lane += kDoubles) {
    VecD x;
    load_widened(from + lane, x);
    x = x < -151.0 ? VecD{} - 151.0 : x;  // below half of the smallest float
    x = x > 129.0 ? VecD{} + 129.0 : x;
    const VecD shifted = x + kMagic;
    const VecD f = x - (shifted - kMagic);
    VecD power = VecD{} + kTerms[std::size(kTerms) - 1];
    for (int k = static_cast<int>(std::size(kTerms)) - 2; k >= 0; --k) {
      power = power * f + kTerms[k];
    }
    const VecD y = reinterpret_cast<VecD>(reinterpret_cast<VecL>(power) +
                                          (reinterpret_cast<VecL>(shifted) << 52));
    const Half low = __builtin_convertvector(y * (1.0 - kMargin), Half);
    const Half high = __builtin_convertvector(y * (1.0 + kMargin), Half);
    const HalfI undecided = low != high;
    std::uint64_t doubtful[kDoubles / 2];
    store(undecided, doubtful);
    std::uint64_t any_doubtful = 0;
    for (const std::uint64_t pair : doubtful) {
      any_doubtful |= pair;
    }
    if (any_doubtful == 0) [[likely]] {
      const HalfI kept = low >= smallest;
      store(reinterpret_cast<Half>(reinterpret_cast<HalfI>(low) & kept), to + lane);
    } else {
      for (int i = 0; i < kDoubles; ++i) {
        to[lane + i] =
            std::bit_cast<std::uint32_t>(ex2_approx(std::bit_cast<float>(from[lane + i]), ftz));
      }
    }
  }
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
    .ex2 = ex2,
};

}  // namespace
}  // namespace sagegen::emulator::tile
