// Where an attention kernel keeps the elements of its tiles: in lanes and registers, and in shared memory. Nothing of it
// is written down here: it is measured. The parts of the template that load, copy and multiply are built into a kernel of
// their own, which the emulator runs on numbers that say where they came from.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "sagegen/kernel.h"
#include "sagegen/types.h"

namespace sagegen::pictures {

inline constexpr int kLanes = 32;

struct Element {
  int row = 0, column = 0;
  friend bool operator==(const Element&, const Element&) = default;
};

// What the lanes of a block's first warp hold of a matrix. Registers come in operands of mma.
struct Fragments {
  int operands = 0;
  int registers = 0;              // of an operand
  int parts = 0;                  // elements of a register, the first one in its lowest bits
  std::vector<Element> elements;  // by operand, lane, register, part

  const Element& at(int operand, int lane, int reg, int part) const {
    return elements[static_cast<std::size_t>(((operand * kLanes + lane) * registers + reg) * parts +
                                             part)];
  }
};

// One instruction of a warp: where each lane reads or writes, in bytes from the start of the tile.
using Request = std::array<int, kLanes>;

// What the warps of a block ask of a tile with one kind of instruction, once for all of the tile.
struct Access {
  std::string name;               // "ldmatrix"
  std::vector<Request> requests;  // of kLaneBytes per lane; of the first warp first
};

// A tile in shared memory, in chunks.
struct Tile {
  std::string name;  // "Q"
  DType type = DType::s8;
  std::string row_name;  // what a row is: "query", "key", "channel"
  int rows = 0, row_bytes = 0, panel_bytes = 0;
  std::vector<int> places;  // by row and chunk of the row: bytes from the start of the tile
  std::vector<Access> accesses;

  int row_chunks() const { return row_bytes / 16; }
  int place(int row, int chunk) const {
    return places[static_cast<std::size_t>(row * row_chunks() + chunk)];
  }
};

struct Layouts {
  // Elements are: Q and O: query, channel; K and V: key, channel; scores and P: query, key. Queries count from the
  // warp's first one, keys from the tile's.
  Fragments q, k, scores, p, v, o;
  std::vector<int> q_scale, k_scale;  // by query, by key: the number of its scale
  std::vector<int> stored_key;        // by place in the order in which V's codes are stored
  int queries = 0, keys = 0;          // of a warp; of a tile
  int value_channels = 0;             // of V, its padding included
  DType qk = DType::s8, pv = DType::f16;
  bool qk_is_scaled = true;   // by q_scale and k_scale
  bool v_is_scaled = false;   // by channel
  std::array<Tile, 3> tiles;  // Q, K, V
};

// Throws CodegenError and DriverError as emitting and launching do, SpecError of a kernel that is no attention kernel,
// InternalError if what came back is no layout.
Layouts measure_layouts(const Kernel& kernel);

}  // namespace sagegen::pictures
