// mma.sync routines against plain matrix products, a second implementation of the tensor-core sums, and
// cases worked out by hand.
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>

#include "runtime/emulator/numerics/mma_kernels.h"
#include "tests/emulator/mma_reference.h"

namespace sagegen::test {
namespace {

using emulator::mma_function;
using emulator::MmaFunction;

std::vector<MmaShape> all_shapes() {
  std::vector<MmaShape> shapes = integer_shapes();
  for (const MmaShape& shape : float_shapes()) {
    shapes.push_back(shape);
  }
  return shapes;
}

// Code of a small integer in a type; the fraction bits of every float format hold 0..15 or at least 0..7.
std::uint32_t code_of(MmaType type, int value) {
  switch (type) {
    case MmaType::f16:
      return emulator::f32_to_f16(static_cast<float>(value));
    case MmaType::bf16:
      return emulator::f32_to_bf16(static_cast<float>(value));
    case MmaType::e4m3:
      return emulator::f32_to_e4m3_satfinite(static_cast<float>(value));
    case MmaType::e5m2:
      return emulator::f32_to_e5m2_satfinite(static_cast<float>(value));
    case MmaType::tf32:
      return std::bit_cast<std::uint32_t>(static_cast<float>(value));
    default:
      return static_cast<std::uint32_t>(value) & ((1u << bit_width(type)) - 1u);
  }
}
std::uint32_t code_of_c(const MmaShape& shape, int value) {
  if (!is_float(shape.a)) {
    return static_cast<std::uint32_t>(value);
  }
  return shape.f16_accumulator ? emulator::f32_to_f16(static_cast<float>(value))
                               : std::bit_cast<std::uint32_t>(static_cast<float>(value));
}

bool is_signed(MmaType type) { return type != MmaType::u8 && type != MmaType::u4; }

TEST_CASE("an element of A meets the same k of B and lands in its row and column") {
  for (const Profile profile : kProfiles) {
    for (const MmaShape& shape : all_shapes()) {
      const MmaFunction mma = mma_function(profile, shape);
      if (mma == nullptr) {
        continue;
      }
      INFO(name_of(profile) << " " << name_of(shape));
      // One element of A is 1; B names k and the column by its value.
      bool good = true;
      for (int row = 0; row < 16; ++row) {
        for (int k = 0; k < shape.k; ++k) {
          MmaRegisters registers{};
          set_a(registers, shape, row, k, code_of(shape.a, 1));
          auto tag = [](int at_k, int column) { return (at_k * 3 + column * 5) % 8; };
          for (int at_k = 0; at_k < shape.k; ++at_k) {
            for (int column = 0; column < 8; ++column) {
              const int value = is_signed(shape.b) ? tag(at_k, column) - 4 : tag(at_k, column);
              set_b(registers, shape, at_k, column, code_of(shape.b, value));
            }
          }
          mma(registers);
          for (int at_row = 0; at_row < 16; ++at_row) {
            for (int column = 0; column < 8; ++column) {
              const int value = is_signed(shape.b) ? tag(k, column) - 4 : tag(k, column);
              good = good && get_d(registers, shape, at_row, column) ==
                                 code_of_c(shape, at_row == row ? value : 0);
            }
          }
        }
      }
      CHECK(good);
    }
  }
}

TEST_CASE("small integers multiply exactly on every device") {
  std::mt19937_64 random(7);
  for (const Profile profile : kProfiles) {
    for (const MmaShape& shape : all_shapes()) {
      const MmaFunction mma = mma_function(profile, shape);
      if (mma == nullptr) {
        continue;
      }
      INFO(name_of(profile) << " " << name_of(shape));
      for (int repeat = 0; repeat < 20; ++repeat) {
        MmaRegisters registers{};
        int a[16][64], b[64][8], c[16][8];
        for (int k = 0; k < shape.k; ++k) {
          for (int row = 0; row < 16; ++row) {
            a[row][k] = static_cast<int>(random() % 5) - (is_signed(shape.a) ? 2 : 0);
            set_a(registers, shape, row, k, code_of(shape.a, a[row][k]));
          }
          for (int column = 0; column < 8; ++column) {
            b[k][column] = static_cast<int>(random() % 5) - (is_signed(shape.b) ? 2 : 0);
            set_b(registers, shape, k, column, code_of(shape.b, b[k][column]));
          }
        }
        for (int row = 0; row < 16; ++row) {
          for (int column = 0; column < 8; ++column) {
            c[row][column] = static_cast<int>(random() % 201) - 100;
            set_c(registers, shape, row, column, code_of_c(shape, c[row][column]));
          }
        }
        mma(registers);
        bool good = true;
        for (int row = 0; row < 16; ++row) {
          for (int column = 0; column < 8; ++column) {
            int sum = c[row][column];
            for (int k = 0; k < shape.k; ++k) {
              sum += a[row][k] * b[k][column];
            }
            good = good && get_d(registers, shape, row, column) == code_of_c(shape, sum);
          }
        }
        REQUIRE(good);
      }
    }
  }
}

TEST_CASE("integer sums wrap, or clamp with satfinite") {
  std::mt19937_64 random(11);
  for (const MmaShape& shape : integer_shapes()) {
    INFO(name_of(shape));
    const MmaFunction mma = mma_function(Profile::sm_80, shape);
    REQUIRE(mma != nullptr);
    for (int repeat = 0; repeat < 40; ++repeat) {
      MmaRegisters registers = random_registers(shape, Fill::any_bits, FillC::any_bits, random);
      if (repeat % 2 == 1) {  // accumulators near both ends
        for (auto& reg : registers.c) {
          for (auto& word : reg) {
            word = 0x7fffff00u + (word & 0x1ffu);
          }
        }
      }
      if (repeat == 0) {  // the largest sums there are
        std::memset(registers.a,
                    is_signed(shape.a) ? 0x80 | (bit_width(shape.a) == 4 ? 8 : 0) : 0xff,
                    sizeof(registers.a));
        std::memset(registers.b,
                    is_signed(shape.b) ? 0x80 | (bit_width(shape.b) == 4 ? 8 : 0) : 0xff,
                    sizeof(registers.b));
      }
      mma(registers);
      bool good = true;
      for (int row = 0; row < 16; ++row) {
        for (int column = 0; column < 8; ++column) {
          auto sum = static_cast<std::int64_t>(
              static_cast<std::int32_t>(get_c(registers, shape, row, column)));
          for (int k = 0; k < shape.k; ++k) {
            sum += static_cast<std::int64_t>(decode(shape.a, get_a(registers, shape, row, k)) *
                                             decode(shape.b, get_b(registers, shape, k, column)));
          }
          if (shape.saturate) {
            sum = std::clamp<std::int64_t>(sum, INT32_MIN, INT32_MAX);
          }
          good = good && get_d(registers, shape, row, column) == static_cast<std::uint32_t>(sum);
        }
      }
      REQUIRE(good);
    }
  }
}

TEST_CASE("tensor-core sums agree with a second implementation, bit for bit") {
  std::mt19937_64 random(23);
  for (const Profile profile : kProfiles) {
    for (const MmaShape& shape : float_shapes()) {
      const auto device = device_sum(profile, shape);
      const MmaFunction mma = mma_function(profile, shape);
      if (profile == Profile::ideal) {
        continue;
      }
      INFO(name_of(profile) << " " << name_of(shape));
      REQUIRE((mma != nullptr) == device.has_value());
      if (mma == nullptr) {
        continue;
      }
      for (const Fill fill : kFills) {
        for (const FillC fill_c : kFillsC) {
          const int repeats = shape.a == shape.b ? 2 : 1;
          for (int repeat = 0; repeat < repeats; ++repeat) {
            MmaRegisters registers = random_registers(shape, fill, fill_c, random);
            MmaRegisters complete = registers;  // what the fast path hands over to
            mma(registers);
            emulator::fused_mma_complete(shape, *emulator::fused_rule(profile, shape), complete);
            int wrong = 0;
            for (int row = 0; row < 16; ++row) {
              for (int column = 0; column < 8; ++column) {
                const std::uint32_t expected =
                    reference_output(*device, shape, registers, row, column);
                for (const MmaRegisters* result : {&registers, &complete}) {
                  const std::uint32_t got = get_d(*result, shape, row, column);
                  if (expected != got && wrong++ == 0) {
                    UNSCOPED_INFO("fill " << static_cast<int>(fill) << " C "
                                          << static_cast<int>(fill_c) << " row " << row
                                          << " column " << column << std::hex << " expected "
                                          << expected << " got " << got);
                  }
                }
              }
            }
            REQUIRE(wrong == 0);
          }
        }
      }
    }
  }
}

// Replaces the NaN in e4m3's top binade and an accumulator that became infinite.
void make_finite(MmaRegisters& registers, const MmaShape& shape) {
  for (int k = 0; k < shape.k; ++k) {
    for (int row = 0; row < 16; ++row) {
      if (std::isnan(decode(shape.a, get_a(registers, shape, row, k)))) {
        set_a(registers, shape, row, k, 0x7e);
      }
    }
    for (int column = 0; column < 8; ++column) {
      if (std::isnan(decode(shape.b, get_b(registers, shape, k, column)))) {
        set_b(registers, shape, k, column, 0x7e);
      }
    }
  }
  const std::uint32_t infinity = shape.f16_accumulator ? 0x7c00u : 0x7f800000u;
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      if ((get_c(registers, shape, row, column) & infinity) == infinity) {
        set_c(registers, shape, row, column, 0);
      }
    }
  }
}

TEST_CASE("profile ideal rounds the exact sum once") {
  std::mt19937_64 random(29);
  for (const MmaShape& shape : float_shapes()) {
    const MmaFunction mma = mma_function(Profile::ideal, shape);
    INFO(name_of(shape));
    REQUIRE(mma != nullptr);
    for (const Fill fill : {Fill::moderate, Fill::spread, Fill::cancelling, Fill::huge_and_tiny,
                            Fill::subnormal, Fill::all_large, Fill::low_end, Fill::below_low_end,
                            Fill::high_end, Fill::above_high_end}) {
      for (const FillC fill_c :
           {FillC::zero, FillC::similar, FillC::larger, FillC::smaller, FillC::opposite}) {
        for (int repeat = 0; repeat < 3; ++repeat) {
          MmaRegisters registers = random_registers(shape, fill, fill_c, random);
          make_finite(registers, shape);
          mma(registers);
          int wrong = 0;
          for (int row = 0; row < 16; ++row) {
            for (int column = 0; column < 8; ++column) {
              wrong +=
                  is_nearest(shape, registers, row, column, get_d(registers, shape, row, column))
                      ? 0
                      : 1;
            }
          }
          INFO("fill " << static_cast<int>(fill) << " C " << static_cast<int>(fill_c));
          REQUIRE(wrong == 0);
        }
      }
    }
  }
}

TEST_CASE("infinities and NaN in ideal sums") {
  std::mt19937_64 random(31);
  for (const MmaShape& shape : float_shapes()) {
    INFO(name_of(shape));
    // sm_120 shares the rule for special values and is checked above.
    const MmaFunction ideal = mma_function(Profile::ideal, shape);
    const MmaFunction blackwell = mma_function(Profile::sm_120, shape);
    for (int repeat = 0; repeat < 20; ++repeat) {
      MmaRegisters registers = random_registers(shape, Fill::specials, FillC::any_bits, random);
      MmaRegisters other = registers;
      ideal(registers);
      blackwell(other);
      bool good = true;
      const std::uint32_t infinity = shape.f16_accumulator ? 0x7c00 : 0x7f800000;
      const std::uint32_t sign = shape.f16_accumulator ? 0x8000 : 0x80000000;
      for (int row = 0; row < 16; ++row) {
        for (int column = 0; column < 8; ++column) {
          const std::uint32_t x = get_d(registers, shape, row, column);
          const std::uint32_t y = get_d(other, shape, row, column);
          // Beyond the largest number the two may part by a rounding.
          const bool special = (x & ~sign) > infinity || (y & ~sign) > infinity;
          good = good && (!special || x == y);
        }
      }
      REQUIRE(good);
    }
  }
}

TEST_CASE("all instruction sets of the host give the same bits") {
  std::mt19937_64 random(37);
  std::vector<const emulator::tile::Kernels*> tables;
  for (const auto host :
       {emulator::tile::Host::portable, emulator::tile::Host::avx2, emulator::tile::Host::avx512}) {
    if (const auto* kernels = emulator::tile::kernels_for(host)) {
      tables.push_back(kernels);
    }
  }
  REQUIRE(!tables.empty());
  for (const MmaShape& shape : all_shapes()) {
    if (shape.a == MmaType::tf32) {
      continue;  // has no fast kernels
    }
    for (const Profile profile :
         {Profile::sm_80, Profile::sm_89, Profile::sm_90, Profile::sm_120, Profile::ideal}) {
      const auto rule = emulator::fused_rule(profile, shape);
      if (is_float(shape.a) && !rule) {
        continue;
      }
      INFO(name_of(profile) << " " << name_of(shape));
      for (const Fill fill : kFills) {
        MmaRegisters first = random_registers(shape, fill, FillC::similar, random);
        const MmaRegisters start = first;
        bool first_done = true;
        for (std::size_t i = 0; i < tables.size(); ++i) {
          MmaRegisters registers = start;
          bool done = true;
          if (is_float(shape.a)) {
            done = emulator::fused_mma_fast(*tables[i], shape, *rule, registers);
          } else {
            emulator::integer_mma(*tables[i], shape, registers);
          }
          if (i == 0) {
            first = registers;
            first_done = done;
          }
          REQUIRE(done == first_done);
          REQUIRE(std::memcmp(first.d, registers.d, sizeof(first.d)) == 0);
        }
      }
    }
  }
}

TEST_CASE("ordinary data stays on the fast path") {
  std::mt19937_64 random(41);
  for (const MmaShape& shape : float_shapes()) {
    if (shape.a == MmaType::tf32) {
      continue;  // has none
    }
    for (const Profile profile : kProfiles) {
      const auto rule = emulator::fused_rule(profile, shape);
      if (!rule) {
        continue;
      }
      INFO(name_of(profile) << " " << name_of(shape));
      for (const FillC fill_c : {FillC::zero, FillC::similar}) {
        MmaRegisters registers = random_registers(shape, Fill::moderate, fill_c, random);
        CHECK(emulator::fused_mma_fast(emulator::tile::host_kernels(), shape, *rule, registers));
      }
    }
  }
}

// D[0][0] of a product with the given first elements of row 0 and column 0.
float first_output(Profile profile, const MmaShape& shape, const std::vector<float>& a,
                   const std::vector<float>& b, float c) {
  MmaRegisters registers{};
  for (std::size_t k = 0; k < a.size(); ++k) {
    auto code = [](MmaType type, float value) -> std::uint32_t {
      return type == MmaType::f16 ? emulator::f32_to_f16(value)
                                  : emulator::f32_to_e4m3_satfinite(value);
    };
    set_a(registers, shape, 0, static_cast<int>(k), code(shape.a, a[k]));
    set_b(registers, shape, static_cast<int>(k), 0, code(shape.b, b[k]));
  }
  set_c(registers, shape, 0, 0,
        shape.f16_accumulator ? emulator::f32_to_f16(c) : std::bit_cast<std::uint32_t>(c));
  mma_function(profile, shape)(registers);
  const std::uint32_t d = get_d(registers, shape, 0, 0);
  return shape.f16_accumulator ? emulator::f16_to_f32(static_cast<std::uint16_t>(d))
                               : std::bit_cast<float>(d);
}

TEST_CASE("what each device keeps, by hand") {
  const MmaShape fp8{.a = MmaType::e4m3, .b = MmaType::e4m3, .k = 32};
  const MmaShape half{.a = MmaType::f16, .b = MmaType::f16, .k = 16};
  // Ada's FP8: beside 1, 2^-13 survives and 2^-14 does not; C loses its low bits at once.
  const float small = 0x1p-7f;
  CHECK(first_output(Profile::sm_89, fp8, {1, small}, {1, 0x1p-6f}, 0) == 1 + 0x1p-13f);
  CHECK(first_output(Profile::sm_89, fp8, {1, small}, {1, small}, 0) == 1);
  CHECK(first_output(Profile::sm_89, fp8, {}, {}, 1 + 0x1p-13f + 0x1p-14f) == 1 + 0x1p-13f);
  CHECK(first_output(Profile::sm_89, fp8, {}, {}, -1 - 0x1.8p-13f) == -1 - 0x1p-13f);
  // Each term is cut by itself: 15 terms of 2^-14 vanish, though they sum to nearly 2^-10.
  std::vector<float> a(16, small), b(16, small);
  a[0] = b[0] = 1;
  CHECK(first_output(Profile::sm_89, fp8, a, b, 0) == 1);
  CHECK(first_output(Profile::sm_120, fp8, a, b, 0) == 1 + 15 * 0x1p-14f);
  // The second half of k is a sum of its own: there nothing is cut, and 16 * 2^-14 then joins.
  std::vector<float> late_a(32, 0.0f), late_b(32, 0.0f);
  late_a[16] = late_b[16] = 1;
  for (int k = 0; k < 16; ++k) {
    late_a[k] = late_b[k] = small;
  }
  CHECK(first_output(Profile::sm_89, fp8, late_a, late_b, 0) == 1 + 0x1p-10f);
  // Sums below 1 are normalised only at the end: 1.75 * 1.75 has exponent 0 while it is aligned.
  CHECK(first_output(Profile::sm_89, fp8, {1.75f, small}, {1.75f, 0x1p-6f}, 0) == 3.0625f);
  CHECK(first_output(Profile::sm_89, fp8, {1.75f, small}, {1.75f, 0x1p-5f}, 0) ==
        3.0625f + 0x1p-12f);

  // f16: 24 bits in two halves of 8 on Ampere and Ada, 25 bits and one block on Hopper.
  const float tiny = 0x1p-12f;
  CHECK(first_output(Profile::sm_80, half, {1, tiny, -1}, {1, tiny, 1}, 0) == 0x1p-24f);
  CHECK(first_output(Profile::sm_80, half, {1, tiny, -1}, {1, tiny / 2, 1}, 0) == 0);
  CHECK(first_output(Profile::sm_90, half, {1, tiny, -1}, {1, tiny / 2, 1}, 0) == 0x1p-25f);
  std::vector<float> x(16, 0.0f), y(16, 0.0f);
  x[0] = y[0] = 1;  // 1 + 2^-24 in the first half rounds down to 1 ...
  x[1] = y[1] = tiny;
  x[8] = -1, y[8] = 1;  // ... so nothing is left in the second
  CHECK(first_output(Profile::sm_89, half, x, y, 0) == 0);
  CHECK(first_output(Profile::sm_90, half, x, y, 0) == 0x1p-24f);

  // FP8 on Hopper: C joins by a rounded addition, so 1.5 units of its last place round up.
  CHECK(first_output(Profile::sm_90, fp8, {0x1p-6f, 0x1p-6f}, {0x1.8p-6f, 0x0p0f}, 0x1p12f) ==
        0x1p12f + 0x1p-11f);
  CHECK(first_output(Profile::sm_120, fp8, {0x1p-6f, 0x1p-6f}, {0x1.8p-6f, 0x0p0f}, 0x1p12f) ==
        0x1p12f);
  // f16 accumulators round once, to nearest even.
  const MmaShape fp8_f16{.a = MmaType::e4m3, .b = MmaType::e4m3, .k = 32, .f16_accumulator = true};
  CHECK(first_output(Profile::sm_89, fp8_f16, {0x1p-5f}, {0x1p-6f}, 1) == 1);
  CHECK(first_output(Profile::sm_89, fp8_f16, {0x1.8p-5f}, {0x1p-6f}, 1) == 1 + 0x1p-10f);
  CHECK(first_output(Profile::sm_89, fp8_f16, {448}, {448}, 0) == INFINITY);
  // A sum that cancels is +0, whatever the signs.
  CHECK(!std::signbit(first_output(Profile::sm_89, fp8, {-1, 1}, {1, 1}, -0.0f)));
}

TEST_CASE("an exact sum is rounded by bits far below the tie") {
  const MmaShape half{.a = MmaType::f16, .b = MmaType::f16, .k = 16};
  // 2^-24 (1 + 2^-24) is halfway between two floats, and arises from 2^30 - 2^30 with its parts in
  // different places; then C decides, however small.
  const std::vector<float> a = {0x1p15f, 0x1p-24f, -0x1p15f, 0x1p-12f};
  const std::vector<float> b = {0x1p15f, 0x1p-24f, 0x1p15f, 0x1p-12f};
  CHECK(first_output(Profile::ideal, half, a, b, 0) == 0x1p-24f);
  CHECK(first_output(Profile::ideal, half, a, b, 0x1p-149f) == 0x1p-24f + 0x1p-47f);
  CHECK(first_output(Profile::ideal, half, a, b, -0x1p-149f) == 0x1p-24f);
  // Just more bits than a double has.
  const float big = 1023.5f;
  const float small = 0x1.004p-8f;
  CHECK(first_output(Profile::ideal, half, {big, small, -big}, {big, small, big}, 0) ==
        small * small);
}

TEST_CASE("an f16 overflow between the halves stays infinite") {
  const MmaShape shape{.a = MmaType::f16, .b = MmaType::f16, .k = 16, .f16_accumulator = true};
  std::vector<float> a(16, 0.0f), b(16, 0.0f);
  a[0] = 60000, b[0] = 2;
  a[8] = -60000, b[8] = 2;
  CHECK(first_output(Profile::sm_80, shape, a, b, 0) == INFINITY);
  CHECK(first_output(Profile::sm_90, shape, a, b, 0) == 0);
}

TEST_CASE("devices lack what they lack") {
  const MmaShape fp8{.a = MmaType::e4m3, .b = MmaType::e4m3, .k = 32};
  CHECK(mma_function(Profile::sm_80, fp8) == nullptr);
  CHECK(mma_function(Profile::sm_86, fp8) == nullptr);
  CHECK(mma_function(Profile::sm_89, fp8) != nullptr);
  const MmaShape odd[] = {
      {.a = MmaType::s8, .b = MmaType::s4, .k = 32},
      {.a = MmaType::s8, .b = MmaType::s8, .k = 64},
      {.a = MmaType::s8, .b = MmaType::s8, .k = 32, .f16_accumulator = true},
      {.a = MmaType::f16, .b = MmaType::bf16, .k = 16},
      {.a = MmaType::bf16, .b = MmaType::bf16, .k = 16, .f16_accumulator = true},
      {.a = MmaType::f16, .b = MmaType::f16, .k = 32},
      {.a = MmaType::f16, .b = MmaType::f16, .k = 16, .saturate = true},
      {.a = MmaType::e4m3, .b = MmaType::f16, .k = 16},
      {.a = MmaType::e4m3, .b = MmaType::s8, .k = 32},
      {.a = MmaType::tf32, .b = MmaType::tf32, .k = 16},
      {.a = MmaType::tf32, .b = MmaType::tf32, .k = 8, .f16_accumulator = true},
      {.a = MmaType::tf32, .b = MmaType::f16, .k = 8},
      {.a = MmaType::f64, .b = MmaType::f64, .k = 4},
      {.a = MmaType::s8, .b = MmaType::s8, .k = 32, .m = 8},
      {.a = MmaType::f16, .b = MmaType::f16, .k = 8, .m = 8},
      {.a = MmaType::b1, .b = MmaType::s8, .k = 128},
      {.a = MmaType::b1, .b = MmaType::b1, .k = 64},
      {.a = MmaType::b1, .b = MmaType::b1, .k = 256, .m = 8},
      {.a = MmaType::b1, .b = MmaType::b1, .k = 256, .saturate = true},
  };
  for (const Profile profile : kProfiles) {
    for (const MmaShape& shape : odd) {
      INFO(name_of(profile) << " " << name_of(shape));
      CHECK(mma_function(profile, shape) == nullptr);
    }
    for (const MmaShape& shape : integer_shapes()) {
      CHECK(mma_function(profile, shape) != nullptr);
    }
  }
}

// ---- tf32, single bits, doubles -------------------------------------------------------------------------

TEST_CASE("tf32 operands are cut to 10 fraction bits, by hand") {
  const auto first = [](Profile profile, int k, std::uint32_t a, float b, float c) {
    const MmaShape shape{.a = MmaType::tf32, .b = MmaType::tf32, .k = k};
    MmaRegisters registers{};
    set_a(registers, shape, 0, 0, a);
    set_b(registers, shape, 0, 0, std::bit_cast<std::uint32_t>(b));
    set_c(registers, shape, 0, 0, std::bit_cast<std::uint32_t>(c));
    mma_function(profile, shape)(registers);
    return std::bit_cast<float>(get_d(registers, shape, 0, 0));
  };
  for (const Profile profile : kProfiles) {
    for (const int k : {4, 8}) {
      CHECK(first(profile, k, 0x3f801fff, 1, 0) == 1);  // 1 + (2^13 - 1) 2^-23
      CHECK(first(profile, k, 0x3f802000, 1, 0) == 1 + 0x1p-10f);
      CHECK(first(profile, k, 0x00001fff, 1, 0) == 0);
      CHECK(first(profile, k, 0x00002000, 0x1p100f, 0) == 0x1p-36f);
      CHECK(std::isinf(first(profile, k, 0x7f800001, 1, 0)));  // the NaN's only bit is cut
      CHECK(std::isnan(first(profile, k, 0x7f802000, 1, 0)));
    }
  }
  // k 0 to 3 first on Ampere, all at once on Hopper: 1 + 2^-24 is cut before -1 joins, or not.
  const MmaShape shape{.a = MmaType::tf32, .b = MmaType::tf32, .k = 8};
  for (const auto& [profile, expected] :
       {std::pair{Profile::sm_80, 0.0f}, {Profile::sm_89, 0.0f}, {Profile::sm_90, 0x1p-24f}}) {
    MmaRegisters registers{};
    const float a[] = {1, 0x1p-12f, 0, 0, -1};
    const float b[] = {1, 0x1p-12f, 0, 0, 1};
    for (int k = 0; k < 5; ++k) {
      set_a(registers, shape, 3, k, std::bit_cast<std::uint32_t>(a[k]));
      set_b(registers, shape, k, 5, std::bit_cast<std::uint32_t>(b[k]));
    }
    mma_function(profile, shape)(registers);
    CHECK(std::bit_cast<float>(get_d(registers, shape, 3, 5)) == expected);
  }
}

TEST_CASE("shapes of eight rows are the upper half of those of sixteen") {
  std::mt19937_64 random(43);
  for (const MmaShape& shape : integer_shapes()) {
    if (shape.k * bit_width(shape.a) != 128) {
      continue;
    }
    MmaShape eight = shape;
    eight.m = 8;
    REQUIRE(mma_function(Profile::sm_80, eight) != nullptr);
    MmaRegisters registers = random_registers(shape, Fill::any_bits, FillC::any_bits, random);
    mma_function(Profile::sm_80, eight)(registers);
    for (int row = 0; row < 8; ++row) {
      for (int column = 0; column < 8; ++column) {
        auto sum = static_cast<std::int64_t>(
            static_cast<std::int32_t>(get_c(registers, shape, row, column)));
        for (int k = 0; k < shape.k; ++k) {
          sum += static_cast<std::int64_t>(decode(shape.a, get_a(registers, shape, row, k)) *
                                           decode(shape.b, get_b(registers, shape, k, column)));
        }
        if (shape.saturate) {
          sum = std::clamp<std::int64_t>(sum, INT32_MIN, INT32_MAX);
        }
        REQUIRE(get_d(registers, shape, row, column) == static_cast<std::uint32_t>(sum));
      }
    }
  }
}

TEST_CASE("products of single bits are counted") {
  std::mt19937_64 random(47);
  for (const bool conjunction : {false, true}) {
    for (const auto& [m, depth] : {std::pair{8, 128}, {16, 128}, {16, 256}}) {
      const MmaShape shape{
          .a = MmaType::b1, .b = MmaType::b1, .k = depth, .m = m, .conjunction = conjunction};
      const MmaFunction mma = mma_function(Profile::sm_80, shape);
      REQUIRE(mma != nullptr);
      for (int repeat = 0; repeat < 20; ++repeat) {
        MmaRegisters registers{};
        for (auto* words : {&registers.a[0][0], &registers.b[0][0], &registers.c[0][0]}) {
          const int count = words == &registers.b[0][0] ? 64 : 128;
          std::generate_n(words, count, [&] {
            return repeat % 2 == 0 ? static_cast<std::uint32_t>(random()) : 0xffffffffu;
          });
        }
        mma(registers);
        for (int row = 0; row < m; ++row) {
          for (int column = 0; column < 8; ++column) {
            // Bit k of a row: register by halves of k and of the rows, lane by groups of 32.
            std::uint32_t sum = registers.c[row / 8 * 2 + column % 2][row % 8 * 4 + column / 2];
            for (int k = 0; k < depth; ++k) {
              const std::uint32_t a =
                  registers.a[k / 128 * 2 + row / 8][row % 8 * 4 + k % 128 / 32] >> (k % 32) & 1;
              const std::uint32_t b =
                  registers.b[k / 128][column * 4 + k % 128 / 32] >> (k % 32) & 1;
              sum += conjunction ? a * b : (a + b) % 2;
            }
            REQUIRE(registers.d[row / 8 * 2 + column % 2][row % 8 * 4 + column / 2] == sum);
          }
        }
      }
    }
  }
}

// Fixed point with 84 fraction bits, and its rounding to a double.
__extension__ using Fixed = __int128;
constexpr int kFixedBits = 84;

Fixed fixed_of(double value) {
  int exponent = 0;
  const auto significand = static_cast<std::int64_t>(std::ldexp(std::frexp(value, &exponent), 53));
  const int shift = exponent - 53 + kFixedBits;
  return shift >= 0 ? static_cast<Fixed>(significand) * (static_cast<Fixed>(1) << shift)
                    : static_cast<Fixed>(significand) / (static_cast<Fixed>(1) << -shift);
}

double rounded(Fixed value, emulator::MmaRounding rounding) {
  const bool negative = value < 0;
  Fixed magnitude = negative ? -value : value;
  int exponent = -kFixedBits;
  Fixed rest = 0;
  Fixed unit = 1;
  while (magnitude >> 53 != 0) {
    rest += magnitude % 2 * unit;
    unit *= 2;
    magnitude /= 2;
    ++exponent;
  }
  bool up = false;
  switch (rounding) {
    case emulator::MmaRounding::nearest:
      up = 2 * rest > unit || (2 * rest == unit && magnitude % 2 == 1);
      break;
    case emulator::MmaRounding::zero:
      break;
    case emulator::MmaRounding::down:
      up = negative && rest != 0;
      break;
    case emulator::MmaRounding::up:
      up = !negative && rest != 0;
      break;
  }
  const double result = std::ldexp(static_cast<double>(magnitude + (up ? 1 : 0)), exponent);
  return negative ? -result : result;
}

constexpr emulator::MmaRounding kRoundings[] = {
    emulator::MmaRounding::nearest, emulator::MmaRounding::zero, emulator::MmaRounding::down,
    emulator::MmaRounding::up};

TEST_CASE("sums of doubles are chains of fused multiply-adds, in every rounding") {
  std::mt19937_64 random(53);
  // 40 significant bits in six binades: every sum is exact in fixed point.
  const auto value = [&] {
    const double significand = static_cast<double>((std::uint64_t{1} << 39) | random() >> 25);
    const double magnitude = std::ldexp(significand, -39 - 3 + static_cast<int>(random() % 6));
    return random() % 2 == 0 ? magnitude : -magnitude;
  };
  for (const emulator::MmaRounding rounding : kRoundings) {
    for (const auto& [m, depth] : {std::pair{8, 4}, {16, 4}, {16, 8}, {16, 16}}) {
      const MmaShape shape{
          .a = MmaType::f64, .b = MmaType::f64, .k = depth, .m = m, .rounding = rounding};
      const auto mma = emulator::mma_double_function(Profile::sm_90, shape);
      REQUIRE(mma != nullptr);
      for (int repeat = 0; repeat < 10; ++repeat) {
        double a[16][16], b[16][8], c[16][8];
        emulator::MmaDoubles registers{};
        // PTX ISA: row g of A for even registers, g + 8 for odd ones, column t of each 4; B likewise.
        for (int row = 0; row < m; ++row) {
          for (int k = 0; k < depth; ++k) {
            a[row][k] = value();
            const int reg = m == 8 ? 0 : k / 4 * 2 + row / 8;
            registers.a[reg][row % 8 * 4 + k % 4] = a[row][k];
          }
        }
        for (int column = 0; column < 8; ++column) {
          for (int k = 0; k < depth; ++k) {
            b[k][column] = value();
            registers.b[k / 4][column * 4 + k % 4] = b[k][column];
          }
          for (int row = 0; row < m; ++row) {
            c[row][column] = value();
            registers.c[row / 8 * 2 + column % 2][row % 8 * 4 + column / 2] = c[row][column];
          }
        }
        mma(shape, registers);
        for (int row = 0; row < m; ++row) {
          for (int column = 0; column < 8; ++column) {
            double sum = c[row][column];
            for (int k = 0; k < depth; ++k) {
              const Fixed product = static_cast<Fixed>(std::ldexp(a[row][k], 42)) *
                                    static_cast<Fixed>(std::ldexp(b[k][column], 42));
              sum = rounded(fixed_of(sum) + product, rounding);
            }
            REQUIRE(registers.d[row / 8 * 2 + column % 2][row % 8 * 4 + column / 2] == sum);
          }
        }
      }
    }
  }
  CHECK(1.0 + 0x1p-53 == 1.0);  // the rounding of this thread is what it was
}

TEST_CASE("special doubles in sums") {
  const MmaShape shape{.a = MmaType::f64, .b = MmaType::f64, .k = 4, .m = 8};
  const auto first = [&](double a, double b, double c, emulator::MmaRounding rounding) {
    MmaShape rounds = shape;
    rounds.rounding = rounding;
    emulator::MmaDoubles registers{};
    registers.a[0][0] = a;
    registers.b[0][0] = b;
    registers.c[0][0] = c;
    emulator::mma_double_function(Profile::sm_80, rounds)(rounds, registers);
    return registers.d[0][0];
  };
  const auto nearest = emulator::MmaRounding::nearest;
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(first(infinity, 1, 1, nearest) == infinity);
  for (const auto& [a, b, c] :
       {std::tuple{infinity, 0.0, 1.0}, {infinity, 1.0, -infinity}, {-std::nan("5"), 1.0, 1.0}}) {
    CHECK(std::bit_cast<std::uint64_t>(first(a, b, c, nearest)) == 0x7fffffffffffffffu);
  }
  CHECK(first(0x1p-1000, 0x1p-74, 0, nearest) == 0x1p-1074);  // subnormals are kept
  CHECK(std::signbit(first(1, -1, 1, emulator::MmaRounding::down)));
  CHECK(!std::signbit(first(1, -1, 1, nearest)));
  for (const Profile profile : {Profile::sm_80, Profile::sm_86, Profile::sm_89}) {
    CHECK(emulator::mma_double_function(profile, shape) != nullptr);
    CHECK(emulator::mma_double_function(
              profile, {.a = MmaType::f64, .b = MmaType::f64, .k = 8, .m = 16}) == nullptr);
  }
  CHECK(emulator::mma_double_function(
            Profile::sm_90, {.a = MmaType::f64, .b = MmaType::f64, .k = 8, .m = 8}) == nullptr);
}

}  // namespace
}  // namespace sagegen::test
