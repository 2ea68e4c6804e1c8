#include "tools/sagegen/run_split.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <span>

#include "sagegen/error.h"
#include "sagegen/runtime/error.h"
#include "templates/merge_partials/plan.h"
#include "tools/reference/merge.h"
#include "tools/reference/rounding.h"

namespace sagegen::cli {
namespace {

reference::Tensor tokens_of(const reference::Tensor& all, std::int64_t first, std::int64_t count) {
  reference::Tensor some(all.batch, all.heads, count, all.channels);
  for (std::int64_t b = 0; b < all.batch; ++b) {
    for (std::int64_t h = 0; h < all.heads; ++h)
      std::copy_n(all.row(b, h, first), count * all.channels, some.row(b, h, 0));
  }
  return some;
}

// O and LSE of parts on the device, [parts, batch, heads, tokens, channels], channels padded to whole lanes.
class Merge {
 public:
  Merge(const AttentionJob& job, const RunDevice& on, const runtime::ArtifactSource& source)
      : on_(on),
        f16_(job.spec.io == DType::f16),
        channels_(job.inputs.v.channels),
        padded_(rounded_up(static_cast<int>(channels_), merge_partials::kLaneChannels)),
        plan_(on.device,
              Kernel(merge_partials::family(), merge_partials::Spec{.io = job.spec.io}, on.target),
              source),
        shape_{.batch = job.inputs.q.batch,
               .heads = job.inputs.q.heads,
               .q_len = job.inputs.q.tokens,
               .channels = padded_} {}

  std::vector<std::string> kernels() const { return plan_.kernel_names(); }

  void run(const std::vector<AttentionResult>& parts, AttentionResult& into) {
    shape_.parts = static_cast<std::int64_t>(parts.size());
    std::vector<std::uint16_t> bits;
    std::vector<float> lse;
    for (const AttentionResult& part : parts) {
      append(part.o, bits);
      for (const double x : part.lse) lse.push_back(static_cast<float>(x));
    }
    runtime::Buffer of_parts(on_.device, bits.size() * sizeof(bits[0]));
    of_parts.upload(std::as_bytes(std::span(bits)));
    runtime::Buffer lse_of_parts(on_.device, lse.size() * sizeof(lse[0]));
    lse_of_parts.upload(std::as_bytes(std::span(lse)));
    const runtime::Buffer o(on_.device, of_parts.bytes() / parts.size());
    const runtime::Buffer all_lse(on_.device, lse_of_parts.bytes() / parts.size());
    const runtime::Stream stream(on_.device);
    const int width = static_cast<int>(padded_);
    plan_.run(shape_,
              {.parts = runtime::hnd(of_parts.data(), shape_.heads, shape_.q_len, width),
               .part_stride = shape_.batch * shape_.heads * shape_.q_len * padded_,
               .part_lse = lse_of_parts.data(),
               .o = runtime::hnd(o.data(), shape_.heads, shape_.q_len, width),
               .lse = all_lse.data()},
              stream.handle());
    stream.synchronize();
    bits.resize(o.bytes() / sizeof(bits[0]));
    o.download(std::as_writable_bytes(std::span(bits)));
    lse.resize(all_lse.bytes() / sizeof(lse[0]));
    all_lse.download(std::as_writable_bytes(std::span(lse)));
    for (std::size_t i = 0; i < bits.size(); ++i) {
      if (static_cast<std::int64_t>(i) % padded_ < channels_)
        into.o.push_back(f16_ ? reference::f16_value(bits[i]) : reference::bf16_value(bits[i]));
    }
    into.lse.assign(lse.begin(), lse.end());
  }

 private:
  void append(const std::vector<double>& o, std::vector<std::uint16_t>& bits) const {
    for (std::size_t i = 0; i < o.size(); ++i) {
      bits.push_back(f16_ ? reference::f16_bits(o[i]) : reference::bf16_bits(o[i]));
      const bool ends = static_cast<std::int64_t>(i + 1) % channels_ == 0;
      if (ends) bits.insert(bits.end(), static_cast<std::size_t>(padded_ - channels_), 0);
    }
  }

  const RunDevice& on_;
  bool f16_;
  std::int64_t channels_, padded_;
  merge_partials::Plan plan_;
  merge_partials::Shape shape_;
};

double share_of_bound(double got, double expected, double bound) {
  if (got == expected) return 0;
  const double share = std::abs(got - expected) / bound;
  return std::isnan(share) ? std::numeric_limits<double>::infinity() : share;
}

}  // namespace

std::vector<std::int64_t> equal_parts(std::int64_t keys, std::int64_t parts) {
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(parts), keys / parts);
  for (std::int64_t i = 0; i < keys % parts; ++i) ++lengths[static_cast<std::size_t>(i)];
  return lengths;
}

SplitRun run_split(const AttentionJob& job, const RunDevice& on,
                   const std::vector<std::int64_t>& lengths) {
  SplitRun run;
  const auto load_begin = std::chrono::steady_clock::now();
  const runtime::ArtifactSource source = timed(job.source, run.all.emit_ms);
  const attention::Plan plan(
      on.device, Kernel(attention::family(), job.spec, job.schedule, on.target), source, job.plan);
  Merge merge(job, on, source);
  run.all.load_ms = ms_since(load_begin);
  run.all.kernels = plan.kernel_names();
  run.all.note = plan.note();
  for (const std::string& kernel : merge.kernels()) run.all.kernels.push_back(kernel);
  std::int64_t first = 0;
  for (const std::int64_t keys : lengths) {
    AttentionJob part = job;
    part.inputs.k = tokens_of(job.inputs.k, first, keys);
    part.inputs.v = tokens_of(job.inputs.v, first, keys);
    first += keys;
    run.parts.push_back(run_attention(part, on, plan));
    run.jobs.push_back(std::move(part));
    run.all.run_ms += run.parts.back().run_ms;
    if (run.parts.size() == 1) run.all.workspace = run.parts[0].workspace;  // of the longest
    run.all.findings = run.parts.back().findings;
    if (!run.all.findings.empty()) return run;
  }
  try {
    merge.run(run.parts, run.all);
  } catch (const runtime::DriverError&) {
    if (on.emulator) run.all.findings = on.emulator->findings();
    if (run.all.findings.empty()) throw;
  }
  return run;
}

MergeJudgement judge_merge(const std::vector<reference::Output>& parts,
                           const reference::Output& got, std::int64_t channels,
                           reference::IoType out) {
  const reference::Output expected = reference::merged(parts, channels);
  const reference::Output allowed = reference::merge_allowance(parts, channels);
  MergeJudgement judgement;
  for (std::size_t i = 0; i < expected.o.size(); ++i) {
    const double reach = std::abs(expected.o[i]) + allowed.o[i];  // what is rounded may be as large
    const double bound = allowed.o[i] + reference::half_ulp(out, reach);
    judgement.o = std::max(judgement.o, share_of_bound(got.o[i], expected.o[i], bound));
  }
  for (std::size_t i = 0; i < expected.lse.size(); ++i) {
    judgement.lse =
        std::max(judgement.lse, share_of_bound(got.lse[i], expected.lse[i], allowed.lse[i]));
  }
  return judgement;
}

double l1_of_rounded_parts(std::vector<reference::Output> parts, std::int64_t channels,
                           reference::IoType type) {
  const auto sum = [&] {
    double total = 0;
    for (const double x : reference::merged(parts, channels).o) total += std::abs(x);
    return total;
  };
  const double size = sum();
  for (reference::Output& part : parts) {
    for (double& x : part.o) x = reference::half_ulp(type, x);
  }
  return size == 0 ? 0 : sum() / size;
}

}  // namespace sagegen::cli
