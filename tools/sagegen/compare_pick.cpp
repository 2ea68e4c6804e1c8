#include "tools/sagegen/compare_pick.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "templates/attention/plan_mode_map.h"
#include "tools/sagegen/help.h"
#include "tools/sagegen/options.h"

namespace sagegen::cli {

std::span<const Measure> measures() {
  static constexpr Measure kMeasures[] = {
      {"--min-cosine", "cosine similarity", [](const Errors& e) { return e.o.cosine_similarity; },
       true},
      {"--max-l1", "relative L1", [](const Errors& e) { return e.o.relative_l1; }, false},
      {"--max-rmse", "RMSE", [](const Errors& e) { return e.o.rmse; }, false},
      {"--max-row-l1", "relative L1 of the worst row",
       [](const Errors& e) { return e.worst_row.relative_l1; }, false},
      {"--max-lse", "error of the LSE", [](const Errors& e) { return e.lse.max_abs; }, false}};
  return kMeasures;
}

bool Bound::met(const Errors& errors) const {
  const double value = measure->of(errors);
  return measure->is_least ? value >= limit : value <= limit;
}

double Bound::excess(const Errors& errors) const {
  if (met(errors)) return 0;
  const double value = measure->of(errors);
  const double error = measure->is_least ? 1 - value : value;
  const double most = measure->is_least ? 1 - limit : limit;
  return std::isnan(error) ? std::numeric_limits<double>::infinity() : error / most;
}

std::string Bound::text() const {
  return fmt::format("{} {} {}", measure->name, measure->is_least ? ">=" : "<=", limit);
}

std::string bounds_text(const Bounds& bounds) {
  std::vector<std::string> texts;
  for (const Bound& bound : bounds) texts.push_back(bound.text());
  return fmt::format("{}", fmt::join(texts, ", "));
}

void define_bounds(CLI::App& app, Bounds& bounds) {
  const OptionGroup group(app, "Picks");
  for (const Measure& measure : measures()) {
    require_number(app.add_option_function<double>(
                       measure.option,
                       [&bounds, &measure](double limit) {
                         bounds.push_back({&measure, limit});
                       },
                       fmt::format("of --pick: {} {}",
                                   measure.is_least ? "the least" : "the largest", measure.name)),
                   measure.is_least ? 1 : std::numeric_limits<double>::max());
  }
}

bool within(const Compared& compared, const Bounds& bounds) {
  return compared.sound &&
         std::ranges::all_of(bounds, [&](const Bound& b) { return b.met(compared.errors); });
}

std::optional<std::size_t> pick(const std::vector<Compared>& compared, const Bounds& bounds,
                                double margin) {
  double fastest = 0;
  for (const Compared& each : compared) {
    // Of one that the model is not about nobody knows the speed (NaN), and it is no larger.
    if (within(each, bounds) && each.tops.front() > fastest) fastest = each.tops.front();
  }
  std::optional<std::size_t> picked;
  for (std::size_t i = 0; i < compared.size(); ++i) {
    const Compared& each = compared[i];
    if (!within(each, bounds) || !(each.tops.front() >= fastest * (1 - margin / 100))) continue;
    if (!picked || each.errors.o.relative_l1 < compared[*picked].errors.o.relative_l1) picked = i;
  }
  return picked;
}

std::size_t nearest(const std::vector<Compared>& compared, const Bounds& bounds) {
  const auto excess = [&](const Compared& each) {
    double largest = 0;
    for (const Bound& bound : bounds) largest = std::max(largest, bound.excess(each.errors));
    return each.sound ? largest : std::numeric_limits<double>::infinity();
  };
  const auto at = std::ranges::min_element(compared, {}, excess);
  return static_cast<std::size_t>(at - compared.begin());
}

std::optional<Compared> pick_for_others(const std::vector<LayerChoice>& layers,
                                        const Bounds& bounds, double margin) {
  std::vector<Compared> everywhere;
  for (Compared candidate : layers.front().compared) {
    const bool all = std::ranges::all_of(layers, [&](const LayerChoice& layer) {
      const auto same = std::ranges::find(layer.compared, candidate.kernel, &Compared::kernel);
      if (same == layer.compared.end() || !within(*same, bounds)) return false;
      if (same->errors.o.relative_l1 > candidate.errors.o.relative_l1)
        candidate.errors = same->errors;
      return true;
    });
    if (all) everywhere.push_back(candidate);
  }
  const std::optional<std::size_t> picked = pick(everywhere, {}, margin);
  return picked ? std::optional(everywhere[*picked]) : std::nullopt;
}

bool is_layer_name(const std::string& name) {
  const bool has_controls =
      std::ranges::any_of(name, [](char c) { return static_cast<unsigned char>(c) < ' '; });
  return !name.empty() && name[0] != '#' && name != attention::kOtherLayers && !has_controls;
}

std::string mode_map_text(const std::vector<LayerChoice>& layers,
                          const std::optional<Compared>& others,
                          const std::vector<std::string>& remarks) {
  std::string text = std::string(attention::kModeMapHead) + "\n";
  for (const std::string& remark : remarks) text += "# " + remark + "\n";
  const auto add = [&](std::string_view name, const Compared& choice) {
    text += fmt::format("{}\t{}\tcosine similarity {:.6f}, relative L1 {:.4g}, {:.0f} TOPS\n", name,
                        choice.kernel.key(), choice.errors.o.cosine_similarity,
                        choice.errors.o.relative_l1, choice.tops.front());
  };
  for (const LayerChoice& layer : layers) {
    if (!layer.layer.empty()) add(layer.layer, layer.compared[*layer.picked]);
  }
  if (others) add(attention::kOtherLayers, *others);
  return text;
}

}  // namespace sagegen::cli
