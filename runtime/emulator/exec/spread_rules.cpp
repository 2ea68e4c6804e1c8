// The rules by which undefined bits of sources make undefined bits of destinations, instruction by
// instruction.
#include "runtime/emulator/exec/definedness.h"

#include <algorithm>
#include <bit>
#include <vector>

namespace sagegen::emulator {
namespace {

using u32 = std::uint32_t;
using u64 = std::uint64_t;

// ---- operands of the instruction that a rule is about ---------------------------------------------

// Of an operand in one lane.
struct Bits {
  u64 value = 0, undefined = 0;
  bool is_zero() const { return (value | undefined) == 0; }
  u64 low() const { return value & ~undefined; }  // with every undefined bit 0
  u64 high() const { return value | undefined; }  // and 1
};

u32 bytes_of_operand(const SpreadRule& rule, int operand) { return rule.bytes >> 4 * operand & 15; }
const SpreadRule& rule_of(const Warp& w, const Op& op) {
  return w.program->spread[op_index(w, op)];
}

Bits operand(const Warp& w, const Op& op, int i, int lane) {
  const u32 bytes = bytes_of_operand(rule_of(w, op), i);
  const u64 value = bytes == 8 ? row64(w, op.r[i])[lane] : u64{row32(w, op.r[i])[lane]};
  return {value & low_bits(8 * bytes), undefined_bits(w, op.r[i], bytes, lane)};
}

// d = F(lane), the undefined bits.
template <class F>
void for_destination(const Warp& w, const Op& op, u32 mask, F&& undefined) {
  const u32 bytes = bytes_of_operand(rule_of(w, op), 0);
  for_lanes(mask, [&](int lane) {
    const u64 bits = undefined(lane);
    set_undefined_bits(w, op.r[0], bytes, lane, bits);
  });
}

u64 all_if(bool undefined) { return undefined ? ~u64{0} : 0; }

// Carries go upwards: everything from the lowest undefined bit on.
u64 upwards(u64 undefined) { return undefined | (u64{0} - undefined); }

// ---- bits that are moved --------------------------------------------------------------------------

// Rows of a warp that come back as they were.
class SavedRows {
 public:
  explicit SavedRows(const Warp& w) : w_(w) {}
  ~SavedRows() {
    for (const auto& [row, words] : saved_) std::copy(words.begin(), words.end(), row32(w_, row));
  }
  SavedRows(const SavedRows&) = delete;
  SavedRows& operator=(const SavedRows&) = delete;
  void save(std::uint16_t row, u32 bytes) {
    const u32* words = row32(w_, row);
    saved_.emplace_back(row, std::vector<u32>(words, words + kLanes * (bytes == 8 ? 2 : 1)));
  }

 private:
  const Warp& w_;
  std::vector<std::pair<std::uint16_t, std::vector<u32>>> saved_;
};

constexpr int kWrittenShift = 8,
              kCountShift = 12;  // in the detail of move_bits: numbers of operands

// The result consists of bits of the operands in the low byte of the detail: the instruction itself moves
// the marks. All other operands say where to.
void move_bits(Warp& w, const Op& op, u32 mask) {
  const SpreadRule& rule = rule_of(w, op);
  const int written = rule.detail >> kWrittenShift & 15, count = rule.detail >> kCountShift;
  const auto moved = [&](int i) { return (rule.detail >> i & 1) != 0; };
  u32 whole = 0;
  SavedRows saved(w);
  for (int i = 0; i < count; ++i) saved.save(op.r[i], bytes_of_operand(rule, i));
  for (int i = written; i < count; ++i) {
    if (moved(i)) continue;
    bool both = false;  // it is moved, too: its row cannot hold marks meanwhile
    for (int k = written; k < count; ++k) both |= moved(k) && op.r[k] == op.r[i];
    for_lanes(mask, [&](int lane) {
      u64 undefined = operand(w, op, i, lane).undefined;
      for (int k = written; k < count && both; ++k) {
        if (moved(k)) undefined |= operand(w, op, k, lane).undefined;
      }
      whole |= static_cast<u32>(undefined != 0) << lane;
    });
  }
  for (int i = written; i < count; ++i) {
    if (!moved(i)) continue;
    const u32 bytes = bytes_of_operand(rule, i);
    for_lanes(mask, [&](int lane) {
      const u64 marks = undefined_bits(w, op.r[i], bytes, lane);
      if (bytes == 8) {
        row64(w, op.r[i])[lane] = marks;
      } else {
        row32(w, op.r[i])[lane] = static_cast<u32>(marks);
      }
    });
  }
  if ((mask & ~whole) != 0) op.run(w, op, mask & ~whole);
  for (int i = 0; i < written; ++i) {
    const u32 bytes = bytes_of_operand(rule, i);
    for_lanes(mask, [&](int lane) {
      const u64 marks = bytes == 8 ? row64(w, op.r[i])[lane] : u64{row32(w, op.r[i])[lane]};
      set_undefined_bits(w, op.r[i], bytes, lane, marks | all_if((whole >> lane & 1) != 0));
    });
  }
}

// ---- bits and predicates --------------------------------------------------------------------------

enum class Logic : std::uint8_t { bit_and, bit_or, bit_xor, bit_not };

template <class T>
T logic_undefined(Logic what, T a, T a_undefined, T b, T b_undefined) {
  switch (what) {
    case Logic::bit_and:
      return (a_undefined | b_undefined) & (a | a_undefined) & (b | b_undefined);
    case Logic::bit_or:
      return (a_undefined | b_undefined) & (~a | a_undefined) & (~b | b_undefined);
    case Logic::bit_xor:
      return a_undefined | b_undefined;
    case Logic::bit_not:
      break;
  }
  return a_undefined;
}

void logic(Warp& w, const Op& op, u32 mask) {
  const auto what = static_cast<Logic>(rule_of(w, op).detail);
  for_destination(w, op, mask, [&](int lane) {
    const Bits a = operand(w, op, 1, lane);
    const Bits b = what == Logic::bit_not ? Bits{} : operand(w, op, 2, lane);
    return logic_undefined(what, a.value, a.undefined, b.value, b.undefined);
  });
}

void logic_of_predicates(Warp& w, const Op& op, u32 mask) {
  const auto what = static_cast<Logic>(rule_of(w, op).detail);
  const u32 undefined =
      logic_undefined(what, predicate_operand(w, op, 1), ~defined_predicate(w, op.r[1]),
                      predicate_operand(w, op, 2), ~defined_predicate(w, op.r[2]));
  set_defined_predicate(w, op.r[0], ~undefined, mask);
}

// A bit is undefined if its inputs allow a 0 and a 1.
void lop3(Warp& w, const Op& op, u32 mask) {
  for_destination(w, op, mask, [&](int lane) {
    const Bits in[] = {operand(w, op, 1, lane), operand(w, op, 2, lane), operand(w, op, 3, lane)};
    u64 may_be[2] = {0, 0};
    for (u32 term = 0; term < 8; ++term) {
      u64 possible = ~u64{0};
      for (int i = 0; i < 3; ++i) {
        possible &= (term >> (2 - i) & 1) != 0 ? in[i].high() : ~in[i].low();
      }
      may_be[op.imm >> term & 1] |= possible;
    }
    return may_be[0] & may_be[1];
  });
}

// ---- selections and comparisons --------------------------------------------------------------------

u64 either(const Bits& a, const Bits& b) { return a.undefined | b.undefined | (a.value ^ b.value); }

void select(Warp& w, const Op& op, u32 mask) {
  const u32 p = predicate_operand(w, op, 3), known = defined_predicate(w, op.r[3]);
  for_destination(w, op, mask, [&](int lane) {
    const Bits a = operand(w, op, 1, lane), b = operand(w, op, 2, lane);
    if ((known >> lane & 1) == 0) return either(a, b);
    return (p >> lane & 1) != 0 ? a.undefined : b.undefined;
  });
}

// slct d, a, b, c: a if c >= 0.
void select_by_sign(Warp& w, const Op& op, u32 mask) {
  const bool is_float = rule_of(w, op).detail != 0;
  for_destination(w, op, mask, [&](int lane) {
    const Bits a = operand(w, op, 1, lane), b = operand(w, op, 2, lane);
    const Bits c = operand(w, op, 3, lane);
    constexpr u64 kSign = 0x8000'0000;
    if ((c.undefined & (is_float ? ~u64{0} : kSign)) != 0) return either(a, b);
    const float value = std::bit_cast<float>(static_cast<u32>(c.value));
    const bool first = is_float ? value >= 0.0f : (c.value & kSign) == 0;
    return first ? a.undefined : b.undefined;
  });
}

// Smallest and largest value that the undefined bits allow, as numbers that compare like unsigned ones.
struct Range {
  u64 least = 0, most = 0;
};
Range range_of(const Bits& bits, u32 bytes, bool is_signed) {
  // The sign bit turned round puts negative numbers below the others.
  const u64 sign = is_signed ? u64{1} << (8 * bytes - 1) : 0;
  const u64 turned = bits.value ^ sign;
  return {turned & ~bits.undefined, turned | bits.undefined};
}

enum class Compare : std::uint8_t { unknown, eq, ne, lt, le, gt, ge };
constexpr std::uint16_t kSigned = 0x100;
constexpr int kBooleanShift = 9;  // the boolean operation of set

struct Outcome {
  bool may_hold = true, may_fail = true;
  bool open() const { return may_hold && may_fail; }
  Outcome turned() const { return {may_fail, may_hold}; }
};

Outcome compare(Compare what, const Bits& a, const Bits& b, u32 bytes, bool is_signed) {
  const u64 undefined = a.undefined | b.undefined;
  if (what == Compare::eq || what == Compare::ne) {
    const bool differ = ((a.value ^ b.value) & ~undefined) != 0;
    const Outcome equal{!differ, differ || undefined != 0};
    return what == Compare::eq ? equal : equal.turned();
  }
  if (what == Compare::unknown) return {};
  if (what == Compare::gt || what == Compare::le) {
    const Outcome less = compare(Compare::lt, b, a, bytes, is_signed);
    return what == Compare::gt ? less : less.turned();
  }
  const Range x = range_of(a, bytes, is_signed), y = range_of(b, bytes, is_signed);
  const Outcome less{x.least < y.most, x.most >= y.least};
  return what == Compare::lt ? less : less.turned();
}

Outcome combine(u32 operation, const Outcome& a, const Outcome& b) {
  switch (operation) {
    case kBoolAnd:
      return {a.may_hold && b.may_hold, a.may_fail || b.may_fail};
    case kBoolOr:
      return {a.may_hold || b.may_hold, a.may_fail && b.may_fail};
    case kBoolXor:
      return {a.open() || b.open() || a.may_hold != b.may_hold,
              a.open() || b.open() || a.may_hold == b.may_hold};
    default:
      return a;
  }
}

// Where a comparison holds, whatever the boolean operand is.
u32 compared(Warp& w, const Op& op, u32 mask) {
  const u32 p = w.predicates[op.r[0]], q = w.predicates[op.r[1]], c = w.predicates[op.r[4]];
  const u32 neutral = op.imm == kBoolAnd ? kFullMask : 0;
  w.predicates[op.r[4]] = (op.negated >> 4 & 1) != 0 ? ~neutral : neutral;
  op.run(w, op, mask);
  const u32 holds = w.predicates[op.r[0]];
  w.predicates[op.r[4]] = c;
  w.predicates[op.r[1]] = q;
  w.predicates[op.r[0]] = p;
  return holds;
}

// setp p|q, a, b{, c}
void set_predicates(Warp& w, const Op& op, u32 mask) {
  const SpreadRule& rule = rule_of(w, op);
  const auto what = static_cast<Compare>(rule.detail & 0xff);
  const u32 bytes = bytes_of_operand(rule, 2);
  u32 c = 0, c_known = kFullMask, p = 0, q = 0, comparison = 0;
  if (op.imm != kBoolNone) {
    c = predicate_operand(w, op, 4);
    c_known = defined_predicate(w, op.r[4]);
    if (what == Compare::unknown && (mask & ~c_known) != 0) comparison = compared(w, op, mask);
  }
  for_lanes(mask, [&](int lane) {
    const Bits a = operand(w, op, 2, lane), b = operand(w, op, 3, lane);
    Outcome holds = compare(what, a, b, bytes, (rule.detail & kSigned) != 0);
    if (what == Compare::unknown && (a.undefined | b.undefined) == 0) {
      holds.may_hold = (comparison >> lane & 1) != 0;
      holds.may_fail = !holds.may_hold;
    }
    const bool known = (c_known >> lane & 1) != 0, third = (c >> lane & 1) != 0;
    const Outcome other{third || !known, !third || !known};
    p |= static_cast<u32>(!combine(op.imm, holds, other).open()) << lane;
    q |= static_cast<u32>(!combine(op.imm, holds.turned(), other).open()) << lane;
  });
  set_defined_predicate(w, op.r[1], q, mask);
  set_defined_predicate(w, op.r[0], p, mask);
}

// set d, a, b{, c}: all of the result or nothing.
void set_number(Warp& w, const Op& op, u32 mask) {
  const SpreadRule& rule = rule_of(w, op);
  const auto what = static_cast<Compare>(rule.detail & 0xff);
  const u32 operation = rule.detail >> kBooleanShift & 3, bytes = bytes_of_operand(rule, 1);
  u32 c = 0, c_known = kFullMask;
  if (operation != kBoolNone) {
    c = predicate_operand(w, op, 3);
    c_known = defined_predicate(w, op.r[3]);
  }
  for_destination(w, op, mask, [&](int lane) {
    const Bits a = operand(w, op, 1, lane), b = operand(w, op, 2, lane);
    const bool defined = (a.undefined | b.undefined) == 0, known = (c_known >> lane & 1) != 0;
    if (defined && known) return u64{0};
    const Outcome holds = compare(what, a, b, bytes, (rule.detail & kSigned) != 0);
    const bool third = (c >> lane & 1) != 0;
    return all_if(combine(operation, holds, {third || !known, !third || !known}).open());
  });
}

// min and max of integers: if the ranges do not overlap, one of the two has no say.
void extremum(Warp& w, const Op& op, u32 mask) {
  const SpreadRule& rule = rule_of(w, op);
  const bool is_signed = (rule.detail & kSigned) != 0, maximum = (rule.detail & 1) != 0;
  for_destination(w, op, mask, [&](int lane) {
    const Bits a = operand(w, op, 1, lane), b = operand(w, op, 2, lane);
    const u32 bytes = bytes_of_operand(rule, 1);
    const Range x = range_of(a, bytes, is_signed), y = range_of(b, bytes, is_signed);
    if (x.most <= y.least) return maximum ? b.undefined : a.undefined;
    if (y.most <= x.least) return maximum ? a.undefined : b.undefined;
    return ~u64{0};
  });
}

// ---- arithmetic of integers ------------------------------------------------------------------------

void sum(Warp& w, const Op& op, u32 mask) {
  for_destination(w, op, mask, [&](int lane) {
    const u64 first = operand(w, op, 1, lane).undefined;
    const bool unary = bytes_of_operand(rule_of(w, op), 2) == 0;
    return upwards(first | (unary ? 0 : operand(w, op, 2, lane).undefined));
  });
}

enum class Half : std::uint8_t { low, high };
constexpr std::uint16_t kHigh = 1, k24Bits = 2;  // in the detail of a product

u64 product_undefined(const Bits& a, const Bits& b, Half half) {
  if ((a.undefined | b.undefined) == 0 || a.is_zero() || b.is_zero()) return 0;
  if (half == Half::high) return ~u64{0};
  // Zeros at the end of one factor stay those of the product.
  const auto lowest = [](const Bits& open, const Bits& factor) {
    return open.undefined == 0 ? 64
                               : std::countr_zero(open.undefined) + std::countr_zero(factor.high());
  };
  const int from = std::min(lowest(a, b), lowest(b, a));
  return from >= 64 ? 0 : ~u64{0} << from;
}

// mul d, a, b and mad d, a, b, c
void product(Warp& w, const Op& op, u32 mask) {
  const SpreadRule& rule = rule_of(w, op);
  const Half half = (rule.detail & kHigh) == 0 ? Half::low : Half::high;
  const u64 read = (rule.detail & k24Bits) == 0 ? ~u64{0} : low_bits(24);
  const bool adds = bytes_of_operand(rule, 3) != 0;
  for_destination(w, op, mask, [&](int lane) {
    const auto factor = [&](int i) {
      const Bits bits = operand(w, op, i, lane);
      return Bits{bits.value & read, bits.undefined & read};
    };
    u64 bits = product_undefined(factor(1), factor(2), half);
    if (adds) bits = upwards(bits | operand(w, op, 3, lane).undefined);
    return bits;
  });
}

// dp4a d, a, b, c: a byte that is 0 makes the other one of its pair irrelevant.
void dot4(Warp& w, const Op& op, u32 mask) {
  for_destination(w, op, mask, [&](int lane) {
    const Bits a = operand(w, op, 1, lane), b = operand(w, op, 2, lane);
    u64 bits = 0;
    for (int i = 0; i < 4; ++i) {
      const auto byte = [&](const Bits& x) {
        return Bits{x.value >> 8 * i & 0xff, x.undefined >> 8 * i & 0xff};
      };
      bits |= product_undefined(byte(a), byte(b), Half::low);
    }
    return upwards(bits | operand(w, op, 3, lane).undefined);
  });
}

// dp2a d, a, b, c: the halves of a with two bytes of b, the upper ones if the detail says so.
void dot2(Warp& w, const Op& op, u32 mask) {
  const int first = (rule_of(w, op).detail & kHigh) == 0 ? 0 : 2;
  for_destination(w, op, mask, [&](int lane) {
    const Bits a = operand(w, op, 1, lane), b = operand(w, op, 2, lane);
    u64 bits = 0;
    for (int i = 0; i < 2; ++i) {
      const auto part = [](const Bits& x, int at, u64 width) {
        return Bits{x.value >> at & width, x.undefined >> at & width};
      };
      bits |= product_undefined(part(a, 16 * i, 0xffff), part(b, 8 * (first + i), 0xff), Half::low);
    }
    return upwards(bits | operand(w, op, 3, lane).undefined);
  });
}

// clz and bfind, and cnot: decided by the highest 1 that is defined, by any.
bool highest_undefined(const Bits& a) { return a.undefined != 0 && a.undefined >= a.low(); }
void leading_zeros(Warp& w, const Op& op, u32 mask) {
  const SpreadRule& rule = rule_of(w, op);
  const u64 all = low_bits(8 * bytes_of_operand(rule, 1)), sign = all ^ all >> 1;
  for_destination(w, op, mask, [&](int lane) {
    Bits a = operand(w, op, 1, lane);
    if ((rule.detail & kSigned) != 0) {  // of negative numbers the highest 0
      if ((a.undefined & sign) != 0) return ~u64{0};
      if ((a.value & sign) != 0) a.value ^= all;
    }
    return all_if(highest_undefined(a));
  });
}
void logical_not(Warp& w, const Op& op, u32 mask) {
  for_destination(w, op, mask, [&](int lane) {
    const Bits a = operand(w, op, 1, lane);
    return all_if(a.undefined != 0 && a.low() == 0);
  });
}

// ---- several numbers in a register -----------------------------------------------------------------

// Each part of the result comes from the same parts of the sources. The detail: bits of a part.
void by_parts(Warp& w, const Op& op, u32 mask) {
  const SpreadRule& rule = rule_of(w, op);
  const u32 width = rule.detail;
  for_destination(w, op, mask, [&](int lane) {
    u64 sources = 0, bits = 0;
    for (int i = 1; i < kInlineOperands && bytes_of_operand(rule, i) != 0; ++i) {
      sources |= operand(w, op, i, lane).undefined;
    }
    for (u32 at = 0; at < 64; at += width) {
      const u64 part = low_bits(width) << at;
      if ((sources & part) != 0) bits |= part;
    }
    return bits;
  });
}

// cvt to a pair. The detail: bits of a part of the result, and of one of the source; 0 there: the parts
// are operands, the first for the upper one.
void convert_pair(Warp& w, const Op& op, u32 mask) {
  const u32 to = rule_of(w, op).detail & 0xff, from = rule_of(w, op).detail >> 8;
  for_destination(w, op, mask, [&](int lane) {
    u64 bits = 0;
    for (u32 part = 0; part < 2; ++part) {
      const u64 source = from == 0
                             ? operand(w, op, part == 0 ? 2 : 1, lane).undefined
                             : operand(w, op, 1, lane).undefined >> from * part & low_bits(from);
      if (source != 0) bits |= low_bits(to) << to * part;
    }
    return bits;
  });
}

// Any other cvt looks at the low bytes of its source, as many as the type has.
void convert(Warp& w, const Op& op, u32 mask) {
  const u64 read = low_bits(8 * rule_of(w, op).detail);
  for_destination(w, op, mask, [&](int lane) {
    return all_if((operand(w, op, 1, lane).undefined & read) != 0);
  });
}

// ---- which rule --------------------------------------------------------------------------------------

bool is_integer(std::string_view type) {
  return type[0] == 's' || type[0] == 'u' || type[0] == 'b';
}

bool takes(const ptx::Instruction& instruction, std::string_view modifier) {
  return std::find(instruction.modifiers.begin(), instruction.modifiers.end(), modifier) !=
         instruction.modifiers.end();
}

std::uint16_t part_bits(std::string_view type) {
  return type.ends_with("f32x2") ? 32 : type.ends_with("16x2") ? 16 : type.ends_with("x2") ? 8 : 0;
}

std::uint16_t type_bytes(std::string_view type) {
  return type.ends_with("8") ? 1 : type.ends_with("16") ? 2 : type.ends_with("32") ? 4 : 8;
}

SpreadRule rule_for_cvt(const ptx::Instruction& instruction) {
  const auto& modifiers = instruction.modifiers;
  if (modifiers.size() < 2) return {};
  const std::string_view to = modifiers[modifiers.size() - 2], from = modifiers.back();
  if (const std::uint16_t bits = part_bits(to); bits != 0) {
    return {.run = convert_pair, .detail = static_cast<std::uint16_t>(bits | part_bits(from) << 8)};
  }
  if (to == "tf32") return {};
  const bool moves = is_integer(to) && to[0] != 'b' && is_integer(from) && from[0] != 'b' &&
                     !takes(instruction, "sat");
  if (moves) return {.run = move_bits, .detail = 1 << 1};
  return {.run = convert, .detail = type_bytes(from)};
}

SpreadRule rule_for_compare(const ptx::Instruction& instruction) {
  static constexpr std::pair<std::string_view, Compare> kCompares[] = {
      {"eq", Compare::eq}, {"ne", Compare::ne}, {"lt", Compare::lt}, {"le", Compare::le},
      {"gt", Compare::gt}, {"ge", Compare::ge}, {"lo", Compare::lt}, {"ls", Compare::le},
      {"hi", Compare::gt}, {"hs", Compare::ge}};
  const std::string_view type = instruction.modifiers.back();
  auto what = Compare::unknown;
  if (is_integer(type) && !type.starts_with("bf")) {
    for (const auto& [name, compare] : kCompares) {
      if (instruction.modifiers.front() == name) what = compare;
    }
  }
  if (instruction.opcode == "set") {
    const u32 operation = takes(instruction, "and")   ? kBoolAnd
                          : takes(instruction, "or")  ? kBoolOr
                          : takes(instruction, "xor") ? kBoolXor
                                                      : kBoolNone;
    return {.run = set_number,
            .detail = static_cast<std::uint16_t>(static_cast<unsigned>(what) |
                                                 (type[0] == 's' ? kSigned : 0) |
                                                 operation << kBooleanShift)};
  }
  return {.run = set_predicates,
          .detail = static_cast<std::uint16_t>(static_cast<unsigned>(what) |
                                               (type[0] == 's' ? kSigned : 0))};
}

SpreadRule choose_rule(const ptx::Instruction& instruction, bool of_predicates) {
  const std::string_view opcode = instruction.opcode;
  if (instruction.modifiers.empty()) return {};
  const std::string_view type = instruction.modifiers.back();
  static constexpr std::pair<std::string_view, Logic> kLogic[] = {{"and", Logic::bit_and},
                                                                  {"or", Logic::bit_or},
                                                                  {"xor", Logic::bit_xor},
                                                                  {"not", Logic::bit_not}};
  for (const auto& [name, what] : kLogic) {
    if (opcode != name) continue;
    if (of_predicates && what == Logic::bit_not) return {};
    return {.run = of_predicates ? logic_of_predicates : logic,
            .detail = static_cast<std::uint16_t>(what)};
  }
  if (of_predicates) {
    return opcode == "setp" && type != "f16x2" && type != "bf16x2" ? rule_for_compare(instruction)
                                                                   : SpreadRule{};
  }
  // Which operands are moved; all others say where to.
  static constexpr std::pair<std::string_view, std::uint16_t> kMoves[] = {
      {"mov", 0xfe},    {"shl", 1 << 1},          {"shr", 1 << 1},  {"shf", 1 << 1 | 1 << 2},
      {"bfe", 1 << 1},  {"bfi", 1 << 1 | 1 << 2}, {"brev", 1 << 1}, {"prmt", 1 << 1 | 1 << 2},
      {"szext", 1 << 1}};
  for (const auto& [name, moved] : kMoves) {
    if (opcode == name) return {.run = move_bits, .detail = moved};
  }
  if (opcode == "set") return type.ends_with("x2") ? SpreadRule{} : rule_for_compare(instruction);
  if (opcode == "cvt") return rule_for_cvt(instruction);
  if (opcode == "lop3") return {.run = lop3};
  if (opcode == "selp") return {.run = select};
  if (opcode == "slct") return {.run = select_by_sign, .detail = type == "f32"};
  if (opcode == "clz" || opcode == "bfind") {
    return {.run = leading_zeros, .detail = type[0] == 's' ? kSigned : std::uint16_t{0}};
  }
  if (opcode == "cnot") return {.run = logical_not};
  if (opcode == "dp4a") return {.run = dot4};
  if (opcode == "dp2a")
    return {.run = dot2, .detail = takes(instruction, "hi") ? kHigh : std::uint16_t{0}};
  if (takes(instruction, "cc")) return {};  // the condition code is among the operands
  if (type.ends_with("16x2") || type == "f32x2")
    return {.run = by_parts, .detail = part_bits(type)};
  const bool integer = (type[0] == 's' || type[0] == 'u') && !takes(instruction, "sat");
  if (!integer) return {};
  if (opcode == "add" || opcode == "sub" || opcode == "neg") return {.run = sum};
  if (opcode == "mul" || opcode == "mad" || opcode == "mul24" || opcode == "mad24") {
    return {.run = product,
            .detail = static_cast<std::uint16_t>((takes(instruction, "hi") ? kHigh : 0) |
                                                 (opcode.ends_with("24") ? k24Bits : 0))};
  }
  if ((opcode == "min" || opcode == "max") && !takes(instruction, "relu")) {
    return {.run = extremum,
            .detail = static_cast<std::uint16_t>((opcode == "max" ? 1 : 0) |
                                                 (type[0] == 's' ? kSigned : 0))};
  }
  return {};
}

}  // namespace

SpreadRule spread_rule(const ptx::Instruction& instruction, const Draft& draft,
                       std::span<const std::uint8_t> bytes) {
  if (draft.form.taint != Taint::propagate || bytes.empty() || bytes.size() > kInlineOperands) {
    return {};
  }
  SpreadRule rule = choose_rule(instruction, bytes[0] == 0);
  u32 written = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    rule.bytes |= u32{bytes[i]} << 4 * i;
    written += draft.operands[i].written ? 1 : 0;
  }
  if (written != 1 && rule.run != move_bits && rule.run != set_predicates) return {};
  if (rule.run == move_bits) {
    rule.detail |=
        static_cast<std::uint16_t>(written << kWrittenShift | bytes.size() << kCountShift);
  }
  return rule;
}

}  // namespace sagegen::emulator
