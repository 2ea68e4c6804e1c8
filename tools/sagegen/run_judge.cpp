#include "tools/sagegen/run_judge.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tools/reference/rounding.h"
#include "tools/sagegen/help.h"
#include "tools/sagegen/options.h"
#include "tools/sagegen/progress.h"

namespace sagegen::cli {
namespace {

// Unless told otherwise: rows for this many scores, but at least so many rows.
constexpr std::int64_t kScores = std::int64_t{1} << 24;
constexpr std::int64_t kFewestRows = 256;

std::int64_t row_count(const AttentionJob& job) {
  const reference::Tensor& q = job.inputs.q;
  return q.batch * q.heads * q.tokens;
}

LseError lse_error(const std::vector<double>& expected, const std::vector<double>& got) {
  LseError error;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::fabs(expected[i] - got[i]);  // NaN for equal infinities
    if (expected[i] == got[i]) continue;
    if (!std::isfinite(difference)) ++error.non_finite;
    if (difference > error.max_abs) error.max_abs = difference;
  }
  return error;
}

// `bound` is of the mean over many rows, where codes on the edge between two values fall now on this side, now
// on that. Few rows are no mean: one of them may lose what its undecided codes can cost (as independent ones
// add up, not at their worst). Where sums over all keys are cut to 13 bits, all rows lose, and no more than
// their bounds. Tiles that may be left out cost what they weigh. f16 sums of V less a mean may be larger than what O is in
// the end: they round by their own size.
double l1_slack(const reference::Allowance& allowance, const reference::Output& exact,
                const reference::DeviceArithmetic& arithmetic, double half_rounding) {
  const auto sum = [](const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0,
                           [](double so_far, double x) { return so_far + std::fabs(x); });
  };
  const bool all_are_cut = arithmetic.sum_bits == 13 && !arithmetic.two_level;
  double of_rows = 0;
  const std::size_t channels = exact.o.size() / exact.lse.size();
  for (std::size_t r = 0; r < exact.lse.size(); ++r) {
    const double whole = std::sqrt(static_cast<double>(channels)) * allowance.distance[r];
    const auto begin = allowance.o.begin() + static_cast<std::ptrdiff_t>(r * channels);
    of_rows +=
        std::min(whole, std::accumulate(begin, begin + static_cast<std::ptrdiff_t>(channels), 0.0));
  }
  const double of_codes = *std::max_element(allowance.codes.begin(), allowance.codes.end());
  const double of_f16 = half_rounding * sum(allowance.left);
  return ((all_are_cut ? of_rows : of_codes) + sum(allowance.light) + of_f16) / sum(exact.o);
}

Json json_of(const reference::Metrics& metrics) {
  return {{"cosine_similarity", metrics.cosine_similarity},
          {"relative_l1", metrics.relative_l1},
          {"rmse", metrics.rmse},
          {"max_abs", metrics.max_abs}};
}

Json json_of(const reference::Judged& judged, const AttentionJob& job, bool of_lse) {
  const Place place = place_of(judged.row, job.inputs.q);
  Json at = {place.batch, place.head, place.token};
  if (!of_lse) at.push_back(judged.channel);
  return {{"of_bound", judged.of_bound},
          {"at", at},
          {"got", judged.got},
          {"model", judged.model},
          {"bound", judged.bound}};
}

std::string text_of(const reference::Judged& judged, const AttentionJob& job, bool of_lse) {
  const Place place = place_of(judged.row, job.inputs.q);
  const std::string channel = of_lse ? "" : fmt::format(", {}", judged.channel);
  return fmt::format("at [{}, {}, {}{}] {:.6g} where the model has {:.6g} +- {:.2g}", place.batch,
                     place.head, place.token, channel, judged.got, judged.model, judged.bound);
}

// "0-1, 63-64, 130": the tokens of each head that has judged rows.
Json rows_json(const reference::RowNumbers& rows, const AttentionJob& job) {
  Json heads = Json::array();
  for (std::size_t i = 0; i < rows.size();) {
    const Place first = place_of(rows[i], job.inputs.q);
    std::string tokens;
    while (i < rows.size()) {
      const Place from = place_of(rows[i], job.inputs.q);
      if (from.batch != first.batch || from.head != first.head) break;
      std::int64_t last = from.token;
      for (++i; i < rows.size() && rows[i] == rows[i - 1] + 1 && last + 1 < job.inputs.q.tokens;
           ++i)
        ++last;
      tokens += fmt::format("{}{}", tokens.empty() ? "" : ", ", from.token);
      if (last > from.token) tokens += fmt::format("-{}", last);
    }
    heads.push_back({{"batch", first.batch}, {"head", first.head}, {"tokens", tokens}});
  }
  return heads;
}

std::string_view verdict_word(bool met) { return met ? "met" : "MISSED"; }

std::string impossible_text(const reference::Impossible& impossible, const AttentionJob& job) {
  std::string text;
  const auto line = [&](std::int64_t count, const char* what) {
    if (count > 0) text += fmt::format("output   {} values {}\n", count, what);
  };
  line(impossible.non_finite, "are NaN or infinite");
  line(impossible.outside_range, "lie outside the range of V: no weights give them");
  line(impossible.masked, "of rows that see no key are not 0 (O) or -infinity (LSE)");
  if (impossible.first) {
    const Place place = place_of(impossible.first->row, job.inputs.q);
    text += fmt::format("         the first at [{}, {}, {}, {}]: {:.6g}\n", place.batch, place.head,
                        place.token, impossible.first->channel, impossible.first->got);
  }
  return text;
}

}  // namespace

void define_judge(CLI::App& app, JudgeOptions& options) {
  const OptionGroup group(app, "Judging");
  require_whole(app.add_option(
                    "--judge-rows", options.rows,
                    "rows of O to compare with fp64, 0 for all (default: as many as take seconds)"),
                0, std::uint64_t{1} << 40);
  require_seed(app.add_option("--judge-seed", options.seed, "of random rows to judge")
                   ->capture_default_str());
}

reference::RowNumbers rows_to_judge(const AttentionJob& job, const JudgeOptions& options) {
  const std::int64_t keys = job.inputs.k.tokens;
  std::int64_t count = options.rows.value_or(std::max(kFewestRows, kScores / keys));
  if (count == 0) count = row_count(job);
  std::int64_t tile_rows = job.schedule.cta_q;
  if (job.spec.pack_gqa)
    tile_rows = std::max<std::int64_t>(tile_rows / (job.inputs.q.heads / job.inputs.k.heads), 1);
  return reference::sample_rows(job.inputs, count, tile_rows, options.seed);
}

Place place_of(std::int64_t row, const reference::Tensor& q) {
  return {row / (q.heads * q.tokens), row / q.tokens % q.heads, row % q.tokens};
}

Errors errors_of(const reference::RowNumbers& rows, const reference::Output& exact,
                 const reference::Output& got) {
  return {.o = reference::compare(exact.o, got.o),
          .worst_row = reference::worst_row(rows, exact, got),
          .lse = lse_error(exact.lse, got.lse)};
}

Errors model_errors(const reference::RowNumbers& rows, const reference::Output& exact,
                    reference::Output model, const reference::QuantModel& quant) {
  reference::round_output(quant, model.o,
                          static_cast<std::int64_t>(model.o.size() / model.lse.size()));
  return errors_of(rows, exact, model);
}

Expected expected_of(const AttentionJob& job, int compute_capability, const JudgeOptions& options) {
  const reference::QuantModel quant = quant_model(job);
  const reference::DeviceArithmetic arithmetic = device_arithmetic(job.spec, compute_capability);
  Expected expected;
  expected.rows = rows_to_judge(job, options);
  const reference::RowNumbers& rows = expected.rows;
  Progress progress("comparing with fp64, rows of three passes", 3 * rows.size());
  const auto advance = [&](std::int64_t more) {
    progress.advance(static_cast<std::uint64_t>(more));
  };
  expected.exact = reference::attention(job.inputs, rows, 0, advance);
  expected.model = reference::unrounded_model(job.inputs, quant, rows, 0, advance);
  expected.allowance = reference::allowance(job.inputs, quant, arithmetic, rows, 0, advance);
  return expected;
}

Judgement judge(const AttentionJob& job, const AttentionResult& result, int compute_capability,
                const Expected& expected) {
  Judgement judgement;
  judgement.bound = accuracy_bound(job.spec, compute_capability);
  judgement.stopped = result.o.empty();
  if (judgement.stopped) return judgement;

  const reference::QuantModel quant = quant_model(job);
  const reference::DeviceArithmetic arithmetic = device_arithmetic(job.spec, compute_capability);
  const reference::Output whole{.o = result.o, .lse = result.lse};
  judgement.impossible = reference::check_every_row(job.inputs, quant, arithmetic, whole);

  judgement.rows = expected.rows;
  const reference::Output got = reference::take_rows(whole, expected.rows);
  const reference::Output& exact = expected.exact;
  judgement.row = reference::judge_rows(expected.rows, expected.model, expected.allowance, got);
  judgement.model = model_errors(expected.rows, exact, expected.model, quant);
  judgement.kernel = errors_of(expected.rows, exact, got);
  judgement.slack = l1_slack(expected.allowance, exact, arithmetic, judgement.bound.half_rounding);
  judgement.limit = judgement.bound.limit(judgement.model.o.relative_l1) + judgement.slack;
  // Where exact attention is 0 or the model overflows there is no such limit; rows have theirs.
  judgement.within_limit =
      !std::isfinite(judgement.limit) || judgement.kernel.o.relative_l1 <= judgement.limit;
  judgement.passed = judgement.within_limit && judgement.row.met() && judgement.impossible.none() &&
                     judgement.kernel.o.non_finite == 0 && judgement.kernel.lse.non_finite == 0;
  return judgement;
}

Judgement judge(const AttentionJob& job, const AttentionResult& result, const RunDevice& on,
                const JudgeOptions& options) {
  const int capability = on.device.compute_capability();
  return judge(job, result, capability,
               result.o.empty() ? Expected() : expected_of(job, capability, options));
}

std::string judgement_text(const Judgement& judgement, const AttentionJob& job,
                           const JudgeOptions& options, bool with_lse) {
  if (judgement.stopped)
    return "\nno result that could be compared, because of what the emulator found\n";
  Table table({"against fp64", "kernel", "model"});
  const auto cell = [](double value) {
    return std::isnan(value) ? "-" : fmt::format("{:.6g}", value);
  };
  const auto percent = [](double value) {
    return std::isnan(value) ? "-" : fmt::format("{:.4f} %", 100 * value);
  };
  const auto row = [&](const char* name, double kernel, double model) {
    table.add({name, cell(kernel), cell(model)});
  };
  table.add({"cosine similarity", percent(judgement.kernel.o.cosine_similarity),
             percent(judgement.model.o.cosine_similarity)});
  row("relative L1", judgement.kernel.o.relative_l1, judgement.model.o.relative_l1);
  row("RMSE", judgement.kernel.o.rmse, judgement.model.o.rmse);
  row("largest error", judgement.kernel.o.max_abs, judgement.model.o.max_abs);
  if (with_lse)
    row("LSE, largest error", judgement.kernel.lse.max_abs, judgement.model.lse.max_abs);

  const auto judged = static_cast<std::int64_t>(judgement.rows.size()), all = row_count(job);
  std::string text = "\n" + table.text() + "\n";
  text += judged == all ? fmt::format("judged   all {} rows\n", all)
                        : fmt::format(
                              "judged   {} of {} rows: first, last, edges of tiles and random ones "
                              "(--judge-seed {}; --json names them)\n",
                              judged, all, options.seed);
  text += impossible_text(judgement.impossible, job);
  text +=
      std::isfinite(judgement.limit)
          ? fmt::format("bound    relative L1 <= {} x model + {:.2g} + {:.2g} = {:.6g} ({}): {}\n",
                        judgement.bound.factor, judgement.bound.offset, judgement.slack,
                        judgement.limit, judgement.bound.arithmetic,
                        verdict_word(judgement.within_limit))
          : "bound    none on relative L1, since exact attention is 0 or the model overflows: "
            "rows have their own\n";
  text += fmt::format("rows     each element within the bound of its row's formats: {}\n",
                      judgement.row.rows_beyond == 0
                          ? "met"
                          : fmt::format("MISSED by {} rows", judgement.row.rows_beyond));
  text += fmt::format("         nearest to it {}\n", text_of(judgement.row.worst_o, job, false));
  const reference::Judged& farthest = judgement.row.farthest;
  const Place place = place_of(farthest.row, job.inputs.q);
  text += fmt::format("         each row as a whole within its bound: {}\n",
                      judgement.row.rows_apart == 0
                          ? "met"
                          : fmt::format("MISSED by {} rows", judgement.row.rows_apart));
  text += fmt::format("         nearest to it [{}, {}, {}] at {:.2g} from the model, of {:.2g}\n",
                      place.batch, place.head, place.token, farthest.got, farthest.bound);
  text += fmt::format("LSE      each within its bound: {}\n",
                      judgement.row.lse_beyond == 0
                          ? "met"
                          : fmt::format("MISSED by {} rows", judgement.row.lse_beyond));
  text += fmt::format("         nearest to it {}\n", text_of(judgement.row.worst_lse, job, true));
  return text;
}

Json judgement_json(const Judgement& judgement, const AttentionJob& job,
                    const JudgeOptions& options) {
  Json fields = json_of(judgement.kernel.o);
  fields["model"] = json_of(judgement.model.o);
  fields["non_finite"] = judgement.kernel.o.non_finite;
  fields["lse"] = {{"max_abs", judgement.kernel.lse.max_abs},
                   {"non_finite", judgement.kernel.lse.non_finite}};
  fields["model"]["lse"] = {{"max_abs", judgement.model.lse.max_abs}};
  fields["bound"] = {{"factor", judgement.bound.factor},
                     {"offset", judgement.bound.offset},
                     {"slack", judgement.slack},
                     {"relative_l1", judgement.limit},
                     {"arithmetic", judgement.bound.arithmetic}};
  if (judgement.stopped) return fields;
  const bool all = static_cast<std::int64_t>(judgement.rows.size()) == row_count(job);
  fields["judged"] = {{"rows", judgement.rows.size()}, {"of", row_count(job)}};
  if (!all) {
    fields["judged"]["seed"] = options.seed;
    fields["judged"]["which"] = rows_json(judgement.rows, job);
  }
  fields["row_bound"] = {{"rows_beyond", judgement.row.rows_beyond},
                         {"nearest", json_of(judgement.row.worst_o, job, false)},
                         {"rows_apart", judgement.row.rows_apart},
                         {"farthest", json_of(judgement.row.farthest, job, true)},
                         {"lse_beyond", judgement.row.lse_beyond},
                         {"lse_nearest", json_of(judgement.row.worst_lse, job, true)}};
  fields["every_row"] = {{"non_finite", judgement.impossible.non_finite},
                         {"outside_range", judgement.impossible.outside_range},
                         {"masked", judgement.impossible.masked}};
  return fields;
}

}  // namespace sagegen::cli
