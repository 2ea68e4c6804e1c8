#include "templates/attention/block.h"

#include <algorithm>
#include <utility>

#include "templates/shared/packed_rows.h"
#include "templates/shared/rows.h"
#include "templates/shared/tensor.h"

namespace sagegen::attention {

using namespace dsl;

namespace {

static_assert(kSliceChannels == OperandV::kChannels);
constexpr int kScaleBytes = 4;
constexpr int kOctavesOfOne = 10;  // below the largest code of f16, 1024

Mma mma_of(DType type) {
  switch (type) {
    case DType::s4:
      return Mma::s4;
    case DType::f16:
      return Mma::f16;
    case DType::bf16:
      return Mma::bf16;
    case DType::e4m3:
      return Mma::e4m3;
    default:
      return Mma::s8;
  }
}

// Whether a warp keeps its queries in registers. Those of 16 bits take twice as many as codes: not beside what mods
// compute for each score.
bool holds_queries(const Spec& spec, const Mods& mods) {
  return wider_dim(spec) <= 64 &&
         (qk_is_quantized(spec) || !(mods.change_scores() || mods.hide_elements()));
}

// Whether the sums of P are computed before P V, by a branch. No product of P V starts before it then, so that stalls
// are 6 to 20 % longer, and fewer registers are in use. At head_dim 128 it keeps INT8 kernels from spilling, on Hopper,
// too: of FP8 summed in f16, on sm_120; of f32 sums those with a window and, in bf16, those of one stage.
// Without it those of other sums are expected to be 1 to 3 % slower on sm_86 and sm_89, and 5 % faster on sm_120.
bool needs_row_sums_early(const View& view, const Mods& mods) {
  const Spec& spec = view.spec;
  if (!qk_is_quantized(spec)) return !holds_queries(spec, mods);
  if (wider_dim(spec) <= 64 || spec.qk != DType::s8) return false;
  if (spec.accumulation == Accumulation::f32)
    return mods.bound_from_below() || view.schedule.stages == 1;
  if (spec.pv == DType::f16) return true;
  const bool half_sums = spec.accumulation == Accumulation::f32_f16;
  // Where V has 128 channels and K another number of them, sums of f16 spill without it everywhere.
  if (half_sums && spec.value_dim == 128) return true;
  return half_sums == view.target.has(Feature::warps_take_turns);
}

// Expected to be worth 2 to 11 % on sm_80, and 1 to 14 % on sm_120 but for sinks, which lose 2 %. INT4, and windows, where
// tiles have a second branch, gain nothing. With one stage values would be waited for too early.
Apart apart_of(const View& view, const Mods& mods) {
  const Spec& spec = view.spec;
  if (!view.target.has(Feature::warps_take_turns) || spec.qk != DType::s8 ||
      mods.bound_from_below() || view.schedule.stages == 1) {
    return Apart::none;
  }
  return spec.head_dim <= 64 ? Apart::products : Apart::exponentials;
}

}  // namespace

AttentionPlan::AttentionPlan(const View& view, const Mods& mods)
    : head_dim(view.spec.head_dim),
      value_dim(attention::value_dim(view.spec)),
      cta_q(view.schedule.cta_q),
      cta_k(view.schedule.cta_k),
      stages(view.schedule.stages),
      threads(view.schedule.warps * 32),
      value_channels(sagegen::value_channels(value_dim)),
      warp_rows(cta_q / view.schedule.warps),
      q_group(view.spec.q_group),
      k_group(view.spec.k_group),
      io(view.spec.io),
      qk(view.spec.qk),
      pv(view.spec.pv),
      granularity(view.spec.granularity),
      qk_quantized(qk_is_quantized(view.spec)),
      v_quantized(v_is_quantized(view.spec)),
      smooth(smooths_k(view.spec.smoothing)),
      smooth_v(view.spec.v_smoothing == ValueSmoothing::mean),
      given(takes_given_codes(view.spec)),
      two_level(view.spec.accumulation != Accumulation::f32),
      half_sums(view.spec.accumulation == Accumulation::f32_f16),
      // A branch that keeps instructions from overlapping. Sums of f16 take half the registers; without it kernels
      // of FP16 P V spill at head_dim 128, those of FP8 at 256, and those of INT4 are expected to be 3 to 13 % slower.
      finish_sums(two_level &&
                  !(half_sums && qk == DType::s8 && value_dim <= (pv == DType::e4m3 ? 192 : 64))),
      finish_row_sums(needs_row_sums_early(view, mods)),
      pack_gqa(view.spec.pack_gqa),
      mean_scores(view.spec.smoothing == Smoothing::qk),
      scaled_scores(mods.change_scores() || per_token()),
      whole_scores(!smooth || mods.change_whole_scores()),
      last_queries_first(mods.later_queries_see_more()),
      varlen(view.spec.varlen),
      queries_in_registers(holds_queries(view.spec, mods)),
      apart(apart_of(view, mods)),
      k_scale_late(!queries_in_registers && !two_level && qk == DType::s8 && !finish_row_sums),
      // Expected to be worth 2 to 4 % where products are apart, of f32 sums alone: those of FP8 lose 1 %.
      sums_p_last(apart == Apart::products && !two_level),
      // At head_dim 128 it saves 2 to 4 % of the instructions with FP8 P V and spills with FP16, and the second
      // loop takes a kernel's emission beyond 20 ms.
      inner_loop(wider_dim(view.spec) <= 64 && mods.first_tiles_may_be_whole()),
      p_offset(sagegen::attention::p_offset(view.spec)),
      maximum_step(scaled_scores ? 0 : sagegen::attention::maximum_step(view.spec)),
      maximum_slack(sagegen::attention::maximum_slack(view.spec)),
      v_octaves(v_quantized ? code_octaves(view.spec).v : kOctavesOfOne),
      out(view.spec.out),
      v_code(largest_v_code(pv, v_octaves)),
      q_tile{cta_q, qk_row_bytes(), OperandA::kPanelBytes, qk},
      k_tile(OperandB::layout(qk, cta_k, qk_row_bytes())),
      v_tile(OperandV::layout(pv, cta_k, value_channels)),
      o_tile{cta_q, output_row_bytes(value_dim, output_bytes(view.spec)), kBankBytes} {
  choose_pointers(view, mods);
}

// They take registers and spare instructions. At head_dim 64 scales of K are expected to be worth up to 12 %, and values
// of INT8 kernels with two levels 1 to 3 % more. With 128 channels, INT8 kernels without what more_is_live has registers
// for scales where there are two levels: worth 1 to 3 % on sm_89 with sums of f16. Beside sums in f32 there are some for
// keys, if V is the caller's: worth 3 % with a causal mask; a pointer to V as well spills on Hopper.
void AttentionPlan::choose_pointers(const View& view, const Mods& mods) {
  if (mods.skip_tiles() || !qk_quantized) return;
  const bool narrow = wider_dim(view.spec) <= 64;
  const bool more_is_live =
      varlen || mods.bound_from_below() || mods.have_sink() || mods.skip_light_tiles();
  const bool roomy = head_dim == 128 && value_dim == 128 && qk == DType::s8 && !more_is_live;
  walks_keys = roomy && !v_quantized && stages > 1;
  walks_values = narrow && qk == DType::s8 && two_level;
  const bool scale_of_tile =
      k_group == cta_k && granularity != Granularity::per_tensor && !per_token();
  walks_k_scales = scale_of_tile && (narrow || (roomy && two_level));
  holds_q_scale = roomy && two_level && !per_token();
}

Mma AttentionPlan::qk_mma() const { return mma_of(qk); }
Mma AttentionPlan::pv_mma() const { return mma_of(pv); }

int AttentionPlan::k_stage_bytes() const {
  return k_tile.bytes() + (mean_scores ? mean_score_bytes(cta_k) : 0);
}

int AttentionPlan::shared_bytes() const {
  return std::max(q_tile.bytes() + stages * stage_bytes(), o_tile.bytes());
}

AttentionPosition::AttentionPosition(KernelBuilder& k, const AttentionPlan& plan,
                                     const ParamReader<Params>& p, I32 thread_index)
    : batch(k.block_idx(2)),
      q_head(k.block_idx(1)),
      first_query((plan.last_queries_first ? k.grid_dim(0) - 1 - k.block_idx(0) : k.block_idx(0)) *
                  plan.cta_q),
      thread(thread_index),
      warp_row(thread / 32 * plan.warp_rows),
      lane(thread) {
  I32 heads = k.grid_dim(1);
  if (plan.mean_scores) {  // the grid is a part of the problem
    const auto part = k.params<MeanScoreParams>();
    heads = part(&MeanScoreParams::heads);
    batch = batch + part(&MeanScoreParams::first_batch);
    q_head = q_head + part(&MeanScoreParams::first_head);
    first_query = first_query + part(&MeanScoreParams::first_block) * kMeanRows;
  }
  if (plan.pack_gqa) {  // the grid has heads of K and V
    kv_head = q_head;
    q_head = kv_head * p(&Params::heads_per_kv_head);
    q_index = kv_index = batch * heads + kv_head;
    lane_query = first_query + warp_row + lane.row;
    return;
  }
  kv_head = q_head / p(&Params::heads_per_kv_head);
  q_index = batch * heads + q_head;
  kv_index = q_index / p(&Params::heads_per_kv_head);
  lane_query = first_query + warp_row + lane.row;
}

namespace {

I32 batch_of(KernelBuilder& k, bool mean_scores) {
  const I32 batch = k.block_idx(2);
  return mean_scores ? batch + k.params<MeanScoreParams>()(&MeanScoreParams::first_batch) : batch;
}

Sequence queries_of(KernelBuilder& k, I32 batch, bool pack_gqa) {
  return sequence_of<SequencesOf::queries>(k, batch, pack_gqa ? PackedRows(k).heads() : I32{});
}

BlockSequences sequences_of(KernelBuilder& k, const Spec& spec) {
  if (!spec.varlen) return {};
  const I32 batch = batch_of(k, spec.smoothing == Smoothing::qk);
  const Sequence queries = queries_of(k, batch, spec.pack_gqa);
  return {queries, sequence_of<SequencesOf::keys>(k, batch)};
}

Mods placed(KernelBuilder& k, const Spec& spec, const BlockSequences& sequences, Mods mods) {
  if (!spec.varlen) return mods;
  const I32 bottom_right = k.params<VarlenParams>()(&VarlenParams::bottom_right);
  mods.place(sequences.keys.len, (sequences.keys.len - sequences.queries.len) & bottom_right);
  return mods;
}

// Of the workspace, as the queries of the sequence begin.
I64 first_row_of_queries(KernelBuilder& k, const AttentionPlan& plan,
                         const BlockSequences& sequences, const AttentionPosition& at,
                         const ParamReader<Params>& p) {
  if (plan.varlen) {
    return first_workspace_row<SequencesOf::queries>(k, sequences.queries, at.batch,
                                                     plan.pack_gqa ? at.kv_head : at.q_head);
  }
  return k.to_i64(at.q_index) * k.to_i64(p(&Params::q_len_padded));
}

}  // namespace

AttentionInputs::AttentionInputs(KernelBuilder& k, const AttentionPlan& plan,
                                 const AttentionPosition& at, const BlockSequences& sequences,
                                 const ParamReader<Params>& p)
    : k_(k), plan_(plan), kv_len_(plan.varlen ? sequences.keys.len : p(&Params::kv_len)) {
  const I32 q_rows = p(&Params::q_len_padded), k_rows = p(&Params::kv_len_padded);
  const I64 first_q_row =
      first_row_of_queries(k, plan, sequences, at, p) + k.to_i64(at.first_query);
  const I64 first_k_row =
      plan.varlen ? first_workspace_row<SequencesOf::keys>(k, sequences.keys, at.batch, at.kv_head)
                  : k.to_i64(at.kv_index) * k.to_i64(k_rows);
  const auto by_row = [&](GlobalPtr codes, std::int64_t row_bytes) {
    return Rows{codes + first_k_row * row_bytes, k.i64(row_bytes), k.i64(plan.cta_k * row_bytes),
                static_cast<int>(row_bytes), /*padded=*/true};
  };
  if (plan.qk_quantized && plan.given) {
    find_given_codes(at, p);
  } else if (plan.qk_quantized) {
    const std::int64_t row_bytes = plan.qk_row_bytes();
    queries_ = {p(&Params::q_codes) + first_q_row * row_bytes, k.i64(row_bytes)};
    keys_ = by_row(p(&Params::k_codes), row_bytes);
  } else {
    const auto unquantized = k.params<UnquantizedParams>();
    using P = UnquantizedParams;
    const I64 row_stride = unquantized(&P::q, &TensorParam::stride_token) * kElementBytes;
    const I32 first_row = plan.varlen ? sequences.queries.first + at.first_query : at.first_query;
    queries_ = {
        head_of(k, unquantized, &P::q, at.batch, at.q_head) + k.to_i64(first_row) * row_stride,
        row_stride, plan.row_bytes()};
    queries_left_ = (plan.varlen ? sequences.queries.len : p(&Params::q_len)) - at.first_query;
    if (plan.pack_gqa) {
      const PackedRows rows(k);
      queries_.data = head_of(k, unquantized, &P::q, at.batch, at.q_head);
      if (plan.varlen)
        queries_.data = queries_.data + k.to_i64(sequences.queries.first) * row_stride;
      queries_.row_offset = [=, first = at.first_query](I32 row) {
        return rows.offset(unquantized, &P::q, first + row);
      };
      const I32 len = plan.varlen ? sequences.queries.len : p(&Params::q_len);
      queries_left_ = len * rows.heads() - at.first_query;
    }
    keys_ = caller_rows(unquantized, &P::k, plan.row_bytes(), at, sequences);
  }

  const auto v_codes = [&] { return p(&Params::v, &TensorParam::data); };
  if (!plan.v_quantized) {
    values_ = caller_rows(p, &Params::v, plan.value_row_bytes(), at, sequences);
  } else if (plan.given) {
    values_ = given_values(at, p);
  } else if (plan.pv == DType::e4m3) {  // by channel
    values_ = {v_codes() + first_k_row * std::int64_t{plan.value_channels}, k.to_i64(k_rows),
               k.i64(plan.cta_k), plan.cta_k, /*padded=*/true};
    if (plan.varlen) {  // all channels of a head, then those of the next
      const I64 of_head = first_k_row - k.to_i64(sequences.keys.start);
      values_.row_stride = k.to_i64(k.params<KeySequences>()(&KeySequences::head_rows));
      values_.data =
          v_codes() + of_head * std::int64_t{plan.value_channels} + k.to_i64(sequences.keys.start);
    }
  } else {
    values_ = by_row(v_codes(), plan.value_channels * kElementBytes);
  }
  if (!plan.qk_quantized || plan.given) return;

  const auto scales = [&](GlobalPtr base, I32 index, I64 first_row, I32 rows, int group,
                          int per_group) {
    if (per_group == 0) return base + k.to_i64(index) * std::int64_t{kScaleBytes};
    if (plan.varlen) return base + first_row / group * std::int64_t{kScaleBytes * per_group};
    return base + k.to_i64(index) * k.to_i64(rows / group) * std::int64_t{kScaleBytes * per_group};
  };
  I64 q_scale_row;
  if (plan.varlen) q_scale_row = first_row_of_queries(k, plan, sequences, at, p);
  q_scale_ = scales(p(&Params::q_scale), at.q_index, q_scale_row, q_rows, plan.q_group,
                    q_scales_per_group(plan.granularity, plan.q_group));
  k_scale_ = scales(p(&Params::k_scale), at.kv_index, first_k_row, k_rows, plan.k_group,
                    k_scales_per_group(plan.granularity, plan.k_group));

  if (plan.mean_scores) {
    const auto part = k.params<MeanScoreParams>();
    const int tiles =
        kMeanRows / plan.cta_q;  // of a block of means, but for the last of packed rows
    const I32 blocks = (plan.pack_gqa ? k.grid_dim(0) + (tiles - 1) : k.grid_dim(0)) / tiles;
    const I32 block = at.first_query / kMeanRows - part(&MeanScoreParams::first_block);
    const I32 head = k.block_idx(2) * k.grid_dim(1) + k.block_idx(1);
    const I64 row = k.to_i64(head) * k.to_i64(blocks) + k.to_i64(block);
    mean_scores_ = part(&MeanScoreParams::mean_scores) + row * k.to_i64(k_rows) * std::int64_t{4};
  }
}

template <typename P>
AttentionInputs::Rows AttentionInputs::caller_rows(const ParamReader<P>& p, TensorParam P::*tensor,
                                                   int row_bytes, const AttentionPosition& at,
                                                   const BlockSequences& sequences) const {
  GlobalPtr data = head_of(k_, p, tensor, at.batch, at.kv_head);
  const I64 row_stride = p(tensor, &TensorParam::stride_token) * kElementBytes;
  if (plan_.varlen) data = data + k_.to_i64(sequences.keys.first) * row_stride;
  return {data, row_stride, row_stride * std::int64_t{plan_.cta_k}, row_bytes, /*padded=*/false};
}

template <typename P>
GlobalPtr AttentionInputs::given_head(const ParamReader<P>& p, TensorParam P::*tensor, I32 batch,
                                      I32 head) const {
  return p(tensor, &TensorParam::data) + (k_.to_i64(batch) * p(tensor, &TensorParam::stride_batch) +
                                          k_.to_i64(head) * p(tensor, &TensorParam::stride_head));
}

// Rows end with the last query and key; so do scales, which a warp behind the last query reads, too.
void AttentionInputs::find_given_codes(const AttentionPosition& at, const ParamReader<Params>& p) {
  using P = GivenParams;
  const auto given = k_.params<P>();
  const int row_bytes = given_row_bytes(plan_.qk, plan_.head_dim);
  const I64 q_stride = given(&P::q, &TensorParam::stride_token);
  const I64 k_stride = given(&P::k, &TensorParam::stride_token);
  queries_ = {given_head(given, &P::q, at.batch, at.q_head) + k_.to_i64(at.first_query) * q_stride,
              q_stride, row_bytes};
  queries_left_ = p(&Params::q_len) - at.first_query;
  keys_ = {given_head(given, &P::k, at.batch, at.kv_head), k_stride,
           k_stride * std::int64_t{plan_.cta_k}, row_bytes, /*padded=*/false};
  const auto scales = [&](GlobalPtr base, I32 index, I32 of_head) {
    return base + k_.to_i64(index) * k_.to_i64(of_head) * std::int64_t{kScaleBytes};
  };
  q_scale_ = scales(p(&Params::q_scale), at.q_index, given(&P::q_scales));
  k_scale_ = scales(p(&Params::k_scale), at.kv_index, given(&P::k_scales));
  last_q_group_ = (p(&Params::q_len) - 1) / plan_.q_group;
}

// FP8 codes lie by channel, whose keys fill whole tiles; f16 ones by key.
AttentionInputs::Rows AttentionInputs::given_values(const AttentionPosition& at,
                                                    const ParamReader<Params>& p) const {
  const GlobalPtr data = given_head(p, &Params::v, at.batch, at.kv_head);
  const I64 stride = p(&Params::v, &TensorParam::stride_token);
  if (plan_.pv == DType::e4m3) {
    const int missing = plan_.value_channels - plan_.value_dim;
    return {data,        stride,          k_.i64(plan_.cta_k),
            plan_.cta_k, /*padded=*/true, missing == 0 ? 0 : plan_.value_dim};
  }
  return {data, stride, stride * std::int64_t{plan_.cta_k}, plan_.value_row_bytes(),
          /*padded=*/false};
}

void AttentionInputs::load_queries(I32 thread, const SharedTile& to) const {
  if (plan_.qk_quantized && !plan_.given)
    return copy_tile_async(k_, to, queries_, thread, plan_.threads);
  copy_rows_async(k_, to, queries_, thread, plan_.threads, queries_left_);
}

void AttentionInputs::load_keys(I32 thread, I32 tile, const SharedTile& to, bool whole,
                                const Walk& walk) const {
  load_tile(keys_, thread, tile, to, whole, walk);
}

void AttentionInputs::load_values(I32 thread, I32 tile, const SharedTile& to, bool whole,
                                  const Walk& walk) const {
  load_tile(values_, thread, tile, to, whole, walk);
}

TileSource AttentionInputs::source(const Rows& rows, I32 tile) const {
  return {rows.data + k_.to_i64(tile) * rows.tile_bytes, rows.row_stride, rows.row_bytes};
}

AttentionInputs::Walk AttentionInputs::walk_keys(I32 thread, I32 tile) const {
  if (!plan_.walks_keys) return {};
  return k_.var(thread_source(k_, plan_.k_tile, source(keys_, tile), thread));
}

AttentionInputs::Walk AttentionInputs::walk_values(I32 thread, I32 tile) const {
  if (!plan_.walks_values) return {};
  return k_.var(thread_source(k_, plan_.v_tile, source(values_, tile), thread));
}

void AttentionInputs::load_tile(const Rows& rows, I32 thread, I32 tile, const SharedTile& to,
                                bool whole, const Walk& walk) const {
  TileSource from = source(rows, tile);
  if (walk) {
    from.data = *walk;
    from.of_thread = true;
    *walk = from.data + rows.tile_bytes;
  }
  if (rows.rows != 0)
    return copy_rows_async(k_, to, from, thread, plan_.threads, k_.i32(rows.rows));
  if (rows.padded || whole) return copy_tile_async(k_, to, from, thread, plan_.threads);
  const I32 left = kv_len_ - tile * plan_.cta_k;
  k_.if_else(
      left >= plan_.cta_k, [&] { copy_tile_async(k_, to, from, thread, plan_.threads); },
      [&] { copy_rows_async(k_, to, from, thread, plan_.threads, left); });
}

void AttentionInputs::load_mean_scores(I32 thread, I32 tile, SharedPtr to) const {
  const int bytes = 4 * plan_.cta_k;
  k_.if_(thread < bytes / kChunkBytes, [&] {
    const GlobalPtr from = mean_scores_ + k_.to_i64(tile) * std::int64_t{bytes};
    k_.cp_async_16(to + thread * kChunkBytes, from + thread * kChunkBytes);
  });
}

F32 AttentionInputs::q_scale(const AttentionPosition& at) const {
  const auto whole = [&](F32 scale) {
    return plan_.given ? scale * k_.params<GivenParams>()(&GivenParams::unit) : scale;
  };
  if (plan_.granularity == Granularity::per_tensor) return whole(k_.load<F32>(q_scale_));
  I32 group = (at.first_query + at.warp_row) / plan_.q_group;
  if (plan_.given) group = k_.min(group, last_q_group_);
  const int scales = q_scales_per_group(plan_.granularity, plan_.q_group);
  const I32 index = scales == 1 ? group : group * scales + at.lane.row;
  // Lengths are of 31 bits, packed rows of 30; scales of small groups have more bytes than there are rows.
  if (scales * kScaleBytes > plan_.q_group && !plan_.pack_gqa)
    return whole(k_.load<F32>(q_scale_ + k_.to_i64(index) * std::int64_t{kScaleBytes}));
  return whole(k_.load<F32>(q_scale_ + index * kScaleBytes));
}

GlobalPtr AttentionInputs::k_scale(I32 thread, I32 tile) const {
  if (plan_.granularity == Granularity::per_tensor) return k_scale_;
  const I32 group = tile / (plan_.k_group / plan_.cta_k);
  const int scales = k_scales_per_group(plan_.granularity, plan_.k_group);
  const I32 index = scales == 1 ? group : group * scales + LanePosition(thread).quad;
  return k_scale_ + index * kScaleBytes;
}

int AttentionInputs::k_scale_bytes() const {
  return kScaleBytes * k_scales_per_group(plan_.granularity, plan_.k_group);
}

std::vector<F32> AttentionInputs::q_scales(const AttentionPosition& at) const {
  std::vector<F32> scales;
  const GlobalPtr of_lane = q_scale_ + k_.to_i64(at.lane_query) * std::int64_t{kScaleBytes};
  for (int row = 0; row < plan_.warp_rows / 8; ++row)
    scales.push_back(
        k_.load<F32>(of_lane + std::int64_t{Accumulator::tile_row(row) * kScaleBytes}));
  return scales;
}

std::vector<F32> AttentionInputs::k_scales(I32 thread, I32 tile) const {
  std::vector<F32> scales;
  const I32 first = tile * plan_.cta_k + 2 * LanePosition(thread).quad;
  const GlobalPtr of_lane = k_scale_ + k_.to_i64(first) * std::int64_t{kScaleBytes};
  for (int keys = 0; keys < plan_.cta_k; keys += 8) {
    for (const I32 bits : k_.load_v2(of_lane + std::int64_t{keys * kScaleBytes}))
      scales.push_back(k_.as_f32(bits));
  }
  return scales;
}

AttentionBlock::AttentionBlock(KernelBuilder& builder, const View& view, Mods block_mods)
    : k(builder),
      p(k.params<Params>()),
      sequences(sequences_of(k, view.spec)),
      mods(placed(k, view.spec, sequences, std::move(block_mods))),
      plan(view, mods),
      at(k, plan, p, k.thread_idx()),
      inputs(k, plan, at, sequences, p),
      shared(k.shared(plan.shared_bytes(), kBankBytes)) {}

I32 AttentionBlock::rows(const BlockSequences& of) const {
  const I32 len = q_len(of);
  return plan.pack_gqa ? len * PackedRows(k).heads() : len;
}

I32 AttentionBlock::last_query() const {
  return query_of(k.min(at.first_query + plan.cta_q, rows()) - 1);
}

I32 AttentionBlock::query_of(I32 row) const {
  return plan.pack_gqa ? PackedRows(k).query(row) : row;
}

ScoreRow AttentionBlock::score_row(const AttentionPosition& from, I32 row) const {
  if (!plan.pack_gqa) return {from.batch, from.q_head, row, from.q_index};
  const PackedRows rows(k);
  const I32 head = rows.head(row);
  return {from.batch, from.q_head + head, rows.query(row), from.kv_index * rows.heads() + head};
}

ScoreRow AttentionBlock::first_of_tile() const {
  if (!plan.pack_gqa) return score_row(at, at.first_query);
  return {at.batch, at.kv_head, at.first_query, at.kv_index};
}

I32 AttentionBlock::q_len(const BlockSequences& of) const {
  return plan.varlen ? of.queries.len : p(&Params::q_len);
}

I32 AttentionBlock::kv_len() const { return plan.varlen ? sequences.keys.len : p(&Params::kv_len); }

BlockSequences AttentionBlock::reread_sequences() const {
  if (!plan.varlen) return {};
  return {queries_of(k, batch_of(k, plan.mean_scores), plan.pack_gqa), {}};
}

I64 AttentionBlock::index_of_row(const AttentionPosition& from, const BlockSequences& of,
                                 I32 row) const {
  const ScoreRow place = score_row(from, row);
  if (!plan.varlen) {
    return k.to_i64(place.head_of_all) * k.to_i64(p(&Params::q_len)) + k.to_i64(place.query);
  }
  const auto packed = k.params<QuerySequences>();
  I32 first_head = from.batch * packed(&QuerySequences::heads);
  if (plan.pack_gqa) first_head = first_head * PackedRows(k).heads();
  return k.to_i64(first_head + place.head) * k.to_i64(packed(&QuerySequences::total)) +
         k.to_i64(of.queries.first + place.query);
}

F32 AttentionBlock::taken_by_smoothing(const AttentionPosition& from, I32 row) const {
  I64 index;
  if (plan.given) {  // not padded
    const I32 last = p(&Params::q_len) - 1;
    index = k.to_i64(from.q_index) * k.to_i64(last + 1) + k.to_i64(k.min(row, last));
  } else {
    index = first_row_of_queries(k, plan, sequences, from, p) + k.to_i64(row);
  }
  const GlobalPtr rows = k.params<SmoothingParams>()(&SmoothingParams::lse_correction);
  return k.load<F32>(rows + index * std::int64_t{4});
}

void AttentionBlock::apart_if(bool is_apart, const std::function<void()>& emit) const {
  is_apart ? k.if_(p(&Params::kv_len) >= 0, emit) : emit();
}

void AttentionBlock::compute_here(const std::vector<Var<F32>>& values) const {
  finish(k, p(&Params::kv_len) < 0, shared, {values.begin(), values.end()});
}

}  // namespace sagegen::attention
