#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <stdexcept>

#include "tools/model/simulation.h"
#include "tools/pictures/pictures.h"
#include "tools/pictures/svg.h"

namespace sagegen::pictures {
namespace {

using model::Issue;
using model::Pipe;
using model::Wait;

constexpr double kLeft = 16, kNames = 118;
constexpr int kBandPixels = 1400;      // of a line of the drawing
constexpr int kShortWindow = 8 * 700;  // cycles; one takes two pixels, in longer windows one
constexpr int kTickPixels = 100;
constexpr double kLane = 15, kLaneGap = 3, kAxis = 22, kBandGap = 18;
constexpr std::string_view kQuiet = "#555555";
constexpr std::string_view kWarpColours[] = {"#1f5fa8", "#2d7d46", "#a0245e", "#7a3fa0",
                                             "#00757a", "#8a6d00", "#3d4db3", "#5c5c5c"};
constexpr std::array<std::string_view, model::kWaits> kWaitColours{"#b79ce0", "#f3e3a3", "#ef8f85",
                                                                   "#f5b869", "#e4e4e4"};

std::string_view warp_colour(int warp) {
  return kWarpColours[static_cast<std::size_t>(warp) % std::size(kWarpColours)];
}

struct Unit {
  std::string_view name;
  Pipe pipe;
};
constexpr Unit kUnits[] = {{"tensor core", Pipe::tensor},  {"FMA light", Pipe::fma},
                           {"FMA heavy", Pipe::fma_heavy}, {"ALU", Pipe::alu},
                           {"MUFU", Pipe::mufu},           {"LSU, shared", Pipe::memory},
                           {"uniform", Pipe::uniform}};

// A run, cycle by cycle.
class Recorder : public model::Observer {
 public:
  explicit Recorder(int warps) : states_(static_cast<std::size_t>(warps)) {}
  void issued(const Issue& issue) override {
    issues_.push_back(issue);
    states_[static_cast<std::size_t>(issue.warp)].push_back(std::nullopt);
  }
  void waited(std::int64_t, int warp, Wait why) override {
    states_[static_cast<std::size_t>(warp)].push_back(why);
  }

  const std::vector<Issue>& issues() const { return issues_; }
  int warps() const { return static_cast<int>(states_.size()); }
  // Nothing: it issued.
  std::optional<Wait> state(int warp, std::int64_t cycle) const {
    return states_[static_cast<std::size_t>(warp)][static_cast<std::size_t>(cycle)];
  }

 private:
  std::vector<Issue> issues_;
  std::vector<std::vector<std::optional<Wait>>> states_;  // by warp and cycle
};

struct Window {
  int warp;  // whose tile it is
  std::int64_t begin, end;
  std::int64_t cycles() const { return end - begin; }
};

// Of the tiles that a warp did as a whole, after the first third of the run, the first one that took most nearly what a
// tile takes a warp in the mean: the scheduler prefers one warp, and others may starve for long.
Window usual_tile(const Recorder& run, double mean) {
  std::vector<std::int64_t> begins(static_cast<std::size_t>(run.warps()), -1);
  const std::int64_t settled = run.issues().back().cycle / 3;
  std::optional<Window> best;
  for (const Issue& issue : run.issues()) {
    if (issue.step != 0) continue;
    std::int64_t& begin = begins[static_cast<std::size_t>(issue.warp)];
    const Window tile{issue.warp, begin, issue.cycle};
    const auto distance = [mean](const Window& window) {
      return std::abs(static_cast<double>(window.cycles()) - mean);
    };
    if (begin >= settled && (!best || distance(tile) < distance(*best))) best = tile;
    begin = issue.cycle;
  }
  if (!best) throw std::runtime_error("no warp of the simulation does a whole tile");
  return *best;
}

double busy_cycles(const Recorder& run, const Window& window, Pipe unit) {
  double cycles = 0;
  for (const Issue& issue : run.issues()) {
    if (issue.unit != unit) continue;
    cycles += std::max(0.0, std::min(issue.end, static_cast<double>(window.end)) -
                                std::max(issue.begin, static_cast<double>(window.begin)));
  }
  return cycles;
}

// Draws the window in lines.
class Bands {
 public:
  Bands(Svg& svg, const Window& window, double y, std::vector<std::string> lanes)
      : svg_(svg), window_(window), y_(y), lanes_(std::move(lanes)) {
    for (int band = 0; band < count(); ++band) draw_axis(band);
  }

  double bottom() const { return y_ + count() * band_height() - kBandGap; }

  // From begin to end, cycles of the run, as far as they are in the window.
  void bar(int lane, double begin, double end, std::string_view fill, const std::string& tip) {
    begin = std::max(begin - static_cast<double>(window_.begin), 0.0);
    end = std::min(end - static_cast<double>(window_.begin), static_cast<double>(window_.cycles()));
    while (begin < end) {
      const int band = static_cast<int>(begin / band_cycles());
      const double stop = std::min(end, (band + 1.0) * band_cycles());
      svg_.rect(x_of(begin, band), lane_y(band, lane), (stop - begin) * pixels(), kLane,
                {.fill = fill}, tip);
      begin = stop;
    }
  }

 private:
  int pixels() const { return window_.cycles() > kShortWindow ? 1 : 2; }  // of a cycle
  int band_cycles() const { return kBandPixels / pixels(); }
  int count() const {
    return static_cast<int>((window_.cycles() + band_cycles() - 1) / band_cycles());
  }
  double band_height() const {
    return kAxis + static_cast<double>(lanes_.size()) * (kLane + kLaneGap) + kBandGap;
  }
  double x_of(double cycle, int band) const {
    return kLeft + kNames + (cycle - band * band_cycles()) * pixels();
  }
  double lane_y(int band, int lane) const {
    return y_ + band * band_height() + kAxis + lane * (kLane + kLaneGap);
  }

  void draw_axis(int band) {
    const int first = band * band_cycles();
    const int last = static_cast<int>(
        std::min<std::int64_t>(window_.cycles(), first + std::int64_t{band_cycles()}));
    const double top = lane_y(band, 0), bottom = lane_y(band, static_cast<int>(lanes_.size()));
    svg_.text(kLeft, top - 9, "cycle", {.size = 10, .fill = kQuiet});
    for (int cycle = first; cycle <= last; cycle += kTickPixels / pixels()) {
      svg_.line(x_of(cycle, band), top - 5, x_of(cycle, band), bottom, "#dddddd", 0.7);
      svg_.text(x_of(cycle, band), top - 9, std::to_string(cycle),
                {.size = 9, .anchor = Anchor::middle, .fill = kQuiet});
    }
    for (std::size_t lane = 0; lane < lanes_.size(); ++lane) {
      const double y = lane_y(band, static_cast<int>(lane));
      svg_.text(kLeft + kNames - 8, y + 11.5, lanes_[lane], {.size = 10, .anchor = Anchor::end});
      svg_.rect(x_of(first, band), y, (last - first) * pixels(), kLane, {.fill = "#f7f7f7"});
    }
  }

  Svg& svg_;
  Window window_;
  double y_;
  std::vector<std::string> lanes_;
};

double draw_legend(Svg& svg, double y, int warps) {
  double x = kLeft;
  const auto entry = [&](std::string_view colour, const std::string& text) {
    svg.rect(x, y, 14, 14, {.fill = colour});
    svg.text(x + 19, y + 11.5, text, {.size = 11});
    x += 19 + text_width(text, 11) + 18;
  };
  const std::string issues = "issues, or is worked for: warp";
  svg.text(x, y + 11.5, issues, {.size = 11});
  x += text_width(issues, 11) + 10;
  for (int warp = 0; warp < warps; ++warp) entry(warp_colour(warp), std::to_string(warp));
  x = kLeft;
  y += 20;
  for (std::size_t why = 0; why < kWaitColours.size(); ++why) {
    entry(kWaitColours[why],
          fmt::format("waits: {}", model::to_string(static_cast<Wait>(static_cast<int>(why)))));
  }
  return y + 34;
}

double percent(double part, const Window& window) {
  return 100 * part / static_cast<double>(window.cycles());
}

void draw_shares(Svg& svg, double y, const Recorder& run, const Window& window,
                 const std::vector<Unit>& units) {
  svg.text(kLeft, y, "busy, of these cycles", {.size = 11, .bold = true});
  double line = y + 17;
  const auto share = [&](std::string_view name, double cycles) {
    svg.text(kLeft, line, name, {.size = 11});
    svg.text(kLeft + 160, line, fmt::format("{:.1f} %", percent(cycles, window)),
             {.size = 11, .anchor = Anchor::end});
    line += 15;
  };
  share("issue", static_cast<double>(std::count_if(
                     run.issues().begin(), run.issues().end(), [&](const Issue& issue) {
                       return issue.cycle >= window.begin && issue.cycle < window.end;
                     })));
  for (const Unit& unit : units) share(unit.name, busy_cycles(run, window, unit.pipe));
  const double x = kLeft + 240;
  svg.text(x, y, "warps, of these cycles", {.size = 11, .bold = true});
  line = y + 17;
  for (int warp = 0; warp < run.warps(); ++warp) {
    std::array<std::int64_t, model::kWaits> waits{};
    std::int64_t issued = 0;
    for (std::int64_t cycle = window.begin; cycle < window.end; ++cycle) {
      if (const std::optional<Wait> why = run.state(warp, cycle))
        ++waits[static_cast<std::size_t>(*why)];
      else
        ++issued;
    }
    std::string text =
        fmt::format("warp {}: issues {:.1f} %", warp, percent(static_cast<double>(issued), window));
    for (std::size_t why = 0; why < waits.size(); ++why) {
      text +=
          fmt::format(", {} {:.1f} %", model::to_string(static_cast<Wait>(static_cast<int>(why))),
                      percent(static_cast<double>(waits[why]), window));
    }
    svg.text(x, line, text, {.size = 11});
    line += 15;
  }
}

}  // namespace

std::string draw_pipeline(const model::ModelledLoop& loop, const model::Gpu& gpu,
                          const std::string& title) {
  const model::Assumptions assumptions;
  const std::vector<model::Step>& path = loop.path.steps;
  const model::SimulatedLoop mean =
      model::simulate(path, gpu, loop.warps, loop.warps_per_block, assumptions);
  Recorder run(loop.warps);
  const double cycles =
      model::simulate_run(path, gpu,
                          {.warps = loop.warps,
                           .warps_per_block = loop.warps_per_block,
                           .shared_stretch = mean.shared_stretch},
                          assumptions, {.iterations = assumptions.iterations}, &run);
  const Window window = usual_tile(run, cycles * loop.warps);

  std::vector<Unit> units;
  for (const Unit& unit : kUnits) {
    if (busy_cycles(run, window, unit.pipe) == 0) continue;
    units.push_back(unit);
    // The pipe of a GPU that has one has no halves.
    if (unit.pipe == Pipe::fma_heavy && gpu.fp32_lanes <= 64) units.back().name = "FMA";
  }
  std::vector<std::string> lanes{"issue"};
  for (const Unit& unit : units) lanes.emplace_back(unit.name);
  for (int warp = 0; warp < run.warps(); ++warp) lanes.push_back(fmt::format("warp {}", warp));

  Svg svg(title + ": pipeline");
  svg.text(kLeft, 30, title, {.size = 15, .bold = true});
  svg.text(
      kLeft, 50,
      fmt::format("a sub-core of {} while its warp {} does a tile of the main loop: {} cycles. "
                  "A simulation of the machine code, no measurement",
                  gpu.name, window.warp, window.cycles()),
      {.size = 11});
  svg.text(kLeft, 66,
           fmt::format("{} warps share it ({} of a block); this run takes {:.0f} cycles per warp "
                       "and tile, the mean of the runs of inspect --model {:.0f}",
                       loop.warps, loop.warps_per_block, cycles, mean.cycles),
           {.size = 11});
  const double top = draw_legend(svg, 80, loop.warps);
  Bands bands(svg, window, top, lanes);

  const auto what = [&](const Issue& issue) {
    const model::OperationInfo info =
        model::operation_info(path[issue.step].instruction, gpu.architecture);
    return fmt::format("warp {}, instruction {} of {}: {} ({})", issue.warp, issue.step,
                       path.size(), info.name, model::to_string(info.operation_class));
  };
  const int first_warp = 1 + static_cast<int>(units.size());
  for (const Issue& issue : run.issues()) {
    const auto cycle = static_cast<double>(issue.cycle);
    bands.bar(0, cycle, cycle + 1, warp_colour(issue.warp), what(issue));
    bands.bar(first_warp + issue.warp, cycle, cycle + 1, warp_colour(issue.warp), what(issue));
    for (std::size_t unit = 0; unit < units.size(); ++unit) {
      if (issue.unit == units[unit].pipe) {
        bands.bar(1 + static_cast<int>(unit), issue.begin, issue.end, warp_colour(issue.warp),
                  what(issue));
      }
    }
  }
  for (int warp = 0; warp < run.warps(); ++warp) {
    // What the warp waits to issue.
    auto next = [&, issue = run.issues().begin()](std::int64_t cycle) mutable {
      issue = std::find_if(issue, run.issues().end(), [&](const Issue& one) {
        return one.warp == warp && one.cycle >= cycle;
      });
      return issue == run.issues().end() ? std::string() : "; then " + what(*issue);
    };
    for (std::int64_t cycle = window.begin; cycle < window.end;) {
      const std::optional<Wait> why = run.state(warp, cycle);
      std::int64_t end = cycle + 1;
      while (end < window.end && run.state(warp, end) == why) ++end;
      if (why) {
        bands.bar(first_warp + warp, static_cast<double>(cycle), static_cast<double>(end),
                  kWaitColours[static_cast<std::size_t>(*why)],
                  fmt::format("warp {}: {} for {} cycles{}", warp, model::to_string(*why),
                              end - cycle, next(end)));
      }
      cycle = end;
    }
  }
  draw_shares(svg, bands.bottom() + 24, run, window, units);
  return svg.document();
}

}  // namespace sagegen::pictures
