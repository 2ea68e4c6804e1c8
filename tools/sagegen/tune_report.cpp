#include "tools/sagegen/tune_report.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "sagegen/error.h"
#include "templates/attention/plan_shape_class.h"
#include "tools/pictures/svg.h"

namespace sagegen::cli {
namespace {

using runtime::Outcome;

bool is_time(const TunedProblem& problem) { return problem.unit == "ns"; }

std::string amount(const TunedProblem& problem, double value) {
  if (!is_time(problem)) return fmt::format("{:.0f}", value);
  return value < 1e6 ? fmt::format("{:.2f} us", value / 1e3)
                     : fmt::format("{:.3f} ms", value / 1e6);
}

std::string unit_words(const TunedProblem& problem) {
  return is_time(problem) ? "time" : "warp instructions, which are no time of any GPU";
}

// "3.1 % faster", or what else there is to say.
std::string verdict(const TunedProblem& problem) {
  const std::string usual = problem.kernel.how();
  if (!problem.error.empty()) return "this problem is not possible: " + problem.error;
  if (problem.winner.empty() && !problem.complete)
    return fmt::format("not finished: {} steps left", problem.steps_left);
  if (problem.winner.empty())
    return fmt::format("the default {} failed: {}", usual, problem.of(usual).reason);
  if (!problem.complete)
    return fmt::format("not finished: {} steps left, {} leads", problem.steps_left, problem.winner);
  if (problem.winner == usual) return fmt::format("the default {} stays", usual);
  return fmt::format("{} takes {:.1f} % less than the default {}", problem.winner,
                     100 * (1 - problem.of(problem.winner).ratio), usual);
}

std::string problem_head(const TunedProblem& problem) {
  return fmt::format("{}\n{}, class {}", problem.kernel.key(), to_string(problem.shape),
                     problem.shape_class);
}

}  // namespace

const TunedSchedule& TunedProblem::of(const std::string& schedule) const {
  const auto found = std::ranges::find(schedules, schedule, &TunedSchedule::schedule);
  if (found == schedules.end()) throw InternalError("no schedule " + schedule + " in the report");
  return *found;
}

std::string report_text(const TuneReport& report) {
  std::string text =
      fmt::format("device   {} ({})\n", report.device_name, to_string(report.device));
  for (const TunedProblem& problem : report.problems) {
    text += fmt::format("\n{}\n\n", problem_head(problem));
    Table table({"schedule", unit_words(problem) == "time" ? "time" : "instructions", "of default",
                 "samples", ""});
    for (const TunedSchedule& each : problem.schedules) {
      const bool timed = each.time > 0;
      std::string note = each.schedule == problem.winner && problem.complete ? "chosen" : "";
      if (each.schedule == problem.kernel.how()) note += note.empty() ? "default" : ", default";
      if (each.outcome != Outcome::passed)
        note +=
            fmt::format("{}{}: {}", note.empty() ? "" : ", ", to_string(each.outcome), each.reason);
      table.add({each.schedule, timed ? amount(problem, each.time) : "-",
                 each.ratio > 0 ? fmt::format("{:.3f}", each.ratio) : "-",
                 std::to_string(each.samples), note});
    }
    text += table.text();
    if (!is_time(problem)) text += fmt::format("\n  counts of {}\n", unit_words(problem));
    text += fmt::format("\n{}\n", verdict(problem));
    if (!problem.stored.empty()) text += fmt::format("stored as {}\n", problem.stored);
  }
  return text;
}

Json report_json(const TuneReport& report) {
  Json problems = Json::array();
  for (const TunedProblem& problem : report.problems) {
    Json schedules = Json::array();
    for (const TunedSchedule& each : problem.schedules) {
      Json line{{"schedule", each.schedule},
                {"outcome", to_string(each.outcome)},
                {"samples", each.samples}};
      if (!each.reason.empty()) line["reason"] = each.reason;
      if (each.time > 0) line[problem.unit] = each.time;
      if (each.ratio > 0) line["of_default"] = each.ratio;
      schedules.push_back(line);
    }
    const attention::Shape& shape = problem.shape;
    problems.push_back({{"kernel", problem.kernel.key()},
                        {"shape",
                         {{"batch", shape.batch},
                          {"heads", shape.q_heads},
                          {"kv_heads", shape.kv_heads},
                          {"q_len", shape.q_len},
                          {"kv_len", shape.kv_len}}},
                        {"class", problem.shape_class},
                        {"unit", problem.unit},
                        {"default", problem.kernel.how()},
                        {"winner", problem.winner.empty() ? Json(nullptr) : Json(problem.winner)},
                        {"complete", problem.complete},
                        {"steps_left", problem.steps_left},
                        {"stored", problem.stored.empty() ? Json(nullptr) : Json(problem.stored)},
                        {"schedules", schedules}});
    if (!problem.error.empty()) problems.back()["error"] = problem.error;
  }
  return {{"device", report.device_name},
          {"device_name", report.device.name},
          {"multiprocessors", report.device.multiprocessors},
          {"clock_khz", report.device.clock_khz},
          {"driver", report.device.driver},
          {"deployment", report.deployment},
          {"measured", report.measured},
          {"problems", problems}};
}

// ---- the page -------------------------------------------------------------------------------------

namespace {

constexpr std::string_view kHead = R"(<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>sagegen tune</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
h1 { font-size: 1.4rem } h2 { font-size: 1.05rem; margin: 2.2rem 0 .3rem; overflow-wrap: anywhere }
code, td:first-child, svg text { font-family: ui-monospace, monospace }
table { border-collapse: collapse; margin: .6rem 0 } td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top }
td.n, th.n { text-align: right } tr.chosen td { font-weight: 600 } .note { color: #666 }
svg { width: 100%; height: auto; font-size: 12px } svg text { paint-order: stroke; stroke: #fff; stroke-width: 3px }
</style></head><body>
)";

// A bar for each schedule that was timed; the line is the default's.
std::string bars(const TunedProblem& problem) {
  constexpr int kRow = 20, kLabel = 130, kBars = 560, kWidth = 900, kTop = 24;
  std::vector<const TunedSchedule*> timed;
  double longest = 0;
  for (const TunedSchedule& each : problem.schedules) {
    if (each.time <= 0) continue;
    timed.push_back(&each);
    longest = std::max(longest, each.ratio > 0 ? each.ratio : 0);
  }
  if (timed.empty() || longest <= 0) return "<p class=\"note\">Nothing was timed.</p>\n";
  const int height = kTop + kRow * static_cast<int>(timed.size()) + 6;
  const double scale = kBars / std::max(longest, 1.0);
  std::string svg = fmt::format(
      "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{} of each schedule, relative to the "
      "default\">\n",
      kWidth, height, is_time(problem) ? "Time" : "Instructions");
  const double line = kLabel + scale;
  svg += fmt::format(
      "<line x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2}\" stroke=\"#3566a8\" "
      "stroke-dasharray=\"3 3\"/>"
      "<text x=\"{0:.1f}\" y=\"13\" text-anchor=\"middle\" fill=\"#3566a8\">default</text>\n",
      line, kTop - 6, height - 2);
  for (std::size_t i = 0; i < timed.size(); ++i) {
    const TunedSchedule& each = *timed[i];
    const double y = kTop + kRow * static_cast<double>(i);
    const bool chosen = each.schedule == problem.winner,
               usual = each.schedule == problem.kernel.how();
    const std::string_view colour = chosen ? "#2a7d4f" : usual ? "#3566a8" : "#b9c3cf";
    svg += fmt::format("<text x=\"{}\" y=\"{:.0f}\" text-anchor=\"end\">{}</text>", kLabel - 8,
                       y + 13, pictures::escaped(each.schedule));
    svg += fmt::format("<rect x=\"{}\" y=\"{:.0f}\" width=\"{:.1f}\" height=\"{}\" fill=\"{}\"/>",
                       kLabel, y + 2, each.ratio * scale, kRow - 5, colour);
    svg +=
        fmt::format("<text x=\"{:.1f}\" y=\"{:.0f}\">{} ({:.3f}){}</text>\n",
                    kLabel + std::max(each.ratio, 1.0) * scale + 6, y + 13, amount(problem, each.time), each.ratio,
                    chosen && usual ? " chosen, default"
                    : chosen        ? " chosen"
                    : usual         ? " default"
                                    : "");
  }
  svg += "</svg>\n";
  return svg;
}

// Field by field what the winner has in place of the default.
std::string changes(const TunedProblem& problem) {
  if (problem.winner.empty() || problem.winner == problem.kernel.how()) return {};
  const Kernel winner = problem.kernel.with_schedule(problem.winner);
  std::string rows;
  for (const Field& field : problem.kernel.family().how) {
    const std::string before = field.word(field.get(problem.kernel.schedule())),
                      after = field.word(field.get(winner.schedule()));
    if (before != after)
      rows += fmt::format("<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n",
                          pictures::escaped(field.name), pictures::escaped(before),
                          pictures::escaped(after));
  }
  return fmt::format(
      "<table><tr><th>what the winner changes</th><th class=\"n\">default</th><th "
      "class=\"n\">winner</th></tr>\n{}</table>\n",
      rows);
}

std::string failures(const TunedProblem& problem) {
  std::string rows;
  for (const TunedSchedule& each : problem.schedules) {
    if (each.outcome == Outcome::passed) continue;
    rows += fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                        pictures::escaped(each.schedule), to_string(each.outcome),
                        pictures::escaped(each.reason));
  }
  if (rows.empty()) return {};
  return fmt::format("<table><tr><th>not raced</th><th>why</th><th></th></tr>\n{}</table>\n", rows);
}

}  // namespace

std::string report_html(const TuneReport& report) {
  std::string page(kHead);
  page += fmt::format("<h1>Schedules on {}</h1>\n<p class=\"note\">{}; launches timed {}; {}</p>\n",
                      pictures::escaped(report.device.name),
                      pictures::escaped(to_string(report.device)),
                      pictures::escaped(report.deployment), pictures::escaped(report.measured));
  for (const TunedProblem& problem : report.problems) {
    page += fmt::format(
        "<h2><code>{}</code></h2>\n<p>{}, class {}</p>\n", pictures::escaped(problem.kernel.key()),
        pictures::escaped(to_string(problem.shape)), pictures::escaped(problem.shape_class));
    page += fmt::format("<p><strong>{}</strong></p>\n", pictures::escaped(verdict(problem)));
    if (!is_time(problem))
      page += fmt::format("<p class=\"note\">Counts of {}.</p>\n", unit_words(problem));
    page += bars(problem) + changes(problem) + failures(problem);
  }
  return page + "</body></html>\n";
}

}  // namespace sagegen::cli
