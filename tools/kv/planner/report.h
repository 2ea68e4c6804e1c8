// What the planner found, as a table, as drawings and as a page. Pure functions: the same plan gives the same text.
#pragma once

#include <string>
#include <vector>

#include "tools/kv/planner/planner.h"

namespace sagegen::kv {

struct PlanReport {
  std::string source;  // where the inputs come from, in words
  std::vector<LayerErrors> layers = {};
  PlanOptions options = {};
  Plan plan = {};
  std::size_t chosen = 0;  // of the front
  double cap_bits = 0;     // 0: none
  const PlannedMap& map() const { return plan.front[chosen]; }
};

// The layers of a cluster, with heads where they choose apart: "0-3 6 9-11", "0.1 3.0".
std::string units_text(const std::vector<Unit>& units);

// Tables: clusters, the front, the chosen map.
std::string plan_text(const PlanReport& report);
// SVG documents: bits and errors of the front (and of what clusters cost), and the bits of each layer of the chosen map.
std::string draw_front(const PlanReport& report);
std::string draw_map(const PlanReport& report);
// One file that needs nothing else: no script, no font, no network.
std::string plan_html(const PlanReport& report);

}  // namespace sagegen::kv
