// mma.sync of single bits and of doubles. Source: PTX ISA, "Matrix fragments for mma.m8n8k4, m16n8k4,
// m16n8k8 and m16n8k16 with .f64", "... for mma.m8n8k128, m16n8k128, m16n8k256"; the order of an f64 sum is
// that of MMA-Sim.
#include <bit>
#include <cfenv>
#include <cmath>

#include "runtime/emulator/numerics/mma_kernels.h"
#include "runtime/emulator/numerics/numerics.h"

namespace sagegen::emulator {
namespace {

// Four lanes have a row of A, or a column of B, 32 bits each in one register or two.
template <bool kAnd, int kHalves>
void binary_mma(MmaRegisters& registers) {
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      std::uint32_t ones = 0;
      for (int half = 0; half < kHalves; ++half) {
        for (int t = 0; t < 4; ++t) {
          const std::uint32_t a = registers.a[2 * half + (row >> 3)][4 * (row & 7) + t];
          const std::uint32_t b = registers.b[half][4 * column + t];
          ones += static_cast<std::uint32_t>(std::popcount(kAnd ? a & b : a ^ b));
        }
      }
      const int at = 2 * (row >> 3) + (column & 1);
      const int lane = 4 * (row & 7) + (column >> 1);
      registers.d[at][lane] = registers.c[at][lane] + ones;
    }
  }
}

// Sets the rounding of this thread, and nearest again at the end.
class RoundingScope {
 public:
  explicit RoundingScope(MmaRounding rounding) {
    constexpr int kModes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
    std::fesetround(kModes[static_cast<int>(rounding)]);
  }
  RoundingScope(const RoundingScope&) = delete;
  RoundingScope& operator=(const RoundingScope&) = delete;
  ~RoundingScope() { std::fesetround(FE_TONEAREST); }
};

// As of the scalar instructions.
double canonical(double value) {
  return std::isnan(value) ? std::bit_cast<double>(std::uint64_t{0x7fff'ffff'ffff'ffff}) : value;
}

// Called through a pointer that nobody looks through: a compiler may take a call by name for one whose
// result does not depend on the rounding mode.
using Fma = double (*)(double, double, double);
double fused(double a, double b, double c) { return std::fma(a, b, c); }
volatile Fma opaque_fma = fused;

void double_mma(const MmaShape& shape, MmaDoubles& registers) {
  const RoundingScope scope(shape.rounding);
  const Fma fma = opaque_fma;
  const int parts = shape.m / 8;  // registers of A along its rows
  for (int row = 0; row < shape.m; ++row) {
    for (int column = 0; column < 8; ++column) {
      const int at = 2 * (row >> 3) + (column & 1);
      const int lane = 4 * (row & 7) + (column >> 1);
      double sum = registers.c[at][lane];
      for (int k = 0; k < shape.k; ++k) {
        const double a = registers.a[parts * (k >> 2) + (row >> 3)][4 * (row & 7) + (k & 3)];
        sum = fma(a, registers.b[k >> 2][4 * column + (k & 3)], sum);
      }
      registers.d[at][lane] = canonical(sum);
    }
  }
}

}  // namespace

MmaFunction binary_mma_function(const MmaShape& shape) {
  const bool half = shape.k == 128;
  if (shape.a != shape.b || (!half && (shape.k != 256 || shape.m == 8)) || shape.saturate ||
      shape.f16_accumulator) {
    return nullptr;
  }
  if (shape.conjunction) {
    return half ? binary_mma<true, 1> : binary_mma<true, 2>;
  }
  return half ? binary_mma<false, 1> : binary_mma<false, 2>;
}

MmaDoubleFunction mma_double_function(Profile profile, const MmaShape& shape) {
  if (shape.a != MmaType::f64 || shape.b != MmaType::f64) {
    return nullptr;
  }
  const bool large =
      profile == Profile::sm_90 || profile == Profile::sm_120 || profile == Profile::ideal;
  const bool known =
      shape.m == 8 ? shape.k == 4 : large && (shape.k == 4 || shape.k == 8 || shape.k == 16);
  return known ? double_mma : nullptr;
}

}  // namespace sagegen::emulator
