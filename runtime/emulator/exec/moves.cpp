// Moves that are no lane loops: vectors, predicates, address spaces, clocks.

#include "runtime/emulator/exec/definedness.h"
#include "runtime/emulator/exec/forms.h"
#include "runtime/emulator/exec/warp.h"

namespace sagegen::emulator {
namespace {

// mov.b32 {low, high}, a
void unpack32(Warp& w, const Op& op, std::uint32_t mask) {
  const std::uint32_t* a = row32(w, op.r[2]);
  for_lanes(mask, [&](int lane) {
    row32(w, op.r[0])[lane] = a[lane] & 0xffff;
    row32(w, op.r[1])[lane] = a[lane] >> 16;
  });
}

// mov.b64 {low, high}, a
void unpack64(Warp& w, const Op& op, std::uint32_t mask) {
  const std::uint64_t* a = row64(w, op.r[2]);
  for_lanes(mask, [&](int lane) {
    row32(w, op.r[0])[lane] = static_cast<std::uint32_t>(a[lane]);
    row32(w, op.r[1])[lane] = static_cast<std::uint32_t>(a[lane] >> 32);
  });
}

// mov.b64 {a, b, c, d}, e and back, with 16-bit parts. A register that nobody wrote holds more than 16 bits.
void unpack64_quarters(Warp& w, const Op& op, std::uint32_t mask) {
  const std::uint64_t* a = row64(w, op.r[4]);
  for_lanes(mask, [&](int lane) {
    for (int i = 0; i < 4; ++i) row32(w, op.r[i])[lane] = a[lane] >> (16 * i) & 0xffff;
  });
}
void pack64_quarters(Warp& w, const Op& op, std::uint32_t mask) {
  for_lanes(mask, [&](int lane) {
    std::uint64_t value = 0;
    for (int i = 0; i < 4; ++i)
      value |= std::uint64_t{row32(w, op.r[1 + i])[lane] & 0xffff} << (16 * i);
    row64(w, op.r[0])[lane] = value;
  });
}

// mov.v2, mov.v4: element by element. All are read before one is written: the vectors may be
// permutations of each other.
template <class Word, bool kChecked>
void move_vector(Warp& w, const Op& op, std::uint32_t mask) {
  constexpr int kMostElements = 4;
  const int elements = static_cast<int>(op.imm);
  const std::uint16_t* r = elements > 2 ? pooled(w, op) : op.r.data();
  auto row = [&](int operand) { return reinterpret_cast<Word*>(row32(w, r[operand])); };
  for_lanes(mask, [&](int lane) {
    Word values[kMostElements];
    for (int i = 0; i < elements; ++i) values[i] = row(elements + i)[lane];
    for (int i = 0; i < elements; ++i) row(i)[lane] = values[i];
  });
  if constexpr (kChecked) {
    for_lanes(mask, [&](int lane) {
      std::uint64_t marks[kMostElements];
      for (int i = 0; i < elements; ++i) {
        marks[i] = undefined_bits(w, r[elements + i], sizeof(Word), lane);
      }
      for (int i = 0; i < elements; ++i) {
        set_undefined_bits(w, r[i], sizeof(Word), lane, marks[i]);
      }
    });
  }
}

template <class Word>
void add_vector_move(FormTable& t, const char* pattern, const char* format,
                     std::uint32_t elements) {
  t.add_checked(pattern, format, move_vector<Word, false>, move_vector<Word, true>, Taint::custom,
                elements);
}

// ---- predicates ----------------------------------------------------------------------------------

void move_predicate(Warp& w, const Op& op, std::uint32_t mask) {
  set_predicate(w, op.r[0], predicate_operand(w, op, 1), mask);
}
void not_predicate(Warp& w, const Op& op, std::uint32_t mask) {
  set_predicate(w, op.r[0], ~predicate_operand(w, op, 1), mask);
}
void and_predicate(Warp& w, const Op& op, std::uint32_t mask) {
  set_predicate(w, op.r[0], predicate_operand(w, op, 1) & predicate_operand(w, op, 2), mask);
}
void or_predicate(Warp& w, const Op& op, std::uint32_t mask) {
  set_predicate(w, op.r[0], predicate_operand(w, op, 1) | predicate_operand(w, op, 2), mask);
}
void xor_predicate(Warp& w, const Op& op, std::uint32_t mask) {
  set_predicate(w, op.r[0], predicate_operand(w, op, 1) ^ predicate_operand(w, op, 2), mask);
}

// ---- address spaces ------------------------------------------------------------------------------

template <Address kWindow>
void to_generic(Warp& w, const Op& op, std::uint32_t mask) {
  for_lanes(mask, [&](int lane) { row64(w, op.r[0])[lane] = row64(w, op.r[1])[lane] + kWindow; });
}
template <Address kWindow>
void from_generic(Warp& w, const Op& op, std::uint32_t mask) {
  for_lanes(mask, [&](int lane) { row64(w, op.r[0])[lane] = row64(w, op.r[1])[lane] - kWindow; });
}

enum class WindowTest : std::uint32_t { shared, local, param, global };

// isspacep.<space> p, a
void in_space(Warp& w, const Op& op, std::uint32_t mask) {
  std::uint32_t lanes = 0;
  auto inside = [](std::uint64_t address, Address window) {
    return address - window < kWindowBytes;
  };
  for_lanes(mask, [&](int lane) {
    std::uint64_t a = row64(w, op.r[1])[lane];
    bool shared = inside(a, kSharedWindow), local = inside(a, kLocalWindow),
         param = inside(a, kParamWindow);
    bool holds = false;
    switch (static_cast<WindowTest>(op.imm)) {
      case WindowTest::shared:
        holds = shared;
        break;
      case WindowTest::local:
        holds = local;
        break;
      case WindowTest::param:
        holds = param;
        break;
      case WindowTest::global:
        holds = !shared && !local && !param;
        break;
    }
    lanes |= static_cast<std::uint32_t>(holds) << lane;
  });
  set_predicate(w, op.r[0], lanes, mask);
}

// A cache policy is opaque and changes no value.
void make_policy(Warp& w, const Op& op, std::uint32_t mask) {
  for_lanes(mask, [&](int lane) { row64(w, op.r[0])[lane] = 0; });
}

}  // namespace

void read_clock(Warp& w, const Op& op, std::uint32_t mask) {
  std::uint64_t now = w.executed - static_cast<std::uint64_t>(w.budget);
  bool wide = (op.imm & 1) != 0, upper = (op.imm & 2) != 0;
  if (upper) now >>= 32;
  for_lanes(mask, [&](int lane) {
    if (wide) {
      row64(w, op.r[0])[lane] = now;
    } else {
      row32(w, op.r[0])[lane] = static_cast<std::uint32_t>(now);
    }
  });
}

void register_moves(FormTable& t) {
  t.add("mov.b32", "{hh}W", unpack32);
  t.add("mov.b64", "{ww}D", unpack64);
  t.add("mov.b64", "{hhhh}D", unpack64_quarters);
  t.add("mov.b64", "d{HHHH}", pack64_quarters);

  add_vector_move<std::uint32_t>(t, "mov.v2{.b16|.u16|.s16|.f16}", "{hh}{HH}", 2);
  add_vector_move<std::uint32_t>(t, "mov.v2{.b32|.u32|.s32|.f32}", "{ww}{WW}", 2);
  add_vector_move<std::uint64_t>(t, "mov.v2{.b64|.u64|.s64|.f64}", "{dd}{DD}", 2);
  add_vector_move<std::uint32_t>(t, "mov.v4{.b16|.u16|.s16|.f16}", "{hhhh}{HHHH}", 4);
  add_vector_move<std::uint32_t>(t, "mov.v4{.b32|.u32|.s32|.f32}", "{wwww}{WWWW}", 4);

  t.add("mov.pred", "pP", move_predicate);
  t.add("not.pred", "pP", not_predicate);
  t.add("and.pred", "pPP", and_predicate);
  t.add("or.pred", "pPP", or_predicate);
  t.add("xor.pred", "pPP", xor_predicate);

  // Global and constant addresses are their own generic addresses.
  t.add("cvta{|.to}{.global|.const}.u64", "dD", to_generic<0>);
  t.add("cvta{.shared|.shared::cta}.u64", "dD", to_generic<kSharedWindow>);
  t.add("cvta.to{.shared|.shared::cta}.u64", "dD", from_generic<kSharedWindow>);
  t.add("cvta.local.u64", "dD", to_generic<kLocalWindow>);
  t.add("cvta.to.local.u64", "dD", from_generic<kLocalWindow>);
  t.add("cvta{.param|.param::entry}.u64", "dD", to_generic<kParamWindow>);
  t.add("cvta.to{.param|.param::entry}.u64", "dD", from_generic<kParamWindow>);
  auto test = [&](const char* name, WindowTest which) {
    t.add(name, "pD", in_space, static_cast<std::uint32_t>(which));
  };
  test("isspacep{.shared|.shared::cta}", WindowTest::shared);
  test("isspacep.local", WindowTest::local);
  test("isspacep{.param|.param::entry}", WindowTest::param);
  test("isspacep.global", WindowTest::global);
  t.add(
      "createpolicy.fractional{.L2::evict_last|.L2::evict_normal|.L2::evict_first|.L2::evict_"
      "unchanged}.b64",
      "d", make_policy);
  t.add(
      "createpolicy.fractional{.L2::evict_last|.L2::evict_normal|.L2::evict_first|.L2::evict_"
      "unchanged}.b64",
      "dW", make_policy);
}

}  // namespace sagegen::emulator
