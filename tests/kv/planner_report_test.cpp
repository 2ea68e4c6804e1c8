// What the planner says of a plan, in words and drawings.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "tools/kv/planner/report.h"
#include "tools/kv/planner/state.h"

using namespace sagegen::kv;
using Catch::Contains;

namespace {

// Layers of two KV heads whose errors are what codes have, about; the odd ones are worse, K of them most.
PlanReport report_of(PlanOptions options) {
  PlanReport report{.source = "layers <a> & \"b\"", .options = options};
  for (int layer = 0; layer < 6; ++layer) {
    LayerErrors& errors = report.layers.emplace_back();
    errors.head_dim = 64;
    for (int head = 0; head < 2; ++head) {
      HeadErrors& of_head = errors.heads.emplace_back();
      of_head.exact = 1;
      for (std::size_t k = 0; k < kCodeBitsCount; ++k) {
        for (std::size_t v = 0; v < kCodeBitsCount; ++v) {
          const auto of = [](int bits) { return bits == 16 ? 0 : std::pow(16, -bits); };
          of_head.error[k][v] =
              (layer % 2 ? 50 : 1) * of(kCodeBits[k]) + (1 + head) * of(kCodeBits[v]);
        }
      }
    }
  }
  report.plan = plan(report.layers, options);
  report.cap_bits = 6;
  report.chosen =
      static_cast<std::size_t>(&best_under(report.plan, 6, options) - report.plan.front.data());
  return report;
}

std::size_t times(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
    ++count;
  return count;
}

}  // namespace

TEST_CASE("layers and heads in words") {
  CHECK(units_text({{0, -1}, {1, -1}, {2, -1}, {6, -1}, {9, -1}, {10, -1}}) == "0-2 6 9-10");
  CHECK(units_text({{0, 1}, {3, 0}}) == "0.1 3.0");
}

TEST_CASE("the table has every cluster, every map of the front, and the chosen one") {
  const PlanReport report = report_of({.protect = 1});
  const std::string text = plan_text(report);
  CHECK_THAT(text, Contains("cache per_token; search: dynamic programming"));
  CHECK_THAT(text, Contains("0 5                      KV8  (protected)"));
  CHECK_THAT(text, Contains("2 4                      KV2"));
  CHECK_THAT(text, Contains("1 3                      KV2"));
  CHECK(times(text, "\n> ") == 1);
  CHECK(times(text, " MB\n") == report.plan.front.size());
  CHECK(times(text, " everywhere\n") == report.plan.uniform.size());
  CHECK_THAT(text, Contains(map_text(report.map().map) + "\n"));
  CHECK_THAT(text, Contains("RMS over layers of e_o"));
}

TEST_CASE("drawings have a point for each map and a cell for K and V of each layer") {
  const PlanReport report = report_of({.protect = 1});
  const std::string front = draw_front(report), map = draw_map(report);
  CHECK(times(front, "<rect") == 1 + report.plan.front.size() + report.plan.unclustered.size() +
                                     report.plan.uniform.size() + 1 + 4);
  CHECK(times(front, "<title>") == times(front, "<rect") - 4);
  CHECK(times(front, ">KV4<") == 1);
  CHECK_THAT(front, Contains(">cap 6<"));
  CHECK_THAT(front, Contains("layers &lt;a&gt; &amp; &quot;b&quot;"));
  CHECK(times(map, "<title>layer ") == 6 * 2);
  CHECK(times(map, ", e_o ") == 6 * 2);
  CHECK(times(draw_map(report_of({.protect = 1, .per_head = true})), "<title>layer ") == 6 * 2 * 2);
}

TEST_CASE("errors of nothing and of infinity have no point") {
  PlanReport report = report_of({.protect = 1});
  report.plan.front[0].error = INFINITY;
  report.plan.front[report.plan.front.size() - 1].error = 0;
  const std::string front = draw_front(report);
  CHECK(times(front, "<rect") == 1 + report.plan.front.size() + report.plan.unclustered.size() +
                                     report.plan.uniform.size() + 1 + 4 - 2);
  CHECK_THAT(front, !Contains("inf") && !Contains("nan"));
  for (PlannedMap& each : report.plan.front) each.error = 0;
  report.plan.unclustered.clear();
  report.plan.uniform.clear();
  CHECK_THAT(draw_front(report), !Contains("inf") && !Contains("nan"));
}

TEST_CASE("the page stands alone, has the errors of every layer, and is the same each time") {
  for (const bool per_head : {false, true}) {
    const PlanReport report = report_of({.protect = 1, .per_head = per_head});
    const std::string page = plan_html(report);
    CHECK(page == plan_html(report_of({.protect = 1, .per_head = per_head})));
    CHECK_THAT(page, !Contains("<script") && !Contains("<?xml") && !Contains("src="));
    CHECK(times(page, "http") == 2);  // the namespace of each drawing
    CHECK(times(page, "<svg") == 2);
    CHECK(times(page, "<tr>") == 1 + report.plan.clusters.size() + 1 + 6);
    CHECK(times(page, "<td class=\"n") == report.plan.clusters.size() + 6 * 9);
    CHECK(times(page, "<td class=\"n chosen\"") >= 6);
    CHECK_THAT(page, Contains("layers &lt;a&gt; &amp;") && !Contains("<a>"));
    CHECK(page.ends_with("</body></html>\n"));
  }
}
