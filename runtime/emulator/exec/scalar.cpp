// Arithmetic that is rare, or that no vector unit does: divisions, bit fields, byte permutation,
// directed rounding, special functions.

#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <limits>

#include "runtime/emulator/exec/forms.h"
#include "runtime/emulator/exec/lanes.h"

namespace sagegen::emulator {
namespace {

// ---- division. By zero PTX leaves the result open; GPUs give all ones, and the dividend as rest ----

constexpr auto kDivide = []<class T>(T a, T b) -> T {
  if (b == 0) return static_cast<T>(~T{0});
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) {
    return static_cast<T>(std::make_unsigned_t<T>{0} - static_cast<std::make_unsigned_t<T>>(a));
  }
  return static_cast<T>(a / b);
};
constexpr auto kRemainder = []<class T>(T a, T b) -> T {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
};

constexpr auto kMulHiS64 = [](s64 a, s64 b) -> s64 {
  return static_cast<s64>(static_cast<__int128>(a) * b >> 64);
};
constexpr auto kMulHiU64 = [](u64 a, u64 b) -> u64 {
  return static_cast<u64>(static_cast<unsigned __int128>(a) * b >> 64);
};

// ---- bits --------------------------------------------------------------------------------------

constexpr auto kPopulation32 = [](u32 a) -> u32 { return static_cast<u32>(std::popcount(a)); };
constexpr auto kPopulation64 = [](u64 a) -> u32 { return static_cast<u32>(std::popcount(a)); };
constexpr auto kLeadingZeros32 = [](u32 a) -> u32 { return static_cast<u32>(std::countl_zero(a)); };
constexpr auto kLeadingZeros64 = [](u64 a) -> u32 { return static_cast<u32>(std::countl_zero(a)); };

template <class T>
T reverse_bits(T a) {
  T r = 0;
  for (unsigned i = 0; i < sizeof(T) * 8; ++i) r |= (a >> i & 1) << (sizeof(T) * 8 - 1 - i);
  return r;
}
constexpr auto kReverse = []<class T>(T a) -> T { return reverse_bits(a); };

// Position of the highest bit that differs from the sign; all ones if there is none.
constexpr auto kFindBit = []<class T>(T a) -> u32 {
  using U = std::make_unsigned_t<T>;
  U bits = static_cast<U>(std::is_signed_v<T> && a < 0 ? ~a : a);
  return bits == 0 ? ~u32{0} : static_cast<u32>(sizeof(T) * 8 - 1 - std::countl_zero(bits));
};
constexpr auto kFindShift = []<class T>(T a) -> u32 {
  u32 at = kFindBit(a);
  return at == ~u32{0} ? at : static_cast<u32>(sizeof(T) * 8 - 1) - at;
};

template <class T>
T extract(T a, u32 position, u32 length) {
  using U = std::make_unsigned_t<T>;
  constexpr u32 kTop = sizeof(T) * 8 - 1;
  position &= 0xff;
  length &= 0xff;
  if (length == 0) return 0;
  U bits = static_cast<U>(a);
  U sign = std::is_signed_v<T> ? bits >> std::min(position + length - 1, kTop) & 1 : 0;
  U field = position > kTop ? 0 : bits >> position;
  u32 kept = position > kTop ? 0 : std::min(length, kTop + 1 - position);
  U low = kept > kTop ? ~U{0} : (U{1} << kept) - 1;
  return static_cast<T>((field & low) | (sign != 0 ? ~low : 0));
}
constexpr auto kExtract = []<class T>(T a, u32 position, u32 length) -> T {
  return extract(a, position, length);
};
template <class T>
T insert(T a, T b, u32 position, u32 length) {
  constexpr u32 kTop = sizeof(T) * 8 - 1;
  position &= 0xff;
  length &= 0xff;
  if (position > kTop || length == 0) return b;
  T low = length > kTop ? ~T{0} : (T{1} << length) - 1;
  T field = low << position;
  return (b & ~field) | (a << position & field);
}
constexpr auto kInsert = []<class T>(T a, T b, u32 position, u32 length) -> T {
  return insert(a, b, position, length);
};

template <bool kClamp>
constexpr auto kBitMask = [](u32 a, u32 b) -> u32 {
  u32 start = a & 31, width = b & 31;
  u32 low = ~u32{0} << start;
  bool over = start + width >= 32;
  u32 high = over ? 0 : ~u32{0} << (start + width);
  if (kClamp && a >= 32) low = high = 0;
  if (kClamp && b >= 32) high = 0;
  return low & ~high;
};
template <class T, bool kClamp>
constexpr auto kSignZeroExtend = [](T a, u32 b) -> T {
  u32 width = b & 31;
  bool whole = kClamp && b >= 32;
  u32 mask = whole ? 0 : ~u32{0} << width;
  bool sign =
      std::is_signed_v<T> && width != 0 && !whole && (static_cast<u32>(a) >> (width - 1) & 1) != 0;
  return static_cast<T>((static_cast<u32>(a) & ~mask) | (sign ? mask : 0));
};

// prmt: bytes of {b, a} by number; bit 3 of a selector replicates the byte's sign instead.
u32 permute(u32 a, u32 b, u32 selectors) {
  u64 bytes = u64{b} << 32 | a;
  u32 r = 0;
  for (int i = 0; i < 4; ++i) {
    u32 selector = selectors >> (4 * i) & 15;
    u32 byte = static_cast<u32>(bytes >> (8 * (selector & 7))) & 0xff;
    if ((selector & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
    r |= byte << (8 * i);
  }
  return r;
}
constexpr auto kPermute = [](u32 a, u32 b, u32 c) { return permute(a, b, c & 0xffff); };
// The other modes select by the low two bits of c; a row per value, as default selectors.
template <u16 k0, u16 k1, u16 k2, u16 k3>
constexpr auto kPermuteMode = [](u32 a, u32 b, u32 c) {
  constexpr u16 kSelectors[] = {k0, k1, k2, k3};
  return permute(a, b, kSelectors[c & 3]);
};

void lop3(Warp& w, const Op& op, u32 mask) {
  u32* d = row32(w, op.r[0]);
  const u32* a = row32(w, op.r[1]);
  const u32* b = row32(w, op.r[2]);
  const u32* c = row32(w, op.r[3]);
  u32 table = op.imm;
  u32 result[kLanes] = {};
  for (u32 term = 0; term < 8; ++term) {
    if ((table >> term & 1) == 0) continue;
    u32 na = (term & 4) != 0 ? 0 : ~u32{0}, nb = (term & 2) != 0 ? 0 : ~u32{0},
        nc = (term & 1) != 0 ? 0 : ~u32{0};
    for (int i = 0; i < kLanes; ++i) result[i] |= (a[i] ^ na) & (b[i] ^ nb) & (c[i] ^ nc);
  }
  for (int i = 0; i < kLanes; ++i) d[i] = (mask >> i & 1) != 0 ? result[i] : d[i];
}

template <class A, class B>
u32 dot4(u32 a, u32 b, u32 c) {
  for (int i = 0; i < 4; ++i) {
    c += static_cast<u32>(s32{static_cast<A>(a >> 8 * i)} * s32{static_cast<B>(b >> 8 * i)});
  }
  return c;
}
template <class A, class B>
constexpr auto kDot4 = [](u32 a, u32 b, u32 c) { return dot4<A, B>(a, b, c); };

// dp2a: two 16-bit numbers of a with the two bytes of b's lower or upper half.
template <class A, class B, int kByte>
constexpr auto kDot2 = [](u32 a, u32 b, u32 c) -> u32 {
  for (int i = 0; i < 2; ++i) {
    s64 product = s64{static_cast<A>(a >> 16 * i)} * s64{static_cast<B>(b >> 8 * (kByte + i))};
    c += static_cast<u32>(product);
  }
  return c;
};
template <class A, class B>
void add_dot2(FormTable& t, const std::string& types) {
  t.add(("dp2a.lo" + types).c_str(), "wWWW", each_lane<kDot2<A, B, 0>>);
  t.add(("dp2a.hi" + types).c_str(), "wWWW", each_lane<kDot2<A, B, 2>>);
}

// mul24, mad24: the low 24 bits of the operands; half of the product's 48 bits, from bit kFrom on.
template <class T>
s64 low_24_bits(T a) {
  return std::is_signed_v<T> ? s64{static_cast<s32>(static_cast<u32>(a) << 8) >> 8}
                             : s64{static_cast<u32>(a) & 0xff'ffff};
}
template <int kFrom>
constexpr auto kMul24 =
    []<class T>(T a, T b) -> T { return static_cast<T>(low_24_bits(a) * low_24_bits(b) >> kFrom); };
template <int kFrom>
constexpr auto kMad24 = []<class T>(T a, T b, T c) -> T {
  return static_cast<T>((low_24_bits(a) * low_24_bits(b) >> kFrom) + c);
};
s32 clamp_to_s32(s64 x) {
  return static_cast<s32>(
      std::clamp(x, s64{std::numeric_limits<s32>::min()}, s64{std::numeric_limits<s32>::max()}));
}
constexpr auto kMad24Saturated = [](s32 a, s32 b, s32 c) -> s32 {
  return clamp_to_s32((low_24_bits(a) * low_24_bits(b) >> 16) + c);
};
constexpr auto kMadHiSaturated = [](s32 a, s32 b, s32 c) -> s32 {
  return clamp_to_s32((s64{a} * b >> 32) + c);
};
constexpr auto kMadHi16 = []<class T>(T a, T b, T c) -> T {
  return static_cast<T>((s64{a} * b >> 16) + c);
};
constexpr auto kMadHiS64 = [](s64 a, s64 b, u64 c) -> u64 {
  return static_cast<u64>(kMulHiS64(a, b)) + c;
};
constexpr auto kMadHiU64 = [](u64 a, u64 b, u64 c) -> u64 { return kMulHiU64(a, b) + c; };

constexpr auto kAbsDifference = []<class T>(T a, T b, T c) -> T {
  using U = std::make_unsigned_t<T>;
  U difference =
      a < b ? static_cast<U>(b) - static_cast<U>(a) : static_cast<U>(a) - static_cast<U>(b);
  return static_cast<T>(difference + static_cast<U>(c));
};

// Two 16-bit integers in 32 bits.
template <auto F, class T>
constexpr auto kPair16 = [](u32 a, u32 b) -> u32 {
  u32 low = static_cast<u16>(F(static_cast<T>(a), static_cast<T>(b)));
  u32 high = static_cast<u16>(F(static_cast<T>(a >> 16), static_cast<T>(b >> 16)));
  return low | high << 16;
};

constexpr auto kSelect16 = [](u16 a, u16 b, s32 c) -> u16 { return c >= 0 ? a : b; };
template <class T, bool kFtz>
constexpr auto kSelectByFloat =
    [](T a, T b, float c) -> T { return input<kFtz>(c) >= 0.0f ? a : b; };

void register_integers(FormTable& t) {
  t.add("div.s16", "hHH", each_lane_of<kDivide, s16>);
  t.add("div.u16", "hHH", each_lane_of<kDivide, u16>);
  t.add("div.s32", "wWW", each_lane_of<kDivide, s32>);
  t.add("div.u32", "wWW", each_lane_of<kDivide, u32>);
  t.add("div.s64", "dDD", each_lane_of<kDivide, s64>);
  t.add("div.u64", "dDD", each_lane_of<kDivide, u64>);
  t.add("rem.s16", "hHH", each_lane_of<kRemainder, s16>);
  t.add("rem.u16", "hHH", each_lane_of<kRemainder, u16>);
  t.add("rem.s32", "wWW", each_lane_of<kRemainder, s32>);
  t.add("rem.u32", "wWW", each_lane_of<kRemainder, u32>);
  t.add("rem.s64", "dDD", each_lane_of<kRemainder, s64>);
  t.add("rem.u64", "dDD", each_lane_of<kRemainder, u64>);
  t.add("mul.hi.s64", "dDD", each_lane<kMulHiS64>);
  t.add("mul.hi.u64", "dDD", each_lane<kMulHiU64>);
  t.add("slct{.b16|.u16|.s16}.s32", "hHHW", each_lane<kSelect16>);
  t.add("slct{.b16|.u16|.s16}.f32", "hHHW", each_lane<kSelectByFloat<u16, false>>);
  t.add("slct.ftz{.b16|.u16|.s16}.f32", "hHHW", each_lane<kSelectByFloat<u16, true>>);
  t.add("slct{.b64|.u64|.s64|.f64}.f32", "dDDW", each_lane<kSelectByFloat<u64, false>>);
  t.add("slct.ftz{.b64|.u64|.s64|.f64}.f32", "dDDW", each_lane<kSelectByFloat<u64, true>>);
  t.add("mad.hi.s16", "hHHH", each_lane_of<kMadHi16, s16>);
  t.add("mad.hi.u16", "hHHH", each_lane_of<kMadHi16, u16>);
  t.add("mad.hi.s64", "dDDD", each_lane<kMadHiS64>);
  t.add("mad.hi.u64", "dDDD", each_lane<kMadHiU64>);
  t.add("mad.hi.sat.s32", "wWWW", each_lane<kMadHiSaturated>);
  t.add("mul24.lo.s32", "wWW", each_lane_of<kMul24<0>, s32>);
  t.add("mul24.lo.u32", "wWW", each_lane_of<kMul24<0>, u32>);
  t.add("mul24.hi.s32", "wWW", each_lane_of<kMul24<16>, s32>);
  t.add("mul24.hi.u32", "wWW", each_lane_of<kMul24<16>, u32>);
  t.add("mad24.lo.s32", "wWWW", each_lane_of<kMad24<0>, s32>);
  t.add("mad24.lo.u32", "wWWW", each_lane_of<kMad24<0>, u32>);
  t.add("mad24.hi.s32", "wWWW", each_lane_of<kMad24<16>, s32>);
  t.add("mad24.hi.u32", "wWWW", each_lane_of<kMad24<16>, u32>);
  t.add("mad24.hi.sat.s32", "wWWW", each_lane<kMad24Saturated>);
  t.add("sad.s16", "hHHH", each_lane_of<kAbsDifference, s16>);
  t.add("sad.u16", "hHHH", each_lane_of<kAbsDifference, u16>);
  t.add("sad.s64", "dDDD", each_lane_of<kAbsDifference, s64>);
  t.add("sad.u64", "dDDD", each_lane_of<kAbsDifference, u64>);
  t.add("sad.s32", "wWWW", each_lane_of<kAbsDifference, s32>);
  t.add("sad.u32", "wWWW", each_lane_of<kAbsDifference, u32>);

  t.add("popc.b32", "wW", each_lane<kPopulation32>);
  t.add("popc.b64", "wD", each_lane<kPopulation64>);
  t.add("clz.b32", "wW", each_lane<kLeadingZeros32>);
  t.add("clz.b64", "wD", each_lane<kLeadingZeros64>);
  t.add("brev.b32", "wW", each_lane_of<kReverse, u32>);
  t.add("brev.b64", "dD", each_lane_of<kReverse, u64>);
  t.add("bfind.s32", "wW", each_lane_of<kFindBit, s32>);
  t.add("bfind.u32", "wW", each_lane_of<kFindBit, u32>);
  t.add("bfind.s64", "wD", each_lane_of<kFindBit, s64>);
  t.add("bfind.u64", "wD", each_lane_of<kFindBit, u64>);
  t.add("bfind.shiftamt.s32", "wW", each_lane_of<kFindShift, s32>);
  t.add("bfind.shiftamt.u32", "wW", each_lane_of<kFindShift, u32>);
  t.add("bfind.shiftamt.s64", "wD", each_lane_of<kFindShift, s64>);
  t.add("bfind.shiftamt.u64", "wD", each_lane_of<kFindShift, u64>);
  t.add("bfe.s32", "wWWW", each_lane_of<kExtract, s32>);
  t.add("bfe.u32", "wWWW", each_lane_of<kExtract, u32>);
  t.add("bfe.s64", "dDWW", each_lane_of<kExtract, s64>);
  t.add("bfe.u64", "dDWW", each_lane_of<kExtract, u64>);
  t.add("bfi.b32", "wWWWW", each_lane_of<kInsert, u32>);
  t.add("bfi.b64", "dDDWW", each_lane_of<kInsert, u64>);
  t.add("bmsk.clamp.b32", "wWW", each_lane<kBitMask<true>>);
  t.add("bmsk.wrap.b32", "wWW", each_lane<kBitMask<false>>);
  t.add("szext.clamp.s32", "wWW", each_lane<kSignZeroExtend<s32, true>>);
  t.add("szext.clamp.u32", "wWW", each_lane<kSignZeroExtend<u32, true>>);
  t.add("szext.wrap.s32", "wWW", each_lane<kSignZeroExtend<s32, false>>);
  t.add("szext.wrap.u32", "wWW", each_lane<kSignZeroExtend<u32, false>>);

  t.add("prmt.b32", "wWWW", each_lane<kPermute>);
  t.add("prmt.b32.f4e", "wWWW", each_lane<kPermuteMode<0x3210, 0x4321, 0x5432, 0x6543>>);
  t.add("prmt.b32.b4e", "wWWW", each_lane<kPermuteMode<0x5670, 0x6701, 0x7012, 0x0123>>);
  t.add("prmt.b32.rc8", "wWWW", each_lane<kPermuteMode<0x0000, 0x1111, 0x2222, 0x3333>>);
  t.add("prmt.b32.ecl", "wWWW", each_lane<kPermuteMode<0x3210, 0x3211, 0x3222, 0x3333>>);
  t.add("prmt.b32.ecr", "wWWW", each_lane<kPermuteMode<0x0000, 0x1110, 0x2210, 0x3210>>);
  t.add("prmt.b32.rc16", "wWWW", each_lane<kPermuteMode<0x1010, 0x3232, 0x1010, 0x3232>>);
  t.add("lop3.b32", "wWWWI", lop3);

  t.add("dp4a.s32.s32", "wWWW", each_lane<kDot4<std::int8_t, std::int8_t>>);
  t.add("dp4a.s32.u32", "wWWW", each_lane<kDot4<std::int8_t, std::uint8_t>>);
  t.add("dp4a.u32.s32", "wWWW", each_lane<kDot4<std::uint8_t, std::int8_t>>);
  t.add("dp4a.u32.u32", "wWWW", each_lane<kDot4<std::uint8_t, std::uint8_t>>);

  add_dot2<s16, std::int8_t>(t, ".s32.s32");
  add_dot2<s16, std::uint8_t>(t, ".s32.u32");
  add_dot2<u16, std::int8_t>(t, ".u32.s32");
  add_dot2<u16, std::uint8_t>(t, ".u32.u32");

  constexpr auto add = []<class T>(T a, T b) { return a + b; };
  constexpr auto least = []<class T>(T a, T b) { return a < b ? a : b; };
  constexpr auto greatest = []<class T>(T a, T b) { return a < b ? b : a; };
  t.add("add{.s16x2|.u16x2}", "wWW", each_lane<kPair16<add, u16>>);
  t.add("min.s16x2", "wWW", each_lane<kPair16<least, s16>>);
  t.add("min.u16x2", "wWW", each_lane<kPair16<least, u16>>);
  t.add("max.s16x2", "wWW", each_lane<kPair16<greatest, s16>>);
  t.add("max.u16x2", "wWW", each_lane<kPair16<greatest, u16>>);
}

// ---- directed rounding: by the host's rounding mode, around one operation -------------------------

class Rounding {
 public:
  explicit Rounding(int mode) : before_(std::fegetround()) { std::fesetround(mode); }
  ~Rounding() { std::fesetround(before_); }
  Rounding(const Rounding&) = delete;
  Rounding& operator=(const Rounding&) = delete;

 private:
  int before_;
};

enum class Arithmetic { add, sub, mul, div, fma, sqrt };

// Volatile keeps the operation between the changes of the mode.
template <Arithmetic kWhat, int kMode, class T>
T directed(T a, T b, T c) {
  volatile T x = a, y = b, z = c, r;
  Rounding mode(kMode);
  switch (kWhat) {
    case Arithmetic::add:
      r = x + y;
      break;
    case Arithmetic::sub:
      r = x - y;
      break;
    case Arithmetic::mul:
      r = x * y;
      break;
    case Arithmetic::div:
      r = x / y;
      break;
    case Arithmetic::fma:
      r = std::fma(x, y, z);
      break;
    case Arithmetic::sqrt:
      r = std::sqrt(x);
      break;
  }
  return r;
}
template <Arithmetic kWhat, int kMode, bool kFtz, bool kSat = false>
constexpr auto kDirected1 =
    [](float a) { return finish<kFtz, kSat>(directed<kWhat, kMode>(input<kFtz>(a), 0.0f, 0.0f)); };
template <Arithmetic kWhat, int kMode, bool kFtz, bool kSat = false>
constexpr auto kDirected2 = [](float a, float b) {
  return finish<kFtz, kSat>(directed<kWhat, kMode>(input<kFtz>(a), input<kFtz>(b), 0.0f));
};
template <Arithmetic kWhat, int kMode, bool kFtz, bool kSat = false>
constexpr auto kDirected3 = [](float a, float b, float c) {
  return finish<kFtz, kSat>(directed<kWhat, kMode>(input<kFtz>(a), input<kFtz>(b), input<kFtz>(c)));
};
template <int kMode, bool kFtz>
constexpr auto kDirectedReciprocal = [](float a) {
  return finish<kFtz, false>(directed<Arithmetic::div, kMode>(1.0f, input<kFtz>(a), 0.0f));
};

template <Arithmetic kWhat, int kMode>
constexpr auto kDirectedWide1 =
    [](double a) { return canonical(directed<kWhat, kMode>(a, 0.0, 0.0)); };
template <Arithmetic kWhat, int kMode>
constexpr auto kDirectedWide2 =
    [](double a, double b) { return canonical(directed<kWhat, kMode>(a, b, 0.0)); };
template <Arithmetic kWhat, int kMode>
constexpr auto kDirectedWide3 =
    [](double a, double b, double c) { return canonical(directed<kWhat, kMode>(a, b, c)); };
template <int kMode>
constexpr auto kDirectedWideReciprocal =
    [](double a) { return canonical(directed<Arithmetic::div, kMode>(1.0, a, 0.0)); };

// Enters name + mode + {.ftz}{.sat} + .f32.
template <Arithmetic kWhat, int kMode>
void add_directed_binary(FormTable& t, const std::string& name, bool saturates) {
  t.add((name + ".f32").c_str(), "wWW", each_lane<kDirected2<kWhat, kMode, false>>);
  t.add((name + ".ftz.f32").c_str(), "wWW", each_lane<kDirected2<kWhat, kMode, true>>);
  if (saturates) {
    t.add((name + ".sat.f32").c_str(), "wWW", each_lane<kDirected2<kWhat, kMode, false, true>>);
    t.add((name + ".ftz.sat.f32").c_str(), "wWW", each_lane<kDirected2<kWhat, kMode, true, true>>);
  }
  t.add((name + ".f64").c_str(), "dDD", each_lane<kDirectedWide2<kWhat, kMode>>);
}
template <Arithmetic kWhat, int kMode>
void add_directed_fused(FormTable& t, const std::string& name) {
  t.add((name + ".f32").c_str(), "wWWW", each_lane<kDirected3<kWhat, kMode, false>>);
  t.add((name + ".ftz.f32").c_str(), "wWWW", each_lane<kDirected3<kWhat, kMode, true>>);
  t.add((name + ".sat.f32").c_str(), "wWWW", each_lane<kDirected3<kWhat, kMode, false, true>>);
  t.add((name + ".ftz.sat.f32").c_str(), "wWWW", each_lane<kDirected3<kWhat, kMode, true, true>>);
  t.add((name + ".f64").c_str(), "dDDD", each_lane<kDirectedWide3<kWhat, kMode>>);
}

template <int kMode>
void add_directed(FormTable& t, const std::string& mode) {
  add_directed_binary<Arithmetic::add, kMode>(t, "add" + mode, true);
  add_directed_binary<Arithmetic::sub, kMode>(t, "sub" + mode, true);
  add_directed_binary<Arithmetic::mul, kMode>(t, "mul" + mode, true);
  add_directed_binary<Arithmetic::div, kMode>(t, "div" + mode, false);
  add_directed_fused<Arithmetic::fma, kMode>(t, "{fma|mad}" + mode);
  t.add(("sqrt" + mode + ".f32").c_str(), "wW",
        each_lane<kDirected1<Arithmetic::sqrt, kMode, false>>);
  t.add(("sqrt" + mode + ".ftz.f32").c_str(), "wW",
        each_lane<kDirected1<Arithmetic::sqrt, kMode, true>>);
  t.add(("sqrt" + mode + ".f64").c_str(), "dD", each_lane<kDirectedWide1<Arithmetic::sqrt, kMode>>);
  t.add(("rcp" + mode + ".f32").c_str(), "wW", each_lane<kDirectedReciprocal<kMode, false>>);
  t.add(("rcp" + mode + ".ftz.f32").c_str(), "wW", each_lane<kDirectedReciprocal<kMode, true>>);
  t.add(("rcp" + mode + ".f64").c_str(), "dD", each_lane<kDirectedWideReciprocal<kMode>>);
}

// ---- special functions ---------------------------------------------------------------------------

template <auto F, bool kFtz>
constexpr auto kSpecial = [](float a) { return canonical(F(a, kFtz)); };
template <auto F>
void add_special(FormTable& t, const char* plain, const char* ftz) {
  t.add(plain, "wW", each_lane<kSpecial<F, false>>);
  t.add(ftz, "wW", each_lane<kSpecial<F, true>>);
}

// ex2 is frequent enough for a routine that takes the whole warp.
template <bool kFtz>
void ex2_lanes(Warp& w, const Op& op, u32 mask) {
  u32* d = lane_row<float>(w, op.r[0]);
  const u32* a = lane_row<float>(w, op.r[1]);
  if (mask == kFullMask) return ex2_approx_warp(a, d, kFtz);
  u32 result[kLanes];
  ex2_approx_warp(a, result, kFtz);
  for (int i = 0; i < kLanes; ++i) d[i] = (mask >> i & 1) != 0 ? result[i] : d[i];
}

template <bool kFtz>
constexpr auto kReciprocal = [](float a) { return finish<kFtz, false>(1.0f / input<kFtz>(a)); };
template <bool kFtz>
constexpr auto kRoot = [](float a) { return finish<kFtz, false>(std::sqrt(input<kFtz>(a))); };

constexpr auto kMinDouble = [](double a, double b) {
  if (a != a || b != b) return canonical(a == a ? a : b);
  return a < b || (a == b && std::signbit(a)) ? a : b;
};
constexpr auto kMaxDouble = [](double a, double b) {
  if (a != a || b != b) return canonical(a == a ? a : b);
  return b < a || (a == b && std::signbit(b)) ? a : b;
};

// testp.<op> p, a
template <auto F, class T>
void test_lanes(Warp& w, const Op& op, u32 mask) {
  using Loop = LaneLoop<F, decltype(&decltype(F)::template operator()<T>)>;
  set_predicate(w, op.r[0], Loop::collect(lane_row<T>(w, op.r[1])), mask);
}
template <auto F>
void add_test(FormTable& t, const std::string& name) {
  t.add(("testp." + name + ".f32").c_str(), "pW", &test_lanes<F, float>);
  t.add(("testp." + name + ".f64").c_str(), "pD", &test_lanes<F, double>);
}

void register_rest(FormTable& t) {
  add_directed<FE_TOWARDZERO>(t, ".rz");
  add_directed<FE_DOWNWARD>(t, ".rm");
  add_directed<FE_UPWARD>(t, ".rp");
  t.add("ex2.approx.f32", "wW", ex2_lanes<false>);
  t.add("ex2.approx.ftz.f32", "wW", ex2_lanes<true>);
  add_special<lg2_approx>(t, "lg2.approx.f32", "lg2.approx.ftz.f32");
  add_special<rcp_approx>(t, "rcp.approx.f32", "rcp.approx.ftz.f32");
  add_special<rsqrt_approx>(t, "rsqrt.approx.f32", "rsqrt.approx.ftz.f32");
  add_special<sqrt_approx>(t, "sqrt.approx.f32", "sqrt.approx.ftz.f32");
  add_special<sin_approx>(t, "sin.approx.f32", "sin.approx.ftz.f32");
  add_special<cos_approx>(t, "cos.approx.f32", "cos.approx.ftz.f32");
  t.add("tanh.approx.f32", "wW", each_lane<[](float a) { return canonical(tanh_approx(a)); }>);
  t.add("rcp.approx.ftz.f64", "dD", each_lane<[](double a) { return rcp_approx_ftz_f64(a); }>);
  t.add("rsqrt.approx.f64", "dD",
        each_lane<[](double a) { return canonical(rsqrt_approx_f64(a)); }>);
  t.add("rsqrt.approx.ftz.f64", "dD", each_lane<[](double a) { return rsqrt_approx_ftz_f64(a); }>);
  t.add("rcp.rn.f32", "wW", each_lane<kReciprocal<false>>);
  t.add("rcp.rn.ftz.f32", "wW", each_lane<kReciprocal<true>>);
  t.add("sqrt.rn.f32", "wW", each_lane<kRoot<false>>);
  t.add("sqrt.rn.ftz.f32", "wW", each_lane<kRoot<true>>);
  t.add("rcp.rn.f64", "dD", each_lane<[](double a) { return canonical(1.0 / a); }>);
  t.add("sqrt.rn.f64", "dD", each_lane<[](double a) { return canonical(std::sqrt(a)); }>);
  t.add("min.f64", "dDD", each_lane<kMinDouble>);
  t.add("max.f64", "dDD", each_lane<kMaxDouble>);
  add_test<[]<class T>(T a) { return std::isfinite(a); }>(t, "finite");
  add_test<[]<class T>(T a) { return std::isinf(a); }>(t, "infinite");
  add_test<[]<class T>(T a) { return !std::isnan(a); }>(t, "number");
  add_test<[]<class T>(T a) { return std::isnan(a); }>(t, "notanumber");
  add_test<[]<class T>(T a) { return std::isnormal(a); }>(t, "normal");
  add_test<[]<class T>(T a) { return std::fpclassify(a) == FP_SUBNORMAL; }>(t, "subnormal");
}

}  // namespace

void register_scalar(FormTable& table) {
  register_integers(table);
  register_rest(table);
}

}  // namespace sagegen::emulator
