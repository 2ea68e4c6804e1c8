#include "tests/emulator/mma_reference.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace sagegen::test {

std::string name_of(MmaType type) {
  switch (type) {
    case MmaType::s8:
      return "s8";
    case MmaType::u8:
      return "u8";
    case MmaType::s4:
      return "s4";
    case MmaType::u4:
      return "u4";
    case MmaType::f16:
      return "f16";
    case MmaType::bf16:
      return "bf16";
    case MmaType::e4m3:
      return "e4m3";
    case MmaType::e5m2:
      return "e5m2";
    case MmaType::tf32:
      return "tf32";
    case MmaType::b1:
      return "b1";
    case MmaType::f64:
      return "f64";
  }
  return "?";
}

std::string name_of(Profile profile) {
  switch (profile) {
    case Profile::sm_80:
      return "sm_80";
    case Profile::sm_86:
      return "sm_86";
    case Profile::sm_89:
      return "sm_89";
    case Profile::sm_90:
      return "sm_90";
    case Profile::sm_120:
      return "sm_120";
    case Profile::ideal:
      return "ideal";
  }
  return "?";
}

std::string name_of(const MmaShape& shape) {
  return "m16n8k" + std::to_string(shape.k) + "." + name_of(shape.a) + "." + name_of(shape.b) +
         (shape.f16_accumulator ? ".f16" : "") + (shape.saturate ? ".satfinite" : "");
}

int bit_width(MmaType type) {
  if (type == MmaType::s4 || type == MmaType::u4) {
    return 4;
  }
  if (type == MmaType::tf32) {
    return 32;
  }
  return type == MmaType::f16 || type == MmaType::bf16 ? 16 : 8;
}

bool is_float(MmaType type) {
  return type == MmaType::f16 || type == MmaType::bf16 || type == MmaType::e4m3 ||
         type == MmaType::e5m2 || type == MmaType::tf32;
}

namespace {

// tf32 is the upper 19 bits of its register.
constexpr int kTf32Unused = 13;

struct Format {
  int exponent_bits, fraction_bits;
  int lowest() const { return 2 - (1 << (exponent_bits - 1)); }
};

Format format_of(MmaType type) {
  switch (type) {
    case MmaType::f16:
      return {5, 10};
    case MmaType::bf16:
      return {8, 7};
    case MmaType::e4m3:
      return {4, 3};
    case MmaType::tf32:
      return {8, 10};
    default:
      return {5, 2};
  }
}
constexpr Format kFloat32{8, 23};

long double decode_format(const Format& format, std::uint32_t code, bool has_infinity) {
  const std::uint32_t fraction = code % (1u << format.fraction_bits);
  const std::uint32_t field = (code >> format.fraction_bits) % (1u << format.exponent_bits);
  const bool negative = ((code >> (format.exponent_bits + format.fraction_bits)) & 1u) != 0;
  const bool top = field + 1 == (1u << format.exponent_bits);
  long double value = 0;
  if (top && has_infinity) {
    value = fraction == 0 ? std::numeric_limits<long double>::infinity()
                          : std::numeric_limits<long double>::quiet_NaN();
  } else if (top && fraction + 1 == (1u << format.fraction_bits)) {
    value = std::numeric_limits<long double>::quiet_NaN();
  } else if (field == 0) {
    value = std::ldexp(static_cast<long double>(fraction), format.lowest() - format.fraction_bits);
  } else {
    const long double significand =
        static_cast<long double>(fraction + (1u << format.fraction_bits));
    value = std::ldexp(significand,
                       format.lowest() + static_cast<int>(field) - 1 - format.fraction_bits);
  }
  return negative ? -value : value;
}

int exponent_in(const Format& format, std::uint32_t code) {
  const auto field =
      static_cast<int>((code >> format.fraction_bits) % (1u << format.exponent_bits));
  return format.lowest() + std::max(field, 1) - 1;
}

// Register, lane and lowest bit of an element.
struct Place {
  int reg, lane, bit;
};

// Rows of A and columns of B: `line` is the row or column, the registers hold K in order.
Place place_a(const MmaShape& shape, int row, int k) {
  const int width = bit_width(shape.a);
  const int in_register = 32 / width;  // consecutive elements that one lane has
  const int in_quad = 4 * in_register;
  const int reg = (row >= 8 ? 1 : 0) + (k >= in_quad ? 2 : 0);
  const int lane = (row % 8) * 4 + (k % in_quad) / in_register;
  return {reg, lane, (k % in_register) * width};
}
Place place_b(const MmaShape& shape, int k, int column) {
  const int width = bit_width(shape.b);
  const int in_register = 32 / width;
  const int in_quad = 4 * in_register;
  return {k >= in_quad ? 1 : 0, column * 4 + (k % in_quad) / in_register,
          (k % in_register) * width};
}
Place place_c(const MmaShape& shape, int row, int column) {
  const int lane = (row % 8) * 4 + column / 2;
  if (shape.f16_accumulator) {
    return {row >= 8 ? 1 : 0, lane, (column % 2) * 16};
  }
  return {(row >= 8 ? 2 : 0) + column % 2, lane, 0};
}

std::uint32_t mask_of(int width) { return width == 32 ? 0xffffffffu : (1u << width) - 1u; }

int width_c(const MmaShape& shape) { return shape.f16_accumulator ? 16 : 32; }

template <std::size_t kCount>
std::uint32_t get(const std::uint32_t (&registers)[kCount][32], Place place, int width) {
  return (registers[place.reg][place.lane] >> place.bit) & mask_of(width);
}
template <std::size_t kCount>
void set(std::uint32_t (&registers)[kCount][32], Place place, int width, std::uint32_t code) {
  std::uint32_t& word = registers[place.reg][place.lane];
  word = (word & ~(mask_of(width) << place.bit)) | ((code & mask_of(width)) << place.bit);
}

Format format_c(const MmaShape& shape) { return shape.f16_accumulator ? Format{5, 10} : kFloat32; }
long double decode_c(const MmaShape& shape, std::uint32_t code) {
  return decode_format(format_c(shape), code, true);
}

// Cuts an exact value to f32 with `bits` fraction bits, toward zero.
std::uint32_t cut_f32(long double value, int bits) {
  if (value == 0) {
    return 0;
  }
  int exponent = 0;
  std::frexp(value, &exponent);
  exponent = std::max(exponent - 1, -126);
  const long double quantum = std::ldexp(1.0L, exponent - bits);
  const long double cut = std::trunc(value / quantum) * quantum;
  // In f32's range the conversion is exact; beyond it, infinity.
  const auto result = static_cast<float>(cut);
  return std::bit_cast<std::uint32_t>(
      std::copysign(result, static_cast<float>(value < 0 ? -1 : 1)));
}

// Nearest f16, ties to even.
std::uint32_t nearest_f16(long double value) {
  const std::uint32_t sign = std::signbit(value) ? 0x8000u : 0u;
  const long double magnitude = std::fabs(value);
  // Codes of one sign are in the order of their values: search, then choose between two neighbours.
  std::uint32_t below = 0;
  for (std::uint32_t step = 0x4000; step != 0; step /= 2) {
    if (below + step < 0x7c00 && decode(MmaType::f16, below + step) <= magnitude) {
      below += step;
    }
  }
  const long double low = decode(MmaType::f16, below);
  const long double high = below == 0x7bff ? 65536.0L : decode(MmaType::f16, below + 1);
  const long double to_low = magnitude - low;
  const long double to_high = high - magnitude;
  const bool up = to_high < to_low || (to_high == to_low && below % 2 == 1);
  return sign | (up ? below + 1 : below);
}

std::uint32_t nan_code(const MmaShape& shape) {
  return shape.f16_accumulator ? 0x7fffu : 0x7fffffffu;
}
std::uint32_t infinity_code(const MmaShape& shape, bool negative) {
  if (shape.f16_accumulator) {
    return negative ? 0xfc00u : 0x7c00u;
  }
  return negative ? 0xff800000u : 0x7f800000u;
}

// One sum of products at the elements `ks` and the accumulator `c`.
std::uint32_t sum_block(const DeviceSum& device, const MmaShape& shape,
                        const MmaRegisters& registers, int row, int column,
                        const std::vector<int>& ks, std::uint32_t c) {
  // Ordinary arithmetic settles the cases with infinities and NaN.
  long double plain = decode_c(shape, c);
  for (const int k : ks) {
    plain += decode(shape.a, get_a(registers, shape, row, k)) *
             decode(shape.b, get_b(registers, shape, k, column));
  }
  if (std::isnan(plain)) {
    return nan_code(shape);
  }
  if (std::isinf(plain)) {
    return infinity_code(shape, plain < 0);
  }
  struct Term {
    long double value;
    int exponent;
  };
  std::vector<Term> terms;
  if (decode_c(shape, c) != 0) {
    terms.push_back({decode_c(shape, c), exponent_in(format_c(shape), c)});
  }
  for (const int k : ks) {
    const std::uint32_t a = get_a(registers, shape, row, k);
    const std::uint32_t b = get_b(registers, shape, k, column);
    const long double product = decode(shape.a, a) * decode(shape.b, b);
    if (product != 0) {
      terms.push_back({product, exponent_of(shape.a, a) + exponent_of(shape.b, b)});
    }
  }
  int top = -126;  // a zero accumulator has this exponent
  for (const Term& term : terms) {
    top = std::max(top, term.exponent);
  }
  const long double quantum = std::ldexp(1.0L, top - device.kept);
  long double sum = 0;
  for (const Term& term : terms) {
    sum += std::trunc(term.value / quantum) * quantum;
  }
  return shape.f16_accumulator ? nearest_f16(sum) : cut_f32(sum, device.result_bits);
}

// Exact sums of doubles as non-overlapping parts (Shewchuk's grow-expansion).
class Expansion {
 public:
  void add(double x) {
    std::vector<double> next;
    for (const double part : parts_) {
      const double sum = x + part;
      const double virtual_part = sum - x;
      const double error = (x - (sum - virtual_part)) + (part - virtual_part);
      if (error != 0) {
        next.push_back(error);
      }
      x = sum;
    }
    if (x != 0) {
      next.push_back(x);
    }
    parts_ = next;
  }
  int sign() const { return parts_.empty() ? 0 : parts_.back() > 0 ? 1 : -1; }

 private:
  std::vector<double> parts_;  // increasing magnitude
};

std::vector<int> range(int from, int to) {
  std::vector<int> ks;
  for (int k = from; k < to; ++k) {
    ks.push_back(k);
  }
  return ks;
}

}  // namespace

long double decode(MmaType type, std::uint32_t code) {
  switch (type) {
    case MmaType::s8:
      return static_cast<std::int8_t>(code);
    case MmaType::u8:
      return static_cast<std::uint8_t>(code);
    case MmaType::s4:
      return static_cast<int>(code & 15u) - ((code & 8u) != 0 ? 16 : 0);
    case MmaType::u4:
      return code & 15u;
    case MmaType::tf32:
      return decode_format(format_of(type), code >> kTf32Unused, true);
    default:
      break;
  }
  // Every value once: ldexp is slow.
  auto table_of = [](MmaType each) {
    std::vector<long double> values;
    for (std::uint32_t at = 0; at < 1u << bit_width(each); ++at) {
      values.push_back(decode_format(format_of(each), at, each != MmaType::e4m3));
    }
    return values;
  };
  static const std::vector<long double> f16 = table_of(MmaType::f16);
  static const std::vector<long double> bf16 = table_of(MmaType::bf16);
  static const std::vector<long double> e4m3 = table_of(MmaType::e4m3);
  static const std::vector<long double> e5m2 = table_of(MmaType::e5m2);
  return (type == MmaType::f16    ? f16
          : type == MmaType::bf16 ? bf16
          : type == MmaType::e4m3 ? e4m3
                                  : e5m2)[code];
}

int exponent_of(MmaType type, std::uint32_t code) {
  return exponent_in(format_of(type), type == MmaType::tf32 ? code >> kTf32Unused : code);
}

std::uint32_t get_a(const MmaRegisters& registers, const MmaShape& shape, int row, int k) {
  return get(registers.a, place_a(shape, row, k), bit_width(shape.a));
}
std::uint32_t get_b(const MmaRegisters& registers, const MmaShape& shape, int k, int column) {
  return get(registers.b, place_b(shape, k, column), bit_width(shape.b));
}
void set_a(MmaRegisters& registers, const MmaShape& shape, int row, int k, std::uint32_t code) {
  set(registers.a, place_a(shape, row, k), bit_width(shape.a), code);
}
void set_b(MmaRegisters& registers, const MmaShape& shape, int k, int column, std::uint32_t code) {
  set(registers.b, place_b(shape, k, column), bit_width(shape.b), code);
}
std::uint32_t get_c(const MmaRegisters& registers, const MmaShape& shape, int row, int column) {
  return get(registers.c, place_c(shape, row, column), width_c(shape));
}
void set_c(MmaRegisters& registers, const MmaShape& shape, int row, int column,
           std::uint32_t code) {
  set(registers.c, place_c(shape, row, column), width_c(shape), code);
}
std::uint32_t get_d(const MmaRegisters& registers, const MmaShape& shape, int row, int column) {
  return get(registers.d, place_c(shape, row, column), width_c(shape));
}

std::optional<DeviceSum> device_sum(Profile profile, const MmaShape& shape) {
  const bool fp8 = bit_width(shape.a) == 8;
  const int k = shape.k;
  const int full = fp8 ? 32 : shape.a == MmaType::tf32 ? 8 : 16;
  const bool split = k == full;  // Ampere and Ada halve the full shapes
  const std::vector<std::vector<int>> whole{range(0, k)};
  const std::vector<std::vector<int>> halves{range(0, k / 2), range(k / 2, k)};
  switch (profile) {
    case Profile::sm_80:
    case Profile::sm_86:
    case Profile::sm_89:
      if (!fp8) {
        return DeviceSum{.kept = 24, .blocks = split ? halves : whole};
      }
      if (profile == Profile::sm_89) {
        return DeviceSum{.kept = 13, .result_bits = 13, .blocks = split ? halves : whole};
      }
      return std::nullopt;
    case Profile::sm_90:
      if (fp8) {
        DeviceSum device{.kept = 25, .blocks = {{}, {}}, .add_c_last = true};
        for (int i = 0; i < k; ++i) {
          device.blocks[i % 4 < 2 ? 0 : 1].push_back(i);
        }
        return device;
      }
      return DeviceSum{.kept = 25, .blocks = whole};
    case Profile::sm_120:
      return DeviceSum{.kept = 25, .blocks = whole};
    case Profile::ideal:
      break;
  }
  return std::nullopt;
}

std::uint32_t reference_output(const DeviceSum& device, const MmaShape& shape,
                               const MmaRegisters& registers, int row, int column) {
  const std::uint32_t c = get_c(registers, shape, row, column);
  std::uint32_t carried = device.add_c_last ? 0 : c;
  for (const auto& block : device.blocks) {
    carried = sum_block(device, shape, registers, row, column, block, carried);
  }
  if (!device.add_c_last) {
    return carried;
  }
  const long double sum = decode_c(shape, c) + decode_c(shape, carried);
  if (std::isnan(sum)) {
    return nan_code(shape);
  }
  if (std::isinf(sum)) {
    return infinity_code(shape, sum < 0);
  }
  if (shape.f16_accumulator) {
    return nearest_f16(sum);  // two f16 add exactly in a long double
  }
  // The host's own f32 addition is the IEEE one that FADD makes.
  return std::bit_cast<std::uint32_t>(std::bit_cast<float>(c) + std::bit_cast<float>(carried));
}

bool is_nearest(const MmaShape& shape, const MmaRegisters& registers, int row, int column,
                std::uint32_t code) {
  Expansion exact;
  exact.add(static_cast<double>(decode_c(shape, get_c(registers, shape, row, column))));
  for (int k = 0; k < shape.k; ++k) {
    exact.add(static_cast<double>(decode(shape.a, get_a(registers, shape, row, k)) *
                                  decode(shape.b, get_b(registers, shape, k, column))));
  }
  const Format format = format_c(shape);
  const std::uint32_t sign_bit = 1u << (format.exponent_bits + format.fraction_bits);
  const std::uint32_t magnitude = code & (sign_bit - 1);
  const std::uint32_t infinity = infinity_code(shape, false);
  const double sign = (code & sign_bit) != 0 ? -1.0 : 1.0;
  if (magnitude > infinity || (exact.sign() != 0 && exact.sign() * sign < 0)) {
    return false;
  }
  if (exact.sign() == 0) {
    return code == 0;
  }
  // The value of a magnitude, with the one after the largest where infinity is.
  auto value = [&](std::uint32_t bits) {
    return static_cast<double>(bits == infinity ? std::ldexp(1.0L, 1 << (format.exponent_bits - 1))
                                                : decode_c(shape, bits));
  };
  // Position of the exact sum's magnitude against the boundary to a neighbour.
  auto side = [&](double boundary) {
    Expansion difference = exact;
    difference.add(-sign * boundary);
    return difference.sign() * static_cast<int>(sign);
  };
  const bool even = magnitude % 2 == 0;
  if (magnitude != infinity) {
    const int at = side((value(magnitude) + value(magnitude + 1)) / 2);
    if (at > 0 || (at == 0 && !even)) {
      return false;
    }
  }
  if (magnitude != 0) {
    const int at = side((value(magnitude - 1) + value(magnitude)) / 2);
    if (at < 0 || (at == 0 && !even)) {
      return false;
    }
  }
  return true;
}

namespace {

std::uint32_t random_below(std::mt19937_64& random, std::uint32_t bound) {
  return static_cast<std::uint32_t>(random() % bound);
}

// A finite code with exponent field in [low, high].
std::uint32_t random_code(const Format& format, int low, int high, std::mt19937_64& random) {
  const int top = (1 << format.exponent_bits) - 2;
  low = std::clamp(low, 0, top);
  high = std::clamp(high, low, top);
  const std::uint32_t field = static_cast<std::uint32_t>(low) +
                              random_below(random, static_cast<std::uint32_t>(high - low + 1));
  const std::uint32_t sign = random_below(random, 2);
  return (sign << (format.exponent_bits + format.fraction_bits)) | (field << format.fraction_bits) |
         random_below(random, 1u << format.fraction_bits);
}

std::uint32_t special_code(const Format& format, std::mt19937_64& random) {
  const std::uint32_t sign = random_below(random, 2)
                             << (format.exponent_bits + format.fraction_bits);
  const std::uint32_t ones = ((1u << format.exponent_bits) - 1u) << format.fraction_bits;
  switch (random_below(random, 4)) {
    case 0:
      return sign;
    case 1:
      return sign | ones | ((1u << format.fraction_bits) - 1u);  // NaN
    default:
      return sign | ones;  // infinity; 256 in e4m3
  }
}

std::uint32_t element(MmaType type, Fill fill, bool large, std::mt19937_64& random);

// What lies below the 19 bits must not matter.
std::uint32_t tf32_element(Fill fill, bool large, std::mt19937_64& random) {
  if (fill == Fill::any_bits) {
    return static_cast<std::uint32_t>(random());
  }
  // A bf16 with three more bits.
  const std::uint32_t upper = element(MmaType::bf16, fill, large, random) << 16;
  return upper | (random_below(random, 1u << 16) &
                  ((upper & 0x7f800000u) == 0x7f800000u ? 0x1fffu : 0xffffu));
}

std::uint32_t element(MmaType type, Fill fill, bool large, std::mt19937_64& random) {
  if (type == MmaType::tf32) {
    return tf32_element(fill, large, random);
  }
  const Format format = format_of(type);
  const int one = (1 << (format.exponent_bits - 1)) - 1;
  switch (fill) {
    case Fill::spread:
      return random_code(format, 0, 1 << format.exponent_bits, random);
    case Fill::subnormal:
      return random_below(random, 8) == 0
                 ? random_code(format, one - 2, one + 2, random)
                 : random_code(format, 0, random_below(random, 4) == 0, random);
    case Fill::any_bits:
      return random_below(random, 0x10000u) & mask_of(bit_width(type));
    case Fill::specials:
      return random_below(random, 64) == 0 ? special_code(format, random)
                                           : random_code(format, one - 3, one + 3, random);
    case Fill::huge_and_tiny:
      return large ? random_code(format, one + 5, one + 6, random)
                   : random_code(format, one - 6, one - 4, random);
    case Fill::all_large: {
      const std::uint32_t ones = (1u << format.fraction_bits) - 1u;
      return (static_cast<std::uint32_t>(one) << format.fraction_bits) |
             (random_below(random, 32) == 0 ? ones >> 1 : ones);
    }
    case Fill::low_end:
      return random_code(format, one - 50, one - 48, random);
    case Fill::below_low_end:
      return random_code(format, one - 72, one - 48, random);
    case Fill::high_end:
      return random_code(format, one + 47, one + 55, random);
    case Fill::above_high_end:
      return random_code(format, one + 53, one + 66, random);
    case Fill::moderate:
    case Fill::cancelling:
      break;
  }
  return random_code(format, one - 3, one + 3, random);
}

std::uint32_t accumulator(const MmaShape& shape, const MmaRegisters& registers, FillC fill, int row,
                          int column, std::mt19937_64& random) {
  const Format format = format_c(shape);
  const int one = (1 << (format.exponent_bits - 1)) - 1;
  long double sum = 0;
  for (int k = 0; k < shape.k; ++k) {
    sum += decode(shape.a, get_a(registers, shape, row, k)) *
           decode(shape.b, get_b(registers, shape, k, column));
  }
  const int scale = std::isfinite(sum) && sum != 0 ? std::ilogb(sum) : 0;
  switch (fill) {
    case FillC::zero:
      return random_below(random, 8) == 0 ? 1u << (width_c(shape) - 1) : 0u;
    case FillC::similar:
      return random_code(format, one + scale - 2, one + scale + 2, random);
    case FillC::larger:
      return random_code(format, one + scale + 8, one + scale + 30, random);
    case FillC::smaller:
      return random_code(format, one + scale - 40, one + scale - 8, random);
    case FillC::opposite:
      if (!std::isfinite(sum)) {
        return 0;
      }
      return shape.f16_accumulator ? nearest_f16(-sum)
                                   : std::bit_cast<std::uint32_t>(static_cast<float>(-sum));
    case FillC::specials:
      if (random_below(random, 64) == 0) {
        return special_code(format, random);
      }
      return random_code(format, one + scale - 2, one + scale + 2, random);
    case FillC::any_bits:
      return static_cast<std::uint32_t>(random()) & mask_of(width_c(shape));
  }
  return 0;
}

}  // namespace

MmaRegisters random_registers(const MmaShape& shape, Fill fill, FillC fill_c,
                              std::mt19937_64& random) {
  MmaRegisters registers{};
  if (!is_float(shape.a)) {
    for (auto& reg : registers.a) {
      std::generate(std::begin(reg), std::end(reg),
                    [&] { return static_cast<std::uint32_t>(random()); });
    }
    for (auto& reg : registers.b) {
      std::generate(std::begin(reg), std::end(reg),
                    [&] { return static_cast<std::uint32_t>(random()); });
    }
    for (auto& reg : registers.c) {
      std::generate(std::begin(reg), std::end(reg),
                    [&] { return static_cast<std::uint32_t>(random()); });
    }
    return registers;
  }
  const auto large_k = static_cast<int>(random_below(random, static_cast<std::uint32_t>(shape.k)));
  for (int k = 0; k < shape.k; ++k) {
    for (int row = 0; row < 16; ++row) {
      set_a(registers, shape, row, k, element(shape.a, fill, k == large_k, random));
    }
    for (int column = 0; column < 8; ++column) {
      set_b(registers, shape, k, column, element(shape.b, fill, k == large_k, random));
    }
  }
  if (fill ==
      Fill::
          cancelling) {  // element k' = K - 1 - k repeats k, with B negated; a few differ slightly
    for (int k = 0; k < shape.k / 2; ++k) {
      const std::uint32_t unit = shape.a == MmaType::tf32 ? 1u << kTf32Unused : 1u;
      const std::uint32_t nudge = random_below(random, 4) == 0 ? unit : 0;
      for (int row = 0; row < 16; ++row) {
        set_a(registers, shape, row, shape.k - 1 - k, get_a(registers, shape, row, k) ^ nudge);
      }
      for (int column = 0; column < 8; ++column) {
        set_b(registers, shape, shape.k - 1 - k, column,
              get_b(registers, shape, k, column) ^ (1u << (bit_width(shape.b) - 1)));
      }
    }
  }
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      set_c(registers, shape, row, column,
            accumulator(shape, registers, fill_c, row, column, random));
    }
  }
  return registers;
}

std::vector<MmaShape> float_shapes() {
  std::vector<MmaShape> shapes;
  for (const int k : {4, 8}) {
    shapes.push_back({.a = MmaType::tf32, .b = MmaType::tf32, .k = k});
  }
  for (const bool f16 : {false, true}) {
    for (const int k : {8, 16}) {
      shapes.push_back({.a = MmaType::f16, .b = MmaType::f16, .k = k, .f16_accumulator = f16});
      if (!f16) {
        shapes.push_back({.a = MmaType::bf16, .b = MmaType::bf16, .k = k});
      }
    }
    for (const MmaType a : {MmaType::e4m3, MmaType::e5m2}) {
      for (const MmaType b : {MmaType::e4m3, MmaType::e5m2}) {
        for (const int k : {16, 32}) {
          shapes.push_back({.a = a, .b = b, .k = k, .f16_accumulator = f16});
        }
      }
    }
  }
  return shapes;
}

std::vector<MmaShape> integer_shapes() {
  std::vector<MmaShape> shapes;
  for (const bool saturate : {false, true}) {
    for (const bool narrow : {false, true}) {
      const MmaType types[2] = {narrow ? MmaType::s4 : MmaType::s8,
                                narrow ? MmaType::u4 : MmaType::u8};
      for (const MmaType a : types) {
        for (const MmaType b : types) {
          for (const int k : {narrow ? 32 : 16, narrow ? 64 : 32}) {
            shapes.push_back({.a = a, .b = b, .k = k, .saturate = saturate});
          }
        }
      }
    }
  }
  return shapes;
}

}  // namespace sagegen::test
