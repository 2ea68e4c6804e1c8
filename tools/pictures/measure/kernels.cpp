#include "tools/pictures/measure/kernels.h"

#include "templates/attention/mod_list.h"
#include "templates/attention/scores.h"

namespace sagegen::pictures {

using namespace dsl;
using attention::AttentionBlock;
using attention::AttentionPlan;
using attention::Mods;
using attention::RowOperands;
using attention::Scores;

void require(bool condition, const std::string& what) {
  if (!condition) throw InternalError("tools/pictures/measure: " + what);
}

ParamLayout probe_layout(const Kernel& kernel) {
  ParamLayout layout = kernel.params();
  return layout.add<ProbeParams>();
}

namespace {

// Stores values, one by one, for every thread of the block.
class Results {
 public:
  Results(KernelBuilder& k, const AttentionBlock& block)
      : k_(k),
        threads_(block.plan.threads),
        mine_(k.params<ProbeParams>()(&ProbeParams::results) + block.at.thread * 4) {}
  void add(I32 value) { k_.store(mine_ + std::int64_t{count_++} * threads_ * 4, value); }
  void add(F32 value) { add(k_.as_bits(value)); }
  template <std::size_t N>
  void add(const Fragment<N>& operand) {
    for (const I32 value : operand) add(value);
  }
  int count() const { return count_; }

 private:
  KernelBuilder& k_;
  int threads_;
  GlobalPtr mine_;
  int count_ = 0;
};

// body(builder, block, results)
template <typename Body>
Probe make_probe(const Kernel& kernel, const Body& body) {
  const attention::View view = kernel.view(attention::family());
  KernelBuilder k("probe", kernel.target(), view.schedule.warps * kLanes, probe_layout(kernel));
  const AttentionBlock block(k, view, Mods(k, attention::mods_of(k, view)));
  Results results(k, block);
  body(k, block, results);
  const Sizes sizes(block.plan);
  return {.sizes = sizes, .kernel = emit(k), .values = results.count()};
}

void wait_for_copies(KernelBuilder& k) {
  k.cp_async_commit();
  k.cp_async_wait(0);
  k.barrier();
}

}  // namespace

Probe tile_probe(const Kernel& kernel, TileName name) {
  return make_probe(kernel, [&](KernelBuilder& k, const AttentionBlock& block, Results& results) {
    const AttentionPlan& plan = block.plan;
    const auto p = k.params<ProbeParams>();
    const I32 thread = block.at.thread;
    const TileLayout layout = Sizes(plan).layouts[static_cast<std::size_t>(name)];
    const std::array<std::int64_t, 3> offsets{0, plan.q_tile.bytes(),
                                              plan.q_tile.bytes() + plan.k_tile.bytes()};
    const SharedTile tile{layout, block.shared + offsets[static_cast<std::size_t>(name)]};
    const GlobalPtr source =
        p(&ProbeParams::source) + k.to_i64(thread) * p(&ProbeParams::thread_stride);
    copy_tile_async(k, tile, {source, k.i64(layout.row_bytes)}, thread, plan.threads);
    wait_for_copies(k);
    k.for_range(thread * kChunkBytes, k.i32(layout.bytes()), plan.threads * kChunkBytes,
                [&](I32 byte) {
                  k.store_v4(p(&ProbeParams::memory) + k.to_i64(byte), k.load_v4(tile.base + byte));
                });
    if (name == TileName::q) {
      const OperandA operand(k, tile.rows_from(block.at.warp_row));
      for (int row = 0; row < plan.warp_rows / 16; ++row) {
        for (int step = 0; step < plan.qk_steps(); ++step) results.add(operand.load(row, step));
      }
    } else if (name == TileName::k) {
      const OperandB operand(k, layout);
      for (int pair = 0; pair < plan.cta_k / 16; ++pair) {
        for (int step = 0; step < plan.qk_steps(); ++step) {
          for (const MmaB& half : operand.load(tile, pair, step)) results.add(half);
        }
      }
    } else {
      const OperandV operand(k, plan.pv, layout);
      for (int slice = 0; slice < plan.slices(); ++slice) {
        for (const auto& step : operand.load(tile, slice)) {
          for (const MmaB& half : step) results.add(half);
        }
      }
    }
  });
}

Probe product_probe(const Kernel& kernel) {
  return make_probe(kernel, [&](KernelBuilder& k, const AttentionBlock& block, Results& results) {
    const AttentionPlan& plan = block.plan;
    const I32 thread = block.at.thread, tile = k.i32(0);
    const SharedPtr keys = block.shared + std::int64_t{plan.q_tile.bytes()};
    const SharedPtr values = keys + std::int64_t{plan.k_tile.bytes()};
    block.inputs.load_queries(thread, {plan.q_tile, block.shared});
    block.inputs.load_keys(thread, tile, {plan.k_tile, keys}, true);
    block.inputs.load_values(thread, tile, {plan.v_tile, values}, true);
    wait_for_copies(k);

    Scores scores(block);
    scores.load_q_scale(thread);
    scores.load_k_scale(tile, thread);
    scores.next_tile();
    if (plan.queries_in_registers) scores.hold_queries();
    scores.multiply(keys);
    results.add(scores.scale);
    Accumulator& elements = scores.elements;
    for (int row = 0; row < elements.row_blocks(); ++row) {
      for (int column = 0; column < elements.column_blocks(); ++column) {
        for (I32& element : elements.block(row, column)) {
          element = k.as_bits(k.as_f32(element) - scores.bias);
          results.add(element);
        }
      }
    }

    std::vector<RowOperands> p(static_cast<std::size_t>(plan.cta_k / operand_keys(plan.pv)));
    for (std::size_t step = 0; step < p.size(); ++step) {
      for (int row = 0; row < elements.row_blocks(); ++row) {
        p[step].push_back(to_operand_a(k, plan.pv, elements, row, static_cast<int>(step)));
        results.add(p[step].back());
      }
    }

    const OperandV operand(k, plan.pv, plan.v_tile);
    for (int slice = 0; slice < plan.slices(); ++slice) {
      const auto v = operand.load({plan.v_tile, values}, slice);
      Accumulator o(plan.warp_rows, plan.slice_channels(slice), k.i32(0));
      for (std::size_t step = 0; step < v.size(); ++step) {
        for (int column = 0; column < o.column_blocks(); ++column) {
          multiply_add(k, plan.pv_mma(), p[step], v[step][static_cast<std::size_t>(column)], o,
                       column);
        }
      }
      for (int row = 0; row < o.row_blocks(); ++row) {
        for (int column = 0; column < o.column_blocks(); ++column)
          results.add(o.block(row, column));
      }
    }
  });
}

}  // namespace sagegen::pictures
