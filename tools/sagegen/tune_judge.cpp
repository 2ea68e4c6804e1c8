#include "tools/sagegen/tune_judge.h"

#include <algorithm>

#include <fmt/format.h>

#include "tools/sagegen/findings.h"
#include "tools/sagegen/inspect_model.h"
#include "tools/sagegen/run_job.h"
#include "tools/sagegen/run_mods.h"

namespace sagegen::cli {

using runtime::Outcome, runtime::Trial;

const Expected& TuneJudge::expected_for(const AttentionJob& job) {
  // Without such masks cta_q decides nothing.
  const std::pair tile{job.spec.blocksparse ? job.schedule.cta_q : 0, job.schedule.cta_k};
  const auto known = expected_.find(tile);
  if (known != expected_.end()) return known->second;
  return expected_[tile] = expected_of(job, on_.device.compute_capability(), {.rows = 0});
}

Trial TuneJudge::operator()(const Kernel& kernel, const attention::Plan& plan) {
  const attention::Spec& spec = kernel.view(attention::family()).spec;
  // Rows beyond whole tiles of every size, on both sides; heads that share K and V where the problem's do.
  constexpr std::int64_t kMostQueries = 150, kMostKeys = 330, kMostGroup = 2;
  InputOptions input;
  input.shape = {.batch = 1,
                 .q_heads = std::min(shape_.q_heads / shape_.kv_heads, kMostGroup),
                 .kv_heads = 1,
                 .q_len = std::min(shape_.q_len, kMostQueries),
                 .kv_len = std::min(shape_.kv_len, kMostKeys),
                 .head_dim = spec.head_dim,
                 .value_dim = attention::value_dim(spec)};
  input.dtype = to_string(spec.io);
  if (spec.causal) input.causal = Causal::bottom_right;
  AttentionJob job = make_job(load_run_inputs(input), kernel, {}, input.seed);
  job.source = source_;
  if (on_.emulator) on_.emulator->clear_findings();
  const AttentionResult result = run_attention(job, on_, plan);
  if (!result.findings.empty())
    return {Outcome::faulted,
            result.findings.front().check + ": " + result.findings.front().message};
  const Judgement judgement =
      judge(job, result, on_.device.compute_capability(), expected_for(job));
  if (judgement.passed) return {};
  return {Outcome::wrong,
          fmt::format("relative L1 {:.4g} against a limit of {:.4g}{}{}",
                      judgement.kernel.o.relative_l1, judgement.limit,
                      judgement.row.met() ? "" : ", a row beyond its bound",
                      judgement.impossible.none() ? "" : ", values that no weights give")};
}

attention::ModArguments tune_mods(const Kernel& kernel, const attention::Shape& shape,
                                  const runtime::Device& device,
                                  std::vector<runtime::Buffer>& keep) {
  reference::Inputs extents;
  extents.q.batch = extents.k.batch = shape.batch;
  extents.q.heads = shape.q_heads;
  extents.k.heads = shape.kv_heads;
  extents.q.tokens = shape.q_len;
  extents.k.tokens = shape.kv_len;
  const RunMods mods = make_mods({}, kernel, extents, 1);
  return mods.give ? mods.give(device, keep) : attention::ModArguments{};
}

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
