// Tiles: where every element of a tile lives, in shared memory and in the registers of a warp. This is
// the only place that knows swizzles and fragment layouts; templates speak of row blocks, k steps and
// elements of a lane.
//
// Sources: PTX ISA, warp-level matrix instructions: mma (m16n8k16, m16n8k32 fragments), ldmatrix.
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "sagegen/dsl/kernel_builder.h"
#include "sagegen/dsl/reduce.h"
#include "sagegen/error.h"

namespace sagegen::dsl {

// ---- shared memory ------------------------------------------------------------------------------

inline constexpr int kChunkBytes =
    16;  // what cp.async moves and what one row of an ldmatrix matrix is
inline constexpr int kBankBytes = 128;  // one wavefront of shared memory

// A tile of rows x row_bytes in shared memory. It is cut into panels of panel_bytes columns, stored one
// after the other, and inside a panel the chunks of a row are permuted by exclusive or with the number
// of its 128-byte line. So
//   - eight rows at one chunk column (an ldmatrix matrix) fall into eight different bank groups,
//   - so do eight consecutive chunks of a panel (what eight lanes of a cp.async write),
//   - a block of 8 rows and whole panels is a constant away from the tile's first block: the address of
//     a fragment is one register per lane plus an immediate.
struct TileLayout {
  int rows;
  int row_bytes;
  int panel_bytes;                           // 32, 64 or 128; divides row_bytes
  std::optional<DType> type = std::nullopt;  // of the elements, if it is read as an operand of mma

  constexpr int bytes() const { return rows * row_bytes; }
  constexpr int chunks_per_row() const { return checked_panel() / kChunkBytes; }  // in one panel
  constexpr int rows_per_line() const { return kBankBytes / checked_panel(); }

  // Byte offset of a chunk from the tile's start. Row and Chunk are int or I32.
  template <typename Row, typename Chunk>
  constexpr auto offset(Row row, Chunk chunk) const {
    return chunk / chunks_per_row() * (rows * panel_bytes) + row * panel_bytes +
           ((chunk % chunks_per_row()) ^ swizzle(row)) * kChunkBytes;
  }
  // What a row's chunks are exclusive-ored with.
  template <typename Row>
  constexpr Row swizzle(Row row) const {
    return (row / rows_per_line()) % chunks_per_row();
  }
  friend bool operator==(const TileLayout&, const TileLayout&) = default;
  constexpr int checked_panel() const {
    if (panel_bytes == 32 || panel_bytes == 64 || panel_bytes == 128) return panel_bytes;
    throw CodegenError("a tile has panels of 32, 64 or 128 bytes, not " +
                       std::to_string(panel_bytes));
  }
};

// A tile at an address: base + offset bytes. The constant part is kept apart so that it ends as an
// immediate of the instruction.
struct SharedTile {
  TileLayout layout;
  SharedPtr base;
  int offset = 0;
  // The tile that starts `row` rows further down; row is a multiple of 8.
  SharedTile rows_from(I32 row) const { return {layout, base + row * layout.panel_bytes, offset}; }
  // The tile that starts `panel` panels further right.
  SharedTile panels_from(I32 panel) const {
    return {layout, base + panel * (layout.rows * layout.panel_bytes), offset};
  }
};

// Copies a tile from global memory to shared memory with cp.async, 16 bytes per thread and pass; rows from
// valid_rows on are filled with zeros and not read. Threads whose pass would leave the tile or, where its rows are no
// multiple of a pass, the panel, sit it out. thread: the thread's index among `threads`.
struct TileSource {
  GlobalPtr data;
  I64 row_stride;  // bytes
  // That a row has in global memory, whole chunks. What it lacks of the tile's is filled with zeros. 0: as many.
  int row_bytes = 0;
  // Bytes from data to a row of the tile, where rows are no constant stride apart; row_stride is unused then. Asked
  // of rows that are not read, too.
  std::function<I64(I32 row)> row_offset = {};
  // Whether data is thread_source() of the copying thread already; not with row_offset.
  bool of_thread = false;
};
// Where a thread begins to copy a tile. A loop over tiles may keep it, and add a tile's bytes for each.
GlobalPtr thread_source(KernelBuilder& k, const TileLayout& layout, const TileSource& from,
                        I32 thread);
void copy_tile_async(KernelBuilder& k, const SharedTile& to, const TileSource& from, I32 thread,
                     int threads, SourceLoc loc = SourceLoc::here());
void copy_rows_async(KernelBuilder& k, const SharedTile& to, const TileSource& from, I32 thread,
                     int threads, I32 valid_rows, SourceLoc loc = SourceLoc::here());

// Writes the first valid_rows rows of a tile to global memory, 16 bytes per thread and pass; of each the first
// row_bytes, whole chunks, or all if that is 0. thread: the thread's index among `threads`.
void store_tile(KernelBuilder& k, const SharedTile& from, I32 thread, int threads, GlobalPtr to,
                I64 row_stride, I32 valid_rows, int row_bytes = 0,
                SourceLoc loc = SourceLoc::here());
// The same to rows that lie row_offset(row) bytes from `to`.
void store_tile(KernelBuilder& k, const SharedTile& from, I32 thread, int threads, GlobalPtr to,
                const std::function<I64(I32 row)>& row_offset, I32 valid_rows, int row_bytes = 0,
                SourceLoc loc = SourceLoc::here());

// ---- operands of mma: shared memory -> registers ------------------------------------------------

// Fragments have the type of the tile that they come from; a k step is what one mma of that type takes
// along k, which is 32 bytes: 16 elements of f16 and bf16, 32 of s8 and e4m3, 64 of s4.

// A operand: rows of the tile are rows of A, bytes run along k. Panels of 32 bytes. The tile stays where it
// is, so a lane's address is one register.
class OperandA {
 public:
  static constexpr int kPanelBytes = 32;
  OperandA(KernelBuilder& k, const SharedTile& tile, SourceLoc loc = SourceLoc::here());
  // Rows 16 row_block .. +15 of one k step.
  MmaA load(int row_block, int k_step, SourceLoc loc = SourceLoc::here()) const;

 private:
  KernelBuilder* k_;
  SharedTile tile_;  // as this lane addresses it
};

// Panels of B operands: of 64 bytes, or of 32 where rows are no multiple of that.
constexpr int panel_of_rows(int row_bytes) { return row_bytes % 64 == 0 ? 64 : 32; }

// B operand: rows of the tile are columns of B, bytes run along k.
class OperandB {
 public:
  static TileLayout layout(DType type, int rows, int row_bytes);
  OperandB(KernelBuilder& k, const TileLayout& layout, SourceLoc loc = SourceLoc::here());
  // Two column blocks, columns 16 column_pair .. +15, of one k step.
  std::array<MmaB, 2> load(const SharedTile& tile, int column_pair, int k_step,
                           SourceLoc loc = SourceLoc::here()) const;

 private:
  KernelBuilder* k_;
  TileLayout layout_;
  std::array<I32, 2> lane_offset_;  // of the k steps of a panel
};

// B operand of P V for either type of V. FP8 values lie channel-major (rows are channels, bytes run along
// the keys), FP16 and BF16 values key-major (rows are keys): B as it is written in a book, its rows along
// the tile's.
class OperandV {
 public:
  static constexpr int kChannels = 16;  // of one slice: two column blocks
  static TileLayout layout(DType type, int keys, int channels);
  OperandV(KernelBuilder& k, DType type, const TileLayout& layout,
           SourceLoc loc = SourceLoc::here());
  // Channels 16 slice .. +15 for all keys: fragments by k step and column block.
  std::vector<std::array<MmaB, 2>> load(const SharedTile& tile, int slice,
                                        SourceLoc loc = SourceLoc::here()) const;

 private:
  KernelBuilder* k_;
  TileLayout layout_;
  DType type_;
  std::array<I32, 2> lane_offset_;  // of the k steps (FP8) or slices (FP16) of a panel
};

// ---- accumulators -------------------------------------------------------------------------------

// Where a lane stands in the 8 x 8 blocks of accumulators: it holds columns 2 quad and 2 quad + 1 of a row.
struct LanePosition {
  explicit LanePosition(I32 thread, SourceLoc loc = SourceLoc::here())
      : row(Here<I32>(thread, loc) % 32 / 4), quad(Here<I32>(thread, loc) % 4) {}
  I32 row;
  I32 quad;
};

// The part of a matrix of mma accumulators that one lane holds. Seen from the lane it is a small matrix
// of lane_rows() x lane_columns() elements; element (row, column) is the tile's element
// (tile_row(row) + lane.row, tile_column(column) + 2 * lane.quad).
class Accumulator {
 public:
  // rows: multiple of 16, columns: of 8. Starts with f32, or with bits for the first mma to take.
  Accumulator(int rows, int columns, F32 initial, SourceLoc loc = SourceLoc::here());
  Accumulator(int rows, int columns, I32 initial, SourceLoc loc = SourceLoc::here());

  int row_blocks() const { return row_blocks_; }
  int column_blocks() const { return column_blocks_; }
  MmaC& block(int row_block, int column_block, SourceLoc loc = SourceLoc::here());

  int lane_rows() const { return 2 * row_blocks_; }
  int lane_columns() const { return 2 * column_blocks_; }
  I32& at(int lane_row, int lane_column, SourceLoc loc = SourceLoc::here());
  // Under a branch that is the same for the whole warp: replaces every element, read as f32. prepare is
  // called once, inside the branch: what the elements share is computed there.
  using Update = std::function<F32(int lane_row, int lane_column, F32 value)>;
  // A second update follows inside the branch, under a condition of its own.
  using Prepare = std::function<Update()>;
  void update_if(KernelBuilder& k, Pred condition, const Prepare& prepare);
  void update_if(KernelBuilder& k, Pred condition, const Prepare& prepare, Pred second,
                 const Prepare& prepare_second);

  static constexpr int tile_row(int lane_row) { return 8 * lane_row; }
  static constexpr int tile_column(int lane_column) {
    return 8 * (lane_column / 2) + lane_column % 2;
  }

 private:
  Accumulator(int rows, int columns, const MmaC& initial, SourceLoc loc);

  int row_blocks_;
  int column_blocks_;
  std::vector<MmaC> blocks_;
};

// Accumulators of f16, all zero in the beginning, until they are read.
class HalfAccumulator {
 public:
  HalfAccumulator(KernelBuilder& k, int rows, int columns, SourceLoc loc = SourceLoc::here());

  int row_blocks() const { return row_blocks_; }
  int column_blocks() const { return column_blocks_; }
  MmaHalfC& block(int row_block, int column_block, SourceLoc loc = SourceLoc::here());
  Accumulator to_f32(KernelBuilder& k, SourceLoc loc = SourceLoc::here());

 private:
  int row_blocks_;
  int column_blocks_;
  std::vector<MmaHalfC> blocks_;
};

// Adds A B to a column block: A by row blocks.
void multiply_add(KernelBuilder& k, Mma kind, const std::vector<MmaA>& a, const MmaB& b,
                  Accumulator& sum, int column_block, SourceLoc loc = SourceLoc::here());
void multiply_add(KernelBuilder& k, Mma kind, const std::vector<MmaA>& a, const MmaB& b,
                  HalfAccumulator& sum, int column_block, SourceLoc loc = SourceLoc::here());

// Keys that one A operand of this type spans: 32 (e4m3), 16 (f16).
constexpr int operand_keys(DType type) { return type == DType::e4m3 ? 32 : 16; }

// Turns f32 accumulators into an A operand without moving data between lanes: rows 16 row_block .. +15,
// columns operand_keys * k_step .. The k index of an e4m3 operand is permuted inside every 16 columns
// as quantize_values writes V. type: e4m3, f16 or bf16.
MmaA to_operand_a(KernelBuilder& k, DType type, Accumulator& values, int row_block, int k_step,
                  SourceLoc loc = SourceLoc::here());

// Accumulators that live across loop iterations, as f32.
class AccumulatorVars {
 public:
  AccumulatorVars(KernelBuilder& k, int rows, int columns);  // all zero
  int lane_rows() const { return lane_rows_; }
  int lane_columns() const { return lane_columns_; }
  const Var<F32>& at(int lane_row, int lane_column, SourceLoc loc = SourceLoc::here()) const;

 private:
  int lane_rows_;
  int lane_columns_;
  std::vector<Var<F32>> values_;
};

// Where a lane stores what it holds of a row and a 16-byte chunk that its quad shares: two 16-bit elements
// of an accumulator's row, or four bytes.
class QuadRows {
 public:
  QuadRows(const SharedTile& tile, const LanePosition& lane);
  // To row 8 row_block + lane.row.
  void store(KernelBuilder& k, int row_block, int chunk, I32 part,
             SourceLoc loc = SourceLoc::here()) const;

 private:
  SharedTile tile_;  // seen from the lane
  I32 swizzle_;
};

// ---- order --------------------------------------------------------------------------------------

// Makes the assembler compute `values` here. It postpones what only the next iteration needs to the
// end of the loop's body, and keeps all operands in registers until then; where registers are short
// it spills. So a branch that is never taken stores the values to `scratch`. never: a condition that
// is false, but that no compiler can know to be. Costs one branch.
void finish(KernelBuilder& k, Pred never, SharedPtr scratch, const std::vector<F32>& values);
// The largest element of a row that this lane holds, read as f32.
F32 lane_max(KernelBuilder& k, Accumulator& values, int lane_row,
             SourceLoc loc = SourceLoc::here());

}  // namespace sagegen::dsl
