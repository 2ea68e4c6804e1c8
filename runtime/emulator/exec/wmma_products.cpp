// Products of matrices whose fragments are not those of one mma.m16n8 in 32-bit registers.
// Source: PTX ISA, "wmma.mma", "mma".

#include <array>
#include <bit>
#include <cstring>
#include <span>
#include <string>

#include "runtime/emulator/exec/definedness.h"
#include "runtime/emulator/exec/wmma.h"
#include "runtime/emulator/numerics/fused_sum.h"

namespace sagegen::emulator {
namespace {

// ---- definedness -------------------------------------------------------------------------------

// The registers of one mma: row i of D depends on row i of A, column j on column j of B, an element on
// that of C.
struct Registers {
  std::span<const std::uint16_t> a, b, c;
  int row_parts = 2;  // registers of A for one k
  bool f16_accumulators = false;
  bool f16_c = false;  // then C holds two elements in a register, too; it is named for each
};

// By element of D.
using DefinedLanes = std::array<std::uint32_t, kMaxRegisters>;

// Where this half of a register is defined.
std::uint32_t defined_half(const Warp& w, std::uint16_t row, int half) {
  std::uint32_t lanes = defined_row(w, row);
  for_lanes(~lanes, [&](int lane) {
    const bool defined = (undefined_bits(w, row, 4, lane) & low_bits(16) << 16 * half) == 0;
    lanes |= static_cast<std::uint32_t>(defined) << lane;
  });
  return lanes;
}

void set_defined_halves(const Warp& w, std::uint16_t row, std::uint32_t low, std::uint32_t high) {
  set_defined_row(w, row, low & high, kFullMask);
  for_lanes(low ^ high, [&](int lane) {
    set_undefined_bits(w, row, 4, lane, low_bits(16) << ((low >> lane & 1) != 0 ? 16 : 0));
  });
}

DefinedLanes defined_results(const Warp& w, const Registers& r) {
  std::uint32_t rows = 0, columns = 0;  // undefined
  for (std::size_t i = 0; i < r.a.size(); ++i) {
    const int upper = static_cast<int>(i) % r.row_parts;
    for_lanes(~defined_row(w, r.a[i]), [&](int lane) { rows |= 1u << (lane / 4 + 8 * upper); });
  }
  for (const std::uint16_t b : r.b) {
    for_lanes(~defined_row(w, b), [&](int lane) { columns |= 1u << lane / 4; });
  }
  DefinedLanes defined = {};
  const int elements = static_cast<int>(r.c.size()) * (r.f16_accumulators ? 2 : 1);
  for (int i = 0; i < elements; ++i) {
    const std::uint16_t c = r.c[static_cast<std::size_t>(r.f16_accumulators ? i / 2 : i)];
    defined[i] = r.f16_accumulators || r.f16_c ? defined_half(w, c, i & 1) : defined_row(w, c);
    if ((rows | columns) == 0) continue;
    for (int lane = 0; lane < kLanes; ++lane) {
      const int row = lane / 4 + 8 * (i >> 1), column = 2 * (lane % 4) + (i & 1);
      if ((columns >> column & 1) != 0 || (rows >> row & 1) != 0) defined[i] &= ~(1u << lane);
    }
  }
  return defined;
}

void set_defined(const Warp& w, std::span<const std::uint16_t> d, const DefinedLanes& defined) {
  for (std::size_t i = 0; i < d.size(); ++i) set_defined_row(w, d[i], defined[i], kFullMask);
}

// ---- products ----------------------------------------------------------------------------------

constexpr std::size_t kRow = sizeof(std::uint32_t) * kLanes;

// Operands: D, A, B, C of 2, 1, 1 and 2 registers.
template <bool kChecked>
void multiply_eight(Warp& w, const Op& op, std::uint32_t mask) {
  if (!gather(w, op, mask, kFullMask)) return;
  const std::uint16_t* d = op.r.data();
  const std::uint16_t *a = d + 2, *b = a + 1, *c = b + 1;
  DefinedLanes defined = {};
  if constexpr (kChecked) {
    defined = defined_results(w, {.a = {a, 1}, .b = {b, 1}, .c = {c, 2}, .row_parts = 1});
  }
  alignas(64) MmaRegisters registers{};
  std::memcpy(registers.a[0], row32(w, *a), kRow);
  std::memcpy(registers.b[0], row32(w, *b), kRow);
  for (int i = 0; i < 2; ++i) std::memcpy(registers.c[i], row32(w, c[i]), kRow);
  w.program->mmas[op.imm].run(registers);
  for (int i = 0; i < 2; ++i) std::memcpy(row32(w, d[i]), registers.d[i], kRow);
  if constexpr (kChecked) set_defined(w, {d, 2}, defined);
}

struct DoubleCounts {
  std::size_t a, b, c;
};
DoubleCounts double_counts(const MmaShape& shape) {
  const auto m = static_cast<std::size_t>(shape.m), k = static_cast<std::size_t>(shape.k);
  return {m * k / 32, k / 4, m / 4};
}

template <bool kChecked>
void multiply_doubles(Warp& w, const Op& op, std::uint32_t mask) {
  if (!gather(w, op, mask, kFullMask)) return;
  const MmaDetail& detail = w.program->mmas[op.imm];
  const DoubleCounts count = double_counts(detail.shape);
  const std::uint16_t* d = operands_of(w, op, static_cast<int>(count.a + count.b + 2 * count.c));
  const std::uint16_t *a = d + count.c, *b = a + count.a, *c = b + count.b;
  DefinedLanes defined = {};
  if constexpr (kChecked) {
    defined = defined_results(
        w,
        {.a = {a, count.a}, .b = {b, count.b}, .c = {c, count.c}, .row_parts = detail.shape.m / 8});
  }
  MmaDoubles registers;
  for (std::size_t i = 0; i < count.a; ++i) std::memcpy(registers.a[i], row64(w, a[i]), 2 * kRow);
  for (std::size_t i = 0; i < count.b; ++i) std::memcpy(registers.b[i], row64(w, b[i]), 2 * kRow);
  for (std::size_t i = 0; i < count.c; ++i) std::memcpy(registers.c[i], row64(w, c[i]), 2 * kRow);
  detail.run_double(detail.shape, registers);
  for (std::size_t i = 0; i < count.c; ++i) std::memcpy(row64(w, d[i]), registers.d[i], 2 * kRow);
  if constexpr (kChecked) set_defined(w, {d, count.c}, defined);
}

// How the two mma.m16n8 of a wmma.mma lie: side by side (m16n16), one upon the other (m32n8), or that
// transposed (m8n32).
enum class Parts { columns, rows, transposed };

// Accumulators of f16 with results of f32, or the other way round: ptxas widens the ones before, and rounds
// the others after, an instruction with f32 accumulators.
enum class Sums { same, widened, rounded };

constexpr int kSums = 4;  // registers of f32 or s32 accumulators

void widen(const std::uint32_t* halves, int upper, MmaRegisters& r) {
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 2; ++i) {
      const auto half = static_cast<std::uint16_t>(halves[lane] >> (16 * i));
      r.c[2 * upper + i][lane] = std::bit_cast<std::uint32_t>(f16_to_f32(half));
    }
  }
}

void round_to_halves(const MmaRegisters& r, int upper, std::uint32_t* halves) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto half = [&](int i) {
      return std::uint32_t{f32_to_f16(std::bit_cast<float>(r.d[2 * upper + i][lane]))};
    };
    halves[lane] = half(0) | half(1) << 16;
  }
}

template <Parts kParts, Sums kMix, bool kChecked>
void multiply_parts(Warp& w, const Op& op, std::uint32_t mask) {
  if (!gather(w, op, mask, kFullMask)) return;
  const MmaDetail& detail = w.program->mmas[op.imm];
  const bool copies = detail.shape.a == MmaType::f16;
  const int own_a = kParts == Parts::rows         ? 2 * detail.a
                    : kParts == Parts::transposed ? detail.b
                                                  : detail.a;
  const int own_b = kParts == Parts::columns      ? 2 * detail.b
                    : kParts == Parts::transposed ? 2 * detail.a
                                                  : detail.b;
  const int sums = kMix == Sums::widened ? kSums / 2 : detail.c;     // of C and
  const int results = kMix == Sums::rounded ? kSums / 2 : detail.c;  // of D in a part
  const std::uint16_t* d = pooled(w, op);
  const std::uint16_t* a = d + 2 * results;
  const std::uint16_t* b = a + (copies ? kMaxRegisters : own_a);
  const std::uint16_t* c = b + (copies ? kMaxRegisters : own_b);
  alignas(64) std::array<MmaRegisters, 2> registers;
  std::array<DefinedLanes, 2> defined = {};
  for (int part = 0; part < 2; ++part) {
    const std::uint16_t* rows = kParts == Parts::rows         ? a + part * detail.a
                                : kParts == Parts::transposed ? b + part * detail.a
                                                              : a;
    const std::uint16_t* columns = kParts == Parts::columns      ? b + part * detail.b
                                   : kParts == Parts::transposed ? a
                                                                 : b;
    std::array<std::uint16_t, kSums> cells;  // C by registers of the mma
    for (int i = 0; i < detail.c; ++i) {
      cells[static_cast<std::size_t>(i)] = c[part * sums + (kMix == Sums::widened ? i / 2 : i)];
    }
    MmaRegisters& r = registers[static_cast<std::size_t>(part)];
    for (int i = 0; i < detail.a; ++i) std::memcpy(r.a[i], row32(w, rows[i]), kRow);
    for (int i = 0; i < detail.b; ++i) std::memcpy(r.b[i], row32(w, columns[i]), kRow);
    for (int i = 0; i < sums; ++i) {
      const std::uint32_t* row = row32(w, c[part * sums + i]);
      if constexpr (kMix == Sums::widened) {
        widen(row, i, r);
      } else {
        std::memcpy(r.c[i], row, kRow);
      }
    }
    if constexpr (kChecked) {
      defined[static_cast<std::size_t>(part)] =
          defined_results(w, {.a = {rows, detail.a},
                              .b = {columns, detail.b},
                              .c = {cells.data(), detail.c},
                              .f16_accumulators = detail.shape.f16_accumulator,
                              .f16_c = kMix == Sums::widened});
    }
    detail.run(r);
  }
  for (int part = 0; part < 2; ++part) {
    const auto at = static_cast<std::size_t>(part);
    for (int i = 0; i < results; ++i) {
      const std::uint16_t row = d[part * results + i];
      if constexpr (kMix == Sums::rounded) {
        round_to_halves(registers[at], i, row32(w, row));
      } else {
        std::memcpy(row32(w, row), registers[at].d[i], kRow);
      }
      if constexpr (kChecked) {
        const DefinedLanes& known = defined[at];
        const auto element = static_cast<std::size_t>(i);
        if (kMix == Sums::rounded || detail.shape.f16_accumulator) {
          set_defined_halves(w, row, known[2 * element], known[2 * element + 1]);
        } else {
          set_defined_row(w, row, known[element], kFullMask);
        }
      }
    }
  }
}

// ---- forms -------------------------------------------------------------------------------------

std::string vector_format(char letter, int count) {
  return "{" + std::string(static_cast<std::size_t>(count), letter) + "}";
}

template <Parts kParts>
void set_handlers(Form& form, Sums mix) {
  switch (mix) {
    case Sums::same:
      form.plain = multiply_parts<kParts, Sums::same, false>;
      form.checked = multiply_parts<kParts, Sums::same, true>;
      return;
    case Sums::widened:
      form.plain = multiply_parts<kParts, Sums::widened, false>;
      form.checked = multiply_parts<kParts, Sums::widened, true>;
      return;
    case Sums::rounded:
      form.plain = multiply_parts<kParts, Sums::rounded, false>;
      form.checked = multiply_parts<kParts, Sums::rounded, true>;
  }
}

}  // namespace

Form eight_form(const MmaShape& shape) {
  Form form;
  form.format = "{ww}{W}{W}{WW}";
  form.plain = multiply_eight<false>;
  form.checked = multiply_eight<true>;
  form.taint = Taint::custom;
  form.mma = shape;
  return form;
}

Form doubles_form(const MmaShape& shape) {
  const DoubleCounts count = double_counts(shape);
  Form form;
  form.format = vector_format('d', static_cast<int>(count.c)) +
                vector_format('D', static_cast<int>(count.a)) +
                vector_format('D', static_cast<int>(count.b)) +
                vector_format('D', static_cast<int>(count.c));
  form.plain = multiply_doubles<false>;
  form.checked = multiply_doubles<true>;
  form.taint = Taint::custom;
  form.mma = shape;
  return form;
}

Form parts_form(const MmaShape& shape, int m, int n, bool d_half, bool c_half) {
  const int halves = shape.k * bits_of(shape.a) / 128;
  const bool copies = shape.a == MmaType::f16;
  const int a = copies ? kMaxRegisters : m / 8 * halves;
  const int b = copies ? kMaxRegisters : n / 8 * halves;
  Form form;
  form.format = vector_format('w', d_half ? kSums : 2 * kSums) + vector_format('W', a) +
                vector_format('W', b) + vector_format('W', c_half ? kSums : 2 * kSums);
  form.taint = Taint::custom;
  form.mma = shape;
  const Sums mix = d_half == c_half ? Sums::same : c_half ? Sums::widened : Sums::rounded;
  if (m == 16) {
    set_handlers<Parts::columns>(form, mix);
  } else if (m == 32) {
    set_handlers<Parts::rows>(form, mix);
  } else {
    set_handlers<Parts::transposed>(form, mix);
  }
  return form;
}

}  // namespace sagegen::emulator
