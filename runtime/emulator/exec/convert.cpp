// cvt: every numeric type to every other, and the packed conversions of quantized formats.

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <limits>

#include "runtime/emulator/exec/forms.h"
#include "runtime/emulator/exec/half.h"
#include "runtime/emulator/exec/warp.h"

namespace sagegen::emulator {
namespace {

enum class Type : std::uint8_t { u8, s8, u16, s16, u32, s32, u64, s64, f16, bf16, f32, f64 };
enum class Round : std::uint8_t { none, nearest, zero, down, up };

struct TypeInfo {
  std::string_view name;
  Type type;
  std::uint8_t bytes;
  bool is_signed;
  bool is_float;
};
constexpr TypeInfo kTypes[] = {
    {"u8", Type::u8, 1, false, false},   {"s8", Type::s8, 1, true, false},
    {"u16", Type::u16, 2, false, false}, {"s16", Type::s16, 2, true, false},
    {"u32", Type::u32, 4, false, false}, {"s32", Type::s32, 4, true, false},
    {"u64", Type::u64, 8, false, false}, {"s64", Type::s64, 8, true, false},
    {"f16", Type::f16, 2, true, true},   {"bf16", Type::bf16, 2, true, true},
    {"f32", Type::f32, 4, true, true},   {"f64", Type::f64, 8, true, true}};
const TypeInfo& type_info(Type type) { return kTypes[static_cast<int>(type)]; }

// What the text fixes, packed into Op::imm below the register widths (decode.cpp).
struct Detail {
  Type to = Type::u32, from = Type::u32;
  Round round = Round::none;    // of a float result
  Round integer = Round::none;  // to an integral value
  bool ftz = false, sat = false, satfinite = false, relu = false;

  std::uint32_t pack() const {
    return static_cast<std::uint32_t>(to) | static_cast<std::uint32_t>(from) << 4 |
           static_cast<std::uint32_t>(round) << 8 | static_cast<std::uint32_t>(integer) << 12 |
           std::uint32_t{ftz} << 16 | std::uint32_t{sat} << 17 | std::uint32_t{satfinite} << 18 |
           std::uint32_t{relu} << 19;
  }
  static Detail unpack(std::uint32_t bits) {
    return {static_cast<Type>(bits & 15),
            static_cast<Type>(bits >> 4 & 15),
            static_cast<Round>(bits >> 8 & 15),
            static_cast<Round>(bits >> 12 & 15),
            (bits >> 16 & 1) != 0,
            (bits >> 17 & 1) != 0,
            (bits >> 18 & 1) != 0,
            (bits >> 19 & 1) != 0};
  }
};

using Wide = __int128;  // holds every integer type

Wide load_integer(Type type, std::uint64_t bits) {
  switch (type) {
    case Type::u8:
      return static_cast<std::uint8_t>(bits);
    case Type::s8:
      return static_cast<std::int8_t>(bits);
    case Type::u16:
      return static_cast<std::uint16_t>(bits);
    case Type::s16:
      return static_cast<std::int16_t>(bits);
    case Type::u32:
      return static_cast<std::uint32_t>(bits);
    case Type::s32:
      return static_cast<std::int32_t>(bits);
    case Type::s64:
      return static_cast<std::int64_t>(bits);
    default:
      return bits;
  }
}

double load_float(Type type, std::uint64_t bits, bool ftz) {
  switch (type) {
    case Type::f16:
      return f16_to_f32(static_cast<std::uint16_t>(bits));
    case Type::bf16:
      return bf16_to_f32(static_cast<std::uint16_t>(bits));
    case Type::f32: {
      float value = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
      return ftz ? flush_denormal(value) : value;
    }
    default:
      return std::bit_cast<double>(bits);
  }
}

struct Range {
  Wide low, high;
};
Range range_of(Type type) {
  const TypeInfo& info = type_info(type);
  int bits = info.bytes * 8;
  Wide one = 1;
  return info.is_signed ? Range{-(one << (bits - 1)), (one << (bits - 1)) - 1}
                        : Range{0, (one << bits) - 1};
}

double round_integral(double x, Round mode) {
  switch (mode) {
    case Round::nearest:
      return std::nearbyint(x);  // the host's mode is to nearest even
    case Round::zero:
      return std::trunc(x);
    case Round::down:
      return std::floor(x);
    case Round::up:
      return std::ceil(x);
    case Round::none:
      break;
  }
  return x;
}

// Float to integer clamps. A NaN becomes 0; from f64 or to 64 bits it becomes the value whose highest
// bit alone is set (PTX ISA, #data-movement-and-conversion-instructions-cvt).
std::uint64_t float_to_integer(const Detail& d, double x) {
  Range range = range_of(d.to);
  if (std::isnan(x)) {
    const TypeInfo& to = type_info(d.to);
    if (d.from != Type::f64 && to.bytes != 8) return 0;
    Wide highest = Wide{1} << (to.bytes * 8 - 1);
    return static_cast<std::uint64_t>(to.is_signed ? range.low : highest);
  }
  double r = round_integral(x, d.integer);
  if (r <= static_cast<double>(range.low)) return static_cast<std::uint64_t>(range.low);
  if (r >= static_cast<double>(range.high)) return static_cast<std::uint64_t>(range.high);
  return static_cast<std::uint64_t>(static_cast<Wide>(r));
}

std::uint64_t integer_to_integer(const Detail& d, Wide x) {
  if (d.sat) {
    Range range = range_of(d.to);
    x = std::clamp(x, range.low, range.high);
  }
  // Keep the bits of the destination's type and extend them by its sign.
  return static_cast<std::uint64_t>(load_integer(d.to, static_cast<std::uint64_t>(x)));
}

// A half format by its routines, for rounding in any direction.
struct HalfFormat {
  std::uint16_t (*nearest)(double);
  double (*value)(std::uint32_t);
  std::uint16_t infinity;
};
constexpr HalfFormat kF16 = {HalfF16::store, HalfF16::load, 0x7c00};
constexpr HalfFormat kBf16 = {HalfBf16::store, HalfBf16::load, 0x7f80};

std::uint16_t to_half(const HalfFormat& format, const Detail& d, double x) {
  if (std::isnan(x)) return d.sat ? 0 : 0x7fff;
  if (d.sat) x = x > 0 ? std::min(x, 1.0) : 0.0;
  std::uint16_t bits = format.nearest(x);
  double rounded = format.value(bits);
  bool down = d.round == Round::down || (d.round == Round::zero && !std::signbit(x));
  bool up = d.round == Round::up || (d.round == Round::zero && std::signbit(x));
  // One step toward the wanted side; bit patterns of one sign are ordered by magnitude.
  if (down && rounded > x) {
    bits = bits == 0x0000 ? 0x8001 : (bits & 0x8000) != 0 ? bits + 1 : bits - 1;
  } else if (up && rounded < x) {
    bits = bits == 0x8000 ? 0x0001 : (bits & 0x8000) != 0 ? bits - 1 : bits + 1;
  }
  if (d.satfinite && (bits & 0x7fff) == format.infinity) --bits;  // the largest finite number
  if (d.relu && (bits & 0x8000) != 0) bits = 0;
  return bits;
}

std::uint32_t to_f32(const Detail& d, double x) {
  float value;
  if (d.round == Round::none || d.round == Round::nearest) {
    value = static_cast<float>(x);
  } else {
    int before = std::fegetround();
    volatile double source = x;
    std::fesetround(d.round == Round::zero   ? FE_TOWARDZERO
                    : d.round == Round::down ? FE_DOWNWARD
                                             : FE_UPWARD);
    volatile float rounded = static_cast<float>(source);
    std::fesetround(before);
    value = rounded;
  }
  if (d.ftz) value = flush_denormal(value);
  if (d.sat) value = value > 0.0f ? std::min(value, 1.0f) : 0.0f;
  return std::bit_cast<std::uint32_t>(canonical_nan(value));
}

std::uint64_t to_float(const Detail& d, double x) {
  switch (d.to) {
    case Type::f16:
      return to_half(kF16, d, x);
    case Type::bf16:
      return to_half(kBf16, d, x);
    case Type::f32:
      return to_f32(d, x);
    default:
      if (d.sat) x = x > 0.0 ? std::min(x, 1.0) : 0.0;
      return std::bit_cast<std::uint64_t>(x);
  }
}

// The double that rounds to any other float format as the integer itself would.
double integer_to_double(const Detail& d, Wide x) {
  double value = static_cast<double>(x);
  Wide lost = x - static_cast<Wide>(value);
  return d.to == Type::f64 ? value : round_to_odd(value, static_cast<double>(lost));
}

std::uint64_t integer_to_float(const Detail& d, Wide x) {
  if (d.to == Type::f64 && d.round != Round::nearest) {
    double value = static_cast<double>(x);
    Wide lost = x - static_cast<Wide>(value);
    bool down = d.round == Round::down || (d.round == Round::zero && x > 0);
    if (lost < 0 && down) value = std::nextafter(value, -std::numeric_limits<double>::infinity());
    if (lost > 0 && !down) value = std::nextafter(value, std::numeric_limits<double>::infinity());
    return std::bit_cast<std::uint64_t>(value);
  }
  return to_float(d, integer_to_double(d, x));
}

std::uint64_t convert_one(const Detail& d, std::uint64_t bits) {
  bool from_float = type_info(d.from).is_float, to_float_type = type_info(d.to).is_float;
  if (!from_float) {
    Wide x = load_integer(d.from, bits);
    return to_float_type ? integer_to_float(d, x) : integer_to_integer(d, x);
  }
  double x = load_float(d.from, bits, d.ftz);
  if (!to_float_type) return float_to_integer(d, x);
  return to_float(d, round_integral(x, d.integer));
}

// cvt d, a with registers of any width.
void convert(Warp& w, const Op& op, std::uint32_t mask) {
  Detail d = Detail::unpack(op.imm);
  std::uint32_t to_width = op.imm >> 28 & 3, from_width = op.imm >> 30;
  for_lanes(mask, [&](int lane) {
    std::uint64_t bits =
        from_width == 2 ? row64(w, op.r[1])[lane] : std::uint64_t{row32(w, op.r[1])[lane]};
    std::uint64_t result = convert_one(d, bits);
    if (to_width == 2) {
      row64(w, op.r[0])[lane] = result;
    } else {
      row32(w, op.r[0])[lane] =
          static_cast<std::uint32_t>(to_width == 1 ? result : result & 0xffff);
    }
  });
}

// cvt d, a, b: two f32 into one register, a in the upper half.
template <std::uint16_t (*kHalf)(const Detail&, float)>
void pack_pair(Warp& w, const Op& op, std::uint32_t mask) {
  Detail d = Detail::unpack(op.imm);
  for_lanes(mask, [&](int lane) {
    float a = std::bit_cast<float>(row32(w, op.r[1])[lane]),
          b = std::bit_cast<float>(row32(w, op.r[2])[lane]);
    row32(w, op.r[0])[lane] = kHalf(d, b) | std::uint32_t{kHalf(d, a)} << 16;
  });
}
std::uint16_t pack_f16(const Detail& d, float x) {
  return to_half(kF16, d, d.ftz ? flush_denormal(x) : x);
}
std::uint16_t pack_bf16(const Detail& d, float x) {
  return to_half(kBf16, d, d.ftz ? flush_denormal(x) : x);
}

using ToByte = std::uint8_t (*)(float);
std::uint8_t to_byte(ToByte narrow, bool relu, float x) {
  // Negative numbers become 0, a NaN stays one.
  return relu && std::signbit(x) && !std::isnan(x) ? 0 : narrow(x);
}

template <ToByte kNarrow>
void pack_bytes(Warp& w, const Op& op, std::uint32_t mask) {
  Detail d = Detail::unpack(op.imm);
  for_lanes(mask, [&](int lane) {
    float a = std::bit_cast<float>(row32(w, op.r[1])[lane]),
          b = std::bit_cast<float>(row32(w, op.r[2])[lane]);
    row32(w, op.r[0])[lane] =
        to_byte(kNarrow, d.relu, b) | std::uint32_t{to_byte(kNarrow, d.relu, a)} << 8;
  });
}
template <ToByte kNarrow>
void pack_bytes_from_f16(Warp& w, const Op& op, std::uint32_t mask) {
  Detail d = Detail::unpack(op.imm);
  for_lanes(mask, [&](int lane) {
    std::uint32_t a = row32(w, op.r[1])[lane];
    float low = f16_to_f32(static_cast<std::uint16_t>(a));
    float high = f16_to_f32(static_cast<std::uint16_t>(a >> 16));
    row32(w, op.r[0])[lane] =
        to_byte(kNarrow, d.relu, low) | std::uint32_t{to_byte(kNarrow, d.relu, high)} << 8;
  });
}
template <float (*kWiden)(std::uint8_t)>
void unpack_bytes(Warp& w, const Op& op, std::uint32_t mask) {
  Detail d = Detail::unpack(op.imm);
  auto half = [&](std::uint8_t byte) -> std::uint32_t {
    float x = kWiden(byte);
    return to_half(kF16, d, x);
  };
  for_lanes(mask, [&](int lane) {
    std::uint32_t a = row32(w, op.r[1])[lane];
    row32(w, op.r[0])[lane] =
        half(static_cast<std::uint8_t>(a)) | half(static_cast<std::uint8_t>(a >> 8)) << 16;
  });
}

// f32 with a fraction of 10 bits. rna rounds ties away from zero.
void to_tf32(Warp& w, const Op& op, std::uint32_t mask) {
  bool ties_away = op.imm != 0;
  for_lanes(mask, [&](int lane) {
    std::uint32_t bits = row32(w, op.r[1])[lane];
    bool nan = (bits & 0x7fff'ffff) > 0x7f80'0000;
    std::uint32_t half = ties_away ? 0x1000u : 0x0fffu + (bits >> 13 & 1);
    bool finite = (bits & 0x7f80'0000) != 0x7f80'0000;
    row32(w, op.r[0])[lane] = nan ? 0x7fff'ffff : finite ? (bits + half) & 0xffff'e000 : bits;
  });
}

// ---- modifiers -----------------------------------------------------------------------------------

const TypeInfo* take_type(ModifierReader& m) {
  for (const TypeInfo& type : kTypes) {
    if (m.take(type.name)) return &type;
  }
  return nullptr;
}

Form packed_form(const char* format, Handler handler, const Detail& d) {
  Form form;
  form.format = format;
  form.plain = handler;
  form.number = d.pack();
  return form;
}

// The packed conversions, after the rounding modifiers.
std::optional<Form> packed(ModifierReader& m, const Detail& d) {
  if (m.take("f16x2")) {
    if (m.take("f32")) return packed_form("wWW", pack_pair<pack_f16>, d);
    if (m.take("e4m3x2")) return packed_form("wH", unpack_bytes<e4m3_to_f32>, d);
    if (m.take("e5m2x2")) return packed_form("wH", unpack_bytes<e5m2_to_f32>, d);
    m.refuse("f32, e4m3x2 or e5m2x2");
  }
  if (m.take("bf16x2")) {
    if (m.take("f32")) return packed_form("wWW", pack_pair<pack_bf16>, d);
    m.refuse("f32");
  }
  bool e4m3 = m.take("e4m3x2");
  if (e4m3 || m.take("e5m2x2")) {
    if (!d.satfinite) m.refuse(".satfinite before the type");
    if (m.take("f32")) {
      return packed_form(
          "hWW", e4m3 ? pack_bytes<f32_to_e4m3_satfinite> : pack_bytes<f32_to_e5m2_satfinite>, d);
    }
    if (m.take("f16x2")) {
      return packed_form("hW",
                         e4m3 ? pack_bytes_from_f16<f32_to_e4m3_satfinite>
                              : pack_bytes_from_f16<f32_to_e5m2_satfinite>,
                         d);
    }
    m.refuse("f32 or f16x2");
  }
  return std::nullopt;
}

std::optional<std::pair<Round, bool>> take_round(ModifierReader& m) {
  static constexpr std::pair<std::string_view, std::pair<Round, bool>> kModes[] = {
      {"rn", {Round::nearest, false}}, {"rz", {Round::zero, false}},
      {"rm", {Round::down, false}},    {"rp", {Round::up, false}},
      {"rni", {Round::nearest, true}}, {"rzi", {Round::zero, true}},
      {"rmi", {Round::down, true}},    {"rpi", {Round::up, true}}};
  for (const auto& [name, mode] : kModes) {
    if (m.take(name)) return mode;
  }
  return std::nullopt;
}

void check_rounding(const ptx::Instruction& instruction, const Detail& d) {
  const TypeInfo &to = type_info(d.to), &from = type_info(d.from);
  auto refuse = [&](const char* why) {
    throw UnknownForm(fmt::format("{} {}", text_of(instruction), why));
  };
  bool narrows = to.is_float && (from.is_float ? from.bytes > to.bytes : true);
  if (from.is_float && !to.is_float && d.integer == Round::none)
    refuse("needs .rni, .rzi, .rmi or .rpi");
  if (narrows && d.round == Round::none) refuse("needs .rn, .rz, .rm or .rp");
  if (!narrows && d.round != Round::none)
    refuse("rounds nothing, so it takes no rounding modifier");
  if (d.integer != Round::none && (!from.is_float || (to.is_float && d.to != d.from))) {
    refuse("cannot round to an integral value");
  }
  if (d.to == d.from && to.is_float && d.integer == Round::none && !d.sat && !d.ftz) {
    refuse("converts nothing");
  }
  if (d.relu && d.to != Type::f16 && d.to != Type::bf16) refuse("has no .relu");
  if (d.satfinite && d.to != Type::f16 && d.to != Type::bf16) refuse("has no .satfinite");
}

std::uint32_t width_code(std::uint8_t bytes) { return bytes == 8 ? 2 : bytes == 4 ? 1 : 0; }
std::string register_of(std::uint8_t bytes, const char* names) {
  return std::string(1, names[width_code(bytes)]);
}

}  // namespace

std::vector<Form> convert_forms(const ptx::Instruction& instruction) {
  if (instruction.opcode != "cvt") return {};
  ModifierReader m(instruction);
  Detail d;
  bool ties_away = m.take("rna");
  if (auto mode = take_round(m)) (mode->second ? d.integer : d.round) = mode->first;
  d.relu = m.take("relu");
  d.satfinite = m.take("satfinite");
  if (!d.relu) d.relu = m.take("relu");
  if (m.take("tf32")) {
    if ((!ties_away && d.round != Round::nearest) || d.relu || d.satfinite)
      m.refuse("tf32 after .rna or .rn");
    if (!m.take("f32")) m.refuse("f32");
    m.finish();
    Form form;
    form.format = "wW";
    form.plain = to_tf32;
    form.number = ties_away ? 1 : 0;
    return {form};
  }
  if (ties_away) m.refuse("tf32");
  if (std::optional<Form> form = packed(m, d)) {
    m.finish();
    if (d.round != Round::nearest && d.round != Round::zero) {
      throw UnknownForm(fmt::format("{} needs .rn", text_of(instruction)));
    }
    return {*form};
  }
  d.ftz = m.take("ftz");
  d.sat = m.take("sat");
  const TypeInfo* to = take_type(m);
  const TypeInfo* from = to == nullptr ? nullptr : take_type(m);
  if (from == nullptr) m.refuse("a type");
  m.finish();
  d.to = to->type;
  d.from = from->type;
  check_rounding(instruction, d);
  // Floats fit their register exactly; integers may lie in wider ones (the binder notes which).
  Form form;
  form.plain = convert;
  form.number = d.pack();
  form.format = to->is_float ? register_of(to->bytes, "hwd") : "x";
  form.format += from->is_float ? register_of(from->bytes, "HWD") : "X";
  if (to->is_float) form.number |= width_code(to->bytes) << 28;
  if (from->is_float) form.number |= width_code(from->bytes) << 30;
  form.access.bytes = from->bytes;
  form.access.register_bytes = to->bytes;
  return {form};
}

}  // namespace sagegen::emulator
