// The building blocks of the fast mma routines as a table of functions, one table per instruction set.
#pragma once

#include <cstdint>

#include "runtime/emulator/numerics/fused_sum.h"
#include "runtime/emulator/numerics/numerics.h"

namespace sagegen::emulator::tile {

constexpr int kRows = 16, kColumns = 8, kMaxDepth = 64;
constexpr std::int32_t kNoExponent =
    -(1 << 20);  // of a zero: loses every maximum, also when doubled

// Operands as numbers; the inner index runs over rows of A and columns of B. Exponents are those of the
// unnormalised significands, for floating-point types only.
struct alignas(64) Operands {
  float a[kMaxDepth][kRows];
  std::int32_t a_exponent[kMaxDepth][kRows];
  float b[kMaxDepth][kColumns];
  std::int32_t b_exponent[kMaxDepth][kColumns];
  bool wild = false;  // some operand is outside what the fast arithmetic takes
};

struct alignas(64) Accumulators {
  float value[kColumns][kRows];
  bool wild = false;
};

// Elements of k of one fused sum: runs of `run` consecutive ones, every `stride`, from `first` below `end`.
struct Block {
  int first, end, stride, run;
};

// kF and result bits of the fused sums that exist.
enum class Precision { ada_fp8, bits24, bits25 };

struct Kernels {
  void (*unpack_rows[8])(const std::uint32_t (&a)[4][32], int halves, Operands& out);  // by MmaType
  void (*unpack_columns[8])(const std::uint32_t (&b)[2][32], int halves, Operands& out);
  void (*integer_sum[2])(const Operands& operands, int depth,
                         MmaRegisters& registers);  // by saturate
  void (*load[2][2])(const MmaRegisters& registers,
                     Accumulators& out);  // by exact, by f16 accumulator
  void (*store[2])(const Accumulators& in, MmaRegisters& registers);
  void (*fused_block[3][2])(const Operands& operands, const Block& block,
                            Accumulators& accumulators);
  void (*add_rounded[2])(const Accumulators& sum, Accumulators& accumulators);
  // Returns false where the sums of products span more bits than two doubles hold exactly.
  bool (*exact_sum[2])(const Operands& operands, int depth, int product_fraction_bits,
                       Accumulators& accumulators);
  // f32 bits; count: a multiple of 8.
  void (*ex2)(const std::uint32_t* from, std::uint32_t* to, int count, bool ftz);
};

enum class Host { portable, avx2, avx512 };

// The table of one instruction set; null if this machine cannot run it.
const Kernels* kernels_for(Host host);
// The table for host_lanes().
const Kernels& host_kernels();

// One per mma_host_*.cpp; those of AVX exist on x86-64 only.
const Kernels* portable_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();

}  // namespace sagegen::emulator::tile

namespace sagegen::emulator {

// D = A * B + C with the kernels of one instruction set. The second returns false, with `registers`
// unchanged, if the operands need fused_mma_complete.
void integer_mma(const tile::Kernels& kernels, const MmaShape& shape, MmaRegisters& registers);
bool fused_mma_fast(const tile::Kernels& kernels, const MmaShape& shape, const FusedRule& rule,
                    MmaRegisters& registers);

// mma.sync of single bits (mma_other.cpp); null if there is no such shape.
MmaFunction binary_mma_function(const MmaShape& shape);

}  // namespace sagegen::emulator
