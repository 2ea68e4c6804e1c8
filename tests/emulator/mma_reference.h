// A second opinion on mma.sync, written from the PTX ISA's fragment formulas and from the text of the
// fused-sum rule, with its own decoding and its own arithmetic (long double); it shares nothing with the
// emulator but the struct of registers.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "runtime/emulator/numerics/numerics.h"

namespace sagegen::test {

using emulator::MmaRegisters;
using emulator::MmaShape;
using emulator::MmaType;
using emulator::Profile;

std::string name_of(MmaType type);
std::string name_of(Profile profile);
std::string name_of(const MmaShape& shape);
int bit_width(MmaType type);
bool is_float(MmaType type);

// Exact value of a code, NaN and infinities included.
long double decode(MmaType type, std::uint32_t code);
// The exponent that the format gives the code: a subnormal keeps the lowest one. Not for zeros.
int exponent_of(MmaType type, std::uint32_t code);

// ---- fragments: PTX ISA, "Matrix Fragments for mma.m16n8k*" ------------------------------------------

std::uint32_t get_a(const MmaRegisters& registers, const MmaShape& shape, int row, int k);
std::uint32_t get_b(const MmaRegisters& registers, const MmaShape& shape, int k, int column);
void set_a(MmaRegisters& registers, const MmaShape& shape, int row, int k, std::uint32_t code);
void set_b(MmaRegisters& registers, const MmaShape& shape, int k, int column, std::uint32_t code);
std::uint32_t get_c(const MmaRegisters& registers, const MmaShape& shape, int row, int column);
void set_c(MmaRegisters& registers, const MmaShape& shape, int row, int column, std::uint32_t code);
std::uint32_t get_d(const MmaRegisters& registers, const MmaShape& shape, int row, int column);

// ---- arithmetic ---------------------------------------------------------------------------------------

// What the device does, as in the table of the reference document.
struct DeviceSum {
  int kept = 0;                          // F
  int result_bits = 23;                  // fraction bits of an f32 result
  std::vector<std::vector<int>> blocks;  // elements of k, one vector per chained sum
  bool add_c_last = false;               // C joins by an ordinary addition
};
// Nothing for `ideal` and for instructions that the device lacks.
std::optional<DeviceSum> device_sum(Profile profile, const MmaShape& shape);

// Bits of D at (row, column) by the rule.
std::uint32_t reference_output(const DeviceSum& device, const MmaShape& shape,
                               const MmaRegisters& registers, int row, int column);

// Whether `code` is the exact sum rounded once to nearest even (profile ideal); finite inputs only.
bool is_nearest(const MmaShape& shape, const MmaRegisters& registers, int row, int column,
                std::uint32_t code);

// ---- operands -----------------------------------------------------------------------------------------

enum class Fill {
  moderate,       // a few binades around 1
  spread,         // every exponent of the format
  cancelling,     // every product appears with both signs
  huge_and_tiny,  // one large product per output, the others small
  subnormal,      // mostly subnormals and zeros
  all_large,      // one sign, largest significands: sums as large as they get beside their exponent
  low_end,        // bf16: products at the lower end of what the fast path takes, and just below it
  below_low_end,
  high_end,  // the same above; other formats: their lowest and highest exponents
  above_high_end,
  any_bits,  // NaN and infinities included
  specials,  // moderate with a few NaN, infinities and zeros
};
constexpr Fill kFills[] = {Fill::moderate,       Fill::spread,        Fill::cancelling,
                           Fill::huge_and_tiny,  Fill::subnormal,     Fill::all_large,
                           Fill::low_end,        Fill::below_low_end, Fill::high_end,
                           Fill::above_high_end, Fill::any_bits,      Fill::specials};
// How C compares with the products.
enum class FillC { zero, similar, larger, smaller, opposite, specials, any_bits };
constexpr FillC kFillsC[] = {FillC::zero,     FillC::similar,  FillC::larger,  FillC::smaller,
                             FillC::opposite, FillC::specials, FillC::any_bits};

MmaRegisters random_registers(const MmaShape& shape, Fill fill, FillC fill_c,
                              std::mt19937_64& random);

// Every floating-point shape that some device has.
std::vector<MmaShape> float_shapes();
std::vector<MmaShape> integer_shapes();
constexpr Profile kProfiles[] = {Profile::sm_80, Profile::sm_86,  Profile::sm_89,
                                 Profile::sm_90, Profile::sm_120, Profile::ideal};

}  // namespace sagegen::test
