#include "templates/attention/plan_layout.h"

#include <fmt/format.h>

#include <algorithm>

#include "sagegen/error.h"
#include "sagegen/runtime/argument_check.h"
#include "templates/attention/plan_mods.h"
#include "templates/kv_statistics/spec.h"
#include "templates/mean_scores/spec.h"
#include "templates/quantize_rows/spec.h"
#include "templates/quantize_values/spec.h"
#include "templates/shared/params.h"

namespace sagegen::attention::plan_detail {

using runtime::ArgumentError;
using runtime::ceil_div;
using runtime::check_sizes;
using runtime::kMaxGridYZ;
using runtime::kMaxLength;
using runtime::padded_length;
using runtime::scratch_bytes;
using runtime::ScratchMap;

namespace {

// Kernels address scales of groups of 16 rows, 2 bytes for each row, in 31 bits.
constexpr std::int64_t kMostPackedRows = (std::int64_t{1} << 30) - 1024;

void check_shape(const Shape& shape) {
  check_sizes(
      kPlan,
      {{"batch", shape.batch, kMaxGridYZ, "a grid has no more blocks in z; split the batch"},
       {"q_heads", shape.q_heads, kMaxGridYZ, "a grid has no more blocks in y; split the heads"},
       {"kv_heads", shape.kv_heads, kMaxGridYZ, "a grid has no more blocks in y; split the heads"},
       {"q_len", shape.q_len, kMaxLength, "lengths are 32-bit numbers"},
       {"kv_len", shape.kv_len, kMaxLength, "lengths are 32-bit numbers"}});
  if (shape.total_q != 0 || shape.total_kv != 0) {
    check_sizes(kPlan, {{"total_q", shape.total_q, kMaxLength, "lengths are 32-bit numbers"},
                        {"total_kv", shape.total_kv, kMaxLength, "lengths are 32-bit numbers"}});
  }
  if (shape.q_heads % shape.kv_heads != 0) {
    throw ArgumentError(
        fmt::format("attention shape: {} query heads cannot share {} key/value heads evenly; "
                    "kv_heads must divide q_heads",
                    shape.q_heads, shape.kv_heads));
  }
}

}  // namespace

std::vector<std::optional<Kernel>> steps_of(const Kernel& kernel) {
  kernel.validate();
  std::vector<std::optional<Kernel>> steps(kSteps);
  for (const Kernel& input : kernel.inputs()) {
    if (&input.family() == &kv_statistics::family()) {
      const bool of_v = kernel.view(family()).spec.value_dim != 0 &&
                        !input.view(kv_statistics::family()).spec.k_sum;
      steps[of_v ? kValueStatistics : kStatistics] = input;
    } else if (&input.family() == &quantize_values::family()) {
      steps[kValues] = input;
    } else if (&input.family() == &mean_scores::family()) {
      steps[kMeanQueries] = input;
    } else {
      const quantize_rows::Spec& rows = input.view(quantize_rows::family()).spec;
      steps[rows.fold ? (rows.amax ? kLargestQueries : kQueries)
                      : (rows.amax ? kLargestKeys : kKeys)] = input;
    }
  }
  steps[kAttend] = kernel;
  return steps;
}

std::int64_t row_heads(const Spec& spec, const Shape& shape) {
  return spec.pack_gqa ? shape.kv_heads : shape.q_heads;
}
std::int64_t rows_of_query(const Spec& spec, const Shape& shape) {
  return spec.pack_gqa ? shape.q_heads / shape.kv_heads : 1;
}

namespace {

// What they are padded to, beside tiles: whole groups of scales, and whole blocks of means, but for packed rows of
// sequences of one length.
int group_of_rows(const Spec& spec, const Schedule& schedule) {
  const bool whole_means = !spec.pack_gqa || spec.varlen;
  if (spec.smoothing == Smoothing::qk && whole_means) return kMeanRows;
  return spec.pack_gqa && !qk_is_quantized(spec) ? schedule.cta_q : spec.q_group;
}
std::int64_t padded_rows(const Spec& spec, const Schedule& schedule, const Shape& shape) {
  const int group = group_of_rows(spec, schedule);
  if (!spec.pack_gqa) return padded_length(kPlan, "q_len", shape.q_len, group, schedule.cta_q);
  const std::int64_t rows = shape.q_len * rows_of_query(spec, shape);
  if (rows > kMostPackedRows) {
    throw ArgumentError(
        fmt::format("attention shape: q_len {} of {} heads for each of K and V are {} packed rows, "
                    "and there are at most {}; take a kernel without pack_gqa, which is for few "
                    "queries",
                    shape.q_len, shape.q_heads / shape.kv_heads, rows, kMostPackedRows));
  }
  return padded_length(kPlan, "q_len * q_heads / kv_heads", rows, group, schedule.cta_q);
}

// The largest of as few equal parts as have at most so many bytes each: of whole batches, else of heads of one, else of
// blocks of one, at least one.
Part part_within(std::int64_t bytes, Part all, std::int64_t bytes_of_block) {
  const auto equal = [](std::int64_t count, std::int64_t most) {
    return ceil_div(count, ceil_div(count, std::min(most, count)));
  };
  const std::int64_t blocks = std::max<std::int64_t>(bytes / bytes_of_block, 1);
  if (blocks < all.blocks) return {.batches = 1, .heads = 1, .blocks = equal(all.blocks, blocks)};
  const std::int64_t heads = blocks / all.blocks;
  if (heads < all.heads)
    return {.batches = 1, .heads = equal(all.heads, heads), .blocks = all.blocks};
  all.batches = equal(all.batches, heads / all.heads);
  return all;
}

}  // namespace

Layout layout_of(const Spec& spec, const Schedule& schedule, const ScratchMap& map,
                 const PlanOptions& options, const Shape& shape, Lse lse) {
  check_shape(shape);
  Layout layout;
  const bool mean_scores = spec.smoothing == Smoothing::qk;
  layout.q_len_padded = padded_rows(spec, schedule, shape);
  layout.kv_len_padded = padded_length(kPlan, "kv_len", shape.kv_len, spec.k_group, schedule.cta_k);
  const std::int64_t wanted = most_chunks(shape.kv_len);
  layout.chunk_len = ceil_div(ceil_div(shape.kv_len, wanted), kChunkStep) * kChunkStep;
  // Chunks of one sequence may be more than those of a longer one.
  layout.chunks = is_packed(shape) ? wanted : ceil_div(shape.kv_len, layout.chunk_len);
  layout.queries =
      workspace_rows(spec.pack_gqa ? "total_q * q_heads / kv_heads" : "total_q", shape.batch,
                     shape.total_q * rows_of_query(spec, shape), layout.q_len_padded,
                     group_of_rows(spec, schedule), schedule.cta_q);
  layout.keys = workspace_rows("total_kv", shape.batch, shape.total_kv, layout.kv_len_padded,
                               spec.k_group, schedule.cta_k);

  const auto scales = [](std::int64_t rows, int group, int per_group) {
    return per_group == 0 ? 1 : rows / group * per_group;
  };
  const std::int64_t q_scales =
      scales(layout.queries.rows, spec.q_group, q_scales_per_group(spec.granularity, spec.q_group));
  const std::int64_t k_scales =
      scales(layout.keys.rows, spec.k_group, k_scales_per_group(spec.granularity, spec.k_group));
  const std::int64_t channels = spec.head_dim, of_value = value_dim(spec);
  const std::int64_t code_row = code_row_bytes(spec.qk, spec.head_dim);
  constexpr std::int64_t kF32 = sizeof(float);
  const auto of_queries = [&](std::int64_t rows, std::int64_t bytes) {
    return scratch_bytes(kPlan, {shape.batch, row_heads(spec, shape), rows, bytes});
  };
  const auto of_keys = [&](std::int64_t rows, std::int64_t bytes) {
    return scratch_bytes(kPlan, {shape.batch, shape.kv_heads, rows, bytes});
  };
  // Of rows that lie as those of codes do: sequences of a batch within a head if they are packed.
  const auto in_rows = [&](std::int64_t heads, const WorkspaceRows& of, std::int64_t rows,
                           std::int64_t bytes) {
    return scratch_bytes(kPlan, {of.batches, heads, rows, bytes});
  };
  const auto of_query_rows = [&](std::int64_t rows, std::int64_t bytes) {
    return in_rows(row_heads(spec, shape), layout.queries, rows, bytes);
  };
  const auto of_key_rows = [&](std::int64_t rows, std::int64_t bytes) {
    return in_rows(shape.kv_heads, layout.keys, rows, bytes);
  };
  const bool per_tensor = spec.granularity == Granularity::per_tensor;
  layout.bytes = {};
  if (qk_is_quantized(spec)) {
    layout.bytes[kQCodes] = of_query_rows(layout.queries.rows, code_row);
    layout.bytes[kQScale] = per_tensor ? of_queries(1, kF32) : of_query_rows(q_scales, kF32);
    layout.bytes[kKCodes] = of_key_rows(layout.keys.rows, code_row);
    layout.bytes[kKScale] = per_tensor ? of_keys(1, kF32) : of_key_rows(k_scales, kF32);
  }
  if (v_is_quantized(spec)) {
    layout.bytes[kVCodes] =
        of_key_rows(layout.keys.rows, value_channels(value_dim(spec)) * bits(spec.pv) / 8);
    layout.bytes[kVScale] = of_keys(of_value, kF32);
    layout.bytes[kVMaxima] = of_keys(layout.chunks * of_value, kF32);
    if (spec.v_smoothing == ValueSmoothing::mean) {
      layout.bytes[kVSums] = layout.bytes[kVLeast] = layout.bytes[kVMaxima];
      layout.bytes[kVMean] = of_keys(of_value, kF32);
    }
  }
  if (smooths_k(spec.smoothing)) {
    layout.bytes[kKSums] = of_keys(layout.chunks * channels, kF32);
    layout.bytes[kKMean] = of_keys(channels, kF32);
    if (lse == Lse::wanted || mods_need_lse_correction(spec))
      layout.bytes[kLseCorrection] = of_query_rows(layout.queries.rows, kF32);
  }
  if (per_tensor) {
    layout.bytes[kKMaxima] = of_keys(layout.kv_len_padded / spec.k_group, kF32);
    layout.bytes[kQMaxima] =
        of_queries(ceil_div(layout.q_len_padded, mean_scores ? kMeanRows : spec.q_group), kF32);
  }
  layout.part = {.batches = shape.batch,
                 .heads = row_heads(spec, shape),
                 .blocks = ceil_div(layout.q_len_padded, kMeanRows)};
  if (mean_scores) {
    layout.bytes[kQMean] = of_query_rows(ceil_div(layout.queries.rows, kMeanRows) * channels, kF32);
    layout.part = part_within(options.mean_score_bytes, layout.part, layout.kv_len_padded * kF32);
    layout.bytes[kMeanScores] = scratch_bytes(
        kPlan,
        {layout.part.batches, layout.part.heads, layout.part.blocks, layout.kv_len_padded * kF32});
  }
  if (takes_given_codes(spec)) layout.bytes = {};  // the caller has them
  layout.placed = map.place(layout.bytes, kPlan);
  return layout;
}

}  // namespace sagegen::attention::plan_detail
