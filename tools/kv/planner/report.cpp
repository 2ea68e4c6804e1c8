#include "tools/kv/planner/report.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include <fmt/format.h>

#include "tools/kv/planner/state.h"
#include "tools/pictures/svg.h"

namespace sagegen::kv {
namespace {

using pictures::Anchor, pictures::escaped, pictures::Svg;

double bits_of_map(const PlanReport& report, const PlannedMap& map) {
  return report.options.bits == BitMeasure::nominal ? map.nominal_bits : map.effective_bits;
}
std::string_view bits_word(const PlanReport& report) {
  return report.options.bits == BitMeasure::nominal ? "nominal bits" : "effective bits";
}
std::string error_words(const PlanReport& report) {
  return report.options.metric ? "the metric" : "RMS over layers of e_o";
}

std::string pairs_text(const std::vector<Pair>& pairs) {
  std::string text;
  for (const Pair& each : pairs) text += (text.empty() ? "" : " ") + to_string(each);
  return text;
}

const Pair& pair_of(const Map& map, const Unit& unit) {
  const Layer& heads = map.layers[static_cast<std::size_t>(unit.layer)];
  return heads[heads.size() > 1 ? static_cast<std::size_t>(unit.head) : 0];
}

std::string bytes_text(double bytes) {
  return bytes < 1e6 ? fmt::format("{:.1f} kB", bytes / 1e3)
                     : fmt::format("{:.2f} MB", bytes / 1e6);
}

std::string choice_text(const PlanReport& report) {
  const PlannedMap& map = report.map();
  return fmt::format(
      "{:.4g} nominal bits, {:.4g} effective bits, {} {:.4g}, {} read per step at {} tokens",
      map.nominal_bits, map.effective_bits, error_words(report), map.error,
      bytes_text(map.step_bytes), report.options.context);
}

std::string method_text(const PlanReport& report) {
  return fmt::format("cache {}; search: {}", to_string(report.options.cache), report.plan.search);
}

std::string ranges_text(const std::vector<int>& ascending) {
  std::string text;
  for (std::size_t i = 0; i < ascending.size();) {
    std::size_t last = i;
    while (last + 1 < ascending.size() && ascending[last + 1] == ascending[last] + 1) ++last;
    if (!text.empty()) text += ' ';
    text += last == i ? std::to_string(ascending[i])
                      : fmt::format("{}-{}", ascending[i], ascending[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace

std::string units_text(const std::vector<Unit>& units) {
  std::vector<int> layers;
  std::string text;
  for (const Unit& unit : units) {
    if (unit.head < 0)
      layers.push_back(unit.layer);
    else
      text += fmt::format("{}{}.{}", text.empty() ? "" : " ", unit.layer, unit.head);
  }
  return text + ranges_text(layers);
}

std::string plan_text(const PlanReport& report) {
  std::string text = fmt::format("{}\n{}\n\nlayers and the pairs that are left of them\n",
                                 report.source, method_text(report));
  for (const Cluster& cluster : report.plan.clusters) {
    text += fmt::format("  {:<24} {}{}\n", units_text(cluster.units), pairs_text(cluster.pairs),
                        cluster.is_protected ? "  (protected)" : "");
  }
  text += fmt::format("\n  {:>8} {:>10} {:>12} {:>12}  ({})\n", "nominal", "effective", "error",
                      "per step", error_words(report));
  for (std::size_t i = 0; i < report.plan.front.size(); ++i) {
    const PlannedMap& each = report.plan.front[i];
    text += fmt::format("{} {:>8.3f} {:>10.3f} {:>12.4e} {:>12}\n", i == report.chosen ? ">" : " ",
                        each.nominal_bits, each.effective_bits, each.error,
                        bytes_text(each.step_bytes));
  }
  for (const PlannedMap& each : report.plan.uniform) {
    text += fmt::format("  {:>8.3f} {:>10.3f} {:>12.4e} {:>12}  {} everywhere\n", each.nominal_bits,
                        each.effective_bits, each.error, bytes_text(each.step_bytes),
                        to_string(each.map.layers[0][0]));
  }
  return text + fmt::format("\nchosen: {}\n{}\n", choice_text(report), map_text(report.map().map));
}

// ---- drawings -------------------------------------------------------------------------------------

namespace {

constexpr std::string_view kInk = "#222222", kGrey = "#b9c3cf", kBlue = "#3566a8",
                           kGreen = "#2a7d4f", kRed = "#b3402e", kGrid = "#e6e6e6";

std::string_view colour_of(int bits) {
  return bits == 2 ? "#d9744a" : bits == 4 ? "#e3b94d" : bits == 8 ? "#6d9cc9" : "#c9cdd2";
}

// A linear way from values to pixels.
struct Axis {
  double from, to, begin, end;
  double at(double value) const { return begin + (value - from) / (to - from) * (end - begin); }
};

bool can_be_drawn(const PlannedMap& map) { return std::isfinite(map.error) && map.error > 0; }

}  // namespace

std::string draw_front(const PlanReport& report) {
  Svg svg(fmt::format("Bits and errors: {}", report.source));
  constexpr double kLeft = 90, kTop = 40, kWidth = 640, kHeight = 320;
  std::vector<double> bits, errors;
  for (const auto* front : {&report.plan.front, &report.plan.unclustered, &report.plan.uniform}) {
    for (const PlannedMap& each : *front) {
      bits.push_back(bits_of_map(report, each));
      if (can_be_drawn(each)) errors.push_back(std::log10(each.error));
    }
  }
  if (report.cap_bits > 0) bits.push_back(report.cap_bits);
  if (errors.empty()) errors.push_back(0);
  const auto [least_bits, most_bits] = std::ranges::minmax(bits);
  const auto [least, most] = std::ranges::minmax(errors);
  const Axis x{std::floor(least_bits), std::max(std::ceil(most_bits), std::floor(least_bits) + 1),
               kLeft, kLeft + kWidth};
  const Axis y{std::floor(least), std::max(std::ceil(most), std::floor(least) + 1), kTop + kHeight,
               kTop};
  svg.text(kLeft, 20, fmt::format("{} against {}", error_words(report), bits_word(report)),
           {.size = 13, .bold = true});
  for (double tick = x.from; tick <= x.to; ++tick) {
    svg.line(x.at(tick), kTop, x.at(tick), kTop + kHeight, kGrid);
    svg.text(x.at(tick), kTop + kHeight + 16, fmt::format("{}", tick), {.anchor = Anchor::middle});
  }
  for (double tick = y.from; tick <= y.to; ++tick) {
    svg.line(kLeft, y.at(tick), kLeft + kWidth, y.at(tick), kGrid);
    svg.text(kLeft - 8, y.at(tick) + 4, fmt::format("1e{}", tick), {.anchor = Anchor::end});
  }
  svg.text(kLeft + kWidth / 2, kTop + kHeight + 34, bits_word(report), {.anchor = Anchor::middle});
  if (report.cap_bits > 0) {
    svg.line(x.at(report.cap_bits), kTop, x.at(report.cap_bits), kTop + kHeight, kInk);
    svg.text(x.at(report.cap_bits) + 4, kTop + 12, fmt::format("cap {:g}", report.cap_bits));
  }
  const auto point = [&](const PlannedMap& map, double size, std::string_view colour) {
    if (!can_be_drawn(map)) return;
    svg.rect(x.at(bits_of_map(report, map)) - size / 2, y.at(std::log10(map.error)) - size / 2,
             size, size, {.fill = colour},
             fmt::format("{:.4g} nominal bits, {:.4g} effective, {:.4g}: {}", map.nominal_bits,
                         map.effective_bits, map.error, map_text(map.map)));
  };
  for (const PlannedMap& each : report.plan.unclustered) point(each, 4, kGrey);
  for (const PlannedMap& each : report.plan.front) point(each, 5, kBlue);
  for (const PlannedMap& each : report.plan.uniform) {
    if (!can_be_drawn(each)) continue;
    point(each, 7, kRed);
    svg.text(x.at(bits_of_map(report, each)), y.at(std::log10(each.error)) - 8,
             to_string(each.map.layers[0][0]), {.anchor = Anchor::middle, .fill = kRed});
  }
  point(report.map(), 10, kGreen);
  double legend = kLeft;
  const auto entry = [&](std::string_view colour, const std::string& words) {
    svg.rect(legend, kTop + kHeight + 48, 9, 9, {.fill = colour});
    svg.text(legend + 14, kTop + kHeight + 57, words);
    legend += 32 + pictures::text_width(words, 11);
  };
  entry(kBlue, "maps of the plan");
  if (!report.plan.unclustered.empty()) entry(kGrey, "if no layers shared a choice");
  if (!report.plan.uniform.empty()) entry(kRed, "one pair for all layers");
  entry(kGreen, "chosen");
  return svg.document();
}

std::string draw_map(const PlanReport& report) {
  const Map& map = report.map().map;
  Svg svg(fmt::format("Bits of each layer: {}", report.source));
  constexpr double kLeft = 90, kTop = 40, kRow = 24;
  const double cell = std::clamp(900.0 / static_cast<double>(map.layers.size()), 20.0, 40.0);
  std::size_t heads = 1;
  for (const Layer& layer : map.layers) heads = std::max(heads, layer.size());
  svg.text(kLeft, 20, choice_text(report), {.size = 13, .bold = true});
  std::set<int> used;
  for (std::size_t head = 0; head < heads; ++head) {
    for (const bool of_v : {false, true}) {
      const double top = kTop + (2 * static_cast<double>(head) + of_v) * kRow;
      svg.text(kLeft - 8, top + 16,
               heads > 1 ? fmt::format("{} head {}", of_v ? "V" : "K", head) : (of_v ? "V" : "K"),
               {.anchor = Anchor::end});
      for (std::size_t layer = 0; layer < map.layers.size(); ++layer) {
        const Pair& pair = map.layers[layer][std::min(head, map.layers[layer].size() - 1)];
        const int bits = bits_of(of_v ? pair.v : pair.k);
        used.insert(bits);
        const double left = kLeft + cell * static_cast<double>(layer);
        svg.rect(left, top, cell - 1, kRow - 1, {.fill = colour_of(bits)},
                 fmt::format("layer {}: {}, e_o {:.4g}", layer, to_string(pair),
                             report.layers[layer].relative(pair)));
        svg.text(left + cell / 2, top + 16, std::to_string(bits), {.anchor = Anchor::middle});
      }
    }
  }
  const double below = kTop + 2 * static_cast<double>(heads) * kRow + 14;
  for (std::size_t layer = 0; layer < map.layers.size(); layer += cell < 24 ? 4 : 1) {
    svg.text(kLeft + cell * (static_cast<double>(layer) + 0.5), below, std::to_string(layer),
             {.anchor = Anchor::middle});
  }
  svg.text(kLeft - 8, below, "layer", {.anchor = Anchor::end});
  double legend = kLeft;
  for (const int bits : used) {
    svg.rect(legend, below + 14, 9, 9, {.fill = colour_of(bits)});
    svg.text(legend + 14, below + 23, fmt::format("{} bits", bits));
    legend += 80;
  }
  return svg.document();
}

// ---- the page -------------------------------------------------------------------------------------

namespace {

constexpr std::string_view kHead = R"(<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>sagegen kv plan</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
h1 { font-size: 1.4rem } h2 { font-size: 1.05rem; margin: 2.2rem 0 .3rem }
code, td { font-family: ui-monospace, monospace; font-size: 13px }
table { border-collapse: collapse; margin: .6rem 0 } td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top }
td.n, th.n { text-align: right } .note { color: #666 } td.chosen { font-weight: 700 }
svg { max-width: 100%; height: auto }
</style></head><body>
)";

std::string inlined(const std::string& document) { return document.substr(document.find("<svg")); }

std::string cluster_table(const PlanReport& report) {
  std::string rows;
  for (const Cluster& cluster : report.plan.clusters) {
    const Pair& chosen = pair_of(report.map().map, cluster.units[0]);
    double least = INFINITY, most = 0;
    for (const Unit& unit : cluster.units) {
      const LayerErrors& layer = report.layers[static_cast<std::size_t>(unit.layer)];
      const double error =
          unit.head < 0
              ? layer.relative(chosen)
              : std::sqrt(layer.squared_share(static_cast<std::size_t>(unit.head), chosen));
      least = std::min(least, error);
      most = std::max(most, error);
    }
    rows += fmt::format(
        "<tr><td>{}</td><td>{}</td><td class=\"chosen\">{}</td><td class=\"n\">{:.3g} to "
        "{:.3g}</td></tr>\n",
        units_text(cluster.units), cluster.is_protected ? "protected" : pairs_text(cluster.pairs),
        to_string(chosen), least, most);
  }
  return fmt::format(
      "<table><tr><th>{}</th><th>pairs that are left</th><th>chosen</th><th class=\"n\">e_o of "
      "that</th>"
      "</tr>\n{}</table>\n",
      report.options.per_head ? "layer.head" : "layers", rows);
}

std::string error_table(const PlanReport& report) {
  std::string head, rows;
  for (const int k : report.options.code_bits) {
    for (const int v : report.options.code_bits)
      head += fmt::format("<th class=\"n\">K{}V{}</th>", k, v);
  }
  for (std::size_t layer = 0; layer < report.layers.size(); ++layer) {
    const Layer& chosen = report.map().map.layers[layer];
    rows += fmt::format("<tr><td>{}</td>", layer);
    for (const int k : report.options.code_bits) {
      for (const int v : report.options.code_bits) {
        const Pair pair{storage_of(k), storage_of(v)};
        rows += fmt::format("<td class=\"n{}\">{:.3g}</td>",
                            std::ranges::find(chosen, pair) != chosen.end() ? " chosen" : "",
                            report.layers[layer].relative(pair));
      }
    }
    rows += "</tr>\n";
  }
  return fmt::format("<table><tr><th>layer</th>{}</tr>\n{}</table>\n", head, rows);
}

}  // namespace

std::string plan_html(const PlanReport& report) {
  return fmt::format(
      "{}<h1>Bits of a KV cache</h1>\n<p>{}</p>\n<p "
      "class=\"note\">{}</p>\n<p><strong>{}</strong></p>\n"
      "<h2>The front</h2>\n{}<h2>The chosen "
      "map</h2>\n{}<p><code>{}</code></p>\n<h2>Clusters</h2>\n{}"
      "<h2>Relative error of the attention output, e_o, of each layer "
      "alone</h2>\n{}</body></html>\n",
      kHead, escaped(report.source), escaped(method_text(report)), choice_text(report),
      inlined(draw_front(report)), inlined(draw_map(report)), map_text(report.map().map),
      cluster_table(report), error_table(report));
}

}  // namespace sagegen::kv
