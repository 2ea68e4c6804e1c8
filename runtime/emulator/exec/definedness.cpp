#include "runtime/emulator/exec/definedness.h"

#include <vector>

namespace sagegen::emulator {
namespace {

using u32 = std::uint32_t;
using u64 = std::uint64_t;

u64* shadow64(const Warp& w, std::uint16_t row) {
  return reinterpret_cast<u64*>(w.undefined + std::size_t{row} * kLanes);
}
u32* shadow32(const Warp& w, std::uint16_t row) { return w.undefined + std::size_t{row} * kLanes; }

}  // namespace

std::uint64_t undefined_bits(const Warp& w, std::uint16_t row, std::uint32_t bytes, int lane) {
  const u64 all = low_bits(8 * bytes);
  if ((defined_row(w, row) >> lane & 1) != 0) return 0;
  if ((w.partial[row] >> lane & 1) == 0) return all;
  return (bytes == 8 ? shadow64(w, row)[lane] : u64{shadow32(w, row)[lane]}) & all;
}

void set_undefined_bits(const Warp& w, std::uint16_t row, std::uint32_t bytes, int lane,
                        std::uint64_t bits) {
  const u64 all = low_bits(8 * bytes);
  const u32 bit = 1u << lane;
  bits &= all;
  set_defined_row(w, row, bits == 0 ? bit : 0, bit);
  if (bits == 0 || bits == all) return;
  w.partial[row] |= bit;
  if (bytes == 8) {
    shadow64(w, row)[lane] = bits;
  } else {
    shadow32(w, row)[lane] = static_cast<u32>(bits);
  }
}

std::uint32_t undefined_bytes_of(std::uint64_t bits) {
  u32 bytes = 0;
  for (int i = 0; i < 8; ++i) bytes |= static_cast<u32>((bits >> 8 * i & 0xff) != 0) << i;
  return bytes;
}

std::uint64_t bits_of_bytes(std::uint32_t bytes) {
  u64 bits = 0;
  for (int i = 0; i < 8; ++i) bits |= (bytes >> i & 1) != 0 ? u64{0xff} << 8 * i : 0;
  return bits;
}

void spread_undefined(Warp& w, const Op& op, std::uint32_t mask, std::uint32_t defined) {
  if (const Handler rule = w.program->spread[op_index(w, op)].run) return rule(w, op, mask);
  const OpInfo& info = op_info(w, op);
  const std::uint16_t* cell = w.program->taint_pool.data() + info.cells;
  for (int i = 0; i < info.destinations; ++i) {
    w.defined[cell[i]] = (w.defined[cell[i]] & ~mask) | (defined & mask);
    if (cell[i] < w.program->rows) w.partial[cell[i]] &= ~mask;
  }
}

void spread_matrix(const Warp& w, const MatrixRows& registers) {
  u32 whole = kFullMask;
  for (const auto& rows : {registers.a, registers.b, registers.c}) {
    for (const std::uint16_t row : rows) whole &= defined_row(w, row);
  }
  if (whole == kFullMask) {
    for (const std::uint16_t row : registers.d) set_defined_row(w, row, kFullMask, kFullMask);
    return;
  }
  // Lane l holds elements of the rows l / 4 and l / 4 + 8 of A, in turn, and of column l / 4 of B.
  u32 rows = 0, columns = 0;
  for (std::size_t i = 0; i < registers.a.size(); ++i) {
    for_lanes(~defined_row(w, registers.a[i]),
              [&](int lane) { rows |= 1u << (lane / 4 + 8 * (i & 1)); });
  }
  for (const std::uint16_t row : registers.b) {
    for_lanes(~defined_row(w, row), [&](int lane) { columns |= 1u << lane / 4; });
  }
  // And of C the columns 2 (l % 4) and the next, of these rows.
  std::vector<u64> marks;
  for (std::size_t i = 0; i < registers.c.size(); ++i) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const auto undefined = [&](std::size_t row, int column) {
        return (rows >> row & 1) != 0 || (columns >> column & 1) != 0;
      };
      const int g = lane / 4, t = lane % 4;
      if (registers.f16_accumulators) {
        const u64 c = undefined_bits(w, registers.c[i], 4, lane);
        u64 bits = 0;
        for (int half = 0; half < 2; ++half) {
          const u64 part = u64{0xffff} << 16 * half;
          if ((c & part) != 0 || undefined(g + 8 * i, 2 * t + half)) bits |= part;
        }
        marks.push_back(bits);
      } else {
        const bool c = (defined_row(w, registers.c[i]) >> lane & 1) == 0;
        marks.push_back(c || undefined(g + 8 * (i / 2), 2 * t + static_cast<int>(i & 1)) ? ~u64{0}
                                                                                         : 0);
      }
    }
  }
  for (std::size_t i = 0; i < registers.d.size(); ++i) {
    for (int lane = 0; lane < kLanes; ++lane) {
      // Wholly undefined is the same in any width.
      const u32 bytes = registers.f16_accumulators ? 4 : 8;
      set_undefined_bits(w, registers.d[i], bytes, lane, marks[i * kLanes + lane]);
    }
  }
}

}  // namespace sagegen::emulator
