#include "templates/attention/output.h"

#include <optional>
#include <utility>

#include "templates/attention/output_codes.h"
#include "templates/attention/output_rows.h"
#include "templates/shared/tensor.h"

namespace sagegen::attention {

using namespace dsl;

namespace {

constexpr int kSliceColumns = OperandV::kChannels / 4;  // of a lane
constexpr std::size_t kUnfinished = 32;  // registers for sums of P V that O has not taken up yet

}  // namespace

Output::Output(const AttentionBlock& block)
    : block_(block),
      v_(block.k, block.plan.pv, block.plan.v_tile),
      o_(block.k, block.plan.warp_rows, block.plan.value_dim) {}

// A slice of channels at a time. With two levels the tensor core sums the tile from zero, in f16 or f32, and O is
// updated in f32; otherwise it sums into O.
void Output::add(const OnlineSoftmax& softmax, SharedPtr values) {
  KernelBuilder& k = block_.k;
  const AttentionPlan& plan = block_.plan;
  const std::vector<F32>& rescale = softmax.rescale();
  std::vector<Var<F32>> updated;
  for (int slice = 0; slice < plan.slices(); ++slice) {
    if (plan.finish_sums && updated.size() >= kUnfinished) {
      block_.compute_here(std::exchange(updated, {}));
    }
    const auto v = v_.load({plan.v_tile, values}, slice);
    Accumulator pv(plan.warp_rows, plan.slice_channels(slice), k.i32(0));
    const auto each = [&](const auto& visit) {
      for (int row = 0; row < pv.lane_rows(); ++row) {
        for (int column = 0; column < pv.lane_columns(); ++column) {
          visit(o_.at(row, slice * kSliceColumns + column), row, pv.at(row, column));
        }
      }
    };
    if (!plan.two_level) {
      each([&](const Var<F32>& o, int row, I32& sum) {
        sum = k.as_bits(rescale.empty() ? o.get() : o.get() * rescale[row]);
      });
    }
    const auto multiply = [&](auto& sums) {
      for (std::size_t step = 0; step < v.size(); ++step) {
        for (int column = 0; column < pv.column_blocks(); ++column) {
          multiply_add(k, plan.pv_mma(), softmax.p()[step], v[step][column], sums, column);
        }
      }
    };
    if (plan.half_sums) {
      HalfAccumulator sums(k, plan.warp_rows, plan.slice_channels(slice));
      multiply(sums);
      pv = sums.to_f32(k);
    } else {
      multiply(pv);
    }
    each([&](const Var<F32>& o, int row, I32& sum) {
      const F32 tile = k.as_f32(sum);
      o = plan.two_level ? k.fma(o, rescale[row], tile) : tile;
      updated.push_back(o);
    });
  }
}

void Output::rescale(int row, F32 factor) const {
  for (int column = 0; column < o_.lane_columns(); ++column) {
    const Var<F32>& o = o_.at(row, column);
    o = o.get() * factor;
  }
}

// Through shared memory, so that rows leave in one piece.
void Output::write(const AttentionPosition& at, const BlockSequences& sequences,
                   const RowSums& sums) const {
  KernelBuilder& k = block_.k;
  const AttentionPlan& plan = block_.plan;
  const auto& p = block_.p;
  k.barrier();  // nobody reads queries, keys or values any more
  const SharedTile out{plan.o_tile, block_.shared};
  const QuadRows lane_out(out.rows_from(at.warp_row), at.lane);
  const auto of_channels = [&](GlobalPtr head) {
    return head +
           (k.to_i64(at.kv_index) * std::int64_t{plan.value_dim} + k.to_i64(2 * at.lane.quad)) *
               std::int64_t{4};
  };
  const GlobalPtr v_scale = of_channels(p(&Params::v_scale));
  std::optional<GlobalPtr> v_mean;
  if (plan.smooth_v) v_mean = of_channels(k.params<ValueMeanParams>()(&ValueMeanParams::v_mean));
  std::vector<F32> inverse, share;
  for (std::size_t row = 0; row < sums.all.size(); ++row) {
    const F32 sum = sums.all[row], none = k.f32(0.0f);
    inverse.push_back(k.select(sum > 0.0f, k.reciprocal(sum), none));
    // Of keys. All of the weight is theirs but for a sink's: exactly, as a constant V comes out as it is.
    share.push_back(block_.mods.have_sink() ? sums.of_keys[row] * inverse[row]
                                            : k.select(sum > 0.0f, k.f32(1.0f), none));
  }
  for (int block = 0; block < plan.value_dim / 8; ++block) {
    std::array<F32, 2> scale, mean;
    for (std::size_t i = 0; i < 2; ++i) {
      const std::int64_t bytes = (8 * block + static_cast<std::int64_t>(i)) * 4;
      if (plan.v_quantized) scale[i] = k.load<F32>(v_scale + bytes);
      if (v_mean) mean[i] = k.load<F32>(*v_mean + bytes);
    }
    for (int row = 0; row < o_.lane_rows(); ++row) {
      const auto value = [&](int i) {
        const F32 normalized = o_.at(row, 2 * block + i).get() * inverse[row];
        if (v_mean) return k.fma(normalized, scale[i], mean[i] * share[row]);
        return plan.v_quantized ? normalized * scale[i] : normalized;
      };
      if (plan.out != OutputFormat::io) {
        for (int i = 0; i < 2; ++i) o_.at(row, 2 * block + i) = value(i);
        continue;
      }
      lane_out.store(k, row, block, k.pack2(plan.io, value(0), value(1)));
    }
  }
  if (plan.out != OutputFormat::io) return write_output_codes(block_, at, sequences, o_);
  k.barrier();
  const OutputRows to = output_rows(block_, at, sequences, kElementBytes);
  store_tile(k, out, at.thread, plan.threads, to.first, to.offset, to.left, plan.value_row_bytes());
}

}  // namespace sagegen::attention
