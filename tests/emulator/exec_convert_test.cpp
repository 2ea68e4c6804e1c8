// Conversions against references that search or round by definition.

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "tests/emulator/float_reference.h"

namespace sagegen::emulator::test {

TEST_CASE("conversions between integers") {
  check_instruction({.text = "cvt.u64.u32 %d0, %w1;",
                     .expected = [](u64 a, u64, u64, u64) { return a & 0xffffffff; }});
  check_instruction({.text = "cvt.s64.s32 %d0, %w1;", .expected = [](u64 a, u64, u64, u64) {
                       return static_cast<u64>(s64{static_cast<s32>(a)});
                     }});
  check_instruction({.text = "cvt.u32.u64 %w0, %d1;",
                     .expected = [](u64 a, u64, u64, u64) { return a & 0xffffffff; }});
  check_instruction({.text = "cvt.u16.u32 %h0, %w1;",
                     .expected = [](u64 a, u64, u64, u64) { return a & 0xffff; }});
  check_instruction({.text = "cvt.s32.s16 %w0, %h1;", .expected = [](u64 a, u64, u64, u64) {
                       return u64{static_cast<u32>(s32{static_cast<s16>(a)})};
                     }});
  check_instruction({.text = "cvt.s32.s8 %w0, %w1;", .expected = [](u64 a, u64, u64, u64) {
                       return u64{static_cast<u32>(s32{static_cast<std::int8_t>(a)})};
                     }});
  check_instruction(
      {.text = "cvt.u32.u8 %w0, %h1;", .expected = [](u64 a, u64, u64, u64) { return a & 0xff; }});
  check_instruction(
      {.text = "cvt.u8.u32 %h0, %w1;", .expected = [](u64 a, u64, u64, u64) { return a & 0xff; }});
  check_instruction({.text = "cvt.s8.s32 %w0, %w1;", .expected = [](u64 a, u64, u64, u64) {
                       return u64{static_cast<u32>(s32{static_cast<std::int8_t>(a)})};
                     }});
  check_instruction({.text = "cvt.sat.s8.s32 %w0, %w1;",
                     .expected =
                         [](u64 a, u64, u64, u64) {
                           return u64{static_cast<u32>(std::clamp(static_cast<s32>(a), -128, 127))};
                         },
                     .interesting = integers()});
  check_instruction(
      {.text = "cvt.sat.u8.s32 %w0, %w1;",
       .expected = [](u64 a, u64, u64,
                      u64) { return static_cast<u64>(std::clamp(static_cast<s32>(a), 0, 255)); },
       .interesting = integers()});
  check_instruction({.text = "cvt.sat.u32.s64 %w0, %d1;",
                     .expected =
                         [](u64 a, u64, u64, u64) {
                           return static_cast<u64>(
                               std::clamp<s64>(static_cast<s64>(a), 0, 0xffffffff));
                         },
                     .interesting = integers()});
}

TEST_CASE("conversions between floats and integers") {
  struct Round {
    const char* name;
    double (*f)(double);
  };
  std::vector<u64> near = floats32();
  for (float x : {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 0.49999997f, 127.5f, 128.5f, -128.5f, 254.5f,
                  255.5f, 65535.5f}) {
    near.push_back(bits_of(x));
  }
  for (Round r : {Round{"rni", [](double x) { return std::nearbyint(x); }},
                  Round{"rzi", [](double x) { return std::trunc(x); }},
                  Round{"rmi", [](double x) { return std::floor(x); }},
                  Round{"rpi", [](double x) { return std::ceil(x); }}}) {
    struct Target {
      const char* type;
      double low, high;
      char reg;
      int bits;
    };
    for (Target t : {Target{"s32", -2147483648.0, 2147483647.0, 'w', 32},
                     Target{"u32", 0, 4294967295.0, 'w', 32}, Target{"s8", -128, 127, 'w', 32},
                     Target{"u8", 0, 255, 'w', 32}, Target{"s16", -32768, 32767, 'h', 16}}) {
      check_instruction(
          {.text = std::string("cvt.") + r.name + "." + t.type + ".f32 %" + t.reg + "0, %w1;",
           .expected =
               [&](u64 a, u64, u64, u64) {
                 double x = as_float(a);
                 if (std::isnan(x)) return u64{0};
                 s64 value = static_cast<s64>(std::clamp(r.f(x), t.low, t.high));
                 return static_cast<u64>(value) & ((u64{1} << t.bits) - 1);
               },
           .interesting = near});
    }
    check_instruction({.text = std::string("cvt.") + r.name + ".f32.f32 %w0, %w1;",
                       .expected =
                           [&](u64 a, u64, u64, u64) {
                             float x = as_float(a);
                             if (std::isnan(x)) return u64{0x7fffffff};
                             return u64{bits_of(static_cast<float>(r.f(x)))};
                           },
                       .interesting = near});
    check_instruction({.text = std::string("cvt.") + r.name + ".s64.f64 %d0, %d1;",
                       .expected =
                           [&](u64 a, u64, u64, u64) {
                             double x = r.f(as_double(a));
                             if (std::isnan(x)) return u64{1} << 63;
                             if (x >= 9223372036854775808.0) return u64{0x7fffffffffffffff};
                             if (x <= -9223372036854775808.0) return u64{1} << 63;
                             return static_cast<u64>(static_cast<s64>(x));
                           },
                       .interesting = floats64()});
  }
  for (const Rounding& r : kRoundings) {
    std::string cvt = std::string("cvt") + r.name;
    check_instruction({.text = cvt + ".f32.s32 %w0, %w1;",
                       .expected =
                           [&](u64 a, u64, u64, u64) {
                             return store(kF32, static_cast<Quad>(static_cast<s32>(a)), r.mode);
                           },
                       .interesting = integers()});
    check_instruction({.text = cvt + ".f32.u64 %w0, %d1;",
                       .expected = [&](u64 a, u64, u64,
                                       u64) { return store(kF32, static_cast<Quad>(a), r.mode); },
                       .interesting = integers()});
    check_instruction({.text = cvt + ".f16.s32 %h0, %w1;",
                       .expected =
                           [&](u64 a, u64, u64, u64) {
                             return store(kF16, static_cast<Quad>(static_cast<s32>(a)), r.mode);
                           },
                       .interesting = integers()});
    check_instruction({.text = cvt + ".f32.s8 %w0, %w1;",
                       .expected =
                           [&](u64 a, u64, u64, u64) {
                             return store(kF32, static_cast<Quad>(static_cast<std::int8_t>(a)),
                                          r.mode);
                           },
                       .interesting = integers()});
  }
}

// PTX ISA, cvt: 0, but the value of the highest bit alone if the source is f64 or the destination has
// 64 bits. In a wider register it is extended as its type is.
TEST_CASE("a NaN converts to every integer type as the PTX ISA says, other values clamp") {
  struct Source {
    const char* type;
    const char* reg;
    double (*load)(u64);
    std::vector<u64> values;
    bool is_f64;
  };
  struct Target {
    const char* type;
    int bits;
    bool is_signed;
  };
  const Source sources[] = {
      {"f16", "%h1", half_value, halves(), false},
      {"bf16", "%h1", bhalf_value, bhalves(), false},
      {"f32", "%w1", [](u64 x) { return double{as_float(x)}; }, floats32(), false},
      {"f64", "%d1", [](u64 x) { return as_double(x); }, floats64(), true}};
  for (const Source& s : sources) {
    for (const Target& t :
         {Target{"u8", 8, false}, Target{"s8", 8, true}, Target{"u16", 16, false},
          Target{"s16", 16, true}, Target{"u32", 32, false}, Target{"s32", 32, true},
          Target{"u64", 64, false}, Target{"s64", 64, true}}) {
      for (const char* rounding : {"rni", "rzi"}) {
        const bool narrow = t.bits == 16;
        const std::string to = t.bits == 64 ? "%d0" : narrow ? "%h0" : "%w0";
        const int register_bits = t.bits == 64 ? 64 : narrow ? 16 : 32;
        const u64 mask = register_bits == 64 ? ~u64{0} : (u64{1} << register_bits) - 1;
        check_instruction({.text = std::string("cvt.") + rounding + "." + t.type + "." + s.type +
                                   " " + to + ", " + s.reg + ";",
                           .expected =
                               [&](u64 a, u64, u64, u64) {
                                 const double x = s.load(a);
                                 const Quad top = power_of_two(t.bits - 1);
                                 const Quad low = t.is_signed ? -top : 0;
                                 const Quad high = t.is_signed ? top - 1 : 2 * top - 1;
                                 Quad value =
                                     rounding[1] == 'n' ? std::nearbyint(x) : std::trunc(x);
                                 if (std::isnan(x)) {
                                   const bool zero = !s.is_f64 && t.bits != 64;
                                   value = zero ? Quad{0} : t.is_signed ? low : top;
                                 }
                                 value = value < low ? low : value > high ? high : value;
                                 // To 64 bits by way of the sign, as the conversion of a negative Quad is not.
                                 return (value < 0 ? u64{0} - static_cast<u64>(-value)
                                                   : static_cast<u64>(value)) &
                                        mask;
                               },
                           .interesting = s.values});
      }
    }
  }
}

TEST_CASE("conversions between floats") {
  for (const Rounding& r : kRoundings) {
    std::string cvt = std::string("cvt") + r.name;
    auto from_f32 = [&](const Format& f, u64 a) {
      float x = as_float(a);
      return store(f, static_cast<Quad>(x), r.mode, std::signbit(x));
    };
    check_instruction({.text = cvt + ".f16.f32 %h0, %w1;",
                       .expected = [&](u64 a, u64, u64, u64) { return from_f32(kF16, a); },
                       .interesting = floats32()});
    check_instruction({.text = cvt + ".bf16.f32 %h0, %w1;",
                       .expected = [&](u64 a, u64, u64, u64) { return from_f32(kBf16, a); },
                       .interesting = floats32()});
    check_instruction({.text = cvt + ".f32.f64 %w0, %d1;",
                       .expected =
                           [&](u64 a, u64, u64, u64) {
                             double x = as_double(a);
                             return store(kF32, static_cast<Quad>(x), r.mode, std::signbit(x));
                           },
                       .interesting = floats64()});
  }
  check_instruction({.text = "cvt.rn.f16x2.f32 %w0, %w1, %w2;",
                     .expected =
                         [](u64 a, u64 b, u64, u64) {
                           auto one = [](u64 x) {
                             return store(kF16, static_cast<Quad>(as_float(x)), Mode::nearest,
                                          std::signbit(as_float(x)));
                           };
                           return one(b) | one(a) << 16;
                         },
                     .interesting = floats32()});
  check_instruction({.text = "cvt.rn.relu.bf16x2.f32 %w0, %w1, %w2;",
                     .expected =
                         [](u64 a, u64 b, u64, u64) {
                           auto one = [](u64 x) -> u64 {
                             float v = as_float(x);
                             if (!std::isnan(v) && std::signbit(v)) return 0;
                             return store(kBf16, static_cast<Quad>(v));
                           };
                           return one(b) | one(a) << 16;
                         },
                     .interesting = floats32()});
  check_instruction({.text = "cvt.f32.f16 %w0, %h1;",
                     .expected =
                         [](u64 a, u64, u64, u64) {
                           float x = static_cast<float>(half_value(a));
                           return std::isnan(x) ? u64{0x7fffffff} : u64{bits_of(x)};
                         },
                     .interesting = halves()});
  check_instruction(
      {.text = "cvt.f64.f32 %d0, %w1;",
       .expected =
           [](u64 a, u64, u64, u64) {
             u64 bits =
                 a & 0x007fffff & ((a & 0x7f800000) == 0x7f800000 ? 0 : ~u64{0}) | (a & 0xff800000);
             return bits_of(static_cast<double>(as_float(bits)));  // NaNs tested elsewhere
           },
       .interesting = {0, 1, 0x3f800000, 0x80000001, 0x7f800000},
       .random_bits = false});
  check_instruction({.text = "cvt.sat.f32.f32 %w0, %w1;",
                     .expected =
                         [](u64 a, u64, u64, u64) {
                           float x = as_float(a);
                           return u64{bits_of(std::isnan(x) || x <= 0 ? 0.0f : std::min(x, 1.0f))};
                         },
                     .interesting = floats32()});
  check_instruction({.text = "cvt.rna.tf32.f32 %w0, %w1;",
                     .expected = [](u64 a, u64, u64, u64) -> u64 {
                       float x = as_float(a);
                       if (std::isnan(x)) return 0x7fffffff;
                       if (std::isinf(x)) return static_cast<u32>(a);
                       u64 magnitude = a & 0x7fffffff, kept = magnitude / 0x2000 * 0x2000;
                       if (magnitude - kept >= 0x1000) kept += 0x2000;
                       return kept | (a & 0x80000000);
                     },
                     .interesting = floats32()});
}

TEST_CASE("conversions to and from 8-bit floats") {
  // e4m3 by search: the nearest of all finite codes, ties to the even code.
  auto nearest = [](float (*value)(std::uint8_t), int codes, float x) -> u64 {
    if (std::isnan(x)) return 0x7f;
    float magnitude = std::fabs(x);
    int best = 0;
    for (int code = 1; code < codes; ++code) {
      double here =
          std::fabs(static_cast<double>(magnitude) - value(static_cast<std::uint8_t>(code)));
      double before =
          std::fabs(static_cast<double>(magnitude) - value(static_cast<std::uint8_t>(best)));
      if (here < before || (here == before && code % 2 == 0)) best = code;
    }
    if (magnitude > value(static_cast<std::uint8_t>(codes - 1))) best = codes - 1;  // and infinity
    return static_cast<u64>(best) | (std::signbit(x) ? 0x80 : 0);
  };
  auto e4m3 = [&](float x) { return nearest(e4m3_to_f32, 0x7f, x); };
  auto e5m2 = [&](float x) { return nearest(e5m2_to_f32, 0x7c, x); };
  std::vector<u64> values = floats32();
  for (float x : {448.0f, 449.0f, 464.0f, 480.0f, -500.0f, 0.001953125f, 0.0009765625f,
                  0.00097656256f, 17.0f, 18.0f, 19.0f, 57344.0f, 61440.0f}) {
    values.push_back(bits_of(x));
  }
  for (bool relu : {false, true}) {
    std::string r = relu ? ".relu" : "";
    auto in = [&](float x) { return relu && !std::isnan(x) && std::signbit(x) ? 0.0f : x; };
    check_instruction(
        {.text = "cvt.rn.satfinite" + r + ".e4m3x2.f32 %h0, %w1, %w2;",
         .expected = [&](u64 a, u64 b, u64,
                         u64) { return e4m3(in(as_float(b))) | e4m3(in(as_float(a))) << 8; },
         .interesting = values});
    check_instruction(
        {.text = "cvt.rn.satfinite" + r + ".e5m2x2.f32 %h0, %w1, %w2;",
         .expected = [&](u64 a, u64 b, u64,
                         u64) { return e5m2(in(as_float(b))) | e5m2(in(as_float(a))) << 8; },
         .interesting = values});
    check_instruction({.text = "cvt.rn.satfinite" + r + ".e4m3x2.f16x2 %h0, %w1;",
                       .expected = [&](u64 a, u64, u64, u64) {
                         return e4m3(in(f16_to_f32(static_cast<u16>(a)))) |
                                e4m3(in(f16_to_f32(static_cast<u16>(a >> 16)))) << 8;
                       }});
  }
  check_instruction({.text = "cvt.rn.f16x2.e4m3x2 %w0, %h1;", .expected = [](u64 a, u64, u64, u64) {
                       auto one = [](u64 x) {
                         return store(kF16,
                                      static_cast<Quad>(e4m3_to_f32(static_cast<std::uint8_t>(x))),
                                      Mode::nearest, (x & 0x80) != 0);
                       };
                       return one(a & 0xff) | one(a >> 8 & 0xff) << 16;
                     }});
}

}  // namespace sagegen::emulator::test
