#include "sagegen/dsl/tile.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "sagegen/error.h"

namespace sagegen::dsl {

namespace {

constexpr int kStepBytes = 32;  // what one mma takes along k, of any type

// Row and chunk that a lane's ldmatrix address names, by the order of the four matrices of 8 rows:
// walk_rows: rows 0-7 then 8-15 of chunk 0, the same of chunk 1. walk_columns: chunks 0 and 1 of rows 0-7,
// the same of rows 8-15.
struct MatrixWalk {
  I32 row;
  I32 chunk;
};
MatrixWalk walk_rows(KernelBuilder& k) {
  const I32 lane = k.lane_idx();
  return {.row = lane % 16, .chunk = lane / 16};
}
MatrixWalk walk_columns(KernelBuilder& k) {
  const I32 lane = k.lane_idx();
  return {.row = lane / 16 * 8 + lane % 8, .chunk = lane / 8 % 2};
}

// For the first and the second pair of chunks of a panel, which has one or two.
std::array<I32, 2> lane_offsets(const TileLayout& layout, const MatrixWalk& walk) {
  return {layout.offset(walk.row, walk.chunk), layout.offset(walk.row, walk.chunk + 2)};
}

// Fragments of two column blocks of a B operand.
std::array<MmaB, 2> two_columns(DType type, const std::array<I32, 4>& m) {
  return {MmaB(type, {m[0], m[1]}), MmaB(type, {m[2], m[3]})};
}

SharedPtr address(const SharedTile& tile, I32 lane_offset, int row, int chunk) {
  return tile.base + lane_offset +
         static_cast<std::int64_t>(tile.offset + tile.layout.offset(row, chunk));
}

// Of the matrices in a pair of chunks, for which a lane has these offsets.
SharedPtr address_of_pair(const SharedTile& tile, const std::array<I32, 2>& lane_offsets, int row,
                          int pair) {
  const int pairs = tile.layout.chunks_per_row() / 2;  // of a panel
  return address(tile, lane_offsets[static_cast<std::size_t>(pair % pairs)], row,
                 pair / pairs * tile.layout.chunks_per_row());
}

// For shapes, where there is no builder to ask. Kernels ask thousands of times: the text is made only if it
// is needed.
template <typename... Args>
void require(bool condition, SourceLoc loc, fmt::format_string<Args...> what, Args&&... args) {
  if (condition) return;
  throw CodegenError(
      fmt::format("{}:{}: {}", loc.file, loc.line, fmt::format(what, std::forward<Args>(args)...)));
}

void require_layout(const TileLayout& layout, SourceLoc loc) {
  require(
      layout.rows > 0 && layout.rows % 8 == 0 && layout.row_bytes > 0 &&
          layout.row_bytes % layout.checked_panel() == 0,
      loc,
      "a tile of {} rows of {} bytes in panels of {}: rows come in eights, and are whole panels",
      layout.rows, layout.row_bytes, layout.panel_bytes);
}

// The type that an operand has which is read from such a tile.
DType operand_type(const TileLayout& layout, int panel_bytes, SourceLoc loc) {
  require_layout(layout, loc);
  require(layout.panel_bytes == panel_bytes, loc,
          "this operand reads panels of {} bytes, the tile has rows of {} in panels of {}",
          panel_bytes, layout.row_bytes, layout.panel_bytes);
  require(layout.type.has_value(), loc,
          "the tile does not say of what type its elements are; set TileLayout::type");
  return *layout.type;
}

// A block of `rows` rows and `bytes` bytes, block (row, column) of such.
void require_inside(const TileLayout& layout, int row, int rows, int column, int bytes,
                    SourceLoc loc) {
  require(row >= 0 && column >= 0 && rows * (row + 1) <= layout.rows &&
              bytes * (column + 1) <= layout.row_bytes,
          loc,
          "block ({}, {}) of {} rows and {} bytes lies outside the tile of {} rows of {} bytes",
          row, column, rows, bytes, layout.rows, layout.row_bytes);
}

void require_same(const TileLayout& made_for, const TileLayout& tile, SourceLoc loc) {
  require(made_for == tile, loc, "this operand was made for tiles of another layout or type");
}

}  // namespace

// ---- copies ---------------------------------------------------------------------------------------

namespace {

// What a thread copies in a pass.
struct CopiedChunk {
  SharedPtr to;
  GlobalPtr from;
  I32 thread_row;
  int row;         // of the pass: the chunk is of row thread_row + row
  Pred in_source;  // whether the source's rows have the chunk; not set where all threads' have
};

// Row and 16 bytes of it that a thread copies in the first pass.
struct ThreadChunk {
  ThreadChunk(const TileLayout& layout, I32 thread)
      : row(thread / layout.chunks_per_row() % layout.rows),
        chunk(thread % layout.chunks_per_row() +
              thread / (layout.chunks_per_row() * layout.rows) * layout.chunks_per_row()) {}
  I32 row, chunk;
};

GlobalPtr source_of(KernelBuilder& k, const TileSource& from, const ThreadChunk& first) {
  if (from.of_thread) return from.data;
  if (from.row_offset) return from.data + k.to_i64(first.chunk * kChunkBytes);
  return from.data + k.to_i64(first.row) * from.row_stride + k.to_i64(first.chunk * kChunkBytes);
}

// Passes go through a panel, or through as many as the threads can copy at once.
template <typename Copy>
void each_copy_pass(KernelBuilder& k, const SharedTile& to, const TileSource& from, I32 thread,
                    int threads, SourceLoc loc, const Copy& copy) {
  const Caller caller(k, loc);
  const TileLayout& layout = to.layout;
  require_layout(layout, loc);
  const int chunks = layout.chunks_per_row();
  const int panel_chunks = chunks * layout.rows, panels = layout.row_bytes / layout.panel_bytes;
  require(threads > 0 && threads % (8 * chunks) == 0, loc,
          "{} threads cannot copy a tile of {} rows of {} bytes in passes of eight rows", threads,
          layout.rows, layout.row_bytes);
  require(from.row_bytes >= 0 && from.row_bytes <= layout.row_bytes &&
              from.row_bytes % kChunkBytes == 0,
          loc, "rows of {} bytes do not fill a tile of rows of {}, 16 bytes at a time",
          from.row_bytes, layout.row_bytes);
  require(!from.of_thread || !from.row_offset, loc,
          "rows that are no constant stride apart are found from the row of the tile");
  const int source_chunks = (from.row_bytes == 0 ? layout.row_bytes : from.row_bytes) / kChunkBytes;
  const ThreadChunk of_thread(layout, thread);
  const I32 thread_row = of_thread.row, thread_chunk = of_thread.chunk;
  const I32 shared_offset = layout.offset(thread_row, thread_chunk);
  const GlobalPtr thread_from = source_of(k, from, of_thread);
  const auto from_row = [&](int row) {
    if (from.row_offset) return thread_from + from.row_offset(thread_row + row);
    return row == 0 ? thread_from : thread_from + from.row_stride * std::int64_t{row};
  };
  const int most_panels = std::max(threads / panel_chunks, 1);  // of a pass
  for (int panel = 0; panel < panels; panel += most_panels) {
    const int pass_panels = std::min(most_panels, panels - panel), chunk = panel * chunks;
    for (int first = 0; first < panel_chunks; first += threads) {
      const int row = first / chunks, left = pass_panels * panel_chunks - first;
      const GlobalPtr row_from = from_row(row);
      const auto copy_chunk = [&] {
        CopiedChunk copied{.to = address(to, shared_offset, row, chunk),
                           .from = row_from + static_cast<std::int64_t>(chunk * kChunkBytes),
                           .thread_row = thread_row,
                           .row = row,
                           .in_source = {}};
        if (source_chunks < chunk + pass_panels * chunks)
          copied.in_source = thread_chunk < source_chunks - chunk;
        copy(copied);
      };
      if (left >= threads)
        copy_chunk();
      else
        k.if_(thread < left, copy_chunk);
    }
  }
}

void copy_if(KernelBuilder& k, const CopiedChunk& chunk, Pred valid) {
  k.cp_async_16_zfill(chunk.to, chunk.from, k.select(valid, k.i32(kChunkBytes), k.i32(0)));
}

bool is_set(Pred condition) { return condition.k != nullptr; }

}  // namespace

GlobalPtr thread_source(KernelBuilder& k, const TileLayout& layout, const TileSource& from,
                        I32 thread) {
  return source_of(k, from, ThreadChunk(layout, thread));
}

void copy_tile_async(KernelBuilder& k, const SharedTile& to, const TileSource& from, I32 thread,
                     int threads, SourceLoc loc) {
  each_copy_pass(k, to, from, thread, threads, loc, [&](const CopiedChunk& chunk) {
    if (is_set(chunk.in_source))
      copy_if(k, chunk, chunk.in_source);
    else
      k.cp_async_16(chunk.to, chunk.from);
  });
}

void copy_rows_async(KernelBuilder& k, const SharedTile& to, const TileSource& from, I32 thread,
                     int threads, I32 valid_rows, SourceLoc loc) {
  each_copy_pass(k, to, from, thread, threads, loc, [&](const CopiedChunk& chunk) {
    const Pred valid = chunk.thread_row < valid_rows - chunk.row;
    copy_if(k, chunk, is_set(chunk.in_source) ? valid && chunk.in_source : valid);
  });
}

void store_tile(KernelBuilder& k, const SharedTile& from, I32 thread, int threads, GlobalPtr to,
                I64 row_stride, I32 valid_rows, int row_bytes, SourceLoc loc) {
  const auto row_offset = [&](I32 row) { return k.to_i64(row) * row_stride; };
  store_tile(k, from, thread, threads, to, row_offset, valid_rows, row_bytes, loc);
}

void store_tile(KernelBuilder& k, const SharedTile& from, I32 thread, int threads, GlobalPtr to,
                const std::function<I64(I32 row)>& row_offset, I32 valid_rows, int row_bytes,
                SourceLoc loc) {
  const Caller caller(k, loc);
  require_layout(from.layout, loc);
  if (row_bytes == 0) row_bytes = from.layout.row_bytes;
  const int row_chunks = row_bytes / kChunkBytes;
  require(row_bytes > 0 && row_bytes % kChunkBytes == 0 && row_bytes <= from.layout.row_bytes &&
              threads >= row_chunks,
          loc, "{} threads cannot store {} bytes of rows of {}", threads, row_bytes,
          from.layout.row_bytes);
  const int rows = threads / row_chunks;  // of a pass
  const auto store = [&] {
    const I32 chunk = thread % row_chunks;
    const GlobalPtr to_chunk = to + chunk * kChunkBytes;
    const SharedPtr from_tile = from.base + std::int64_t{from.offset};
    k.for_range(thread / row_chunks, k.min(valid_rows, k.i32(from.layout.rows)), rows,
                [&](I32 row) {
                  k.store_v4(to_chunk + row_offset(row),
                             k.load_v4(from_tile + from.layout.offset(row, chunk)));
                });
  };
  if (rows * row_chunks == threads) return store();
  k.if_(thread < rows * row_chunks, store);
}

// ---- operands -------------------------------------------------------------------------------------

OperandA::OperandA(KernelBuilder& k, const SharedTile& tile, SourceLoc loc) : k_(&k), tile_(tile) {
  const Caller caller(k, loc);
  operand_type(tile.layout, kPanelBytes, loc);
  const MatrixWalk walk = walk_rows(k);
  tile_.base = tile.base + tile.layout.offset(walk.row, walk.chunk);
}

MmaA OperandA::load(int row_block, int k_step, SourceLoc loc) const {
  const Caller caller(*k_, loc);
  require_inside(tile_.layout, row_block, 16, k_step, kStepBytes, loc);
  const int block = tile_.offset + tile_.layout.offset(16 * row_block, 2 * k_step);
  return {*tile_.layout.type, k_->ldmatrix_x4(tile_.base + std::int64_t{block}, Transpose::no)};
}

TileLayout OperandB::layout(DType type, int rows, int row_bytes) {
  return {rows, row_bytes, panel_of_rows(row_bytes), type};
}

OperandB::OperandB(KernelBuilder& k, const TileLayout& layout, SourceLoc loc)
    : k_(&k), layout_(layout) {
  const Caller caller(k, loc);
  operand_type(layout, panel_of_rows(layout.row_bytes), loc);
  lane_offset_ = lane_offsets(layout, walk_columns(k));
}

std::array<MmaB, 2> OperandB::load(const SharedTile& tile, int column_pair, int k_step,
                                   SourceLoc loc) const {
  const Caller caller(*k_, loc);
  require_same(layout_, tile.layout, loc);
  require_inside(layout_, column_pair, 16, k_step, kStepBytes, loc);
  return two_columns(*layout_.type,
                     k_->ldmatrix_x4(address_of_pair(tile, lane_offset_, 16 * column_pair, k_step),
                                     Transpose::no));
}

TileLayout OperandV::layout(DType type, int keys, int channels) {
  const int rows = type == DType::e4m3 ? channels : keys;
  const int row_bytes = type == DType::e4m3 ? keys : 2 * channels;
  return {rows, row_bytes, panel_of_rows(row_bytes), type};
}

OperandV::OperandV(KernelBuilder& k, DType type, const TileLayout& layout, SourceLoc loc)
    : k_(&k), layout_(layout), type_(type) {
  const Caller caller(k, loc);
  require(type == DType::e4m3 || type == DType::f16 || type == DType::bf16, loc,
          "this operand reads e4m3, f16 or bf16, not {}", to_string(type));
  const DType of_tile = operand_type(layout, panel_of_rows(layout.row_bytes), loc);
  require(of_tile == type, loc, "this operand reads {}, but the tile holds {}", to_string(type),
          to_string(of_tile));
  const MatrixWalk walk = type == DType::e4m3 ? walk_columns(k) : walk_rows(k);
  lane_offset_ = lane_offsets(layout, walk);
}

std::vector<std::array<MmaB, 2>> OperandV::load(const SharedTile& tile, int slice,
                                                SourceLoc loc) const {
  const Caller caller(*k_, loc);
  require_same(layout_, tile.layout, loc);
  const bool by_channel = type_ == DType::e4m3;
  require_inside(layout_, by_channel ? slice : 0, by_channel ? kChannels : 16,
                 by_channel ? 0 : slice, 2 * kChannels, loc);
  std::vector<std::array<MmaB, 2>> steps;
  const auto add = [&](int row, int pair, Transpose transpose) {
    const SharedPtr from = address_of_pair(tile, lane_offset_, row, pair);
    steps.push_back(two_columns(type_, k_->ldmatrix_x4(from, transpose)));
  };
  if (by_channel) {
    const int key_steps = tile.layout.row_bytes / 32;
    for (int step = 0; step < key_steps; ++step) add(kChannels * slice, step, Transpose::no);
  } else {
    const int key_steps = tile.layout.rows / 16;
    for (int step = 0; step < key_steps; ++step) add(16 * step, slice, Transpose::yes);
  }
  return steps;
}

// ---- accumulators ---------------------------------------------------------------------------------

namespace {

F32 checked(F32 initial, SourceLoc loc) {
  require(initial.k != nullptr, loc, "an operand was never given a value");
  return initial;
}

}  // namespace

Accumulator::Accumulator(int rows, int columns, I32 initial, SourceLoc loc)
    : Accumulator(rows, columns, MmaC(initial, initial, initial, initial), loc) {}

Accumulator::Accumulator(int rows, int columns, F32 initial, SourceLoc loc)
    : Accumulator(rows, columns,
                  MmaC(DType::f32,
                       [&] {
                         const I32 bits = checked(initial, loc).k->as_bits(initial, loc);
                         return std::array{bits, bits, bits, bits};
                       }()),
                  loc) {}

namespace {

template <typename Block>
std::vector<Block> blocks_of(int rows, int columns, const Block& initial, SourceLoc loc) {
  require(rows > 0 && rows % 16 == 0 && columns > 0 && columns % 8 == 0, loc,
          "an accumulator has 16 x 8 blocks, asked for {} x {}", rows, columns);
  return std::vector<Block>(static_cast<std::size_t>(rows / 16 * (columns / 8)), initial);
}

template <typename Blocks>
auto& block_of(Blocks& blocks, int rows, int columns, int row, int column, SourceLoc loc) {
  require(row >= 0 && row < rows && column >= 0 && column < columns, loc,
          "block ({}, {}) lies outside an accumulator of {} x {} blocks", row, column, rows,
          columns);
  return blocks[static_cast<std::size_t>(row * columns + column)];
}

}  // namespace

Accumulator::Accumulator(int rows, int columns, const MmaC& initial, SourceLoc loc)
    : row_blocks_(rows / 16),
      column_blocks_(columns / 8),
      blocks_(blocks_of(rows, columns, initial, loc)) {}

MmaC& Accumulator::block(int row_block, int column_block, SourceLoc loc) {
  return block_of(blocks_, row_blocks_, column_blocks_, row_block, column_block, loc);
}

HalfAccumulator::HalfAccumulator(KernelBuilder& k, int rows, int columns, SourceLoc loc)
    : row_blocks_(rows / 16),
      column_blocks_(columns / 8),
      blocks_(blocks_of(rows, columns, MmaHalfC(k.i32(0), k.i32(0)), loc)) {}

MmaHalfC& HalfAccumulator::block(int row_block, int column_block, SourceLoc loc) {
  return block_of(blocks_, row_blocks_, column_blocks_, row_block, column_block, loc);
}

Accumulator HalfAccumulator::to_f32(KernelBuilder& k, SourceLoc loc) {
  const Caller caller(k, loc);
  Accumulator sums(16 * row_blocks_, 8 * column_blocks_, k.i32(0));
  for (int row = 0; row < row_blocks_; ++row) {
    for (int column = 0; column < column_blocks_; ++column) {
      const MmaHalfC& halves = block(row, column);
      const auto upper = k.unpack2(DType::f16, halves[0]), lower = k.unpack2(DType::f16, halves[1]);
      sums.block(row, column) = MmaC(DType::f32, {k.as_bits(upper[0]), k.as_bits(upper[1]),
                                                  k.as_bits(lower[0]), k.as_bits(lower[1])});
    }
  }
  return sums;
}

I32& Accumulator::at(int lane_row, int lane_column, SourceLoc loc) {
  require(lane_row >= 0 && lane_column >= 0, loc,
          "an element of an accumulator has no negative index");
  return block(lane_row / 2, lane_column / 2,
               loc)[static_cast<std::size_t>(lane_row % 2 * 2 + lane_column % 2)];
}

void Accumulator::update_if(KernelBuilder& k, Pred condition, const Prepare& prepare) {
  update_if(k, condition, prepare, {}, {});
}

void Accumulator::update_if(KernelBuilder& k, Pred condition, const Prepare& prepare, Pred second,
                            const Prepare& prepare_second) {
  std::vector<Var<F32>> values;
  for (const MmaC& block : blocks_) {
    for (const I32 value : block) values.push_back(k.var(k.as_f32(value)));
  }
  const auto each = [&](const auto& visit) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const int block = static_cast<int>(i / 4), element = static_cast<int>(i % 4);
      const int row = block / column_blocks_ * 2 + element / 2;
      const int column = block % column_blocks_ * 2 + element % 2;
      visit(values[i], row, column);
    }
  };
  k.if_(condition, [&] {
    const auto apply = [&](const Update& update) {
      each([&](const Var<F32>& value, int row, int column) { value = update(row, column, value); });
    };
    apply(prepare());
    if (prepare_second) k.if_(second, [&] { apply(prepare_second()); });
  });
  each([&](const Var<F32>& value, int row, int column) {
    at(row, column) = k.as_bits(value.get());
  });
}

namespace {

template <typename Sums>
void add_product(KernelBuilder& k, Mma kind, const std::vector<MmaA>& a, const MmaB& b, Sums& sum,
                 int column_block) {
  for (int row = 0; row < sum.row_blocks(); ++row) {
    auto& c = sum.block(row, column_block);
    c = k.mma(kind, a[static_cast<std::size_t>(row)], b, c);
  }
}

}  // namespace

void multiply_add(KernelBuilder& k, Mma kind, const std::vector<MmaA>& a, const MmaB& b,
                  Accumulator& sum, int column_block, SourceLoc loc) {
  const Caller caller(k, loc);
  add_product(k, kind, a, b, sum, column_block);
}

void multiply_add(KernelBuilder& k, Mma kind, const std::vector<MmaA>& a, const MmaB& b,
                  HalfAccumulator& sum, int column_block, SourceLoc loc) {
  const Caller caller(k, loc);
  add_product(k, kind, a, b, sum, column_block);
}

MmaA to_operand_a(KernelBuilder& k, DType type, Accumulator& values, int row_block, int k_step,
                  SourceLoc loc) {
  const Caller caller(k, loc);
  const auto value = [&](int half, int lane_column) {
    return k.as_f32(values.at(2 * row_block + half, lane_column, loc));
  };
  MmaA a(type, {});
  for (int step_half = 0; step_half < 2; ++step_half) {
    for (int half = 0; half < 2; ++half) {
      I32& packed = a[static_cast<std::size_t>(2 * step_half + half)];
      if (type == DType::e4m3) {
        const int column = 8 * k_step + 4 * step_half;
        packed = k.pack4(type, value(half, column), value(half, column + 1),
                         value(half, column + 2), value(half, column + 3));
      } else {
        const int column = 4 * k_step + 2 * step_half;
        packed = k.pack2(type, value(half, column), value(half, column + 1));
      }
    }
  }
  return a;
}

AccumulatorVars::AccumulatorVars(KernelBuilder& k, int rows, int columns)
    : lane_rows_(rows / 8), lane_columns_(columns / 4) {
  const F32 zero = k.f32(0.0f);
  for (int i = 0; i < lane_rows_ * lane_columns_; ++i) values_.push_back(k.var(zero));
}

const Var<F32>& AccumulatorVars::at(int lane_row, int lane_column, SourceLoc loc) const {
  require(lane_row >= 0 && lane_row < lane_rows_ && lane_column >= 0 && lane_column < lane_columns_,
          loc, "element ({}, {}) lies outside accumulators of {} x {} per lane", lane_row,
          lane_column, lane_rows_, lane_columns_);
  return values_[static_cast<std::size_t>(lane_row * lane_columns_ + lane_column)];
}

QuadRows::QuadRows(const SharedTile& tile, const LanePosition& lane)
    : tile_(tile), swizzle_(tile.layout.swizzle(lane.row)) {
  tile_.base = tile.base + (lane.row * tile.layout.panel_bytes + lane.quad * 4);
}

void QuadRows::store(KernelBuilder& k, int row_block, int chunk, I32 part, SourceLoc loc) const {
  const Caller caller(k, loc);
  const TileLayout& layout = tile_.layout;
  require_inside(layout, row_block, 8, chunk, kChunkBytes, loc);
  const int panel_chunk = chunk % layout.chunks_per_row();
  k.store(
      address(tile_, (panel_chunk ^ swizzle_) * kChunkBytes, 8 * row_block, chunk - panel_chunk),
      part);
}

// ---- order ----------------------------------------------------------------------------------------

void finish(KernelBuilder& k, Pred never, SharedPtr scratch, const std::vector<F32>& values) {
  k.if_(never, [&] {
    std::size_t i = 0;
    for (; i + 4 <= values.size() && values.size() > 4; i += 4) {
      std::array<I32, 4> four;
      for (std::size_t j = 0; j < 4; ++j) four[j] = k.as_bits(values[i + j]);
      k.store_v4(scratch + static_cast<std::int64_t>(4 * i), four);
    }
    for (; i < values.size(); ++i) k.store(scratch + static_cast<std::int64_t>(4 * i), values[i]);
  });
}

F32 lane_max(KernelBuilder& k, Accumulator& values, int lane_row, SourceLoc loc) {
  const Caller caller(k, loc);
  F32 largest = k.as_f32(values.at(lane_row, 0));
  for (int column = 1; column < values.lane_columns(); ++column) {
    largest = k.max(largest, k.as_f32(values.at(lane_row, column)));
  }
  return largest;
}

}  // namespace sagegen::dsl
