// Integers of several words: add, sub and mad that write the carry of their sum into the condition code,
// or add it (PTX ISA, #extended-precision-arithmetic-instructions). After a subtraction it is the borrow.

#include "runtime/emulator/exec/forms.h"
#include "runtime/emulator/exec/lanes.h"

namespace sagegen::emulator {
namespace {

enum class Extended { add, sub, mad_low, mad_high };

// Which of the two the instruction does with the condition code.
struct Code {
  bool read, written;
};

template <class T>
struct Twice;
template <>
struct Twice<s32> {
  using type = s64;
};
template <>
struct Twice<u32> {
  using type = u64;
};
template <>
struct Twice<s64> {
  using type = __int128;
};
template <>
struct Twice<u64> {
  using type = unsigned __int128;
};

// Operands: d, {code,} a, b, {c,} {code}.
template <class T, Extended kWhat, Code kCode>
void extended(Warp& w, const Op& op, u32 mask) {
  using Word = std::make_unsigned_t<T>;
  using Wide = typename Twice<Word>::type;
  constexpr int kBits = sizeof(T) * 8;
  constexpr bool kProduct = kWhat == Extended::mad_low || kWhat == Extended::mad_high;
  constexpr int kFirst = kCode.written ? 2 : 1;
  auto* d = lane_row<T>(w, op.r[0]);
  const auto* a = lane_row<T>(w, op.r[kFirst]);
  const auto* b = lane_row<T>(w, op.r[kFirst + 1]);
  const auto* c = lane_row<T>(w, op.r[kFirst + (kProduct ? 2 : 1)]);
  const u32 code = kCode.read ? w.predicates[op.r[kFirst + (kProduct ? 3 : 2)]] : 0;
  u32 carries = 0;
  for_lanes(mask, [&](int lane) {
    const Wide carry = code >> lane & 1;
    Wide result;
    if constexpr (kWhat == Extended::add) {
      result = Wide{a[lane]} + b[lane] + carry;
    } else if constexpr (kWhat == Extended::sub) {
      result = Wide{a[lane]} - b[lane] - carry;
    } else {
      using Product = typename Twice<T>::type;
      const auto product =
          static_cast<Wide>(Product{static_cast<T>(a[lane])} * Product{static_cast<T>(b[lane])});
      const auto part = static_cast<Word>(kWhat == Extended::mad_high ? product >> kBits : product);
      result = Wide{part} + c[lane] + carry;
    }
    d[lane] = static_cast<Word>(result);
    carries |= static_cast<u32>(result >> kBits & 1) << lane;
  });
  if constexpr (kCode.written) set_predicate(w, op.r[1], carries, mask);
}

template <class T, Extended kWhat>
void add_extended(FormTable& t, const std::string& name, const std::string& part,
                  const std::string& type) {
  const bool wide = sizeof(T) == 8;
  const std::string d = wide ? "d" : "w";
  const std::string sources(part.empty() ? 2 : 3, wide ? 'D' : 'W');
  t.add((name + part + ".cc" + type).c_str(), (d + "c" + sources).c_str(),
        extended<T, kWhat, Code{.read = false, .written = true}>);
  t.add((name + "c" + part + type).c_str(), (d + sources + "C").c_str(),
        extended<T, kWhat, Code{.read = true, .written = false}>);
  t.add((name + "c" + part + ".cc" + type).c_str(), (d + "c" + sources + "C").c_str(),
        extended<T, kWhat, Code{.read = true, .written = true}>);
}

template <class T>
void add_type(FormTable& t, const std::string& type) {
  add_extended<T, Extended::add>(t, "add", "", type);
  add_extended<T, Extended::sub>(t, "sub", "", type);
  add_extended<T, Extended::mad_low>(t, "mad", ".lo", type);
  add_extended<T, Extended::mad_high>(t, "mad", ".hi", type);
}

}  // namespace

void register_carry(FormTable& t) {
  add_type<s32>(t, ".s32");
  add_type<u32>(t, ".u32");
  add_type<s64>(t, ".s64");
  add_type<u64>(t, ".u64");
}

}  // namespace sagegen::emulator
