// Tiles of Q, K and V on their way through shared memory into registers.
#pragma once

#include <string>
#include <vector>

#include "tools/pictures/layouts.h"
#include "tools/pictures/measure/launches.h"

namespace sagegen::pictures {

// Where each byte of a tile, counted row by row, is found after it was copied.
struct MeasuredTile {
  dsl::TileLayout layout;
  int threads = 0, values = 0;
  std::vector<int> place;      // by byte of the tile: byte of its shared memory
  std::vector<int> loaded;     // by value, thread and byte of the value: byte of the tile
  std::vector<int> copied_by;  // by chunk of the shared memory: thread

  int byte(int value, int thread, int part) const {
    return loaded[static_cast<std::size_t>((value * threads + thread) * 4 + part)];
  }
};
MeasuredTile measure_tile(const runtime::Device& device, const Kernel& kernel, TileName name);

// element(byte of the tile, bit of the byte)
template <typename ElementOf>
Fragments fragments_of(const MeasuredTile& tile, int registers, int element_bits,
                       const ElementOf& element) {
  Fragments result{.operands = tile.values / registers,
                   .registers = registers,
                   .parts = 32 / element_bits,
                   .elements = {}};
  for (int operand = 0; operand < result.operands; ++operand) {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int reg = 0; reg < registers; ++reg) {
        for (int part = 0; part < result.parts; ++part) {
          const int bit = part * element_bits;
          result.elements.push_back(
              element(tile.byte(operand * registers + reg, lane, bit / 8), bit % 8));
        }
      }
    }
  }
  return result;
}

// row_name: what a row is. transposed: whether ldmatrix transposes.
Tile drawn_tile(const MeasuredTile& tile, std::string name, DType type, std::string row_name,
                bool transposed);

}  // namespace sagegen::pictures
