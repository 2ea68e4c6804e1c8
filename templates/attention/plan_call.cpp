#include "templates/attention/plan_call.h"

#include <algorithm>

#include "templates/attention/plan_codes_check.h"
#include "templates/kv_statistics/params.h"
#include "templates/mean_scores/params.h"
#include "templates/mean_scores/spec.h"
#include "templates/quantize_rows/params.h"
#include "templates/quantize_values/params.h"
#include "templates/quantize_values/spec.h"
#include "templates/shared/params.h"

namespace sagegen::attention::plan_detail {

using runtime::ceil_div;
using runtime::Dim3;

namespace {

Dim3 grid(std::int64_t x, std::int64_t y, std::int64_t z) {
  return Dim3{
      .x = static_cast<unsigned>(x), .y = static_cast<unsigned>(y), .z = static_cast<unsigned>(z)};
}

TensorParam rows_of(DevicePtr data, const CodeStrides& strides) {
  return {.data = data,
          .stride_batch = strides.batch,
          .stride_head = strides.head,
          .stride_token = strides.row};
}

}  // namespace

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

void Call::statistics(Step step, StreamHandle stream) const {
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
  steps.launch_in_scope(step, grid(layout.chunks, shape.kv_heads, shape.batch), params, stream);
}

void Call::keys(Step step, StreamHandle stream) const {
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
  steps.launch_in_scope(
      step, grid(layout.kv_len_padded / spec.k_group, shape.kv_heads, shape.batch), params, stream);
}

void Call::values(StreamHandle stream) const {
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
  steps.launch_in_scope(kValues,
                        grid(layout.kv_len_padded / room::kKeys, shape.kv_heads, shape.batch),
                        params, stream);
}

void Call::queries(Step step, StreamHandle stream) const {
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
  steps.launch_in_scope(step, grid(ceil_div(layout.q_len_padded, rows), row_heads(), shape.batch),
                        params, stream);
}

GivenParams Call::given_params() const {
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

void Call::attend(StreamHandle stream) const {
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

void Call::mean_queries(const Part& part, StreamHandle stream) const {
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
  steps.launch_in_scope(kMeanQueries,
                        grid(layout.kv_len_padded / room::kKeys, part.heads, part.batches), params,
                        stream);
}

void Call::attend(const Part& part, StreamHandle stream) const {
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
  steps.launch_in_scope(kAttend, grid(queries / schedule.cta_q, part.heads, part.batches), params,
                        stream);
}

}  // namespace sagegen::attention::plan_detail
