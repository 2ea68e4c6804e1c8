#include "templates/attention/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include "sagegen/error.h"
#include "sagegen/runtime/argument_check.h"
#include "templates/attention/params.h"
#include "templates/attention/plan_codes_check.h"
#include "templates/attention/plan_mods.h"
#include "templates/attention/plan_packed.h"
#include "templates/kv_statistics/params.h"
#include "templates/kv_statistics/spec.h"
#include "templates/mean_scores/params.h"
#include "templates/mean_scores/spec.h"
#include "templates/quantize_rows/params.h"
#include "templates/quantize_rows/spec.h"
#include "templates/quantize_values/params.h"
#include "templates/quantize_values/spec.h"
#include "templates/shared/params.h"

namespace sagegen::attention {

using runtime::ArgumentCheck;
using runtime::ArgumentError;
using runtime::ArtifactSource;
using runtime::ceil_div;
using runtime::check_sizes;
using runtime::Device;
using runtime::DevicePtr;
using runtime::Dim3;
using runtime::DriverError;
using runtime::kMaxGridYZ;
using runtime::kMaxLength;
using runtime::LoadedSteps;
using runtime::padded_length;
using runtime::Result;
using runtime::Scratch;
using runtime::scratch_bytes;
using runtime::ScratchMap;
using runtime::StreamHandle;

namespace {

constexpr const char* kPlan = "attention";

// Kernels address scales of groups of 16 rows, 2 bytes for each row, in 31 bits.
constexpr std::int64_t kMostPackedRows = (std::int64_t{1} << 30) - 1024;

// Kernels take subnormal numbers for 0.
constexpr float kSmallestNormal = std::numeric_limits<float>::min();

enum Step {
  kStatistics,
  kValueStatistics,  // where V has channels of its own number
  kLargestKeys,
  kKeys,
  kValues,
  kLargestQueries,
  kQueries,
  kMeanQueries,
  kAttend,
  kSteps
};

enum Tensor {
  kQCodes,
  kQScale,
  kKCodes,
  kKScale,
  kVCodes,
  kVScale,
  kKSums,
  kVMaxima,
  kVSums,
  kVLeast,
  kVMean,
  kKMean,
  kLseCorrection,
  kQMean,
  kMeanScores,
  kKMaxima,
  kQMaxima,
  kTensors
};
constexpr Scratch kScratch[kTensors] = {
    {"q_codes", kQueries, kAttend},
    {"q_scale", kQueries, kAttend},
    {"k_codes", kKeys, kAttend},
    {"k_scale", kKeys, kAttend},
    {"v_codes", kValues, kAttend},
    {"v_scale", kValues, kAttend},
    {"k_sum_partial", kStatistics, kKeys},
    {"v_amax_partial", kStatistics, kValues},
    {"v_sum_partial", kStatistics, kValues},
    {"v_least_partial", kStatistics, kValues},
    {"v_mean", kValues, kAttend},
    {"k_mean", kLargestKeys, kAttend},
    {"lse_correction", kQueries, kAttend},
    {"q_mean", kLargestQueries, kAttend},
    {"mean_scores", kMeanQueries, kAttend},
    {"k_maxima", kLargestKeys, kKeys},
    {"q_maxima", kLargestQueries, kQueries},
};

Dim3 grid(std::int64_t x, std::int64_t y, std::int64_t z) {
  return Dim3{
      .x = static_cast<unsigned>(x), .y = static_cast<unsigned>(y), .z = static_cast<unsigned>(z)};
}

// The kernel and its inputs, each at its step.
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

// A part of the problem that is attended at a time.
struct Part {
  std::int64_t first_batch = 0, batches = 0;
  std::int64_t first_head = 0, heads = 0;    // of Q; with pack_gqa of K and V
  std::int64_t first_block = 0, blocks = 0;  // of kMeanRows queries
};

// Heads that have rows of Q of their own, and the rows that each of them has.
std::int64_t row_heads(const Spec& spec, const Shape& shape) {
  return spec.pack_gqa ? shape.kv_heads : shape.q_heads;
}
std::int64_t rows_of_query(const Spec& spec, const Shape& shape) {
  return spec.pack_gqa ? shape.q_heads / shape.kv_heads : 1;
}
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

// How a call is cut into tiles and chunks, and where its scratch tensors lie.
struct Layout {
  std::int64_t q_len_padded, kv_len_padded;  // q_len_padded: of rows with pack_gqa
  std::int64_t chunk_len;                    // keys that one block of kv_statistics reduces
  std::int64_t chunks;
  WorkspaceRows queries, keys;
  Part part;                                 // the largest; the whole problem without mean scores
  std::array<std::int64_t, kTensors> bytes;  // 0: absent
  ScratchMap::Placed placed;
};

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

// What is left in the workspace of calls whose codes are in tensors of the caller, by call.
constexpr Tensor kOfQueries[] = {kQMaxima};
constexpr Tensor kOfKeysValues[] = {kKSums, kVMaxima, kVSums, kVLeast, kKMaxima};
constexpr Tensor kOfAttention[] = {kMeanScores};

Layout with_scratch(Layout layout, const ScratchMap& map, std::span<const Tensor> scratch) {
  const std::array<std::int64_t, kTensors> all = std::exchange(layout.bytes, {});
  for (const Tensor tensor : scratch) layout.bytes[tensor] = all[tensor];
  layout.placed = map.place(layout.bytes, kPlan);
  return layout;
}

// Where the caller's codes are, by tensor; 0: in the workspace, or nowhere.
using CallerTensors = std::array<DevicePtr, kTensors>;

void set(CallerTensors& tensors, const QueryCodes& codes) {
  tensors[kQCodes] = codes.codes;
  tensors[kQScale] = codes.scale;
  tensors[kQMean] = codes.mean;
  tensors[kLseCorrection] = codes.lse_correction;
}

void set(CallerTensors& tensors, const KeyValueCodes& codes) {
  tensors[kKCodes] = codes.k_codes;
  tensors[kKScale] = codes.k_scale;
  tensors[kKMean] = codes.k_mean;
  tensors[kVCodes] = codes.v_codes;
  tensors[kVScale] = codes.v_scale;
  tensors[kVMean] = codes.v_mean;
}

TensorParam rows_of(DevicePtr data, const CodeStrides& strides) {
  return {.data = data,
          .stride_batch = strides.batch,
          .stride_head = strides.head,
          .stride_token = strides.row};
}

}  // namespace

struct Plan::Impl {
  // What a driver would load, but nobody wants.
  static const Device& checked(const Device& device, const Spec& spec, const Kernel& asked) {
    if (runs_on(spec, device.compute_capability())) return device;
    throw SpecError(fmt::format(
        "{} is refused on a device of compute capability {}.{}: its tensor cores have no INT4, and "
        "the driver would emulate each product by about 190 instructions; use qk s8",
        asked.key(), device.compute_capability() / 10, device.compute_capability() % 10));
  }

  Impl(const Device& device, const Kernel& asked, const ArtifactSource& source,
       const PlanOptions& plan_options)
      : kernel(asked),
        options(plan_options),
        spec(asked.view(family()).spec),
        schedule(asked.view(family()).schedule),
        scratch(kScratch),
        steps(checked(device, spec, asked), steps_of(asked), asked, source) {}

  void check(const Shape& shape, const Arguments& arguments, const Layout& layout,
             DevicePtr workspace, std::size_t workspace_bytes) const;
  void check_numbers(const Arguments& arguments) const;
  void check_attended(ArgumentCheck& check, const Shape& shape, const Arguments& arguments) const;
  // Refuses a call that has something quantized, where the codes are given.
  void need_quantizers(const char* call) const;

  Layout layout_of(const Shape& shape, Lse lse) const {
    return attention::layout_of(spec, schedule, scratch, options, shape, lse);
  }

  Kernel kernel;
  PlanOptions options;
  Spec spec;
  Schedule schedule;
  ScratchMap scratch;
  LoadedSteps steps;
};

namespace {

ModCall mod_call(const Spec& spec, const Shape& shape, const Arguments& arguments,
                 const Schedule& schedule) {
  // Of packed sequences the kernel adds what is each one's own.
  const bool top_left = arguments.causal == CausalAlignment::top_left || is_packed(shape);
  return {.batch = shape.batch,
          .q_heads = shape.q_heads,
          .q_len = shape.q_len,
          .kv_len = shape.kv_len,
          .offset = top_left ? 0 : static_cast<std::int32_t>(shape.kv_len - shape.q_len),
          .cta_q = schedule.cta_q,
          .cta_k = schedule.cta_k,
          .group = rows_of_query(spec, shape)};
}

// One call: its launch arguments.
struct Call {
  const Spec& spec;
  const Schedule& schedule;
  const LoadedSteps& steps;
  const Shape& shape;
  const Arguments& arguments;
  const Layout& layout;
  DevicePtr workspace;
  CallerTensors caller = {};
  const QueryCodes* queries_given = nullptr;  // with InputSource::given
  const KeyValueCodes* keys_given = nullptr;

  bool smooths_k() const { return sagegen::smooths_k(spec.smoothing); }
  bool smooths_v() const { return spec.v_smoothing == ValueSmoothing::mean; }
  bool smooths_q() const { return spec.smoothing == Smoothing::qk; }
  bool per_tensor() const { return spec.granularity == Granularity::per_tensor; }
  // Address of a scratch tensor, 0 if it is absent.
  Address at(Tensor tensor) const {
    if (caller[tensor] != 0) return caller[tensor];
    if (layout.bytes[tensor] == 0) return 0;
    return workspace + static_cast<DevicePtr>(layout.placed.offset[tensor]);
  }
  static std::int32_t narrow(std::int64_t length) { return static_cast<std::int32_t>(length); }
  std::int32_t heads_per_kv_head() const { return narrow(shape.q_heads / shape.kv_heads); }
  std::int64_t row_heads() const { return attention::row_heads(spec, shape); }
  std::int32_t row_heads_per_kv_head() const { return narrow(row_heads() / shape.kv_heads); }
  float softmax_scale() const {
    if (arguments.softmax_scale != 0.0f) return arguments.softmax_scale;
    return static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec.head_dim)));
  }

  // Of a tensor of the caller: packed, all batches are one.
  TensorParam tensor(const runtime::TensorView& view) const {
    TensorParam param = view.param();
    if (is_packed(shape)) param.stride_batch = 0;
    return param;
  }

  template <SequencesOf Of>
  SequenceParams<Of> sequences(OfSequences of) const {
    return of == OfSequences::queries
               ? sequence_params<Of>(of, shape, arguments, layout.queries, row_heads())
               : sequence_params<Of>(of, shape, arguments, layout.keys, shape.kv_heads);
  }

  void statistics(Step step, StreamHandle stream) const {
    if (!steps.has(step)) return;
    namespace room = kv_statistics;
    ParamPack params = steps.params(step);
    const bool of_v = step == kValueStatistics || !steps.has(kValueStatistics);
    if (step == kStatistics && smooths_k())
      params.set(room::KSumParams{.tokens = tensor(arguments.k), .partial = at(kKSums)});
    if (of_v && smooths_v()) {
      params.set(room::VRangeParams{.tokens = tensor(arguments.v),
                                    .sum_partial = at(kVSums),
                                    .least_partial = at(kVLeast),
                                    .largest_partial = at(kVMaxima)});
    } else if (of_v && v_is_quantized(spec)) {
      params.set(room::VAmaxParams{.tokens = tensor(arguments.v), .partial = at(kVMaxima)});
    }
    params.set(room::Params{.kv_len = narrow(shape.kv_len), .chunk_len = narrow(layout.chunk_len)});
    if (spec.varlen) params.set(sequences<SequencesOf::keys>(OfSequences::keys));
    steps.launch(step, grid(layout.chunks, shape.kv_heads, shape.batch), params, stream);
  }

  void keys(Step step, StreamHandle stream) const {
    if (!steps.has(step)) return;
    namespace room = quantize_rows;
    ParamPack params = steps.params(step);
    params.set(room::Params{.rows = tensor(arguments.k),
                            .codes = at(kKCodes),
                            .scale = at(kKScale),
                            .len = narrow(shape.kv_len),
                            .len_padded = narrow(layout.kv_len_padded)});
    if (smooths_k()) {
      params.set(room::SmoothParams{
          .sum_partial = at(kKSums), .mean = at(kKMean), .chunks = narrow(layout.chunks)});
    }
    if (per_tensor()) params.set(room::MaximaParams{.maxima = at(kKMaxima)});
    if (spec.varlen) params.set(sequences<SequencesOf::rows>(OfSequences::keys));
    steps.launch(step, grid(layout.kv_len_padded / spec.k_group, shape.kv_heads, shape.batch),
                 params, stream);
  }

  void values(StreamHandle stream) const {
    if (!steps.has(kValues)) return;
    namespace room = quantize_values;
    ParamPack params = steps.params(kValues);
    params.set(room::Params{.v = tensor(arguments.v),
                            .amax_partial = smooths_v() ? 0 : at(kVMaxima),
                            .codes = at(kVCodes),
                            .scale = at(kVScale),
                            .kv_len = narrow(shape.kv_len),
                            .kv_len_padded = narrow(layout.kv_len_padded),
                            .chunks = narrow(layout.chunks)});
    if (smooths_v()) {
      params.set(room::SmoothParams{.sum_partial = at(kVSums),
                                    .least_partial = at(kVLeast),
                                    .largest_partial = at(kVMaxima),
                                    .mean = at(kVMean)});
    }
    if (spec.varlen) params.set(sequences<SequencesOf::keys>(OfSequences::keys));
    steps.launch(kValues, grid(layout.kv_len_padded / room::kKeys, shape.kv_heads, shape.batch),
                 params, stream);
  }

  void queries(Step step, StreamHandle stream) const {
    if (!steps.has(step)) return;
    namespace room = quantize_rows;
    ParamPack params = steps.params(step);
    params.set(room::Params{.rows = tensor(arguments.q),
                            .codes = at(kQCodes),
                            .scale = at(kQScale),
                            .len = narrow(shape.q_len * rows_of_query(spec, shape)),
                            .len_padded = narrow(layout.q_len_padded)});
    params.set(room::FoldParams{.k_mean = at(kKMean),
                                .lse_correction = at(kLseCorrection),
                                .softmax_scale = softmax_scale(),
                                .heads_per_kv_head = row_heads_per_kv_head()});
    if (spec.pack_gqa) params.set(PackParams::of(heads_per_kv_head()));
    if (smooths_q()) params.set(room::BlockMeanParams{.mean = at(kQMean)});
    if (per_tensor()) params.set(room::MaximaParams{.maxima = at(kQMaxima)});
    if (spec.varlen) params.set(sequences<SequencesOf::rows>(OfSequences::queries));
    const std::int64_t rows = smooths_q() ? kMeanRows : spec.q_group;
    steps.launch(step, grid(ceil_div(layout.q_len_padded, rows), row_heads(), shape.batch), params,
                 stream);
  }

  GivenParams given_params() const {
    const auto scales = [](std::int64_t stride, std::int64_t of_head) {
      return narrow(stride == 0 ? of_head : stride);
    };
    const QueryCodes& q = *queries_given;
    const KeyValueCodes& k = *keys_given;
    return {.q = rows_of(q.codes, q.strides),
            .k = rows_of(k.k_codes, k.k_strides),
            .q_scales = scales(q.scale_stride, given_q_scales(spec, shape.q_len)),
            .k_scales = scales(k.k_scale_stride, given_k_scales(spec, shape.kv_len)),
            .unit = q.scale_is_folded ? 1.0f : softmax_scale() * kLog2E};
  }

  // Part after part, as the scores of mean queries of one part take the place of the last one's.
  void attend(StreamHandle stream) const {
    if (!smooths_q()) return attend(layout.part, stream);
    const std::int64_t blocks = ceil_div(layout.q_len_padded, kMeanRows);
    const Part& largest = layout.part;
    Part part;
    for (std::int64_t b = 0; b < shape.batch; b += largest.batches) {
      part.first_batch = b;
      part.batches = std::min(largest.batches, shape.batch - b);
      for (std::int64_t h = 0; h < row_heads(); h += largest.heads) {
        part.first_head = h;
        part.heads = std::min(largest.heads, row_heads() - h);
        for (std::int64_t x = 0; x < blocks; x += largest.blocks) {
          part.first_block = x;
          part.blocks = std::min(largest.blocks, blocks - x);
          mean_queries(part, stream);
          attend(part, stream);
        }
      }
    }
  }

  void mean_queries(const Part& part, StreamHandle stream) const {
    namespace room = mean_scores;
    ParamPack params = steps.params(kMeanQueries);
    params.set(room::Params{.k = tensor(arguments.k),
                            .k_mean = at(kKMean),
                            .q_mean = at(kQMean),
                            .scores = at(kMeanScores),
                            .softmax_scale = softmax_scale(),
                            .kv_len = narrow(shape.kv_len),
                            .kv_len_padded = narrow(layout.kv_len_padded),
                            .heads = narrow(row_heads()),
                            .heads_per_kv_head = row_heads_per_kv_head(),
                            .blocks_of_head = narrow(ceil_div(layout.q_len_padded, kMeanRows)),
                            .first_batch = narrow(part.first_batch),
                            .first_head = narrow(part.first_head),
                            .first_block = narrow(part.first_block),
                            .blocks = narrow(part.blocks)});
    if (spec.varlen) {
      params.set(sequences<SequencesOf::queries>(OfSequences::queries));
      params.set(sequences<SequencesOf::keys>(OfSequences::keys));
      if (spec.pack_gqa) params.set(PackParams::of(heads_per_kv_head()));
    }
    steps.launch(kMeanQueries, grid(layout.kv_len_padded / room::kKeys, part.heads, part.batches),
                 params, stream);
  }

  void attend(const Part& part, StreamHandle stream) const {
    ParamPack params = steps.params(kAttend);
    const TensorParam v_codes =
        rows_of(at(kVCodes), keys_given ? keys_given->v_strides : CodeStrides{});
    params.set(Params{.q_codes = at(kQCodes),
                      .q_scale = at(kQScale),
                      .k_codes = at(kKCodes),
                      .k_scale = at(kKScale),
                      .v = v_is_quantized(spec) ? v_codes : tensor(arguments.v),
                      .v_scale = at(kVScale),
                      .o = tensor(arguments.o),
                      .lse = arguments.lse,
                      .q_len = narrow(shape.q_len),
                      .q_len_padded = narrow(layout.q_len_padded),
                      .kv_len = narrow(shape.kv_len),
                      .kv_len_padded = narrow(layout.kv_len_padded),
                      .heads_per_kv_head = heads_per_kv_head()});
    if (!qk_is_quantized(spec)) {
      params.set(UnquantizedParams{
          .q = tensor(arguments.q), .k = tensor(arguments.k), .unit = softmax_scale() * kLog2E});
    }
    if (smooths_k()) params.set(SmoothingParams{.lse_correction = at(kLseCorrection)});
    if (smooths_q()) {
      params.set(MeanScoreParams{.mean_scores = at(kMeanScores),
                                 .heads = narrow(row_heads()),
                                 .first_batch = narrow(part.first_batch),
                                 .first_head = narrow(part.first_head),
                                 .first_block = narrow(part.first_block)});
    }
    if (smooths_v()) params.set(ValueMeanParams{.v_mean = at(kVMean)});
    if (queries_given != nullptr && qk_is_quantized(spec)) params.set(given_params());
    if (spec.varlen) {
      params.set(sequences<SequencesOf::queries>(OfSequences::queries));
      params.set(sequences<SequencesOf::keys>(OfSequences::keys));
      const bool moves = arguments.causal == CausalAlignment::bottom_right && is_packed(shape);
      params.set(VarlenParams{.bottom_right = moves ? -1 : 0});
    }
    if (spec.out != OutputFormat::io) params.set(OutputCodeParams{.scale = arguments.o_scale});
    set_mod_params(params, spec, arguments.mods, mod_call(spec, shape, arguments, schedule));
    if (spec.pack_gqa) params.set(PackParams::of(heads_per_kv_head()));
    // The last block of means may have fewer rows.
    const std::int64_t queries =
        smooths_q()
            ? std::min(part.blocks * kMeanRows, layout.q_len_padded - part.first_block * kMeanRows)
            : layout.q_len_padded;
    steps.launch(kAttend, grid(queries / schedule.cta_q, part.heads, part.batches), params, stream);
  }
};

}  // namespace

namespace {

// O, and what its codes come with.
void check_output(ArgumentCheck& check, const Spec& spec, const Shape& shape,
                  const Arguments& arguments) {
  using Access = ArgumentCheck::Access;
  runtime::ElementRule elements;
  if (spec.out != OutputFormat::io)
    elements = {.bytes = 1, .step = value_dim(spec) % 16 == 0 ? 16 : 8};
  const bool packed = is_packed(shape);
  check.tensor("o", arguments.o, packed ? 1 : shape.batch, shape.q_heads,
               packed ? shape.total_q : shape.q_len, value_dim(spec), Access::write, elements);
  if (spec.out == OutputFormat::io) {
    if (arguments.o_scale == 0) return;
    throw ArgumentError(
        fmt::format("attention: o_scale is given, and the kernel writes O in {}; take one with "
                    "out=e4m3 or out=s8",
                    to_string(spec.io)));
  }
  const std::int64_t of_head = packed ? shape.total_q : shape.batch * shape.q_len;
  const auto rows = static_cast<std::uint64_t>(shape.q_heads * of_head);
  const bool given = spec.out == OutputFormat::e4m3;
  check.array("o_scale", arguments.o_scale, (given ? 1 : rows) * sizeof(float), sizeof(float),
              given ? Access::read : Access::write);
}

}  // namespace

void Plan::Impl::check(const Shape& shape, const Arguments& arguments, const Layout& layout,
                       DevicePtr workspace, std::size_t workspace_bytes) const {
  using Access = ArgumentCheck::Access;
  ArgumentCheck check(kPlan);
  check_packing(kernel, spec, shape, arguments);
  const bool packed = is_packed(shape);
  const std::int64_t batch = packed ? 1 : shape.batch;
  const std::int64_t q_rows = packed ? shape.total_q : shape.q_len;
  const std::int64_t kv_rows = packed ? shape.total_kv : shape.kv_len;
  check.tensor("q", arguments.q, batch, shape.q_heads, q_rows, spec.head_dim, Access::read);
  check.tensor("k", arguments.k, batch, shape.kv_heads, kv_rows, spec.head_dim, Access::read);
  check.tensor("v", arguments.v, batch, shape.kv_heads, kv_rows, value_dim(spec), Access::read);
  check_output(check, spec, shape, arguments);
  if (packed) {
    const auto sums = static_cast<std::uint64_t>(shape.batch + 1) * sizeof(std::int32_t);
    check.array("cu_seqlens_q", arguments.cu_seqlens_q, sums, sizeof(std::int32_t), Access::read);
    check.array("cu_seqlens_kv", arguments.cu_seqlens_kv, sums, sizeof(std::int32_t), Access::read);
  }
  check_numbers(arguments);
  check.workspace(workspace, workspace_bytes, static_cast<std::size_t>(layout.placed.bytes));
  if (arguments.lse != 0) {
    const auto rows = static_cast<std::uint64_t>(batch * shape.q_heads * q_rows);
    check.array("lse", arguments.lse, rows * sizeof(float), sizeof(float), Access::write);
  }
  check_mods(check, kernel, spec, arguments.mods, mod_call(spec, shape, arguments, schedule));
  check.overlaps();
}

void Plan::Impl::check_numbers(const Arguments& arguments) const {
  const float scale = arguments.softmax_scale;
  if (scale != 0.0f && !(scale > 0.0f && scale <= kLargestSoftmaxScale)) {
    throw ArgumentError(
        fmt::format("attention: softmax_scale is {}; it must be positive and at most {}, or 0 for "
                    "1 / sqrt(head_dim)",
                    scale, kLargestSoftmaxScale));
  }
  if (scale != 0.0f && !qk_is_quantized(spec) && scale < kSmallestNormal) {
    throw ArgumentError(
        fmt::format("attention: softmax_scale is {}; with Q and K that are not quantized it must "
                    "be at least {}, the least normal number of f32",
                    scale, kSmallestNormal));
  }
  if (arguments.causal != CausalAlignment::top_left &&
      arguments.causal != CausalAlignment::bottom_right) {
    throw ArgumentError(fmt::format("attention: causal is {}; it must be top_left or bottom_right",
                                    static_cast<int>(arguments.causal)));
  }
}

// What attention itself reads and writes of the arguments, beside codes.
void Plan::Impl::check_attended(ArgumentCheck& check, const Shape& shape,
                                const Arguments& arguments) const {
  using Access = ArgumentCheck::Access;
  const auto read = [&](const char* name, const runtime::TensorView& view, std::int64_t heads,
                        std::int64_t tokens, int channels) {
    check.tensor(name, view, shape.batch, heads, tokens, channels, Access::read);
  };
  if (spec.smoothing == Smoothing::qk && arguments.k.data == 0) {
    throw ArgumentError(fmt::format(
        "attention: k is a null pointer, and {} has smoothing qk: the scores of mean queries are "
        "computed from the K that was quantized, of which codes are not enough; give k, or take a "
        "kernel with smoothing k",
        kernel.key()));
  }
  if (!qk_is_quantized(spec)) read("q", arguments.q, shape.q_heads, shape.q_len, spec.head_dim);
  if (!qk_is_quantized(spec) || spec.smoothing == Smoothing::qk)
    read("k", arguments.k, shape.kv_heads, shape.kv_len, spec.head_dim);
  if (!v_is_quantized(spec)) read("v", arguments.v, shape.kv_heads, shape.kv_len, value_dim(spec));
  check_output(check, spec, shape, arguments);
  check_numbers(arguments);
  if (arguments.lse != 0) {
    const auto rows = static_cast<std::uint64_t>(shape.batch * shape.q_heads * shape.q_len);
    check.array("lse", arguments.lse, rows * sizeof(float), sizeof(float), Access::write);
  }
  check_mods(check, kernel, spec, arguments.mods, mod_call(spec, shape, arguments, schedule));
}

void Plan::Impl::need_quantizers(const char* call) const {
  if (!takes_given_codes(spec)) return;
  throw ArgumentError(
      fmt::format("attention: {} has inputs=given: its codes are the caller's, and it has nothing "
                  "that {} could run; call attend_codes()",
                  kernel.key(), call));
}

Plan::Plan(const Device& device, const Kernel& kernel, const ArtifactSource& source,
           const PlanOptions& options) {
  try {
    impl_ = std::make_unique<Impl>(device, kernel, source, options);
  } catch (const DriverError& error) {
    const Spec& spec = kernel.view(family()).spec;
    const bool has_no_older = error.result() == static_cast<int>(Result::unsupported_ptx_version) &&
                              spec.pv == DType::e4m3;
    if (!has_no_older) throw;
    const std::string of_sums =
        spec.accumulation == Accumulation::f32_f16
            ? "\nOr take accumulation two_level_f32: sums of FP8 products in f16 need PTX 8.7, of "
              "CUDA 12.8."
            : "";
    throw DriverError(
        error.result(), error.call(),
        fmt::format("{}{}\nOr take {}: of FP8 P V there is no PTX for older drivers.", error.what(),
                    of_sums,
                    qk_is_quantized(spec) ? "FP16 P V (pv f16, mode int8-fp16 or int4-fp16)"
                                          : "P V of the type of Q and K (mode 16bit)"));
  }
}

Plan::~Plan() = default;
Plan::Plan(Plan&&) noexcept = default;

std::size_t Plan::workspace_bytes(const Shape& shape, Lse lse) const {
  const Layout layout = impl_->layout_of(shape, lse);
  return static_cast<std::size_t>(layout.placed.bytes);
}

std::vector<Plan::ScratchTensor> Plan::scratch(const Shape& shape, Lse lse) const {
  const Layout layout = impl_->layout_of(shape, lse);
  std::vector<ScratchTensor> tensors;
  for (int i = 0; i < kTensors; ++i)
    tensors.push_back({kScratch[i].name, layout.placed.offset[i], layout.bytes[i]});
  return tensors;
}

void Plan::enqueue(Part part, const Shape& shape, const Arguments& arguments, DevicePtr workspace,
                   std::size_t workspace_bytes, StreamHandle stream) const {
  const Impl& plan = *impl_;
  plan.need_quantizers(part == Part::all        ? "run()"
                       : part == Part::quantize ? "quantize()"
                                                : "attend()");
  const Layout layout = plan.layout_of(shape, arguments.lse == 0 ? Lse::unwanted : Lse::wanted);
  plan.check(shape, arguments, layout, workspace, workspace_bytes);
  const Call call{.spec = plan.spec,
                  .schedule = plan.schedule,
                  .steps = plan.steps,
                  .shape = shape,
                  .arguments = arguments,
                  .layout = layout,
                  .workspace = workspace};
  Device::Scope scope(plan.steps.device());  // once for all launches
  if (part != Part::attend) {
    call.statistics(kStatistics, stream);
    call.statistics(kValueStatistics, stream);
    call.keys(kLargestKeys, stream);
    call.keys(kKeys, stream);
    call.values(stream);
    call.queries(kLargestQueries, stream);
    call.queries(kQueries, stream);
  }
  if (part != Part::quantize) call.attend(stream);
  scope.restore();
}

void Plan::run(const Shape& shape, const Arguments& arguments, DevicePtr workspace,
               std::size_t workspace_bytes, StreamHandle stream) const {
  enqueue(Part::all, shape, arguments, workspace, workspace_bytes, stream);
}

void Plan::quantize(const Shape& shape, const Arguments& arguments, DevicePtr workspace,
                    std::size_t workspace_bytes, StreamHandle stream) const {
  enqueue(Part::quantize, shape, arguments, workspace, workspace_bytes, stream);
}

void Plan::attend(const Shape& shape, const Arguments& arguments, DevicePtr workspace,
                  std::size_t workspace_bytes, StreamHandle stream) const {
  enqueue(Part::attend, shape, arguments, workspace, workspace_bytes, stream);
}

CodeSizes Plan::code_sizes(const Shape& shape, Lse lse) const {
  refuse_packed(shape, {});
  const Impl& plan = *impl_;
  const Layout layout = plan.layout_of(shape, lse);
  if (takes_given_codes(plan.spec)) {
    return given_sizes(plan.spec, shape, lse == Lse::wanted || mods_need_lse_correction(plan.spec));
  }
  const auto scratch = [&](std::span<const Tensor> tensors) {
    return with_scratch(layout, plan.scratch, tensors).placed.bytes;
  };
  const auto& bytes = layout.bytes;
  return {
      .q_codes = bytes[kQCodes],
      .q_scale = bytes[kQScale],
      .q_mean = bytes[kQMean],
      .lse_correction = bytes[kLseCorrection],
      .k_codes = bytes[kKCodes],
      .k_scale = bytes[kKScale],
      .k_mean = bytes[kKMean],
      .v_codes = bytes[kVCodes],
      .v_scale = bytes[kVScale],
      .v_mean = bytes[kVMean],
      .workspace = std::max({scratch(kOfQueries), scratch(kOfKeysValues), scratch(kOfAttention)})};
}

void Plan::quantize_queries(const Shape& shape, const Arguments& arguments,
                            const KeyValueCodes& keys_values, const QueryCodes& to,
                            DevicePtr workspace, std::size_t workspace_bytes,
                            StreamHandle stream) const {
  const Impl& plan = *impl_;
  const Spec& spec = plan.spec;
  plan.need_quantizers("quantize_queries()");
  refuse_packed(shape, arguments);
  if (!qk_is_quantized(spec)) {
    throw ArgumentError(
        fmt::format("attention: {} reads Q and K as they are, and has no codes of Q; give q and k "
                    "to attend_codes()",
                    plan.kernel.key()));
  }
  Shape of_queries = shape;
  of_queries.kv_len = 1;
  const Lse lse = to.lse_correction == 0 ? Lse::unwanted : Lse::wanted;
  const CodeSizes sizes = code_sizes(of_queries, lse);
  const Layout layout = with_scratch(plan.layout_of(of_queries, lse), plan.scratch, kOfQueries);
  ArgumentCheck check(kPlan);
  check.tensor("q", arguments.q, shape.batch, shape.q_heads, shape.q_len, spec.head_dim,
               CodeAccess::read);
  plan.check_numbers(arguments);
  check_query_codes(check, plan.kernel, of_queries, to, sizes, CodeAccess::write);
  if (sizes.lse_correction != 0) {
    check.array("k_mean", keys_values.k_mean, static_cast<std::uint64_t>(sizes.k_mean), 16,
                CodeAccess::read);
  }
  check.workspace(workspace, workspace_bytes, static_cast<std::size_t>(layout.placed.bytes));
  check.overlaps();
  Call call{.spec = spec,
            .schedule = plan.schedule,
            .steps = plan.steps,
            .shape = of_queries,
            .arguments = arguments,
            .layout = layout,
            .workspace = workspace};
  set(call.caller, to);
  call.caller[kKMean] = keys_values.k_mean;
  Device::Scope scope(plan.steps.device());
  call.queries(kLargestQueries, stream);
  call.queries(kQueries, stream);
  scope.restore();
}

void Plan::quantize_keys_values(const Shape& shape, const Arguments& arguments,
                                const KeyValueCodes& to, DevicePtr workspace,
                                std::size_t workspace_bytes, StreamHandle stream) const {
  const Impl& plan = *impl_;
  const Spec& spec = plan.spec;
  plan.need_quantizers("quantize_keys_values()");
  refuse_packed(shape, arguments);
  if (!qk_is_quantized(spec) && !v_is_quantized(spec)) {
    throw ArgumentError(
        fmt::format("attention: {} reads K and V as they are, and has no codes of them; give k and "
                    "v to attend_codes()",
                    plan.kernel.key()));
  }
  Shape of_keys = shape;
  of_keys.q_heads = std::max<std::int64_t>(shape.kv_heads, 1);
  of_keys.q_len = 1;
  const CodeSizes sizes = code_sizes(of_keys);
  const Layout layout =
      with_scratch(plan.layout_of(of_keys, Lse::unwanted), plan.scratch, kOfKeysValues);
  ArgumentCheck check(kPlan);
  const auto read = [&](const char* name, const runtime::TensorView& view, int channels) {
    check.tensor(name, view, shape.batch, shape.kv_heads, shape.kv_len, channels, CodeAccess::read);
  };
  if (qk_is_quantized(spec)) read("k", arguments.k, spec.head_dim);
  if (v_is_quantized(spec)) read("v", arguments.v, value_dim(spec));
  check_key_value_codes(check, plan.kernel, of_keys, to, sizes, CodeAccess::write);
  check.workspace(workspace, workspace_bytes, static_cast<std::size_t>(layout.placed.bytes));
  check.overlaps();
  Call call{.spec = spec,
            .schedule = plan.schedule,
            .steps = plan.steps,
            .shape = of_keys,
            .arguments = arguments,
            .layout = layout,
            .workspace = workspace};
  set(call.caller, to);
  Device::Scope scope(plan.steps.device());
  call.statistics(kStatistics, stream);
  call.statistics(kValueStatistics, stream);
  call.keys(kLargestKeys, stream);
  call.keys(kKeys, stream);
  call.values(stream);
  scope.restore();
}

void Plan::attend_codes(const Shape& shape, const QueryCodes& queries,
                        const KeyValueCodes& keys_values, const Arguments& arguments,
                        DevicePtr workspace, std::size_t workspace_bytes,
                        StreamHandle stream) const {
  const Impl& plan = *impl_;
  refuse_packed(shape, arguments);
  const Lse lse = arguments.lse == 0 ? Lse::unwanted : Lse::wanted;
  const CodeSizes sizes = code_sizes(shape, lse);
  const Layout layout = with_scratch(plan.layout_of(shape, lse), plan.scratch, kOfAttention);
  ArgumentCheck check(kPlan);
  plan.check_attended(check, shape, arguments);
  check_query_codes(check, plan.kernel, shape, queries, sizes, CodeAccess::read);
  check_key_value_codes(check, plan.kernel, shape, keys_values, sizes, CodeAccess::read);
  check.workspace(workspace, workspace_bytes, static_cast<std::size_t>(layout.placed.bytes));
  check.overlaps();
  const bool given = takes_given_codes(plan.spec);
  Call call{.spec = plan.spec,
            .schedule = plan.schedule,
            .steps = plan.steps,
            .shape = shape,
            .arguments = arguments,
            .layout = layout,
            .workspace = workspace,
            .queries_given = given ? &queries : nullptr,
            .keys_given = given ? &keys_values : nullptr};
  set(call.caller, queries);
  set(call.caller, keys_values);
  Device::Scope scope(plan.steps.device());
  call.attend(stream);
  scope.restore();
}

const Kernel& Plan::kernel() const { return impl_->kernel; }
std::vector<std::string> Plan::kernel_names() const { return impl_->steps.entries(); }
const std::string& Plan::note() const { return impl_->steps.note(); }

}  // namespace sagegen::attention
