// set: a comparison whose result is a number (PTX ISA, #comparison-and-selection-instructions-set and
// #half-precision-comparison-instructions-set).

#include <fmt/format.h>

#include <array>
#include <bit>

#include "runtime/emulator/exec/forms.h"
#include "runtime/emulator/exec/half.h"
#include "runtime/emulator/exec/warp.h"

namespace sagegen::emulator {
namespace {

enum class Class : std::uint8_t { bits, is_unsigned, is_signed, floating };

struct TypeInfo {
  std::string_view name;
  Class kind;
  std::uint8_t bytes;  // of a register
  std::uint32_t whole,
      half;  // what "true" is, as a result and in each half of one; 0: no such type
};
constexpr TypeInfo kTypes[] = {
    {"b16", Class::bits, 2, 0, 0},
    {"b32", Class::bits, 4, 0, 0},
    {"b64", Class::bits, 8, 0, 0},
    {"u16", Class::is_unsigned, 2, 0xffff, 0},
    {"u32", Class::is_unsigned, 4, 0xffff'ffff, 0xffff},
    {"u64", Class::is_unsigned, 8, 0, 0},
    {"s16", Class::is_signed, 2, 0xffff, 0},
    {"s32", Class::is_signed, 4, 0xffff'ffff, 0xffff},
    {"s64", Class::is_signed, 8, 0, 0},
    {"f16", Class::floating, 2, 0x3c00, 0},
    {"bf16", Class::floating, 2, 0x3f80, 0},
    {"f32", Class::floating, 4, 0x3f80'0000, 0},
    {"f64", Class::floating, 8, 0, 0},
    {"f16x2", Class::floating, 4, 0, 0x3c00},
    {"bf16x2", Class::floating, 4, 0, 0x3f80},
};

// The relations that a comparison accepts.
enum Relation : std::uint32_t { kLess = 1, kEqual = 2, kGreater = 4, kUnordered = 8 };
struct Comparison {
  std::string_view name;
  std::uint32_t accepted;
};
constexpr Comparison kComparisons[] = {
    {"eq", kEqual},
    {"ne", kLess | kGreater},
    {"lt", kLess},
    {"le", kLess | kEqual},
    {"gt", kGreater},
    {"ge", kGreater | kEqual},
    {"equ", kEqual | kUnordered},
    {"neu", kLess | kGreater | kUnordered},
    {"ltu", kLess | kUnordered},
    {"leu", kLess | kEqual | kUnordered},
    {"gtu", kGreater | kUnordered},
    {"geu", kGreater | kEqual | kUnordered},
    {"num", kLess | kEqual | kGreater},
    {"nan", kUnordered},
    {"lo", kLess},
    {"ls", kLess | kEqual},
    {"hi", kGreater},
    {"hs", kGreater | kEqual},
};
constexpr std::size_t kFirstFloatOnly = 6, kFirstUnsignedOnly = 14;

struct Detail {
  std::uint32_t accepted, to, from, boolean;
  bool ftz;
  std::uint32_t pack() const {
    return accepted | to << 4 | from << 8 | boolean << 12 | std::uint32_t{ftz} << 14;
  }
  static Detail unpack(std::uint32_t bits) {
    return {bits & 15, bits >> 4 & 15, bits >> 8 & 15, bits >> 12 & 3, (bits >> 14 & 1) != 0};
  }
};

template <class T>
std::uint32_t relation_of(T a, T b) {
  return a < b ? kLess : a > b ? kGreater : a == b ? kEqual : kUnordered;
}

double float_value(std::string_view type, std::uint64_t bits, bool ftz) {
  double value;
  if (type == "f64") {
    value = std::bit_cast<double>(bits);
  } else if (type == "f32") {
    float x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    value = ftz ? flush_denormal(x) : x;
  } else if (type.starts_with("bf16")) {
    value = HalfBf16::load(static_cast<std::uint32_t>(bits & 0xffff));
  } else {
    constexpr double kSmallestNormal = 0x1p-14;
    value = HalfF16::load(static_cast<std::uint32_t>(bits & 0xffff));
    if (ftz && std::fabs(value) < kSmallestNormal) value = 0.0;
  }
  return value;
}

std::uint32_t relation(const TypeInfo& type, std::uint64_t a, std::uint64_t b, bool ftz) {
  if (type.kind == Class::floating) {
    return relation_of(float_value(type.name, a, ftz), float_value(type.name, b, ftz));
  }
  const int unused = 64 - type.bytes * 8;  // bits of the type at the top, for either sign
  a <<= unused;
  b <<= unused;
  return type.kind == Class::is_signed
             ? relation_of(static_cast<std::int64_t>(a), static_cast<std::int64_t>(b))
             : relation_of(a, b);
}

// set d, a, b{, c}
void compare(Warp& w, const Op& op, std::uint32_t mask) {
  const Detail d = Detail::unpack(op.imm);
  const TypeInfo &to = kTypes[d.to], &from = kTypes[d.from];
  const bool pair = from.half != 0 && from.kind == Class::floating;
  const std::uint32_t c = d.boolean == kBoolNone ? 0 : predicate_operand(w, op, 3);
  auto read = [&](std::uint16_t row, int lane) {
    return from.bytes == 8 ? row64(w, row)[lane] : std::uint64_t{row32(w, row)[lane]};
  };
  auto holds = [&](std::uint64_t a, std::uint64_t b, int lane) {
    const bool t = (relation(from, a, b, d.ftz) & d.accepted) != 0;
    const bool p = (c >> lane & 1) != 0;
    return d.boolean == kBoolAnd   ? t && p
           : d.boolean == kBoolOr  ? t || p
           : d.boolean == kBoolXor ? t != p
                                   : t;
  };
  for_lanes(mask, [&](int lane) {
    const std::uint64_t a = read(op.r[1], lane), b = read(op.r[2], lane);
    std::uint32_t result;
    if (pair) {
      result = holds(a, b, lane) ? to.half : 0;
      result |= (holds(a >> 16, b >> 16, lane) ? to.half : 0) << 16;
    } else {
      result = holds(a, b, lane) ? to.whole : 0;
    }
    row32(w, op.r[0])[lane] = result;
  });
}

std::uint32_t take_type(ModifierReader& m) {
  for (std::size_t i = 0; i < std::size(kTypes); ++i) {
    if (m.take(kTypes[i].name)) return static_cast<std::uint32_t>(i);
  }
  m.refuse("a type");
}

bool has_result(const TypeInfo& to, const TypeInfo& from) {
  const bool half = from.name == "f16" || from.name == "bf16";
  const bool pair = from.half != 0 && from.kind == Class::floating;
  if (pair) return to.name == "u32" || to.name == "s32" || to.name == from.name;
  if ((half && to.name == "f32") || (from.name == "bf16" && to.name == "f16")) return false;
  if (to.name == "u16" || to.name == "s16") return half;
  return to.whole != 0;
}

char letter(const TypeInfo& type, const char* names) {
  return names[type.bytes == 8 ? 2 : type.bytes == 4 ? 1 : 0];
}

}  // namespace

std::vector<Form> set_forms(const ptx::Instruction& instruction) {
  if (instruction.opcode != "set") return {};
  ModifierReader m(instruction);
  std::size_t comparison = 0;
  while (comparison < std::size(kComparisons) && !m.take(kComparisons[comparison].name)) {
    ++comparison;
  }
  if (comparison == std::size(kComparisons)) m.refuse("a comparison");
  Detail d{.accepted = kComparisons[comparison].accepted,
           .to = 0,
           .from = 0,
           .boolean = 0,
           .ftz = false};
  d.boolean = m.take("and")   ? kBoolAnd
              : m.take("or")  ? kBoolOr
              : m.take("xor") ? kBoolXor
                              : kBoolNone;
  d.ftz = m.take("ftz");
  d.to = take_type(m);
  d.from = take_type(m);
  m.finish();
  const TypeInfo &to = kTypes[d.to], &from = kTypes[d.from];
  if (!has_result(to, from)) {
    throw UnknownForm(fmt::format("{}: .{} cannot be the result of comparing .{}",
                                  text_of(instruction), to.name, from.name));
  }
  const bool equality = comparison < 2;
  const bool float_only = comparison >= kFirstFloatOnly && comparison < kFirstUnsignedOnly;
  if ((from.kind == Class::bits && !equality) || (float_only && from.kind != Class::floating) ||
      (comparison >= kFirstUnsignedOnly && from.kind != Class::is_unsigned)) {
    throw UnknownForm(fmt::format("{}: .{} does not compare .{}", text_of(instruction),
                                  kComparisons[comparison].name, from.name));
  }
  if (d.ftz && from.name != "f32" && !from.name.starts_with("f16")) {
    throw UnknownForm(fmt::format("{}: .ftz is for f32, f16 and f16x2 operands, not for .{}",
                                  text_of(instruction), from.name));
  }
  Form form;
  form.format = {letter(to, "hwd"), letter(from, "HWD"), letter(from, "HWD")};
  if (d.boolean != kBoolNone) form.format += 'P';
  form.plain = compare;
  form.number = d.pack();
  return {form};
}

}  // namespace sagegen::emulator
