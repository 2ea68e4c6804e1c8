// Integer and bit instructions against references written from the formulas of the PTX ISA.

#include <catch2/catch.hpp>

#include <algorithm>
#include <limits>

#include "tests/emulator/exec_fixture.h"

namespace sagegen::emulator::test {
namespace {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;
using Big = __int128;

struct IntegerType {
  const char* name;
  int bits;
  bool is_signed;
  char letter() const { return bits == 16 ? 'h' : bits == 32 ? 'w' : 'd'; }
};
constexpr IntegerType kTypes[] = {{"s16", 16, true},  {"u16", 16, false}, {"s32", 32, true},
                                  {"u32", 32, false}, {"s64", 64, true},  {"u64", 64, false}};

u64 low_bits(Big x, int bits) {
  u64 value = static_cast<u64>(x);
  return bits == 64 ? value : value & ((u64{1} << bits) - 1);
}
// The value that the type's bits stand for.
Big value_of(const IntegerType& t, u64 bits) {
  u64 low = low_bits(static_cast<Big>(bits), t.bits);
  bool negative = t.is_signed && (low >> (t.bits - 1) & 1) != 0;
  return negative ? static_cast<Big>(low) - (Big{1} << t.bits) : static_cast<Big>(low);
}

using BigFunction = Big (*)(Big, Big, Big);

// op.type d, a, b, c with `sources` sources; the exact result is cut to the type.
void check_exact(const std::string& op, int sources, BigFunction f) {
  for (const IntegerType& t : kTypes) {
    std::string text = op + "." + t.name + " %" + t.letter() + "0";
    for (int i = 1; i <= sources; ++i) text += std::string(", %") + t.letter() + std::to_string(i);
    check_instruction({.text = text + ";",
                       .expected =
                           [&](u64 a, u64 b, u64 c, u64) {
                             return low_bits(f(value_of(t, a), value_of(t, b), value_of(t, c)),
                                             t.bits);
                           },
                       .interesting = integers()});
  }
}

}  // namespace

TEST_CASE("add, sub, mul, mad, min, max wrap at the width of the type") {
  check_exact("add", 2, [](Big a, Big b, Big) { return a + b; });
  check_exact("sub", 2, [](Big a, Big b, Big) { return a - b; });
  check_exact("mul.lo", 2, [](Big a, Big b, Big) {
    return static_cast<Big>(static_cast<unsigned __int128>(a) * static_cast<unsigned __int128>(b));
  });
  check_exact("mad.lo", 3, [](Big a, Big b, Big c) {
    return static_cast<Big>(static_cast<unsigned __int128>(a) * static_cast<unsigned __int128>(b) +
                            static_cast<unsigned __int128>(c));
  });
  check_exact("min", 2, [](Big a, Big b, Big) { return std::min(a, b); });
  check_exact("max", 2, [](Big a, Big b, Big) { return std::max(a, b); });
}

TEST_CASE("high and wide products") {
  for (const IntegerType& t : kTypes) {
    std::string r = std::string("%") + t.letter();
    check_instruction(
        {.text = std::string("mul.hi.") + t.name + " " + r + "0, " + r + "1, " + r + "2;",
         .expected =
             [&](u64 a, u64 b, u64, u64) {
               if (t.bits == 64 && !t.is_signed) {
                 return static_cast<u64>(static_cast<unsigned __int128>(a) * b >> 64);
               }
               return low_bits(value_of(t, a) * value_of(t, b) >> t.bits, t.bits);
             },
         .interesting = integers()});
    if (t.bits == 64) continue;
    std::string wide = t.bits == 16 ? "%w" : "%d";
    check_instruction(
        {.text = std::string("mul.wide.") + t.name + " " + wide + "0, " + r + "1, " + r + "2;",
         .expected = [&](u64 a, u64 b, u64,
                         u64) { return low_bits(value_of(t, a) * value_of(t, b), 2 * t.bits); },
         .interesting = integers()});
    check_instruction({.text = std::string("mad.wide.") + t.name + " " + wide + "0, " + r + "1, " +
                               r + "2, " + wide + "3;",
                       .expected =
                           [&](u64 a, u64 b, u64 c, u64) {
                             return low_bits(value_of(t, a) * value_of(t, b) + static_cast<Big>(c),
                                             2 * t.bits);
                           },
                       .interesting = integers()});
    if (t.bits != 32) continue;
    check_instruction({.text = std::string("mad.hi.") + t.name + " %w0, %w1, %w2, %w3;",
                       .expected =
                           [&](u64 a, u64 b, u64 c, u64) {
                             return low_bits(
                                 (value_of(t, a) * value_of(t, b) >> 32) + static_cast<Big>(c), 32);
                           },
                       .interesting = integers()});
  }
}

TEST_CASE("division and remainder truncate toward zero") {
  for (const IntegerType& t : kTypes) {
    std::string r = std::string("%") + t.letter();
    std::string operands = std::string(".") + t.name + " " + r + "0, " + r + "1, " + r + "2;";
    check_instruction({.text = "div" + operands,
                       .expected =
                           [&](u64 a, u64 b, u64, u64) {
                             Big divisor = value_of(t, b);
                             return low_bits(divisor == 0 ? Big{-1} : value_of(t, a) / divisor,
                                             t.bits);
                           },
                       .interesting = integers()});
    check_instruction({.text = "rem" + operands,
                       .expected =
                           [&](u64 a, u64 b, u64, u64) {
                             Big divisor = value_of(t, b);
                             return low_bits(
                                 divisor == 0 ? value_of(t, a) : value_of(t, a) % divisor, t.bits);
                           },
                       .interesting = integers()});
  }
}

TEST_CASE("abs, neg, saturating and relu forms") {
  for (const IntegerType& t : kTypes) {
    if (!t.is_signed) continue;
    std::string r = std::string("%") + t.letter();
    std::string operands = std::string(".") + t.name + " " + r + "0, " + r + "1;";
    check_instruction({.text = "abs" + operands,
                       .expected =
                           [&](u64 a, u64, u64, u64) {
                             Big x = value_of(t, a);
                             return low_bits(x < 0 ? -x : x, t.bits);
                           },
                       .interesting = integers()});
    check_instruction(
        {.text = "neg" + operands,
         .expected = [&](u64 a, u64, u64, u64) { return low_bits(-value_of(t, a), t.bits); },
         .interesting = integers()});
  }
  auto clamp = [](Big x) {
    return low_bits(
        std::clamp<Big>(x, std::numeric_limits<s32>::min(), std::numeric_limits<s32>::max()), 32);
  };
  auto s = [](u64 x) { return Big{static_cast<s32>(x)}; };
  check_instruction({.text = "add.sat.s32 %w0, %w1, %w2;",
                     .expected = [&](u64 a, u64 b, u64, u64) { return clamp(s(a) + s(b)); },
                     .interesting = integers()});
  check_instruction({.text = "sub.sat.s32 %w0, %w1, %w2;",
                     .expected = [&](u64 a, u64 b, u64, u64) { return clamp(s(a) - s(b)); },
                     .interesting = integers()});
  check_instruction({.text = "max.relu.s32 %w0, %w1, %w2;",
                     .expected =
                         [&](u64 a, u64 b, u64, u64) {
                           return clamp(std::max({s(a), s(b), Big{0}}));
                         },
                     .interesting = integers()});
  check_instruction({.text = "min.relu.s32 %w0, %w1, %w2;",
                     .expected = [&](u64 a, u64 b, u64,
                                     u64) { return clamp(std::max(std::min(s(a), s(b)), Big{0})); },
                     .interesting = integers()});
  check_instruction({.text = "sad.s32 %w0, %w1, %w2, %w3;",
                     .expected =
                         [&](u64 a, u64 b, u64 c, u64) {
                           Big d = s(a) - s(b);
                           return low_bits((d < 0 ? -d : d) + s(c), 32);
                         },
                     .interesting = integers()});
}

TEST_CASE("logic") {
  struct Width {
    const char* type;
    char letter;
    int bits;
  };
  for (Width w : {Width{"b16", 'h', 16}, Width{"b32", 'w', 32}, Width{"b64", 'd', 64}}) {
    std::string r = std::string("%") + w.letter;
    std::string three = std::string(".") + w.type + " " + r + "0, " + r + "1, " + r + "2;";
    std::string two = std::string(".") + w.type + " " + r + "0, " + r + "1;";
    auto cut = [&](u64 x) { return low_bits(static_cast<Big>(x), w.bits); };
    check_instruction(
        {.text = "and" + three, .expected = [&](u64 a, u64 b, u64, u64) { return cut(a & b); }});
    check_instruction(
        {.text = "or" + three, .expected = [&](u64 a, u64 b, u64, u64) { return cut(a | b); }});
    check_instruction(
        {.text = "xor" + three, .expected = [&](u64 a, u64 b, u64, u64) { return cut(a ^ b); }});
    check_instruction(
        {.text = "not" + two, .expected = [&](u64 a, u64, u64, u64) { return cut(~a); }});
    check_instruction({.text = "cnot" + two,
                       .expected = [&](u64 a, u64, u64, u64) { return u64{cut(a) == 0}; },
                       .interesting = integers()});
    check_instruction(
        {.text = "mov" + two, .expected = [&](u64 a, u64, u64, u64) { return cut(a); }});
  }
  check_instruction({.text = "and.pred %p0, %p1, !%p2;",
                     .expected = [](u64 a, u64 b, u64, u64) { return a & ~b & 1; }});
  check_instruction({.text = "or.pred %p0, %p1, %p2;",
                     .expected = [](u64 a, u64 b, u64, u64) { return (a | b) & 1; }});
  check_instruction({.text = "xor.pred %p0, %p1, %p2;",
                     .expected = [](u64 a, u64 b, u64, u64) { return (a ^ b) & 1; }});
  check_instruction(
      {.text = "not.pred %p0, %p1;", .expected = [](u64 a, u64, u64, u64) { return ~a & 1; }});
  check_instruction(
      {.text = "mov.pred %p0, %p1;", .expected = [](u64 a, u64, u64, u64) { return a & 1; }});
}

TEST_CASE("shifts clamp at the width") {
  // Bit by bit: result bit i is the source's bit i - n, or i + n.
  auto shift = [](u64 a, u64 n, int bits, bool left, bool arithmetic) {
    n &= 0xffffffff;
    u64 result = 0;
    for (int i = 0; i < bits; ++i) {
      Big from = left ? Big{i} - static_cast<Big>(n) : Big{i} + static_cast<Big>(n);
      u64 bit = from >= 0 && from < bits ? a >> static_cast<int>(from) & 1 : 0;
      if (arithmetic && from >= bits) bit = a >> (bits - 1) & 1;
      result |= bit << i;
    }
    return result;
  };
  struct Case {
    const char* text;
    int bits;
    bool left, arithmetic;
  };
  for (Case c : {Case{"shl.b16 %h0, %h1, %w2;", 16, true, false},
                 Case{"shl.b32 %w0, %w1, %w2;", 32, true, false},
                 Case{"shl.b64 %d0, %d1, %w2;", 64, true, false},
                 Case{"shr.u16 %h0, %h1, %w2;", 16, false, false},
                 Case{"shr.b32 %w0, %w1, %w2;", 32, false, false},
                 Case{"shr.u64 %d0, %d1, %w2;", 64, false, false},
                 Case{"shr.s16 %h0, %h1, %w2;", 16, false, true},
                 Case{"shr.s32 %w0, %w1, %w2;", 32, false, true},
                 Case{"shr.s64 %d0, %d1, %w2;", 64, false, true}}) {
    check_instruction({.text = c.text,
                       .expected = [&](u64 a, u64 n, u64,
                                       u64) { return shift(a, n, c.bits, c.left, c.arithmetic); },
                       .interesting = integers()});
  }
}

TEST_CASE("funnel shifts") {
  for (bool left : {true, false}) {
    for (bool wrap : {true, false}) {
      std::string text = std::string("shf.") + (left ? "l" : "r") + (wrap ? ".wrap" : ".clamp") +
                         ".b32 %w0, %w1, %w2, %w3;";
      check_instruction(
          {.text = text,
           .expected =
               [&](u64 a, u64 b, u64 c, u64) {
                 u32 n = wrap ? static_cast<u32>(c) & 31 : std::min(static_cast<u32>(c), 32u);
                 u32 low = static_cast<u32>(a), high = static_cast<u32>(b);
                 if (n == 0) return u64{left ? high : low};
                 if (n == 32) return u64{left ? low : high};
                 return u64{left ? (high << n | low >> (32 - n)) : (high << (32 - n) | low >> n)};
               },
           .interesting = integers()});
    }
  }
}

TEST_CASE("bit fields") {
  auto extract = [](u64 a, u64 b, u64 c, int bits, bool is_signed) {
    u64 position = b & 0xff, length = c & 0xff, top = static_cast<u64>(bits - 1), result = 0;
    u64 sign = !is_signed || length == 0 ? 0 : a >> std::min(position + length - 1, top) & 1;
    for (u64 i = 0; i <= top; ++i) {
      u64 bit = i < length && position + i <= top ? a >> (position + i) & 1 : sign;
      result |= bit << i;
    }
    return result;
  };
  auto insert = [](u64 a, u64 b, u64 c, u64 d, int bits) {
    u64 position = c & 0xff, length = d & 0xff, top = static_cast<u64>(bits - 1), result = b;
    for (u64 i = 0; i < length && position + i <= top; ++i) {
      result = (result & ~(u64{1} << (position + i))) | (a >> i & 1) << (position + i);
    }
    return result;
  };
  std::vector<u64> small = {0,  1,  2,  5,  8,  15,  16,  24,         31,        32,
                            33, 40, 63, 64, 65, 255, 256, 0xffffffff, 0x80000001};
  for (bool is_signed : {true, false}) {
    std::string type = is_signed ? "s" : "u";
    check_instruction(
        {.text = "bfe." + type + "32 %w0, %w1, %w2, %w3;",
         .expected = [&](u64 a, u64 b, u64 c,
                         u64) { return extract(a & 0xffffffff, b, c, 32, is_signed); },
         .interesting = small});
    check_instruction(
        {.text = "bfe." + type + "64 %d0, %d1, %w2, %w3;",
         .expected = [&](u64 a, u64 b, u64 c, u64) { return extract(a, b, c, 64, is_signed); },
         .interesting = small});
  }
  check_instruction(
      {.text = "bfi.b32 %w0, %w1, %w2, %w3, %w4;",
       .expected = [&](u64 a, u64 b, u64 c, u64 d) { return insert(a, b & 0xffffffff, c, d, 32); },
       .interesting = small});
  check_instruction({.text = "bfi.b64 %d0, %d1, %d2, %w3, %w4;",
                     .expected = [&](u64 a, u64 b, u64 c, u64 d) { return insert(a, b, c, d, 64); },
                     .interesting = small});
}

TEST_CASE("counts and positions of bits") {
  auto count = [](u64 a, int bits) {
    u64 n = 0;
    for (int i = 0; i < bits; ++i) n += a >> i & 1;
    return n;
  };
  auto zeros = [](u64 a, int bits) {
    u64 n = 0;
    for (int i = bits - 1; i >= 0 && (a >> i & 1) == 0; --i) ++n;
    return n;
  };
  auto reverse = [](u64 a, int bits) {
    u64 r = 0;
    for (int i = 0; i < bits; ++i) r |= (a >> i & 1) << (bits - 1 - i);
    return r;
  };
  auto find = [](u64 a, int bits, bool is_signed) {
    u64 sign = is_signed ? a >> (bits - 1) & 1 : 0;
    for (int i = bits - 1; i >= 0; --i) {
      if ((a >> i & 1) != sign) return static_cast<u64>(i);
    }
    return u64{0xffffffff};
  };
  auto all = integers();
  check_instruction({.text = "popc.b32 %w0, %w1;",
                     .expected = [&](u64 a, u64, u64, u64) { return count(a, 32); },
                     .interesting = all});
  check_instruction({.text = "popc.b64 %w0, %d1;",
                     .expected = [&](u64 a, u64, u64, u64) { return count(a, 64); },
                     .interesting = all});
  check_instruction({.text = "clz.b32 %w0, %w1;",
                     .expected = [&](u64 a, u64, u64, u64) { return zeros(a, 32); },
                     .interesting = all});
  check_instruction({.text = "clz.b64 %w0, %d1;",
                     .expected = [&](u64 a, u64, u64, u64) { return zeros(a, 64); },
                     .interesting = all});
  check_instruction({.text = "brev.b32 %w0, %w1;",
                     .expected = [&](u64 a, u64, u64, u64) { return reverse(a, 32); },
                     .interesting = all});
  check_instruction({.text = "brev.b64 %d0, %d1;",
                     .expected = [&](u64 a, u64, u64, u64) { return reverse(a, 64); },
                     .interesting = all});
  check_instruction({.text = "bfind.s32 %w0, %w1;",
                     .expected = [&](u64 a, u64, u64, u64) { return find(a, 32, true); },
                     .interesting = all});
  check_instruction({.text = "bfind.u64 %w0, %d1;",
                     .expected = [&](u64 a, u64, u64, u64) { return find(a, 64, false); },
                     .interesting = all});
  check_instruction({.text = "bfind.shiftamt.u32 %w0, %w1;",
                     .expected =
                         [&](u64 a, u64, u64, u64) {
                           u64 at = find(a & 0xffffffff, 32, false);
                           return at == 0xffffffff ? at : 31 - at;
                         },
                     .interesting = all});
}

TEST_CASE("bmsk and szext") {
  auto all = integers();
  for (bool clamp : {true, false}) {
    std::string mode = clamp ? "clamp" : "wrap";
    check_instruction({.text = "bmsk." + mode + ".b32 %w0, %w1, %w2;",
                       .expected =
                           [&](u64 a, u64 b, u64, u64) {
                             u32 start = static_cast<u32>(a), width = static_cast<u32>(b);
                             if (!clamp) start &= 31, width &= 31;
                             u64 result = 0;
                             for (u64 i = 0; i < 32; ++i) {
                               if (i >= start && i < u64{start} + width) result |= u64{1} << i;
                             }
                             return result;
                           },
                       .interesting = all});
    check_instruction(
        {.text = "szext." + mode + ".s32 %w0, %w1, %w2;",
         .expected =
             [&](u64 a, u64 b, u64, u64) {
               u32 width = clamp ? static_cast<u32>(b) : static_cast<u32>(b) & 31;
               u32 x = static_cast<u32>(a);
               if (width >= 32) return u64{x};
               if (width == 0) return u64{0};
               return u64{static_cast<u32>(static_cast<s32>(x << (32 - width)) >> (32 - width))};
             },
         .interesting = all});
  }
}

TEST_CASE("prmt, all modes") {
  auto byte = [](u64 a, u64 b, u32 i) {
    return (i < 4 ? a >> (8 * i) : b >> (8 * (i - 4))) & 0xff;
  };
  check_instruction(
      {.text = "prmt.b32 %w0, %w1, %w2, %w3;", .expected = [&](u64 a, u64 b, u64 c, u64) {
         u64 result = 0;
         for (int i = 0; i < 4; ++i) {
           u32 selector = static_cast<u32>(c >> (4 * i)) & 15;
           u64 value = byte(a, b, selector & 7);
           if ((selector & 8) != 0) value = (value & 0x80) != 0 ? 0xff : 0;
           result |= value << (8 * i);
         }
         return result;
       }});
  struct Mode {
    const char* name;
    u32 bytes[4][4];  // per selector value: source of result byte 0, 1, 2, 3
  };
  for (const Mode& mode :
       {Mode{"f4e", {{0, 1, 2, 3}, {1, 2, 3, 4}, {2, 3, 4, 5}, {3, 4, 5, 6}}},
        Mode{"b4e", {{0, 7, 6, 5}, {1, 0, 7, 6}, {2, 1, 0, 7}, {3, 2, 1, 0}}},
        Mode{"rc8", {{0, 0, 0, 0}, {1, 1, 1, 1}, {2, 2, 2, 2}, {3, 3, 3, 3}}},
        Mode{"ecl", {{0, 1, 2, 3}, {1, 1, 2, 3}, {2, 2, 2, 3}, {3, 3, 3, 3}}},
        Mode{"ecr", {{0, 0, 0, 0}, {0, 1, 1, 1}, {0, 1, 2, 2}, {0, 1, 2, 3}}},
        Mode{"rc16", {{0, 1, 0, 1}, {2, 3, 2, 3}, {0, 1, 0, 1}, {2, 3, 2, 3}}}}) {
    check_instruction({.text = std::string("prmt.b32.") + mode.name + " %w0, %w1, %w2, %w3;",
                       .expected = [&](u64 a, u64 b, u64 c, u64) {
                         u64 result = 0;
                         for (int i = 0; i < 4; ++i)
                           result |= byte(a, b, mode.bytes[c & 3][i]) << (8 * i);
                         return result;
                       }});
  }
}

TEST_CASE("lop3, all tables") {
  for (u32 table = 0; table < 256; table += table < 16 ? 1 : 7) {
    check_instruction({.text = "lop3.b32 %w0, %w1, %w2, %w3, " + std::to_string(table) + ";",
                       .expected = [&](u64 a, u64 b, u64 c, u64) {
                         u64 result = 0;
                         for (int i = 0; i < 32; ++i) {
                           u32 row =
                               static_cast<u32>((a >> i & 1) * 4 + (b >> i & 1) * 2 + (c >> i & 1));
                           result |= u64{table >> row & 1} << i;
                         }
                         return result;
                       }});
  }
}

TEST_CASE("dp4a and 16-bit pairs") {
  for (bool a_signed : {true, false}) {
    for (bool b_signed : {true, false}) {
      std::string text = std::string("dp4a.") + (a_signed ? "s32" : "u32") +
                         (b_signed ? ".s32" : ".u32") + " %w0, %w1, %w2, %w3;";
      check_instruction({.text = text, .expected = [&](u64 a, u64 b, u64 c, u64) {
                           Big sum = static_cast<Big>(c);
                           for (int i = 0; i < 4; ++i) {
                             u8 x = static_cast<u8>(a >> 8 * i), y = static_cast<u8>(b >> 8 * i);
                             sum += Big{a_signed ? static_cast<std::int8_t>(x) : int{x}} *
                                    (b_signed ? static_cast<std::int8_t>(y) : int{y});
                           }
                           return low_bits(sum, 32);
                         }});
    }
  }
  auto pairs = [](u64 a, u64 b, auto f) {
    return low_bits(f(a, b), 16) | low_bits(f(a >> 16, b >> 16), 16) << 16;
  };
  check_instruction({.text = "add.u16x2 %w0, %w1, %w2;", .expected = [&](u64 a, u64 b, u64, u64) {
                       return pairs(a, b, [](u64 x, u64 y) { return static_cast<Big>(x + y); });
                     }});
  check_instruction({.text = "max.s16x2 %w0, %w1, %w2;", .expected = [&](u64 a, u64 b, u64, u64) {
                       return pairs(a, b, [](u64 x, u64 y) {
                         return Big{std::max(static_cast<s16>(x), static_cast<s16>(y))};
                       });
                     }});
  check_instruction({.text = "min.u16x2 %w0, %w1, %w2;", .expected = [&](u64 a, u64 b, u64, u64) {
                       return pairs(a, b, [](u64 x, u64 y) {
                         return Big{std::min(static_cast<u16>(x), static_cast<u16>(y))};
                       });
                     }});
}

TEST_CASE("integer comparisons, with boolean operands and the second predicate") {
  struct Compare {
    const char* name;
    bool (*f)(Big, Big);
  };
  constexpr Compare kCompares[] = {
      {"eq", [](Big a, Big b) { return a == b; }}, {"ne", [](Big a, Big b) { return a != b; }},
      {"lt", [](Big a, Big b) { return a < b; }},  {"le", [](Big a, Big b) { return a <= b; }},
      {"gt", [](Big a, Big b) { return a > b; }},  {"ge", [](Big a, Big b) { return a >= b; }}};
  for (const IntegerType& t : kTypes) {
    std::string r = std::string("%") + t.letter();
    for (const Compare& c : kCompares) {
      std::string type = std::string(".") + t.name, sources = ", " + r + "1, " + r + "2";
      auto holds = [&](u64 a, u64 b) { return u64{c.f(value_of(t, a), value_of(t, b))}; };
      std::string name = std::string("setp.") + c.name;
      check_instruction({.text = name + type + " %p0" + sources + ";",
                         .expected = [&](u64 a, u64 b, u64, u64) { return holds(a, b); },
                         .interesting = integers()});
      check_instruction({.text = name + ".and" + type + " %p0|%p5" + sources + ", %p3;",
                         .expected = [&](u64 a, u64 b, u64 p, u64) { return holds(a, b) & p & 1; },
                         .interesting = integers()});
      check_instruction(
          {.text = name + ".or" + type + " %p5|%p0" + sources + ", !%p3;",
           .expected = [&](u64 a, u64 b, u64 p, u64) { return (holds(a, b) ^ 1) | (~p & 1); },
           .interesting = integers(),
           .result = "%p0"});
      check_instruction(
          {.text = name + ".xor" + type + " %p0" + sources + ", %p3;",
           .expected = [&](u64 a, u64 b, u64 p, u64) { return holds(a, b) ^ (p & 1); },
           .interesting = integers()});
    }
  }
  check_instruction(
      {.text = "setp.hs.u32 %p0, %w1, %w2;",
       .expected = [](u64 a, u64 b, u64,
                      u64) { return u64{static_cast<u32>(a) >= static_cast<u32>(b)}; },
       .interesting = integers()});
  check_instruction({.text = "setp.lo.u64 %p0, %d1, %d2;",
                     .expected = [](u64 a, u64 b, u64, u64) { return u64{a < b}; },
                     .interesting = integers()});
  check_instruction(
      {.text = "setp.eq.b16 %p0, %h1, %h2;",
       .expected = [](u64 a, u64 b, u64, u64) { return u64{(a & 0xffff) == (b & 0xffff)}; },
       .interesting = integers()});
}

TEST_CASE("selections and vector moves") {
  check_instruction(
      {.text = "selp.b32 %w0, %w1, %w2, %p3;",
       .expected = [](u64 a, u64 b, u64 p, u64) { return ((p & 1) != 0 ? a : b) & 0xffffffff; }});
  check_instruction({.text = "selp.f64 %d0, %d1, %d2, !%p3;",
                     .expected = [](u64 a, u64 b, u64 p, u64) { return (p & 1) == 0 ? a : b; }});
  check_instruction({.text = "selp.b16 %h0, %h1, 7, %p3;", .expected = [](u64 a, u64, u64 p, u64) {
                       return (p & 1) != 0 ? a & 0xffff : 7;
                     }});
  check_instruction(
      {.text = "slct.u32.s32 %w0, %w1, %w2, %w3;", .expected = [](u64 a, u64 b, u64 c, u64) {
         return (static_cast<s32>(c) >= 0 ? a : b) & 0xffffffff;
       }});
  check_instruction({.text = "mov.b32 %w0, {%h1, %h2};", .expected = [](u64 a, u64 b, u64, u64) {
                       return (a & 0xffff) | (b & 0xffff) << 16;
                     }});
  check_instruction({.text = "mov.b64 %d0, {%w1, %w2};", .expected = [](u64 a, u64 b, u64, u64) {
                       return (a & 0xffffffff) | b << 32;
                     }});
  check_instruction(
      {.text = "mov.b64 %d0, {%h1, %h2, %h3, %h4};", .expected = [](u64 a, u64 b, u64 c, u64 d) {
         return (a & 0xffff) | (b & 0xffff) << 16 | (c & 0xffff) << 32 | d << 48;
       }});
  check_instruction({.text = "mov.b32 {_, %h0}, %w1;",
                     .expected = [](u64 a, u64, u64, u64) { return a >> 16 & 0xffff; }});
  check_instruction({.text = "mov.b64 {%w5, %w0}, %d1;",
                     .expected = [](u64 a, u64, u64, u64) { return a >> 32; }});
  check_instruction({.text = "mov.b64 {%h5, %h6, %h7, %h0}, %d1;",
                     .expected = [](u64 a, u64, u64, u64) { return a >> 48; }});
  check_instruction({.text = "@%p1 mov.b32 %w0, %w2;", .expected = [](u64 a, u64 b, u64, u64) {
                       return (a & 1) != 0 ? b & 0xffffffff : 0;
                     }});
  check_instruction({.text = "@!%p1 add.s32 %w0, %w2, -3;", .expected = [](u64 a, u64 b, u64, u64) {
                       return (a & 1) == 0 ? (b - 3) & 0xffffffff : 0;
                     }});
}

}  // namespace sagegen::emulator::test
