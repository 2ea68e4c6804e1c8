#include "templates/attention/output_codes.h"

#include <algorithm>

#include "templates/attention/output_rows.h"
#include "templates/shared/rows.h"

namespace sagegen::attention {

using namespace dsl;

namespace {

constexpr int kUnitBytes = 8;  // codes of a lane's quad that lie together

// What the values of a row are multiplied by.
std::vector<F32> code_factors(const AttentionBlock& block, const AttentionPosition& at,
                              const BlockSequences& sequences, const AccumulatorVars& values) {
  KernelBuilder& k = block.k;
  const GlobalPtr scales = k.params<OutputCodeParams>()(&OutputCodeParams::scale);
  const auto rows = static_cast<std::size_t>(values.lane_rows());
  if (block.plan.out == OutputFormat::e4m3) return std::vector<F32>(rows, k.load<F32>(scales));
  const I32 rows_of_q = block.rows(sequences);
  std::vector<F32> factors;
  for (int row = 0; row < values.lane_rows(); ++row) {
    F32 amax = k.f32(0.0f);
    for (int column = 0; column < values.lane_columns(); ++column)
      amax = k.max(amax, k.abs(values.at(row, column).get()));
    const CodeScale code = code_scale(k, quad_max(k, amax), largest_code(DType::s8));
    factors.push_back(code.inverse);
    const I32 of_lane = at.lane_query + Accumulator::tile_row(row);
    k.if_(at.lane.quad == 0 && of_lane < rows_of_q, [&] {
      const I64 index = block.index_of_row(at, sequences, of_lane);
      k.store(scales + index * std::int64_t{4}, code.scale);
    });
  }
  return factors;
}

// Rows of codes in pieces of 8 bytes, where they are no whole chunks of 16.
void store_in_halves(KernelBuilder& k, const SharedTile& from, I32 thread, int threads,
                     const OutputRows& to, int row_bytes) {
  const int units = row_bytes / kUnitBytes, rows = threads / units;
  k.if_(thread < rows * units, [&] {
    const I32 unit = thread % units;
    k.for_range(thread / units, k.min(to.left, k.i32(from.layout.rows)), rows, [&](I32 row) {
      const SharedPtr piece = from.base + from.layout.offset(row, unit / 2) + unit % 2 * kUnitBytes;
      k.store_v2(to.first + to.offset(row) + unit * kUnitBytes, k.load_v2(piece));
    });
  });
}

}  // namespace

void write_output_codes(const AttentionBlock& block, const AttentionPosition& at,
                        const BlockSequences& sequences, const AccumulatorVars& values) {
  KernelBuilder& k = block.k;
  const AttentionPlan& plan = block.plan;
  const SharedTile out{plan.o_tile, block.shared};
  const DType type = plan.out == OutputFormat::e4m3 ? DType::e4m3 : DType::s8;
  const std::vector<F32> factors = code_factors(block, at, sequences, values);
  for (int row = 0; row < values.lane_rows(); ++row) {
    const I32 tile_row = at.warp_row + at.lane.row + Accumulator::tile_row(row);
    const F32 factor = factors[static_cast<std::size_t>(row)];
    // Of each 8 channels the lane has two; those of 16 are a chunk.
    for (int chunk = 0; 16 * chunk < plan.value_dim; ++chunk) {
      const int columns = std::min(4, values.lane_columns() - 4 * chunk);
      std::array<F32, 4> four;
      for (int i = 0; i < 4; ++i)
        four[static_cast<std::size_t>(i)] =
            i < columns ? values.at(row, 4 * chunk + i).get() * factor : k.f32(0.0f);
      const I32 codes = k.pack4(type, four[0], four[1], four[2], four[3]);
      const SharedPtr to = out.base + out.layout.offset(tile_row, k.i32(chunk)) + at.lane.quad * 2;
      k.store_16(to, codes);
      if (columns == 4)
        k.store_16(to + std::int64_t{kUnitBytes}, k.shift_right_signed(codes, k.i32(16)));
    }
  }
  k.barrier();
  const OutputRows to = output_rows(block, at, sequences, /*element_bytes=*/1);
  if (plan.value_dim % kChunkBytes == 0) {
    return store_tile(k, out, at.thread, plan.threads, to.first, to.offset, to.left,
                      plan.value_dim);
  }
  store_in_halves(k, out, at.thread, plan.threads, to, plan.value_dim);
}

}  // namespace sagegen::attention
