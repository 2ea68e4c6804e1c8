// Calls on codes in tensors of the caller's.
#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>

#include "templates/attention/plan_codes_check.h"
#include "templates/attention/plan_impl.h"

namespace sagegen::attention {

using namespace plan_detail;
using runtime::ArgumentCheck;
using runtime::ArgumentError;
using runtime::Device;
using runtime::ScratchMap;

namespace {

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

// The end of such a call: its scratch lies in a workspace that overlaps nothing that was checked, and it launches.
template <typename Launch>
void finish(ArgumentCheck& check, const Call& call, std::size_t workspace_bytes,
            const Launch& launch) {
  check.workspace(call.workspace, workspace_bytes,
                  static_cast<std::size_t>(call.layout.placed.bytes));
  check.overlaps();
  Device::Scope scope(call.steps.device());
  launch();
  scope.restore();
}

}  // namespace

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
  Call call = plan.call(of_queries, arguments, layout, workspace);
  set(call.caller, to);
  call.caller[kKMean] = keys_values.k_mean;
  finish(check, call, workspace_bytes, [&] {
    call.queries(kLargestQueries, stream);
    call.queries(kQueries, stream);
  });
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
  Call call = plan.call(of_keys, arguments, layout, workspace);
  set(call.caller, to);
  finish(check, call, workspace_bytes, [&] {
    call.statistics(kStatistics, stream);
    call.statistics(kValueStatistics, stream);
    call.keys(kLargestKeys, stream);
    call.keys(kKeys, stream);
    call.values(stream);
  });
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
  Call call = plan.call(shape, arguments, layout, workspace);
  if (takes_given_codes(plan.spec)) {
    call.queries_given = &queries;
    call.keys_given = &keys_values;
  }
  set(call.caller, queries);
  set(call.caller, keys_values);
  finish(check, call, workspace_bytes, [&] { call.attend(stream); });
}

}  // namespace sagegen::attention
