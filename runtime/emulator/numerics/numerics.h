// The arithmetic of the emulated devices, bit by bit: conversions, special functions, fused tensor-core
// sums. Pure functions of their inputs; no lanes, no memory. Sources: PTX ISA (arithmetic, cvt, ex2) and,
// for tensor cores, the fused-sum model of MMA-Sim (arXiv 2511.10909).
#pragma once

#include <array>
#include <cstdint>

namespace sagegen::emulator {

// ---- scalar formats. Bits in, bits out; round to nearest even unless named otherwise ----
float f16_to_f32(std::uint16_t bits);
std::uint16_t f32_to_f16(float value);  // overflow to infinity; NaN 0x7fff
float bf16_to_f32(std::uint16_t bits);
std::uint16_t f32_to_bf16(float value);  // NaN 0x7fff
float e4m3_to_f32(std::uint8_t bits);
std::uint8_t f32_to_e4m3_satfinite(float value);  // |x| > 448 and infinities become 448, NaN 0x7f
float e5m2_to_f32(std::uint8_t bits);
std::uint8_t f32_to_e5m2_satfinite(float value);

float canonical_nan(float value);   // any NaN -> 0x7fffffff
float flush_denormal(float value);  // .ftz

// MUFU functions: the correctly rounded value of the PTX ISA's contract, not the hardware's table.
float ex2_approx(float x, bool ftz);
// The same for the 32 lanes of a warp, f32 bits in and out, several times faster. `to` may be `from`.
void ex2_approx_warp(const std::uint32_t* from, std::uint32_t* to, bool ftz);
float lg2_approx(float x, bool ftz);
float rcp_approx(float x, bool ftz);
float rsqrt_approx(float x, bool ftz);
float sqrt_approx(float x, bool ftz);
float sin_approx(float x, bool ftz);  // of an infinity: NaN
float cos_approx(float x, bool ftz);
float tanh_approx(float x);
double rsqrt_approx_f64(double x);
// From the upper 32 bits of x, rounded to 20 bits of fraction; subnormals are zeros, every NaN is
// 0x7fffffff00000000.
double rcp_approx_ftz_f64(double x);
double rsqrt_approx_ftz_f64(double x);

// ---- tensor cores -------------------------------------------------------------------------------

enum class Profile { sm_80, sm_86, sm_89, sm_90, sm_120, ideal };  // executing device

enum class MmaType { s8, u8, s4, u4, f16, bf16, e4m3, e5m2, tf32, b1, f64 };
enum class MmaRounding { nearest, zero, down, up };

// One warp-wide mma.sync.m16n8kK: K = 32 bytes of row per operand (8-bit k32, 4-bit k64, 16-bit k16, tf32
// k8, b1 k256) or half of that. Registers are the fragments of all 32 lanes: a[reg][lane], b[reg][lane],
// c[reg][lane]. s32 accumulators wrap, or clamp with `saturate`. f16 accumulators take 2 registers, others
// 4. With m = 8, for integers and b1 of 16 bytes per row, rows 8 to 15 are there too and mean nothing:
// a[1], c[2] and c[3] may hold anything. f64 has registers and a routine of its own.
struct MmaShape {
  MmaType a = MmaType::s8, b = MmaType::s8;
  int k = 32;
  bool f16_accumulator = false;
  bool saturate = false;
  int m = 16;
  bool conjunction = false;                     // b1: counts the ones of `and`, otherwise of `xor`
  MmaRounding rounding = MmaRounding::nearest;  // f64 only

  bool operator==(const MmaShape&) const = default;
};
struct MmaRegisters {
  std::uint32_t a[4][32];
  std::uint32_t b[2][32];
  std::uint32_t c[4][32];
  std::uint32_t d[4][32];  // result
};
using MmaFunction = void (*)(MmaRegisters&);

// The routine for a shape on a device; null if that device has no such instruction. Speed matters here:
// the s8, f16 and e4m3 routines are the emulator's inner loop.
MmaFunction mma_function(Profile profile, const MmaShape& shape);

// f64: m8n8k4, and m16n8k4, k8 and k16 from sm_90 on. Each output is a chain of fused multiply-adds over k,
// upwards from C. A has m k / 32 registers, B k / 4, C and D m / 4.
struct MmaDoubles {
  double a[8][32];
  double b[4][32];
  double c[4][32];
  double d[4][32];  // result
};
using MmaDoubleFunction = void (*)(const MmaShape& shape, MmaDoubles&);
// Null if the device has no such instruction.
MmaDoubleFunction mma_double_function(Profile profile, const MmaShape& shape);

}  // namespace sagegen::emulator
