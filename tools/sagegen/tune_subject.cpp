#include "tools/sagegen/tune_subject.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <span>

#include <fmt/format.h>

#include "sagegen/runtime/error.h"
#include "tools/reference/rounding.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/findings.h"
#include "tools/sagegen/inspect_model.h"
#include "tools/sagegen/run_job.h"

namespace sagegen::cli {
namespace {

using runtime::Outcome, runtime::Trial;

// A first sentence is enough in a table.
std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// That of the problem, and no fault of a schedule.
bool is_out_of_memory(const runtime::DriverError& error) {
  return error.result() == static_cast<int>(runtime::Result::out_of_memory);
}

bool inputs_are_legal(const Kernel& kernel) {
  return std::ranges::all_of(kernel.inputs(),
                             [](const Kernel& input) { return input.violations().empty(); });
}

// Numbers as activations have them; which ones does not matter to the time.
std::vector<std::uint16_t> random_bits(DType io, std::size_t count) {
  std::vector<std::uint16_t> bits(count);
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  for (std::uint16_t& each : bits) {
    const double value = normal(random);
    each = io == DType::f16 ? reference::f16_bits(value) : reference::bf16_bits(value);
  }
  return bits;
}

runtime::Buffer filled(const runtime::Device& device, const std::vector<std::uint16_t>& pattern,
                       std::size_t elements) {
  std::vector<std::uint16_t> bits(elements);
  for (std::size_t at = 0; at < elements; at += pattern.size())
    std::copy_n(pattern.begin(), std::min(pattern.size(), elements - at),
                bits.begin() + static_cast<std::ptrdiff_t>(at));
  runtime::Buffer buffer(device, elements * sizeof(std::uint16_t));
  buffer.upload(std::as_bytes(std::span(bits)));
  return buffer;
}

// What mods are given, of extents alone.
RunMods mods_of(const Kernel& kernel, const attention::Shape& shape) {
  reference::Inputs extents;
  extents.q.batch = extents.k.batch = shape.batch;
  extents.q.heads = shape.q_heads;
  extents.k.heads = shape.kv_heads;
  extents.q.tokens = shape.q_len;
  extents.k.tokens = shape.kv_len;
  return make_mods({}, kernel, extents, 1);
}

}  // namespace

std::string to_string(const attention::Shape& shape) {
  return fmt::format(
      "batch {}, heads {}{}, q_len {}, kv_len {}", shape.batch, shape.q_heads,
      shape.kv_heads == shape.q_heads ? "" : fmt::format(" (K and V {})", shape.kv_heads),
      shape.q_len, shape.kv_len);
}

// ---- the problem on the device --------------------------------------------------------------------

struct TuneSubject::Tensors {
  Tensors(const TuneProblem& problem, const runtime::Device& device) {
    const attention::View view = problem.kernel.view(attention::family());
    const attention::Shape& shape = problem.shape;
    constexpr std::size_t kPattern = 65521;  // a prime: rows begin differently
    const std::vector<std::uint16_t> pattern = random_bits(view.spec.io, kPattern);
    const int dim = view.spec.head_dim, value_dim = attention::value_dim(view.spec);
    const auto elements = [&](std::int64_t heads, std::int64_t tokens, int channels) {
      return static_cast<std::size_t>(shape.batch * heads * tokens * channels);
    };
    q = filled(device, pattern, elements(shape.q_heads, shape.q_len, dim));
    k = filled(device, pattern, elements(shape.kv_heads, shape.kv_len, dim));
    v = filled(device, pattern, elements(shape.kv_heads, shape.kv_len, value_dim));
    o = runtime::Buffer(device,
                        elements(shape.q_heads, shape.q_len, value_dim) * sizeof(std::uint16_t));
    const bool rows = view.spec.out == attention::OutputFormat::s8;
    o_scale = runtime::Buffer(
        device, rows ? elements(shape.q_heads, shape.q_len, 1) * sizeof(float) : sizeof(float));
    const float one = 1;
    if (!rows) o_scale.upload(std::as_bytes(std::span(&one, 1)));
    arguments = {.q = runtime::hnd(q.data(), shape.q_heads, shape.q_len, dim),
                 .k = runtime::hnd(k.data(), shape.kv_heads, shape.kv_len, dim),
                 .v = runtime::hnd(v.data(), shape.kv_heads, shape.kv_len, value_dim),
                 .o = runtime::hnd(o.data(), shape.q_heads, shape.q_len, value_dim)};
    // A query sees as many keys as it does at the end of a sequence, which is where few queries of many keys are.
    arguments.causal = attention::CausalAlignment::bottom_right;
    if (view.spec.out != attention::OutputFormat::io) arguments.o_scale = o_scale.data();
    if (const RunMods mods = mods_of(problem.kernel, shape); mods.give)
      arguments.mods = mods.give(device, mod_tensors);
  }

  runtime::Buffer q, k, v, o, o_scale, workspace;
  std::vector<runtime::Buffer> mod_tensors;
  attention::Arguments arguments;
};

// ---- the subject ----------------------------------------------------------------------------------

TuneSubject::TuneSubject(TuneProblem problem, const RunDevice& on, runtime::ArtifactSource source,
                         runtime::Deployment deployment)
    : problem_(std::move(problem)),
      on_(on),
      source_(std::move(source)),
      stopwatch_(runtime::make_stopwatch(on.device, deployment)) {
  const std::string usual = problem_.kernel.how();
  for (const Kernel& kernel : problem_.kernel.schedules()) {
    if (!inputs_are_legal(kernel) || !attention::may_replace(problem_.kernel, kernel)) continue;
    if (kernel.how() == usual) usual_ = schedules_.size();
    schedules_.push_back(kernel.how());
  }
  if (usual_ >= schedules_.size() || schedules_[usual_] != usual)
    throw InternalError("the default schedule of " + problem_.kernel.key() +
                        " is none of its schedules");
}

TuneSubject::~TuneSubject() = default;

// On a GPU the driver says what its JIT made of the kernel.
std::string TuneSubject::why_not_here(const Kernel& kernel) const {
  const Resources need = kernel.resources();
  const int shared =
      on_.device.attribute(runtime::DeviceAttribute::max_shared_memory_per_block_optin);
  if (need.dynamic_smem > shared)
    return fmt::format("needs {} bytes of shared memory, the device has {}", need.dynamic_smem,
                       shared);
  if (on_.emulator || kernel.how() == problem_.kernel.how()) return {};
  const runtime::ArtifactSource::Shared artifact = source_(kernel);
  const runtime::Kernel loaded(on_.device, artifact->code, artifact->entry, need.threads,
                               need.dynamic_smem, kernel.params().bytes());
  const int local = loaded.attribute(runtime::FunctionAttribute::local_size_bytes);
  return local > 0 ? fmt::format("spills {} bytes per thread", local) : "";
}

Trial TuneSubject::check(const std::string& schedule) {
  const Kernel kernel = kernel_of(schedule);
  try {
    if (std::string why = why_not_here(kernel); !why.empty())
      return {Outcome::pruned, std::move(why)};
    plans_[schedule] = std::make_unique<attention::Plan>(on_.device, kernel, source_);
  } catch (const SpecError& error) {
    return {Outcome::refused, first_line(error.what())};
  } catch (const CodegenError& error) {
    return {Outcome::refused, first_line(error.what())};
  } catch (const runtime::DriverError& error) {
    if (is_out_of_memory(error)) throw;
    return {Outcome::refused, first_line(error.what())};
  }
  try {
    Trial trial = judged(kernel);
    if (trial.outcome != Outcome::passed) plans_.erase(schedule);
    return trial;
  } catch (const runtime::DriverError& error) {
    if (is_out_of_memory(error)) throw;
    // What a kernel did to the context no other can run in.
    lost_ = !on_.emulator;
    return {Outcome::faulted, first_line(error.what())};
  }
}

const Expected& TuneSubject::expected_for(const AttentionJob& job) {
  // Without such masks cta_q decides nothing.
  const std::pair tile{job.spec.blocksparse ? job.schedule.cta_q : 0, job.schedule.cta_k};
  const auto known = expected_.find(tile);
  if (known != expected_.end()) return known->second;
  return expected_[tile] = expected_of(job, on_.device.compute_capability(), {.rows = 0});
}

Trial TuneSubject::judged(const Kernel& kernel) {
  const attention::Spec& spec = kernel.view(attention::family()).spec;
  // Rows beyond whole tiles of every size, on both sides; heads that share K and V where the problem's do.
  constexpr std::int64_t kMostQueries = 150, kMostKeys = 330, kMostGroup = 2;
  const attention::Shape& shape = problem_.shape;
  InputOptions input;
  input.shape = {.batch = 1,
                 .q_heads = std::min(shape.q_heads / shape.kv_heads, kMostGroup),
                 .kv_heads = 1,
                 .q_len = std::min(shape.q_len, kMostQueries),
                 .kv_len = std::min(shape.kv_len, kMostKeys),
                 .head_dim = spec.head_dim,
                 .value_dim = attention::value_dim(spec)};
  input.dtype = to_string(spec.io);
  if (spec.causal) input.causal = Causal::bottom_right;
  AttentionJob job = make_job(load_run_inputs(input), kernel, {}, input.seed);
  job.source = source_;
  if (on_.emulator) on_.emulator->clear_findings();
  const AttentionResult result = run_attention(job, on_, *plans_.at(kernel.how()));
  if (!result.findings.empty())
    return {Outcome::faulted,
            first_line(result.findings.front().check + ": " + result.findings.front().message)};
  const Judgement judgement =
      judge(job, result, on_.device.compute_capability(), expected_for(job));
  if (judgement.passed) return {};
  return {Outcome::wrong,
          fmt::format("relative L1 {:.4g} against a limit of {:.4g}{}{}",
                      judgement.kernel.o.relative_l1, judgement.limit,
                      judgement.row.met() ? "" : ", a row beyond its bound",
                      judgement.impossible.none() ? "" : ", values that no weights give")};
}

double TuneSubject::sample(const std::string& schedule) {
  if (!tensors_) tensors_ = std::make_unique<Tensors>(problem_, on_.device);
  std::unique_ptr<attention::Plan>& plan = plans_[schedule];
  if (!plan) plan = std::make_unique<attention::Plan>(on_.device, kernel_of(schedule), source_);
  const auto bytes =
      static_cast<std::size_t>(plan->workspace_bytes(problem_.shape, attention::Lse::unwanted));
  if (tensors_->workspace.bytes() < bytes) tensors_->workspace = runtime::Buffer(on_.device, bytes);
  const runtime::DevicePtr workspace = tensors_->workspace.data();
  try {
    const runtime::Stream stream(on_.device);
    plan->quantize(problem_.shape, tensors_->arguments, workspace, bytes, stream.handle());
    stream.synchronize();
    return stopwatch_->time([&](runtime::StreamHandle timed) {
      plan->attend(problem_.shape, tensors_->arguments, workspace, bytes, timed);
    });
  } catch (const runtime::DriverError& error) {
    lost_ = !on_.emulator && !is_out_of_memory(error);
    throw;
  }
}

// ---- what machine code says -----------------------------------------------------------------------

std::map<std::string, std::string> reasons_of_the_model(const Kernel& kernel,
                                                        const std::string& gpu) {
  constexpr double kFar = 1.5;  // several times what the model errs by
  const std::vector<ScheduleForecast> forecasts = forecast_schedules(kernel, gpu);
  double best = 0;
  for (const ScheduleForecast& forecast : forecasts) {
    if (forecast.spilled_bytes == 0) best = std::max(best, forecast.tops);
  }
  std::map<std::string, std::string> reasons;
  for (const ScheduleForecast& forecast : forecasts) {
    std::string& reason = reasons[forecast.schedule];
    if (forecast.spilled_bytes > 0) {
      reason = fmt::format("spills {} bytes per thread (ptxas)", forecast.spilled_bytes);
    } else if (forecast.tops > 0 && forecast.tops * kFar < best) {
      reason = fmt::format("predicted {:.0f} TOPS, the best one {:.0f}", forecast.tops, best);
    }
  }
  return reasons;
}

}  // namespace sagegen::cli
