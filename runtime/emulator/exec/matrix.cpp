// Warp-wide matrix instructions: ldmatrix, stmatrix, movmatrix, mma.sync. In an 8 x 8 matrix of 16-bit
// elements lane l holds elements 2(l % 4) and 2(l % 4) + 1 of row l / 4.

#include <fmt/format.h>

#include <cstring>

#include "runtime/emulator/exec/checker.h"
#include "runtime/emulator/exec/definedness.h"
#include "runtime/emulator/exec/forms.h"
#include "runtime/emulator/exec/wmma.h"

namespace sagegen::emulator {
namespace {

constexpr int kRowBytes = 16;
constexpr std::uint32_t kTransposed = 0x100;  // in Access::detail; the low byte counts matrices

std::uint32_t address_lanes(int matrices) {
  return matrices == 4 ? kFullMask : (1u << (8 * matrices)) - 1;
}

// Lane l of the transposed matrix takes column l / 4 of rows 2(l % 4) and the next.
struct ElementPlace {
  int row = 0, byte = 0;
};
ElementPlace place_of(int lane, int half, bool transposed) {
  int g = lane / 4, t = lane % 4;
  return transposed ? ElementPlace{2 * t + half, 2 * g} : ElementPlace{g, 4 * t + 2 * half};
}

template <bool kChecked>
void load_matrix(Warp& w, const Op& op, std::uint32_t mask) {
  if (!assemble(w, op, mask, kFullMask)) return;
  const Access& access = w.program->accesses[op.imm];
  int matrices = static_cast<int>(access.detail & 0xff);
  bool transposed = (access.detail & kTransposed) != 0;
  std::uint16_t base = op.r[matrices];
  std::uint32_t sources = address_lanes(matrices);
  LaneAddresses addresses = lane_addresses(w, access, base);
  LanePointers rows;
  std::uint32_t whole = kFullMask;  // rows without undefined bytes
  LaneTargets targets;
  if constexpr (kChecked) {
    const std::uint32_t lost = undefined_addresses(w, op, base, sources, "row address");
    locate_targets(w, op, op.imm, sources & ~lost, addresses, kRowBytes, "reads", targets);
    send_nowhere(w, lost, targets);
    for_lanes(sources, [&](int lane) {
      rows[lane] = targets[lane].data;
      bool good = w.cta->checker->read(w, op, lane, targets[lane], kRowBytes);
      whole &= ~(static_cast<std::uint32_t>(!good) << lane);
    });
  } else {
    locate_lanes(w, op, op.imm, sources, addresses, kRowBytes, "reads", rows);
  }
  if (w.cta->counts != nullptr) count_wavefronts(w, op, sources, addresses, kRowBytes);

  for (int m = 0; m < matrices; ++m) {
    std::uint32_t* d = row32(w, op.r[m]);
    std::uint8_t* const* row = rows.data() + 8 * m;
    if (transposed) {
      for (int lane = 0; lane < kLanes; ++lane) {
        int g = lane / 4, t = lane % 4;
        std::uint16_t low, high;
        std::memcpy(&low, row[2 * t] + 2 * g, 2);
        std::memcpy(&high, row[2 * t + 1] + 2 * g, 2);
        d[lane] = low | std::uint32_t{high} << 16;
      }
    } else {
      for (int g = 0; g < 8; ++g) std::memcpy(d + 4 * g, row[g], kRowBytes);
    }
    if constexpr (kChecked) {
      set_defined_row(w, op.r[m], kFullMask, kFullMask);
      for (int lane = 0; (whole >> (8 * m) & 0xff) != 0xff && lane < kLanes; ++lane) {
        std::uint32_t bytes = 0;
        for (int half = 0; half < 2; ++half) {
          const ElementPlace at = place_of(lane, half, transposed);
          if ((whole >> (8 * m + at.row) & 1) != 0) continue;
          const Target source = targets[8 * m + at.row];
          bytes |= (w.cta->checker->undefined_bytes(source, kRowBytes) >> at.byte & 3)
                   << (2 * half);
        }
        set_undefined_bits(w, op.r[m], 4, lane, bits_of_bytes(bytes));
      }
    }
  }
  if constexpr (kChecked) order_lanes(w, mask);
}

// Operands: address, sources.
template <bool kChecked>
void store_matrix(Warp& w, const Op& op, std::uint32_t mask) {
  if (!assemble(w, op, mask, kFullMask)) return;
  const Access& access = w.program->accesses[op.imm];
  int matrices = static_cast<int>(access.detail & 0xff);
  bool transposed = (access.detail & kTransposed) != 0;
  std::uint32_t destinations = address_lanes(matrices);
  LaneAddresses addresses = lane_addresses(w, access, op.r[0]);
  LaneTargets targets;
  std::uint32_t lost = 0;
  if constexpr (kChecked) {
    lost = undefined_addresses(w, op, op.r[0], destinations, "row address");
  }
  locate_targets(w, op, op.imm, destinations & ~lost, addresses, kRowBytes, "writes", targets);
  send_nowhere(w, lost, targets);
  if (w.cta->counts != nullptr) count_wavefronts(w, op, destinations, addresses, kRowBytes);
  for (int m = 0; m < matrices; ++m) {
    for (int lane = 0; lane < kLanes; ++lane) {
      std::uint32_t value = row32(w, op.r[1 + m])[lane];
      for (int half = 0; half < 2; ++half) {
        ElementPlace at = place_of(lane, half, transposed);
        Target target = targets[8 * m + at.row];
        target.address += at.byte;
        target.data += at.byte;
        std::uint16_t element = static_cast<std::uint16_t>(value >> (16 * half));
        if constexpr (kChecked) {
          const std::uint64_t bits = undefined_bits(w, op.r[1 + m], 4, lane) >> (16 * half);
          w.cta->checker->write_partly(w, op, 8 * m + at.row, target, 2, &element,
                                       undefined_bytes_of(bits & 0xffff));
        }
        std::memcpy(target.data, &element, 2);
      }
    }
  }
  if constexpr (kChecked) order_lanes(w, mask);
}

// movmatrix d, a: the transpose of one matrix.
template <bool kChecked>
void move_matrix(Warp& w, const Op& op, std::uint32_t mask) {
  if (!gather(w, op, mask, kFullMask)) return;
  const std::uint32_t* a = row32(w, op.r[1]);
  std::uint32_t result[kLanes];
  std::uint32_t undefined[kLanes] = {};
  for (int lane = 0; lane < kLanes; ++lane) {
    int g = lane / 4, t = lane % 4;
    int low = 4 * (2 * t) + g / 2,
        high = 4 * (2 * t + 1) + g / 2;  // lanes with column g of two rows
    int shift = 16 * (g % 2);
    result[lane] = (a[low] >> shift & 0xffff) | (a[high] >> shift & 0xffff) << 16;
    if constexpr (kChecked) {
      const auto half = [&](int source) {
        return static_cast<std::uint32_t>(undefined_bits(w, op.r[1], 4, source)) >> shift & 0xffff;
      };
      undefined[lane] = half(low) | half(high) << 16;
    }
  }
  std::memcpy(row32(w, op.r[0]), result, sizeof result);
  if constexpr (kChecked) {
    for (int lane = 0; lane < kLanes; ++lane) {
      set_undefined_bits(w, op.r[0], 4, lane, undefined[lane]);
    }
  }
}

// Operands: D, A, B, C.
template <bool kChecked>
void multiply(Warp& w, const Op& op, std::uint32_t mask) {
  if (!gather(w, op, mask, kFullMask)) return;
  const MmaDetail& detail = w.program->mmas[op.imm];
  const std::uint16_t* d = pooled(w, op);
  const std::uint16_t* a = d + detail.c;
  const std::uint16_t* b = a + detail.a;
  const std::uint16_t* c = b + detail.b;
  if constexpr (kChecked) {
    spread_matrix(w, {.a = {a, detail.a},
                      .b = {b, detail.b},
                      .c = {c, detail.c},
                      .d = {d, detail.c},
                      .f16_accumulators = detail.f16_accumulators});
  }
  constexpr std::size_t kRow = sizeof(std::uint32_t) * kLanes;
  alignas(64) MmaRegisters registers;
  for (int i = 0; i < detail.a; ++i) std::memcpy(registers.a[i], row32(w, a[i]), kRow);
  for (int i = 0; i < detail.b; ++i) std::memcpy(registers.b[i], row32(w, b[i]), kRow);
  for (int i = 0; i < detail.c; ++i) std::memcpy(registers.c[i], row32(w, c[i]), kRow);
  detail.run(registers);
  for (int i = 0; i < detail.c; ++i) {
    std::memcpy(row32(w, d[i]), registers.d[i], kRow);
  }
}

struct NamedType {
  std::string_view name;
  MmaType type;
  int bits;
};
constexpr NamedType kMmaTypes[] = {
    {"s8", MmaType::s8, 8},     {"u8", MmaType::u8, 8},     {"s4", MmaType::s4, 4},
    {"u4", MmaType::u4, 4},     {"f16", MmaType::f16, 16},  {"bf16", MmaType::bf16, 16},
    {"e4m3", MmaType::e4m3, 8}, {"e5m2", MmaType::e5m2, 8}, {"tf32", MmaType::tf32, 32},
    {"f64", MmaType::f64, 64},  {"b1", MmaType::b1, 1}};

const NamedType& read_type(ModifierReader& m) {
  for (const NamedType& type : kMmaTypes) {
    if (m.take(type.name)) return type;
  }
  m.refuse("an operand type");
}

bool is_integer(MmaType type) {
  return type == MmaType::s8 || type == MmaType::u8 || type == MmaType::s4 || type == MmaType::u4;
}

}  // namespace

std::vector<Form> mma_forms(const ptx::Instruction& instruction) {
  if (instruction.opcode != "mma") return {};
  ModifierReader m(instruction);
  if (!m.take("sync")) m.refuse(".sync");
  if (!m.take("aligned")) m.refuse(".aligned");
  std::string_view shape =
      m.take_any({"m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32", "m16n8k64", "m16n8k128",
                  "m16n8k256", "m8n8k4", "m8n8k16", "m8n8k32", "m8n8k128"});
  if (shape.empty()) m.refuse("a shape such as m16n8k16");
  if (!m.take("row") || !m.take("col")) m.refuse(".row.col");
  MmaShape mma;
  mma.k = std::stoi(std::string(shape.substr(shape.find('k') + 1)));
  mma.m = shape.starts_with("m8") ? 8 : 16;
  mma.saturate = m.take("satfinite");
  bool rounds = take_rounding(m, mma);
  std::string_view d = m.take_any({"f32", "f16", "s32", "f64"});
  if (d.empty()) m.refuse("the type of D");
  const NamedType& a = read_type(m);
  const NamedType& b = read_type(m);
  std::string_view c = m.take_any({"f32", "f16", "s32", "f64"});
  if (c.empty()) m.refuse("the type of C");
  rounds |= take_rounding(m, mma);
  const std::string_view operation = m.take_any({"xor", "and"});
  if (!operation.empty() && !m.take("popc")) m.refuse(".popc");
  mma.conjunction = operation == "and";
  m.finish();
  mma.a = a.type;
  mma.b = b.type;
  mma.f16_accumulator = d == "f16";
  int row_bytes = mma.k * a.bits / 8;
  bool integer = is_integer(a.type);
  if (a.type == MmaType::f64) {
    bool known = b.type == MmaType::f64 && d == "f64" && c == "f64" && !mma.saturate &&
                 operation.empty() && (mma.m == 8 ? mma.k == 4 : mma.k <= 16);
    if (known) return {doubles_form(mma)};
  }
  const bool binary = a.type == MmaType::b1;
  bool valid = d == c && d != "f64" && !rounds && binary == !operation.empty() &&
               (mma.m == 16 || (integer && row_bytes == 16) || (binary && row_bytes == 16)) &&
               a.bits == b.bits && (row_bytes == 32 || row_bytes == 16) &&
               (integer || binary) == (d == "s32") && integer == is_integer(b.type) &&
               binary == (b.type == MmaType::b1) && (!mma.saturate || integer) &&
               (a.bits < 16 || a.type == b.type) &&
               ((a.type != MmaType::bf16 && a.type != MmaType::tf32) || d == "f32");
  if (!valid)
    throw UnknownForm(
        fmt::format("no such combination of types and shape: {}", text_of(instruction)));
  if (mma.m == 8) return {eight_form(mma)};

  Form form;
  std::string registers_c = mma.f16_accumulator ? "ww" : "wwww";
  std::string reads_c = mma.f16_accumulator ? "WW" : "WWWW";
  bool half = row_bytes == 16;
  form.format = "{" + registers_c + "}{" + (half ? "WW" : "WWWW") + "}{" + (half ? "W" : "WW") +
                "}{" + reads_c + "}";
  form.plain = multiply<false>;
  form.checked = multiply<true>;
  form.taint = Taint::custom;
  form.mma = mma;
  return {form};
}

void register_matrix(FormTable& t) {
  for (int matrices : {1, 2, 4}) {
    for (bool transposed : {false, true}) {
      std::string registers(matrices, 'w'), sources(matrices, 'W');
      std::string suffix = ".sync.aligned.m8n8.x" + std::to_string(matrices) +
                           (transposed ? ".trans" : "") + "{.shared|.shared::cta}.b16";
      Form form;
      form.taint = Taint::custom;
      form.access.space = Space::shared;
      form.access.detail = static_cast<std::uint32_t>(matrices) | (transposed ? kTransposed : 0);
      form.format = "{" + registers + "}A";
      form.plain = load_matrix<false>;
      form.checked = load_matrix<true>;
      t.add_form("ldmatrix" + suffix, form);
      form.format = "A{" + sources + "}";
      form.plain = store_matrix<false>;
      form.checked = store_matrix<true>;
      t.add_form("stmatrix" + suffix, form);
    }
  }
  t.add_checked("movmatrix.sync.aligned.m8n8.trans.b16", "wW", move_matrix<false>,
                move_matrix<true>, Taint::custom);
}

}  // namespace sagegen::emulator
