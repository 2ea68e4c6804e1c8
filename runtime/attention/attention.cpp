#include "sagegen/runtime/attention.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <exception>
#include <optional>
#include <utility>

#include "runtime/artifacts/target_choice.h"
#include "runtime/attention/arguments.h"
#include "runtime/attention/workspace.h"
#include "sagegen/abi.h"
#include "sagegen/runtime/ptx_entry.h"

namespace sagegen::runtime {

TensorView hnd(DevicePtr data, std::int64_t heads, std::int64_t tokens, int head_dim) {
  return TensorView{.data = data,
                    .stride_batch = heads * tokens * head_dim,
                    .stride_head = tokens * head_dim,
                    .stride_token = head_dim};
}

TensorView nhd(DevicePtr data, std::int64_t heads, std::int64_t tokens, int head_dim) {
  return TensorView{.data = data,
                    .stride_batch = heads * tokens * head_dim,
                    .stride_head = head_dim,
                    .stride_token = heads * head_dim};
}

namespace {

abi::Tensor to_abi(const TensorView& view) {
  return abi::Tensor{.data = view.data,
                     .stride_batch = view.stride_batch,
                     .stride_head = view.stride_head,
                     .stride_token = view.stride_token};
}

template <typename Params>
Kernel load_as_asked(const Device& device, const KernelSpec& spec, const PtxSource& source) {
  const KernelResources needs = resources(spec);
  const std::string ptx = source(spec);
  const std::vector<PtxEntry> entries = ptx_entries(ptx);
  // Text that cannot be read at all goes to the driver, whose log says what is wrong with it.
  const std::string entry = entries.empty() ? key(spec) : entries.front().name;
  if (entries.size() > 1) {
    throw SpecError(fmt::format("kernel {}: its PTX has {} entry points instead of one", key(spec),
                                entries.size()));
  }
  return Kernel(device, ptx, entry, needs.threads, needs.dynamic_smem, sizeof(Params));
}

bool is_too_new(const DriverError& error) {
  return error.result() == static_cast<int>(Result::unsupported_ptx_version);
}

// The plan is judged as a whole and before anything is loaded, its attention kernel first: that is what
// the caller asked for.
void validate(const AttentionKernels& specs) {
  sagegen::validate(specs.attention);
  for (const KernelSpec& spec : specs.in_order()) {
    const std::vector<std::string> sentences = violations(spec);
    if (sentences.empty()) continue;
    throw SpecError(
        fmt::format("{} cannot be used: its inputs need {}, which cannot be generated:\n  {}",
                    key(specs.attention), key(spec), fmt::join(sentences, "\n  ")));
  }
}

// Loads the kernels of one attention; what goes wrong is told of that attention.
class Loader {
 public:
  Loader(const Device& device, const AttentionKernels& specs, const PtxSource& source)
      : device_(device), specs_(specs), source_(source) {
    validate(specs);
  }

  template <typename Params>
  Kernel load(const KernelSpec& spec) {
    const std::string about =
        spec.kind == KernelKind::attention
            ? ""
            : fmt::format("{} needs {} for its inputs: ", key(specs_.attention), key(spec));
    try {
      return load_or_older<Params>(spec);
    } catch (const SpecError& error) {
      throw SpecError(about + error.what());
    } catch (const DriverError& error) {
      const bool has_no_older = is_too_new(error) && specs_.attention.quant.pv == DType::e4m3;
      throw DriverError(
          error.result(), error.call(),
          about + error.what() +
              (has_no_older ? "\nOr take FP16 P V (pv f16, mode int8-fp16): of FP8 P V "
                              "there is no PTX for older drivers."
                            : ""));
    }
  }

  template <typename Params>
  std::optional<Kernel> load(const std::optional<KernelSpec>& spec) {
    if (!spec) return std::nullopt;
    return load<Params>(*spec);
  }

  // See Attention::note().
  std::string note() const {
    if (older_.empty()) return {};
    return fmt::format("the driver is too old for the PTX of {}; loaded instead: {}",
                       to_string(specs_.attention.target), fmt::join(older_, ", "));
  }

 private:
  template <typename Params>
  Kernel load_or_older(const KernelSpec& spec) {
    try {
      return load_as_asked<Params>(device_, spec, source_);
    } catch (const DriverError& error) {
      if (!is_too_new(error)) throw;
      for (const Target target : older_targets(spec.target)) {
        if (std::optional<Kernel> kernel = load_older<Params>(spec, target)) {
          older_.push_back(kernel->name());
          return std::move(*kernel);
        }
      }
      throw;
    }
  }

  // Nothing if there is no such kernel, or if its PTX is too new as well.
  template <typename Params>
  std::optional<Kernel> load_older(KernelSpec spec, Target target) {
    spec.target = target;
    if (!violations(spec).empty()) return std::nullopt;
    try {
      return load_as_asked<Params>(device_, spec, source_);
    } catch (const DriverError& error) {
      if (!is_too_new(error)) throw;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception&) {  // the source has none; it says so in its own words
    }
    return std::nullopt;
  }

  const Device& device_;
  const AttentionKernels& specs_;
  const PtxSource& source_;
  std::vector<std::string> older_;
};

Dim3 grid(std::int64_t x, std::int64_t y, std::int64_t z) {
  return Dim3{
      .x = static_cast<unsigned>(x), .y = static_cast<unsigned>(y), .z = static_cast<unsigned>(z)};
}

}  // namespace

struct Attention::Impl {
  Device device;
  AttentionProblem problem;
  QuantSpec quant;
  TileSchedule schedule;
  AttentionKernels specs;
  std::optional<Kernel> kv_statistics;
  Kernel quantize_k;
  std::optional<Kernel> quantize_v;
  Kernel quantize_q;
  Kernel attention;
  std::string note;
};

// One call: its shape, where its intermediates lie, and the launch arguments that follow.
struct Attention::Call {
  const Impl& plan;
  const AttentionShape& shape;
  const AttentionArguments& arguments;
  const WorkspaceLayout& layout;
  DevicePtr workspace;

  bool smooths_k() const { return plan.quant.smoothing == Smoothing::k; }
  bool corrects_lse() const { return arguments.lse != 0 && smooths_k(); }

  // Address of a tensor in the workspace, 0 if it is absent.
  abi::Address at(const Region& region) const {
    return region.bytes == 0 ? 0 : workspace + static_cast<DevicePtr>(region.offset);
  }
  std::int32_t q_len() const { return static_cast<std::int32_t>(shape.q_len); }
  std::int32_t kv_len() const { return static_cast<std::int32_t>(shape.kv_len); }
  std::int32_t q_len_padded() const { return static_cast<std::int32_t>(layout.q_len_padded); }
  std::int32_t kv_len_padded() const { return static_cast<std::int32_t>(layout.kv_len_padded); }
  std::int32_t chunks() const { return static_cast<std::int32_t>(layout.chunks); }
  std::int32_t heads_per_kv_head() const {
    return static_cast<std::int32_t>(shape.q_heads / shape.kv_heads);
  }
  float softmax_scale() const {
    if (arguments.softmax_scale != 0.0f) return arguments.softmax_scale;
    return static_cast<float>(1.0 / std::sqrt(static_cast<double>(plan.problem.head_dim)));
  }
  std::int32_t causal_offset() const {
    if (plan.problem.mask != Mask::causal || arguments.causal == CausalAlignment::top_left)
      return 0;
    return kv_len() - q_len();
  }

  abi::KvStatisticsParams kv_statistics() const {
    return {.k = to_abi(arguments.k),
            .v = to_abi(arguments.v),
            .k_sum_partial = at(layout.k_sum_partial),
            .v_amax_partial = at(layout.v_amax_partial),
            .kv_len = kv_len(),
            .chunk_len = static_cast<std::int32_t>(layout.chunk_len)};
  }
  abi::QuantizeKParams quantize_k() const {
    return {.k = to_abi(arguments.k),
            .k_sum_partial = at(layout.k_sum_partial),
            .k_mean = at(layout.k_mean),
            .k_codes = at(layout.k_codes),
            .k_scale = at(layout.k_scale),
            .kv_len = kv_len(),
            .kv_len_padded = kv_len_padded(),
            .chunks = chunks()};
  }
  abi::QuantizeVParams quantize_v() const {
    return {.v = to_abi(arguments.v),
            .v_amax_partial = at(layout.v_amax_partial),
            .v_codes = at(layout.v_codes),
            .v_scale = at(layout.v_scale),
            .kv_len = kv_len(),
            .kv_len_padded = kv_len_padded(),
            .chunks = chunks()};
  }
  abi::QuantizeQParams quantize_q() const {
    return {.q = to_abi(arguments.q),
            .k_mean = at(layout.k_mean),
            .q_codes = at(layout.q_codes),
            .q_scale = at(layout.q_scale),
            .lse_correction = corrects_lse() ? at(layout.lse_correction) : 0,
            .softmax_scale = softmax_scale(),
            .q_len = q_len(),
            .q_len_padded = q_len_padded(),
            .heads_per_kv_head = heads_per_kv_head()};
  }
  abi::AttentionParams attention() const {
    const abi::Tensor v_codes{
        .data = at(layout.v_codes), .stride_batch = 0, .stride_head = 0, .stride_token = 0};
    return {.q_codes = at(layout.q_codes),
            .q_scale = at(layout.q_scale),
            .k_codes = at(layout.k_codes),
            .k_scale = at(layout.k_scale),
            .v = plan.quantize_v ? v_codes : to_abi(arguments.v),
            .v_scale = at(layout.v_scale),
            .o = to_abi(arguments.o),
            .lse = arguments.lse,
            .lse_correction = corrects_lse() ? at(layout.lse_correction) : 0,
            .q_len = q_len(),
            .q_len_padded = q_len_padded(),
            .kv_len = kv_len(),
            .kv_len_padded = kv_len_padded(),
            .heads_per_kv_head = heads_per_kv_head(),
            .causal_offset = causal_offset()};
  }

  void launch_quantization(StreamHandle stream) const {
    const std::int64_t key_groups = layout.kv_len_padded / plan.quant.k_group;
    const std::int64_t query_groups = layout.q_len_padded / plan.quant.q_group;
    if (plan.kv_statistics) {
      plan.kv_statistics->launch(grid(layout.chunks, shape.kv_heads, shape.batch), kv_statistics(),
                                 stream);
    }
    plan.quantize_k.launch(grid(key_groups, shape.kv_heads, shape.batch), quantize_k(), stream);
    if (plan.quantize_v) {
      plan.quantize_v->launch(
          grid(layout.kv_len_padded / kQuantizeVKeys, shape.kv_heads, shape.batch), quantize_v(),
          stream);
    }
    plan.quantize_q.launch(grid(query_groups, shape.q_heads, shape.batch), quantize_q(), stream);
  }
  void launch_attention(StreamHandle stream) const {
    const std::int64_t query_tiles = layout.q_len_padded / plan.schedule.cta_q;
    plan.attention.launch(grid(query_tiles, shape.q_heads, shape.batch), attention(), stream);
  }
};

Attention::Attention(const Device& device, const AttentionProblem& problem, const QuantSpec& quant,
                     const TileSchedule& schedule, Target target, const PtxSource& source) {
  AttentionKernels specs = kernels_for(problem, quant, schedule, target);
  Loader loader(device, specs, source);
  impl_.reset(new Impl{
      .device = device,
      .problem = problem,
      .quant = quant,
      .schedule = schedule,
      .specs = specs,
      .kv_statistics = loader.load<abi::KvStatisticsParams>(specs.kv_statistics),
      .quantize_k = loader.load<abi::QuantizeKParams>(specs.quantize_k),
      .quantize_v = loader.load<abi::QuantizeVParams>(specs.quantize_v),
      .quantize_q = loader.load<abi::QuantizeQParams>(specs.quantize_q),
      .attention = loader.load<abi::AttentionParams>(specs.attention),
      .note = {},
  });
  impl_->note = loader.note();
}

Attention::~Attention() = default;
Attention::Attention(Attention&&) noexcept = default;

std::size_t Attention::workspace_bytes(const AttentionShape& shape) const {
  return static_cast<std::size_t>(
      workspace_layout(impl_->problem, impl_->quant, impl_->schedule, shape).bytes);
}

void Attention::enqueue(Part part, const AttentionShape& shape, const AttentionArguments& arguments,
                        DevicePtr workspace, std::size_t workspace_bytes,
                        StreamHandle stream) const {
  const Impl& plan = *impl_;
  const WorkspaceLayout layout = workspace_layout(plan.problem, plan.quant, plan.schedule, shape);
  check_arguments(plan.problem, shape, arguments,
                  WorkspaceSpan{.data = workspace,
                                .bytes = workspace_bytes,
                                .needed = static_cast<std::size_t>(layout.bytes)});
  const Call call{.plan = plan,
                  .shape = shape,
                  .arguments = arguments,
                  .layout = layout,
                  .workspace = workspace};
  Device::Scope scope(plan.device);  // once for all launches
  if (part != Part::attend) call.launch_quantization(stream);
  if (part != Part::quantize) call.launch_attention(stream);
  scope.restore();
}

void Attention::run(const AttentionShape& shape, const AttentionArguments& arguments,
                    DevicePtr workspace, std::size_t workspace_bytes, StreamHandle stream) const {
  enqueue(Part::all, shape, arguments, workspace, workspace_bytes, stream);
}

void Attention::quantize(const AttentionShape& shape, const AttentionArguments& arguments,
                         DevicePtr workspace, std::size_t workspace_bytes,
                         StreamHandle stream) const {
  enqueue(Part::quantize, shape, arguments, workspace, workspace_bytes, stream);
}

void Attention::attend(const AttentionShape& shape, const AttentionArguments& arguments,
                       DevicePtr workspace, std::size_t workspace_bytes,
                       StreamHandle stream) const {
  enqueue(Part::attend, shape, arguments, workspace, workspace_bytes, stream);
}

const AttentionKernels& Attention::kernels() const { return impl_->specs; }
const std::string& Attention::note() const { return impl_->note; }

std::vector<std::string> Attention::kernel_names() const {
  std::vector<std::string> names;
  if (impl_->kv_statistics) names.push_back(impl_->kv_statistics->name());
  names.push_back(impl_->quantize_k.name());
  if (impl_->quantize_v) names.push_back(impl_->quantize_v->name());
  names.push_back(impl_->quantize_q.name());
  names.push_back(impl_->attention.name());
  return names;
}

}  // namespace sagegen::runtime
