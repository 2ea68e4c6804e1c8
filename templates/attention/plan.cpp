#include "templates/attention/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "templates/attention/plan_impl.h"

namespace sagegen::attention {

using namespace plan_detail;
using runtime::ArgumentCheck;
using runtime::ArgumentError;
using runtime::ArtifactSource;
using runtime::Device;
using runtime::DriverError;
using runtime::Result;

namespace {

// Kernels take subnormal numbers for 0.
constexpr float kSmallestNormal = std::numeric_limits<float>::min();

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
  check_chunk(shape, arguments);
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

// With Invariance::growing_keys.
void Plan::Impl::check_chunk(const Shape& shape, const Arguments& arguments) const {
  if (options.invariance != Invariance::growing_keys || is_packed(shape)) return;
  const std::int64_t first = shape.kv_len - shape.q_len;
  const std::int64_t step = attention::invariance(kernel, options.invariance)
                                .queries(spec.pack_gqa, shape.q_heads / shape.kv_heads);
  if (first < 0 || first % step != 0) {
    throw ArgumentError(fmt::format(
        "attention: invariance growing_keys is asked for, and {} queries of {} keys begin at key "
        "{}; chunks begin at multiples of {}, as rows there share scales or tiles: cut them so",
        shape.q_len, shape.kv_len, first, step));
  }
  if (first == 0 || arguments.causal == CausalAlignment::bottom_right) return;
  throw ArgumentError(fmt::format(
      "attention: invariance growing_keys is asked for, and {} queries of {} keys stand at the top "
      "left; chunks of queries stand at the last keys: causal bottom_right",
      shape.q_len, shape.kv_len));
}

// What attention itself reads and writes of the arguments, beside codes.
void Plan::Impl::check_attended(ArgumentCheck& check, const Shape& shape,
                                const Arguments& arguments) const {
  using Access = ArgumentCheck::Access;
  check_chunk(shape, arguments);
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
  if (options.max_workspace_bytes < 0) {
    throw ArgumentError(
        fmt::format("attention: max_workspace_bytes is {}; it is a number of bytes, or 0 for no bound",
                    options.max_workspace_bytes));
  }
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
  return static_cast<std::size_t>(impl_->cut_layout(shape, lse).layout.placed.bytes);
}

Plan::Cut Plan::cut(const Shape& shape, Lse lse) const {
  const CutLayout cut = impl_->cut_layout(shape, lse);
  return {.calls = cut.calls, .batches = cut.part.batch, .kv_heads = cut.part.kv_heads};
}

std::vector<Plan::ScratchTensor> Plan::scratch(const Shape& shape, Lse lse) const {
  const Layout layout = impl_->cut_layout(shape, lse).layout;
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
  const CutLayout cut = plan.cut_layout(shape, arguments.lse == 0 ? Lse::unwanted : Lse::wanted);
  if (cut.calls > 1 && part != Part::all) {
    throw ArgumentError(
        fmt::format("attention: max_workspace_bytes is {}, for which this shape is cut into {} "
                    "calls, and codes of one would be "
                    "overwritten by the next; call run(), or raise the bound",
                    plan.options.max_workspace_bytes, cut.calls));
  }
  plan.check(shape, arguments, cut.layout, workspace, workspace_bytes);
  Device::Scope scope(plan.steps.device());  // once for all launches
  const Shape& largest = cut.part;
  for (std::int64_t batch = 0; batch < shape.batch; batch += largest.batch) {
    for (std::int64_t head = 0; head < shape.kv_heads; head += largest.kv_heads) {
      if (cut.calls == 1) {
        plan.launch(part, plan.call(shape, arguments, cut.layout, workspace), stream);
        continue;
      }
      const CutCall of_part =
          part_of_call(plan.spec, plan.schedule, shape, arguments, largest, batch, head);
      const Layout layout = plan.layout_within(of_part.shape, arguments, cut.layout);
      plan.launch(part, plan.call(of_part.shape, of_part.arguments, layout, workspace), stream);
    }
  }
  scope.restore();
}

void Plan::Impl::launch(Part part, const Call& call, StreamHandle stream) const {
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
}

// Of a part that may be smaller than the largest, of which this is: it has no more of anything.
Layout Plan::Impl::layout_within(const Shape& shape, const Arguments& arguments,
                                 const Layout& largest) const {
  PlanOptions of_part = options;
  if (spec.smoothing == Smoothing::qk)
    of_part.mean_score_bytes = std::max<std::int64_t>(largest.bytes[kMeanScores], 1);
  return plan_detail::layout_of(spec, schedule, scratch, of_part, shape,
                                arguments.lse == 0 ? Lse::unwanted : Lse::wanted);
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

const Kernel& Plan::kernel() const { return impl_->kernel; }
std::vector<std::string> Plan::kernel_names() const { return impl_->steps.entries(); }
const std::string& Plan::note() const { return impl_->steps.note(); }

}  // namespace sagegen::attention
