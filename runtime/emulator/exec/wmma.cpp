// wmma: fragments in memory, and forms. Products are in wmma_products.cpp.
// Source: PTX ISA, "wmma.load", "wmma.store", "wmma.mma", "Matrix fragments for WMMA".

#include "runtime/emulator/exec/wmma.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "runtime/emulator/exec/checker.h"
#include "runtime/emulator/exec/definedness.h"
#include "runtime/emulator/numerics/fused_sum.h"

namespace sagegen::emulator {
namespace {

// ---- fragments in memory -----------------------------------------------------------------------

enum class Which : std::uint32_t { a, b, c };  // c: D too

struct Tile {
  std::string_view name;
  int m, n, k;
};
constexpr Tile kTiles[] = {{"m16n16k16", 16, 16, 16}, {"m32n8k16", 32, 8, 16},
                           {"m8n32k16", 8, 32, 16},   {"m16n16k8", 16, 16, 8},
                           {"m8n8k4", 8, 8, 4},       {"m8n8k32", 8, 8, 32},
                           {"m8n8k128", 8, 8, 128}};

// What an instruction loads or stores; packed into Access::detail.
struct Fragment {
  Which which = Which::a;
  int tile = 0;  // in kTiles
  int bits = 16;
  bool column_major = false;
  bool has_stride = false;
  bool copies = false;  // A and B of f16 have kMaxRegisters registers

  std::uint32_t packed() const {
    return static_cast<std::uint32_t>(which) | static_cast<std::uint32_t>(tile) << 2 |
           static_cast<std::uint32_t>(bits) << 8 | std::uint32_t{column_major} << 16 |
           std::uint32_t{has_stride} << 17 | std::uint32_t{copies} << 18;
  }
  static Fragment unpacked(std::uint32_t detail) {
    return {.which = static_cast<Which>(detail & 3),
            .tile = static_cast<int>(detail >> 2 & 0xf),
            .bits = static_cast<int>(detail >> 8 & 0xff),
            .column_major = (detail >> 16 & 1) != 0,
            .has_stride = (detail >> 17 & 1) != 0,
            .copies = (detail >> 18 & 1) != 0};
  }
  const Tile& size() const { return kTiles[tile]; }
  int rows() const { return which == Which::b ? size().k : size().m; }
  int columns() const { return which == Which::a ? size().k : size().n; }
  bool doubles() const { return bits == 64; }
  // Registers that hold elements, and those that the instruction names.
  int own_registers() const { return rows() * columns() * bits / (doubles() ? 2048 : 1024); }
  int registers() const { return copies ? kMaxRegisters : own_registers(); }
};

struct Place {
  int reg, lane, bit;
};

// Element k of a row of A, or of a column of B, whose four lanes have 128 bits of it in one register.
Place place_in_line(const Fragment& f, int line, int k, bool as_a) {
  if (f.doubles()) return {0, 4 * line + k, 0};
  const int halves = f.size().k * f.bits / 128;
  const int half = k * f.bits / 128;
  const int reg = as_a ? line / 16 * 2 * halves + (line % 16 >= 8 ? 1 : 0) + 2 * half
                       : line / 8 * halves + half;
  return {reg, line % 8 * 4 + k * f.bits % 128 / 32, k * f.bits % 32};
}

Place place_of(const Fragment& f, int row, int column) {
  const bool transposed = f.size().m == 8 && f.size().n == 32;
  if (f.which == Which::a) return place_in_line(f, row, column, !transposed);
  if (f.which == Which::b) return place_in_line(f, column, row, transposed);
  if (transposed) std::swap(row, column);
  const int part = row / 16 + column / 8;
  const int upper = row % 16 >= 8 ? 1 : 0;
  const int lane = row % 8 * 4 + column % 8 / 2;
  if (f.bits == 16) return {2 * part + upper, lane, 16 * (column & 1)};
  return {4 * part + 2 * upper + (column & 1), lane, 0};
}

// All lanes give one address and one stride.
template <class Value>
Value uniform(const Warp& w, const Op& op, const Value* values, const char* what) {
  for (int lane = 1; lane < kLanes; ++lane) {
    if (values[lane] == values[0]) continue;
    fail(w, op, lane, "divergent-collective",
         fmt::format("the lanes of a warp must give one {}; lane 0 gives {:#x}, lane {} {:#x}",
                     what, values[0], lane, values[lane]));
  }
  return values[0];
}

// Calls `f(place, address, bytes)` for each piece of the matrix: an element, or the 32 bits of a lane where
// elements are smaller than bytes. Not at all if it is nowhere.
template <bool kChecked, class F>
void for_pieces(Warp& w, const Op& op, const Fragment& fragment, std::uint16_t base_row,
                std::uint16_t stride_row, F&& f) {
  if constexpr (kChecked) {
    std::uint32_t lost = undefined_addresses(w, op, base_row, kFullMask, "address");
    if (fragment.has_stride) lost |= require_defined(w, op, stride_row, kFullMask, "stride");
    if (lost != 0) return;
  }
  const LaneAddresses addresses = lane_addresses(w, w.program->accesses[op.imm], base_row);
  const std::uint64_t base = uniform(w, op, addresses.data(), "address");
  std::uint64_t stride =
      static_cast<std::uint64_t>(fragment.column_major ? fragment.rows() : fragment.columns());
  if (fragment.has_stride) stride = uniform(w, op, row32(w, stride_row), "stride");
  const auto bits = static_cast<std::uint64_t>(fragment.bits);
  const auto whole = static_cast<std::uint64_t>(fragment.registers()) * (bits == 64 ? 8 : 4);
  const std::uint64_t alignment = std::min<std::uint64_t>(whole, 16);
  if (base % whole != 0 || stride * bits % (8 * alignment) != 0) {
    report(w, op, 0, "misaligned", [&] {
      return fmt::format(
          "a matrix at {:#x} with {} elements from one row or column to the next; the "
          "address must be a multiple of {} bytes and the stride of {}",
          base, stride, whole, alignment * 8 / bits);
    });
    return;
  }
  const int step = fragment.bits < 8 ? 32 / fragment.bits : 1;
  const int lines = fragment.column_major ? fragment.columns() : fragment.rows();
  const int length = fragment.column_major ? fragment.rows() : fragment.columns();
  const auto bytes = static_cast<std::uint32_t>(std::max(fragment.bits * step / 8, 1));
  for (int line = 0; line < lines; ++line) {
    for (int i = 0; i < length; i += step) {
      const int row = fragment.column_major ? i : line;
      const int column = fragment.column_major ? line : i;
      const std::uint64_t element =
          static_cast<std::uint64_t>(line) * stride + static_cast<std::uint64_t>(i);
      f(place_of(fragment, row, column), base + element * bits / 8, bytes);
    }
  }
}

Fragment fragment_of(const Warp& w, const Op& op) {
  return Fragment::unpacked(w.program->accesses[op.imm].detail);
}

// Operands: destinations, address{, stride}.
template <bool kChecked>
void load_fragment(Warp& w, const Op& op, std::uint32_t mask) {
  if (!assemble(w, op, mask, kFullMask)) return;
  const Fragment fragment = fragment_of(w, op);
  const int count = fragment.registers();
  const std::uint16_t* d = operands_of(w, op, count + (fragment.has_stride ? 2 : 1));
  std::uint64_t values[kMaxRegisters][kLanes] = {}, marks[kMaxRegisters][kLanes] = {};
  std::array<std::uint32_t, kMaxRegisters> defined;
  defined.fill(kFullMask);
  const std::uint16_t stride = fragment.has_stride ? d[count + 1] : d[count];
  for_pieces<kChecked>(w, op, fragment, d[count], stride,
                       [&](const Place& place, std::uint64_t address, std::uint32_t bytes) {
                         const Target target =
                             locate(w, op, op.imm, place.lane, address, bytes, "reads");
                         std::uint64_t value = 0;
                         std::memcpy(&value, target.data, bytes);
                         values[place.reg][place.lane] |= value << place.bit;
                         if constexpr (kChecked) {
                           if (!w.cta->checker->read(w, op, place.lane, target, bytes)) {
                             defined[place.reg] &= ~(1u << place.lane);
                             const auto undefined = w.cta->checker->undefined_bytes(target, bytes);
                             marks[place.reg][place.lane] |= bits_of_bytes(undefined) << place.bit;
                           }
                         }
                       });
  const int own = fragment.own_registers();
  for (int i = 0; i < count; ++i) {
    for (int lane = 0; lane < kLanes; ++lane) {
      if (fragment.doubles()) {
        row64(w, d[i])[lane] = values[i][lane];
      } else {
        row32(w, d[i])[lane] = static_cast<std::uint32_t>(values[i % own][lane]);
      }
    }
    if constexpr (kChecked) {
      set_defined_row(w, d[i], defined[i % own], kFullMask);
      for_lanes(~defined[i % own], [&](int lane) {
        set_undefined_bits(w, d[i], fragment.doubles() ? 8 : 4, lane, marks[i % own][lane]);
      });
    }
  }
  if constexpr (kChecked) order_lanes(w, mask);
}

// Operands: address, sources{, stride}.
template <bool kChecked>
void store_fragment(Warp& w, const Op& op, std::uint32_t mask) {
  if (!assemble(w, op, mask, kFullMask)) return;
  const Fragment fragment = fragment_of(w, op);
  const int count = fragment.registers();
  const std::uint16_t* r = operands_of(w, op, count + (fragment.has_stride ? 2 : 1));
  const std::uint16_t stride = fragment.has_stride ? r[count + 1] : r[0];
  for_pieces<kChecked>(
      w, op, fragment, r[0], stride,
      [&](const Place& place, std::uint64_t address, std::uint32_t bytes) {
        const Target target = locate(w, op, op.imm, place.lane, address, bytes, "writes");
        const std::uint16_t row = r[1 + place.reg];
        const std::uint64_t value = fragment.doubles()
                                        ? row64(w, row)[place.lane]
                                        : std::uint64_t{row32(w, row)[place.lane]} >> place.bit;
        if constexpr (kChecked) {
          const std::uint64_t marks_of_lane =
              undefined_bits(w, row, fragment.doubles() ? 8 : 4, place.lane) >> place.bit;
          w.cta->checker->write_partly(w, op, place.lane, target, bytes, &value,
                                       undefined_bytes_of(marks_of_lane & low_bits(8 * bytes)));
        }
        std::memcpy(target.data, &value, bytes);
      });
  if constexpr (kChecked) order_lanes(w, mask);
}

// ---- forms -------------------------------------------------------------------------------------

struct NamedType {
  std::string_view name;
  MmaType type;
};
constexpr NamedType kOperandTypes[] = {
    {"f16", MmaType::f16}, {"bf16", MmaType::bf16}, {"tf32", MmaType::tf32},
    {"f64", MmaType::f64}, {"s8", MmaType::s8},     {"u8", MmaType::u8},
    {"s4", MmaType::s4},   {"u4", MmaType::u4},     {"b1", MmaType::b1}};

int take_tile(ModifierReader& m) {
  for (int i = 0; i < static_cast<int>(std::size(kTiles)); ++i) {
    if (m.take(kTiles[i].name)) return i;
  }
  m.refuse("a shape such as m16n16k16");
}

bool take_column_major(ModifierReader& m) {
  if (m.take("row")) return false;
  if (!m.take("col")) m.refuse(".row or .col");
  return true;
}

MmaType take_operand_type(ModifierReader& m) {
  for (const NamedType& type : kOperandTypes) {
    if (m.take(type.name)) return type.type;
  }
  m.refuse("an operand type");
}

// Whether A and B of the type come in this tile.
bool in_tile(MmaType type, const Tile& tile) {
  switch (type) {
    case MmaType::tf32:
      return tile.k == 8;
    case MmaType::f64:
      return tile.k == 4;
    case MmaType::s4:
    case MmaType::u4:
      return tile.k == 32;
    case MmaType::b1:
      return tile.k == 128;
    default:
      return tile.k == 16;
  }
}

bool accumulates_in_tile(std::string_view type, const Tile& tile) {
  if (type == "f64") return tile.k == 4;
  if (type == "f16") return tile.k == 16;
  if (type == "f32") return tile.k == 16 || tile.k == 8;
  return type == "s32" && tile.k >= 16;
}

[[noreturn]] void no_such(const ptx::Instruction& instruction) {
  throw UnknownForm(
      fmt::format("no such combination of types, layout and shape: {}", text_of(instruction)));
}

void take_sync(ModifierReader& m) {
  if (!m.take("sync")) m.refuse(".sync");
  if (!m.take("aligned")) m.refuse(".aligned");
}

// wmma.load.a.sync.aligned.layout.shape{.space}.type, wmma.store.d...
std::vector<Form> transfer_forms(const ptx::Instruction& instruction, ModifierReader& m,
                                 bool is_store) {
  const std::string_view which = is_store ? m.take_any({"d"}) : m.take_any({"a", "b", "c"});
  if (which.empty()) m.refuse(is_store ? ".d" : ".a, .b or .c");
  take_sync(m);
  Fragment fragment{.which = which == "a" ? Which::a : which == "b" ? Which::b : Which::c};
  fragment.column_major = take_column_major(m);
  fragment.tile = take_tile(m);
  Form form;
  if (!m.take_any({"shared", "shared::cta"}).empty()) {
    form.access.space = Space::shared;
  } else if (m.take("global")) {
    form.access.space = Space::global;
  }
  if (fragment.which == Which::c) {
    const std::string_view type = m.take_any({"f16", "f32", "s32", "f64"});
    if (type.empty()) m.refuse("the type of an accumulator");
    if (!accumulates_in_tile(type, fragment.size())) no_such(instruction);
    fragment.bits = type == "f64" ? 64 : type == "f16" ? 16 : 32;
  } else {
    const MmaType type = take_operand_type(m);
    fragment.bits = bits_of(type);
    fragment.copies = type == MmaType::f16;
    const bool along_k = fragment.column_major == (fragment.which == Which::b);
    if (!in_tile(type, fragment.size()) || (fragment.bits < 8 && !along_k)) no_such(instruction);
  }
  m.finish();
  form.taint = Taint::custom;
  form.plain = is_store ? store_fragment<false> : load_fragment<false>;
  form.checked = is_store ? store_fragment<true> : load_fragment<true>;
  const auto count = static_cast<std::size_t>(fragment.registers());
  const std::string data = "{" + std::string(count, fragment.doubles() ? 'd' : 'w') + "}";
  const std::string sources = "{" + std::string(count, fragment.doubles() ? 'D' : 'W') + "}";
  fragment.has_stride = instruction.operands.size() > 2;
  form.access.detail = fragment.packed();
  form.format = (is_store ? "A" + sources : data + "A") + (fragment.has_stride ? "W" : "");
  return {form};
}

// wmma.mma{.xor|.and .popc}.sync.aligned.layout.layout.shape and then d.c (of f16), or
// {.rounding}.d.a.b.c{.satfinite}.
std::vector<Form> product_forms(const ptx::Instruction& instruction, ModifierReader& m) {
  MmaShape shape;
  const std::string_view operation = m.take_any({"xor", "and"});
  if (!operation.empty() && !m.take("popc")) m.refuse(".popc");
  shape.conjunction = operation == "and";
  take_sync(m);
  const bool a_column = take_column_major(m), b_column = take_column_major(m);
  const Tile& tile = kTiles[take_tile(m)];
  bool rounds = take_rounding(m, shape);
  const std::string_view d = m.take_any({"f16", "f32", "s32", "f64"});
  if (d.empty()) m.refuse("the type of D");
  std::string_view c = m.take_any({"f16", "f32"});
  // d.c is f16 x f16; d.a.b.c names its operands, of which bf16 and tf32 begin with no type of C.
  if (!c.empty() && (d == "f16" || d == "f32")) {
    shape.a = shape.b = MmaType::f16;
  } else {
    if (!c.empty()) no_such(instruction);
    shape.a = take_operand_type(m);
    shape.b = take_operand_type(m);
    c = m.take_any({"f32", "s32", "f64"});
    if (c.empty()) m.refuse("the type of C");
    shape.saturate = m.take("satfinite");
    rounds |= take_rounding(m, shape);
    if (shape.a == MmaType::f16) no_such(instruction);
  }
  m.finish();
  const MmaType type = shape.a;
  const std::string_view sum = is_integer(type) || type == MmaType::b1 ? "s32"
                               : type == MmaType::f64                  ? "f64"
                                                                       : "f32";
  const bool narrow = bits_of(type) < 8;
  if (shape.b != type || !in_tile(type, tile) || (type != MmaType::f16 && (d != sum || c != sum)) ||
      (shape.saturate && !is_integer(type)) || (rounds && type != MmaType::f64) ||
      (operation.empty() == (type == MmaType::b1)) || (narrow && (a_column || !b_column))) {
    no_such(instruction);
  }
  shape.k = tile.k;
  shape.f16_accumulator = d == "f16" && c == "f16";
  if (tile.m != 8 || tile.n != 8) {
    return {parts_form(shape, tile.m, tile.n, d == "f16", c == "f16")};
  }
  shape.m = 8;
  return {type == MmaType::f64 ? doubles_form(shape) : eight_form(shape)};
}

}  // namespace

bool take_rounding(ModifierReader& m, MmaShape& shape) {
  const std::string_view name = m.take_any({"rn", "rz", "rm", "rp"});
  if (name == "rz") shape.rounding = MmaRounding::zero;
  if (name == "rm") shape.rounding = MmaRounding::down;
  if (name == "rp") shape.rounding = MmaRounding::up;
  return !name.empty();
}

std::vector<Form> wmma_forms(const ptx::Instruction& instruction) {
  if (instruction.opcode != "wmma") return {};
  ModifierReader m(instruction);
  if (m.take("load")) return transfer_forms(instruction, m, false);
  if (m.take("store")) return transfer_forms(instruction, m, true);
  if (m.take("mma")) return product_forms(instruction, m);
  m.refuse(".load, .store or .mma");
}

}  // namespace sagegen::emulator
