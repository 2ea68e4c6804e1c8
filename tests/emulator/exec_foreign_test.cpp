// What our own kernels do not use, but hand-written and nvcc's PTX does: the condition code, set, 24-bit
// products, modifiers in other orders, vector registers, addresses as initial values.

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <cmath>

#include "tests/emulator/float_reference.h"

namespace sagegen::emulator::test {
namespace {

using Big = __int128;
using UnsignedBig = unsigned __int128;

struct Width {
  const char* type;
  int bits;
  bool is_signed;
  const char* letter() const { return bits == 64 ? "%d" : bits == 32 ? "%w" : "%h"; }
  Big value(u64 x) const {
    if (bits == 64) return is_signed ? Big{static_cast<s64>(x)} : Big{x};
    const u64 low = x & ((u64{1} << bits) - 1);
    const bool negative = is_signed && (low >> (bits - 1) & 1) != 0;
    return negative ? Big{low} - (Big{1} << bits) : Big{low};
  }
  u64 cut(Big x) const {
    return bits == 64 ? static_cast<u64>(x) : static_cast<u64>(x) & ((u64{1} << bits) - 1);
  }
};
constexpr Width kWords[] = {
    {"s32", 32, true}, {"u32", 32, false}, {"s64", 64, true}, {"u64", 64, false}};
constexpr Width kAll[] = {{"s16", 16, true},  {"u16", 16, false}, {"s32", 32, true},
                          {"u32", 32, false}, {"s64", 64, true},  {"u64", 64, false}};

}  // namespace

TEST_CASE("add.cc, sub.cc and their followers carry from word to word") {
  // Numbers of two words, the carry out as a third.
  check_instruction({.text = "mov.b64 {%w5, %w6}, %d1; mov.b64 {%w7, %w8}, %d2;"
                             "add.cc.u32 %w5, %w5, %w7; addc.cc.u32 %w6, %w6, %w8;"
                             "addc.u32 %w7, 0, 0; xor.b32 %w6, %w6, %w7; mov.b64 %d0, {%w5, %w6};",
                     .expected =
                         [](u64 a, u64 b, u64, u64) {
                           const UnsignedBig sum = UnsignedBig{a} + b;
                           return static_cast<u64>(sum) ^ static_cast<u64>(sum >> 64) << 32;
                         },
                     .interesting = integers()});
  check_instruction({.text = "mov.b64 {%w5, %w6}, %d1; mov.b64 {%w7, %w8}, %d2;"
                             "sub.cc.s32 %w5, %w5, %w7; subc.cc.s32 %w6, %w6, %w8;"
                             "subc.s32 %w7, 0, 0; xor.b32 %w6, %w6, %w7; mov.b64 %d0, {%w5, %w6};",
                     .expected =
                         [](u64 a, u64 b, u64, u64) {
                           const u64 borrow = a < b ? 0xffffffff : 0;
                           return (a - b) ^ borrow << 32;
                         },
                     .interesting = integers()});
  for (const Width& t : kWords) {
    for (const bool subtracts : {false, true}) {
      // The code that goes in is the highest bit of operand 4, which is what 2 x carries.
      const std::string r = t.letter(), op = subtracts ? "sub" : "add";
      const std::string line =
          fmt::format("add.cc.u64 %d5, %d4, %d4; {0}c.cc.{1} {2}5, {2}1, {2}2; ", op, t.type, r);
      auto exact = [&, subtracts](u64 a, u64 b, u64 d) {
        const Big x = t.cut(Big{a}), y = t.cut(Big{b}), carry = d >> 63;
        return subtracts ? x - y - carry : x + y + carry;
      };
      check_instruction(
          {.text = line + fmt::format("mov.b{0} {1}0, {1}5;", t.bits, r),
           .expected = [&](u64 a, u64 b, u64, u64 d) { return t.cut(exact(a, b, d)); },
           .interesting = integers()});
      check_instruction({.text = line + "addc.u32 %w0, 0, 0;",
                         .expected =
                             [&](u64 a, u64 b, u64, u64 d) {
                               const Big x = exact(a, b, d);
                               return u64{x < 0 || x >> t.bits != 0};
                             },
                         .interesting = integers()});
    }
  }
}

TEST_CASE("mad.cc and madc add half of a product") {
  for (const Width& t : kWords) {
    for (const bool high : {false, true}) {
      const std::string r = t.letter();
      // Half of the product as a word; the exact 128 bits of u64 do not fit the signed Big.
      auto part = [&, high](u64 a, u64 b) -> u64 {
        if (t.bits == 64 && !t.is_signed) {
          const UnsignedBig product = UnsignedBig{a} * b;
          return static_cast<u64>(high ? product >> 64 : product);
        }
        const Big product = t.value(a) * t.value(b);
        return t.cut(high ? product >> t.bits : product);
      };
      for (const bool reads : {false, true}) {
        const std::string line =
            fmt::format("add.cc.u64 %d5, %d4, %d4; mad{0}.{1}.cc.{2} {3}5, {3}1, {3}2, {3}3; ",
                        reads ? "c" : "", high ? "hi" : "lo", t.type, r);
        auto sum = [&, reads](u64 a, u64 b, u64 c, u64 d) {
          return UnsignedBig{part(a, b)} + t.cut(Big{c}) + (reads ? d >> 63 : 0);
        };
        check_instruction(
            {.text = line + fmt::format("mov.b{0} {1}0, {1}5;", t.bits, r),
             .expected = [&](u64 a, u64 b, u64 c,
                             u64 d) { return t.cut(static_cast<Big>(sum(a, b, c, d))); },
             .interesting = integers()});
        check_instruction(
            {.text = line + "addc.u32 %w0, 0, 0;",
             .expected = [&](u64 a, u64 b, u64 c,
                             u64 d) { return static_cast<u64>(sum(a, b, c, d) >> t.bits); },
             .interesting = integers()});
      }
    }
  }
}

TEST_CASE("the condition code is a thread's own, and undefined until it is written") {
  Bench bench;
  // Only odd threads write it; the branch then depends on what nobody wrote.
  const std::string start = "mov.u32 %w0, %tid.x; and.b32 %w1, %w0, 1; setp.ne.u32 %p1, %w1, 0;\n";
  bench.kernel(start +
                   "@%p1 add.cc.u32 %w2, -1, 1; addc.u32 %w3, 0, 0;\n"
                   "setp.ne.u32 %p2, %w3, 0; @%p2 ret;",
               0);
  const LaunchReport report = bench.run(1, 32, {});
  REQUIRE(only_check(report) == "uninitialized");
  CHECK(report.findings[0].lane == 0);
  // Written by all, with a guarded instruction between.
  Bench good;
  good.kernel(start +
                  "add.cc.u32 %w2, -1, 1; @%p1 add.cc.u32 %w2, 1, 1; addc.u32 %w3, 0, 0;\n"
                  "mul.wide.u32 %d0, %w0, 4; add.u64 %d1, %d20, %d0; st.global.u32 [%d1], %w3;",
              1);
  const Address out = good.memory.allocate(32 * 4);
  CHECK(only_check(good.run(1, 32, {out})).empty());
  const std::vector<u32> carries = good.download<u32>(out, 32);
  for (u32 i = 0; i < 32; ++i) CHECK(carries[i] == 1 - i % 2);
}

TEST_CASE("set gives all ones or 1.0") {
  struct Type {
    const char* name;
    const char* letter;
    std::vector<u64> values;
    bool is_float;
  };
  const std::vector<Type> types = {
      {"b16", "%h", integers(), false}, {"u16", "%h", integers(), false},
      {"s16", "%h", integers(), false}, {"b32", "%w", integers(), false},
      {"u32", "%w", integers(), false}, {"s32", "%w", integers(), false},
      {"b64", "%d", integers(), false}, {"u64", "%d", integers(), false},
      {"s64", "%d", integers(), false}, {"f32", "%w", floats32(), true},
      {"f64", "%d", floats64(), true},  {"f16", "%h", halves(), true},
      {"bf16", "%h", bhalves(), true}};
  struct Compare {
    std::string name;
    bool less, equal, greater, unordered;
  };
  const std::vector<Compare> compares = {
      {"eq", false, true, false, false}, {"ne", true, false, true, false},
      {"lt", true, false, false, false}, {"ge", false, true, true, false},
      {"le", true, true, false, false},  {"gt", false, false, true, false},
      {"equ", false, true, false, true}, {"neu", true, false, true, true},
      {"ltu", true, false, false, true}, {"leu", true, true, false, true},
      {"gtu", false, false, true, true}, {"geu", false, true, true, true},
      {"num", true, true, true, false},  {"nan", false, false, false, true},
      {"lo", true, false, false, false}, {"ls", true, true, false, false},
      {"hi", false, false, true, false}, {"hs", false, true, true, false}};
  for (const Type& s : types) {
    const std::string type = s.name;
    const bool half = type == "f16" || type == "bf16";
    const int bits = type.back() == '4' ? 64 : type.back() == '2' ? 32 : 16;
    const Width width{s.name, bits, s.name[0] == 's'};
    auto holds = [&](const Compare& c, u64 a, u64 b) {
      if (s.is_float) {
        auto load = [&](u64 x) {
          return half         ? (type == "f16" ? half_value(x) : bhalf_value(x))
                 : bits == 64 ? as_double(x)
                              : double{as_float(x)};
        };
        const double x = load(a), y = load(b);
        if (std::isnan(x) || std::isnan(y)) return c.unordered;
        return x < y ? c.less : x > y ? c.greater : c.equal;
      }
      const Big x = width.value(a), y = width.value(b);
      return x < y ? c.less : x > y ? c.greater : c.equal;
    };
    for (const Compare& c : compares) {
      const bool unsigned_only = c.name[0] == 'l' && (c.name == "lo" || c.name == "ls");
      const bool no_sign = unsigned_only || c.name == "hi" || c.name == "hs";
      const bool float_only = c.unordered || c.name == "num";
      const bool fits = s.is_float         ? !no_sign
                        : s.name[0] == 'b' ? c.name == "eq" || c.name == "ne"
                        : float_only       ? false
                        : s.name[0] == 's' ? !no_sign
                                           : true;
      const std::string operands = fmt::format("0, {0}1, {0}2", s.letter);
      if (!fits) {
        Bench bench;
        CHECK_THROWS_WITH(
            bench.kernel(fmt::format("set.{}.u32.{} %w{};", c.name, type, operands), 0),
            Catch::Contains(fmt::format(".{} does not compare .{}", c.name, type)));
        continue;
      }
      check_instruction(
          {.text = fmt::format("set.{}.u32.{} %w{};", c.name, type, operands),
           .expected = [&](u64 a, u64 b, u64, u64) { return holds(c, a, b) ? u64{0xffffffff} : 0; },
           .interesting = s.values});
      if (c.name == "lt") {
        const std::string to = half ? "u16" : "f32";
        const u64 truth = half ? 0xffff : 0x3f800000;
        check_instruction(
            {.text = fmt::format("set.lt.xor.{}.{} {}{}, !%p3;", to, type, half ? "%h" : "%w",
                                 operands),
             .expected = [&](u64 a, u64 b, u64 p,
                             u64) { return holds(c, a, b) != ((p & 1) == 0) ? truth : 0; },
             .interesting = s.values});
      }
      if (c.name == "eq" && !s.is_float) {
        check_instruction(
            {.text = fmt::format("set.eq.and.f16.{} %h{}, %p3;", type, operands),
             .expected = [&](u64 a, u64 b, u64 p,
                             u64) { return holds(c, a, b) && (p & 1) != 0 ? u64{0x3c00} : 0; },
             .interesting = s.values});
      }
    }
  }
  check_instruction({.text = "set.eq.ftz.s32.f32 %w0, %w1, %w2;",
                     .expected =
                         [](u64 a, u64 b, u64, u64) {
                           return flush(as_float(a)) == flush(as_float(b)) ? u64{0xffffffff} : 0;
                         },
                     .interesting = floats32()});
  auto flushed_half = [](u64 x) { return (x & 0x7c00) == 0 ? 0.0 : half_value(x); };
  check_instruction({.text = "set.le.ftz.f16x2.f16x2 %w0, %w1, %w2;",
                     .expected = [&](u64 a, u64 b, u64, u64) -> u64 {
                       auto one = [&](u64 x, u64 y) {
                         return flushed_half(x & 0xffff) <= flushed_half(y & 0xffff) ? u64{0x3c00}
                                                                                     : 0;
                       };
                       return one(a, b) | one(a >> 16, b >> 16) << 16;
                     },
                     .interesting = halves()});
  check_instruction({.text = "set.gtu.or.u32.bf16x2 %w0, %w1, %w2, %p3;",
                     .expected = [&](u64 a, u64 b, u64 p, u64) -> u64 {
                       auto one = [&](u64 x, u64 y) {
                         const bool holds = !(bhalf_value(x & 0xffff) <= bhalf_value(y & 0xffff));
                         return holds || (p & 1) != 0 ? u64{0xffff} : 0;
                       };
                       return one(a, b) | one(a >> 16, b >> 16) << 16;
                     },
                     .interesting = bhalves()});
}

TEST_CASE("setp of pairs of halves has a predicate for each") {
  auto flushed = [](u64 x) { return (x & 0x7c00) == 0 ? 0.0 : half_value(x & 0xffff); };
  for (const bool upper : {false, true}) {
    const std::string to = upper ? "%p5|%p0" : "%p0|%p5";
    const int bit = upper ? 16 : 0;
    check_instruction({.text = "setp.lt.f16x2 " + to + ", %w1, %w2;",
                       .expected =
                           [&](u64 a, u64 b, u64, u64) {
                             return u64{half_value(a >> bit & 0xffff) <
                                        half_value(b >> bit & 0xffff)};
                           },
                       .interesting = halves(),
                       .result = "%p0"});
    check_instruction({.text = "setp.leu.or.ftz.f16x2 " + to + ", %w1, %w2, %p3;",
                       .expected =
                           [&](u64 a, u64 b, u64 c, u64) {
                             return u64{!(flushed(a >> bit) > flushed(b >> bit)) || (c & 1) != 0};
                           },
                       .interesting = halves(),
                       .result = "%p0"});
    check_instruction({.text = "setp.num.xor.bf16x2 " + to + ", %w1, %w2, !%p3;",
                       .expected =
                           [&](u64 a, u64 b, u64 c, u64) {
                             const bool number = !std::isnan(bhalf_value(a >> bit & 0xffff)) &&
                                                 !std::isnan(bhalf_value(b >> bit & 0xffff));
                             return u64{number != ((c & 1) == 0)};
                           },
                       .interesting = bhalves(),
                       .result = "%p0"});
  }
  check_instruction(
      {.text = "setp.eq.ftz.f16 %p0, %h1, %h2;",
       .expected = [&](u64 a, u64 b, u64, u64) { return u64{flushed(a) == flushed(b)}; },
       .interesting = halves()});
}

TEST_CASE("products of 24 bits, of pairs, high halves with a sum, absolute differences") {
  auto low24 = [](u64 x, bool is_signed) {
    const s64 low = static_cast<s64>(x & 0xffffff);
    return is_signed && low >= 0x800000 ? low - 0x1000000 : low;
  };
  auto clamp = [](Big x) {
    return static_cast<u64>(x < -0x80000000LL ? 0x80000000
                            : x > 0x7fffffff  ? 0x7fffffff
                                              : x) &
           0xffffffff;
  };
  for (const bool is_signed : {false, true}) {
    const std::string type = is_signed ? "s32" : "u32";
    for (const bool high : {false, true}) {
      const std::string part = high ? ".hi." : ".lo.";
      auto product = [=](u64 a, u64 b) {
        return low24(a, is_signed) * low24(b, is_signed) >> (high ? 16 : 0);
      };
      check_instruction(
          {.text = "mul24" + part + type + " %w0, %w1, %w2;",
           .expected = [&](u64 a, u64 b, u64, u64) { return u64{static_cast<u32>(product(a, b))}; },
           .interesting = integers()});
      check_instruction({.text = "mad24" + part + type + " %w0, %w1, %w2, %w3;",
                         .expected =
                             [&](u64 a, u64 b, u64 c, u64) {
                               return u64{static_cast<u32>(product(a, b) + static_cast<s64>(c))};
                             },
                         .interesting = integers()});
      if (!is_signed || !high) continue;
      check_instruction(
          {.text = "mad24.hi.sat.s32 %w0, %w1, %w2, %w3;",
           .expected = [&](u64 a, u64 b, u64 c,
                           u64) { return clamp(Big{product(a, b)} + static_cast<s32>(c)); },
           .interesting = integers()});
    }
  }
  check_instruction({.text = "mad.hi.sat.s32 %w0, %w1, %w2, %w3;",
                     .expected =
                         [&](u64 a, u64 b, u64 c, u64) {
                           const Big product = Big{static_cast<s32>(a)} * static_cast<s32>(b);
                           return clamp((product >> 32) + static_cast<s32>(c));
                         },
                     .interesting = integers()});
  for (const Width& t : kAll) {
    const std::string r = t.letter();
    check_instruction({.text = fmt::format("mad.hi.{0} {1}0, {1}1, {1}2, {1}3;", t.type, r),
                       .expected =
                           [&](u64 a, u64 b, u64 c, u64) {
                             if (t.bits == 64 && !t.is_signed) {
                               return static_cast<u64>(UnsignedBig{a} * b >> 64) + c;
                             }
                             return t.cut((t.value(a) * t.value(b) >> t.bits) + t.value(c));
                           },
                       .interesting = integers()});
    check_instruction({.text = fmt::format("sad.{0} {1}0, {1}1, {1}2, {1}3;", t.type, r),
                       .expected =
                           [&](u64 a, u64 b, u64 c, u64) {
                             const Big d = t.value(a) - t.value(b);
                             return t.cut((d < 0 ? -d : d) + t.value(c));
                           },
                       .interesting = integers()});
  }
  for (const bool a_signed : {false, true}) {
    for (const bool b_signed : {false, true}) {
      for (const bool high : {false, true}) {
        check_instruction(
            {.text = fmt::format("dp2a.{}.{}.{} %w0, %w1, %w2, %w3;", high ? "hi" : "lo",
                                 a_signed ? "s32" : "u32", b_signed ? "s32" : "u32"),
             .expected = [&](u64 a, u64 b, u64 c, u64) {
               s64 sum = static_cast<s64>(c);
               for (int i = 0; i < 2; ++i) {
                 const u64 x = a >> (16 * i) & 0xffff;
                 const u64 y = b >> (8 * i + (high ? 16 : 0)) & 0xff;
                 sum += (a_signed ? s64{static_cast<s16>(x)} : static_cast<s64>(x)) *
                        (b_signed ? s64{static_cast<std::int8_t>(y)} : static_cast<s64>(y));
               }
               return u64{static_cast<u32>(sum)};
             }});
      }
    }
  }
}

TEST_CASE("slct of every width, and sums of products that saturate") {
  struct Type {
    const char* name;
    const char* letter;
    u64 mask;
  };
  for (const Type& t :
       {Type{"s16", "%h", 0xffff}, Type{"b32", "%w", 0xffffffff}, Type{"f64", "%d", ~u64{0}}}) {
    const std::string operands = fmt::format("{0}0, {0}1, {0}2, %w3;", t.letter);
    check_instruction({.text = fmt::format("slct.{}.s32 {}", t.name, operands),
                       .expected = [&](u64 a, u64 b, u64 c,
                                       u64) { return (static_cast<s32>(c) >= 0 ? a : b) & t.mask; },
                       .interesting = integers()});
    for (const bool ftz : {false, true}) {  // -0 counts as not negative, a NaN as negative
      check_instruction(
          {.text = fmt::format("slct{}.{}.f32 {}", ftz ? ".ftz" : "", t.name, operands),
           .expected =
               [&](u64 a, u64 b, u64 c, u64) {
                 const float x = ftz ? flush(as_float(c)) : as_float(c);
                 return (x >= 0 ? a : b) & t.mask;
               },
           .interesting = floats32()});
    }
  }
  for (const Rounding& r : kRoundings) {
    check_instruction(
        {.text = std::string("mad") + r.name + ".sat.f32 %w0, %w1, %w2, %w3;",
         .expected =
             [&](u64 a, u64 b, u64 c, u64) {
               const float x = as_float(a), y = as_float(b), z = as_float(c);
               const Quad exact = exact_sum(static_cast<Quad>(x) * static_cast<Quad>(y), z);
               const float sum = as_float(store(kF32, exact, r.mode));
               return u64{bits_of(std::isnan(sum) || sum <= 0 ? 0.0f : std::min(sum, 1.0f))};
             },
         .interesting = floats32()});
  }
}

TEST_CASE("modifiers may come in other orders, as the assembler takes them") {
  for (const auto& [written, usual] : std::initializer_list<std::pair<const char*, const char*>>{
           {"min.ftz.xorsign.abs.NaN.f32 %w0, %w1, %w2;",
            "min.ftz.NaN.xorsign.abs.f32 %w0, %w1, %w2;"},
           {"max.NaN.ftz.f32 %w0, %w1, %w2;", "max.ftz.NaN.f32 %w0, %w1, %w2;"},
           {"add.sat.ftz.rn.f32 %w0, %w1, %w2;", "add.rn.ftz.sat.f32 %w0, %w1, %w2;"},
           {"fma.relu.rn.f16x2 %w0, %w1, %w2, %w3;", "fma.rn.relu.f16x2 %w0, %w1, %w2, %w3;"},
           {"ex2.ftz.approx.f32 %w0, %w1;", "ex2.approx.ftz.f32 %w0, %w1;"},
           {"slct.ftz.b32.f32 %w0, %w1, %w2, %w3;", "slct.b32.ftz.f32 %w0, %w1, %w2, %w3;"},
           {"prmt.f4e.b32 %w0, %w1, %w2, %w3;", "prmt.b32.f4e %w0, %w1, %w2, %w3;"},
           {"cvt.sat.rn.f16.f32 %h0, %w1;", "cvt.rn.sat.f16.f32 %h0, %w1;"},
           {"cvt.ftz.rzi.s32.f32 %w0, %w1;", "cvt.rzi.ftz.s32.f32 %w0, %w1;"},
           {"cvt.satfinite.relu.rn.e4m3x2.f32 %h0, %w1, %w2;",
            "cvt.rn.satfinite.relu.e4m3x2.f32 %h0, %w1, %w2;"},
           {"setp.ftz.or.ltu.f32 %p0, %w1, %w2, %p3;", "setp.ltu.or.ftz.f32 %p0, %w1, %w2, %p3;"},
           {"set.and.ge.u32.s32 %w0, %w1, %w2, %p3;", "set.ge.and.u32.s32 %w0, %w1, %w2, %p3;"},
           {"shfl.bfly.sync.b32 %w0, %w1, 1, 31, -1;", "shfl.sync.bfly.b32 %w0, %w1, 1, 31, -1;"},
           {"ld.v2.nc.global.b32 {%w0, %w5}, [%d11];", "ld.global.nc.v2.b32 {%w0, %w5}, [%d11];"},
           {"ld.global.acquire.gpu.b32 %w0, [%d11];", "ld.acquire.gpu.global.b32 %w0, [%d11];"},
           {"atom.gpu.or.global.relaxed.b32 %w0, [%d11], 0;",
            "atom.relaxed.gpu.global.or.b32 %w0, [%d11], 0;"}}) {
    std::vector<std::vector<u64>> results;
    for (const char* text : {written, usual}) {
      const std::string line = text, to = line.substr(line.find('%'), 3);
      const std::string widen = to == "%p0"   ? "selp.b64 %d0, 1, 0, %p0;"
                                : to == "%h0" ? "mov.b32 %w8, {%h0, 0}; mov.b64 %d0, {%w8, 0};"
                                              : "mov.b64 %d0, {%w0, 0};";
      std::vector<u64> inputs;
      for (u64 i = 0; i < 32; ++i) {
        inputs.push_back((floats32()[i] << 32 | floats32()[(7 * i + 3) % 32]));
      }
      INFO(text);
      results.push_back(
          run_wide("mov.b64 {%w1, %w2}, %d1; xor.b32 %w3, %w1, %w2; mov.b64 %d11, %d3;"
                   "setp.lt.s32 %p3, %w1, 0;" +
                       line + widen,
                   inputs));
    }
    INFO(written);
    CHECK(results[0] == results[1]);
  }
  // Those that need a warp, shared memory or a pair of registers are decoded only: the handler is the same.
  const std::string m = "{%w1, %w2, %w3, %w4}";
  for (const auto& [written, usual] : std::initializer_list<std::pair<std::string, std::string>>{
           {"ldmatrix.sync.aligned.trans.m8n8.x4.shared.b16 " + m + ", [%w5];",
            "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 " + m + ", [%w5];"},
           {"ldmatrix.sync.aligned.x4.m8n8.shared::cta.b16 " + m + ", [%w5];",
            "ldmatrix.sync.aligned.m8n8.x4.shared::cta.b16 " + m + ", [%w5];"},
           {"stmatrix.sync.aligned.trans.m8n8.x4.shared.b16 [%w5], " + m + ";",
            "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%w5], " + m + ";"},
           {"movmatrix.sync.aligned.trans.m8n8.b16 %w1, %w2;",
            "movmatrix.sync.aligned.m8n8.trans.b16 %w1, %w2;"},
           {"cp.async.shared.global.cg.L2::128B [%w5], [%d1], 16;",
            "cp.async.cg.shared.global.L2::128B [%w5], [%d1], 16;"},
           {"red.global.release.gpu.add.s32 [%d1], %w1;",
            "red.release.gpu.global.add.s32 [%d1], %w1;"},
           {"mma.sync.aligned.row.col.m16n8k16.f32.f16.f16.f32 " + m + ", " + m + ", {%w5, %w6}, " +
                m + ";",
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 " + m + ", " + m + ", {%w5, %w6}, " +
                m + ";"}}) {
    INFO(written);
    Bench one, other;
    one.kernel(written, 0);
    other.kernel(usual, 0);
    const Op &a = one.program().plain.at(0), &b = other.program().plain.at(0);
    CHECK(a.run == b.run);
    CHECK(a.r == b.r);
    CHECK(one.program().checked.at(0).run == other.program().checked.at(0).run);
    REQUIRE(one.program().accesses.size() == other.program().accesses.size());
    for (std::size_t i = 0; i < one.program().accesses.size(); ++i) {
      CHECK(one.program().accesses[i].detail == other.program().accesses[i].detail);
      CHECK(one.program().accesses[i].space == other.program().accesses[i].space);
    }
  }
}

TEST_CASE("vector registers are loaded, permuted and stored") {
  Bench bench;
  bench.kernel(R"(
    .reg .v4 .b32 v, u; .reg .v2 .b64 w; .reg .v2 .b16 h, g;
    ld.global.v4.b32 v, [%d20];
    mov.v4.b32 u, {v.w, v.z, v.y, v.x}; mov.v4.u32 v, {v.y, v.x, u.x, 7};
    add.u32 u.x, u.r, 1; mov.b64 %d1, {u.y, u.z}; mov.v2.b64 w, {%d1, 5};
    mov.b32 {h.x, h.y}, u.w; mov.v2.b16 g, {h.y, h.x}; mov.b32 %w1, {g.x, g.y};
    st.global.v4.b32 [%d21], v; st.global.v4.b32 [%d21+16], u; st.global.v2.b64 [%d21+32], w;
    st.global.b32 [%d21+48], %w1;)",
               2);
  const Address in = bench.upload(std::vector<u32>{0x10001, 2, 3, 4});
  const Address out = bench.memory.allocate(52);
  const LaunchReport report = bench.run(1, 1, {in, out});
  INFO(messages(report));
  REQUIRE(report.findings.empty());
  CHECK(bench.download<u32>(out, 13) ==
        std::vector<u32>{2, 0x10001, 4, 7, 5, 3, 2, 0x10001, 3, 2, 5, 0, 0x10001});
  // Definedness goes element by element.
  const std::string half = ".reg .v2 .b32 v, u; mov.b32 v.x, 1; mov.v2.b32 u, {v.y, v.x};";
  Bench right, wrong;
  right.kernel(half + "setp.ne.u32 %p1, u.y, 0; @%p1 ret;", 0);
  CHECK(only_check(right.run(1, 32, {})).empty());
  wrong.kernel(half + "setp.ne.u32 %p1, u.x, 0; @%p1 ret;", 0);
  CHECK(only_check(wrong.run(1, 32, {})) == "uninitialized");
}

TEST_CASE("initial values hold the addresses of variables") {
  Bench bench;
  bench.module_text(R"(.version 8.7
.target sm_89
.address_size 64
.global .u32 x[4] = {10, 11, 12, 13};
.const .u64 table[3] = {x, generic(x)+8, 5};
.global .u8 bytes[8] = {0xff(x), 0xff00(x), 0xff0000(x), 0xff000000(x), 0xff00000000(x), 0xff0000000000(x),
                        0xff000000000000(x), 0xff00000000000000(x)};
.global .u32 low = x;
.visible .entry k(.param .u64 out) {
  .reg .b32 %r<8>; .reg .b64 %rd<8>;
  ld.param.u64 %rd0, [out];
  ld.const.u64 %rd1, [table+8]; ld.u32 %r1, [%rd1];
  ld.const.u64 %rd2, [table]; ld.u32 %r2, [%rd2+4];
  mov.u64 %rd4, bytes; ld.global.u64 %rd3, [%rd4]; sub.u64 %rd3, %rd3, %rd2; cvt.u32.u64 %r3, %rd3;
  mov.u64 %rd5, low; ld.global.u32 %r4, [%rd5]; cvt.u32.u64 %r5, %rd2; sub.u32 %r4, %r4, %r5;
  st.global.v4.u32 [%rd0], {%r1, %r2, %r3, %r4};
  ret;
})");
  const Address out = bench.memory.allocate(16);
  const LaunchReport report = bench.run(1, 1, {out});
  INFO(messages(report));
  REQUIRE(report.findings.empty());
  CHECK(bench.download<u32>(out, 4) == std::vector<u32>{12, 11, 0, 0});
}

TEST_CASE("the upper halves of clocks") {
  Bench bench;
  bench.kernel(
      "mov.u32 %w0, %clock_hi; mov.u32 %w1, %globaltimer_hi; mov.u32 %w2, %globaltimer_lo;"
      "mov.u32 %w3, %clock; st.global.v4.u32 [%d20], {%w0, %w1, %w2, %w3};",
      1);
  const Address out = bench.memory.allocate(16);
  REQUIRE(bench.run(1, 1, {out}).findings.empty());
  const std::vector<u32> got = bench.download<u32>(out, 4);
  CHECK(got[0] == 0);
  CHECK(got[1] == 0);
  CHECK(got[2] > 0);
  CHECK(got[3] > got[2]);
}

}  // namespace sagegen::emulator::test
