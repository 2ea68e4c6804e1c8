// What a call of a plan launches.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "sagegen/runtime/plan.h"
#include "templates/attention/params.h"
#include "templates/attention/plan.h"
#include "templates/attention/plan_layout.h"
#include "templates/attention/plan_mods.h"
#include "templates/attention/plan_packed.h"
#include "templates/shared/quantization.h"

namespace sagegen::attention::plan_detail {

using runtime::DevicePtr;
using runtime::LoadedSteps;
using runtime::StreamHandle;

// Where the caller's codes are, by tensor; 0: in the workspace, or nowhere.
using CallerTensors = std::array<DevicePtr, kTensors>;

ModCall mod_call(const Spec& spec, const Shape& shape, const Arguments& arguments,
                 const Schedule& schedule);

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
  std::int64_t row_heads() const { return plan_detail::row_heads(spec, shape); }
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

  void statistics(Step step, StreamHandle stream) const;
  void keys(Step step, StreamHandle stream) const;
  void values(StreamHandle stream) const;
  void queries(Step step, StreamHandle stream) const;
  GivenParams given_params() const;

  // Part after part, as the scores of mean queries of one part take the place of the last one's.
  void attend(StreamHandle stream) const;
  void mean_queries(const Part& part, StreamHandle stream) const;
  void attend(const Part& part, StreamHandle stream) const;
};

}  // namespace sagegen::attention::plan_detail
