#include "tools/sagegen/kv_plan.h"

#include <algorithm>
#include <filesystem>
#include <optional>

#include <fmt/format.h>

#include "tools/kv/planner/inputs.h"
#include "tools/kv/planner/report.h"
#include "tools/kv/planner/state.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/files.h"
#include "tools/sagegen/help.h"
#include "tools/sagegen/options.h"
#include "tools/sagegen/progress.h"

namespace sagegen::cli {
namespace {

std::vector<kv::LayerErrors> measured(const KvPlanCommand& command,
                                      const std::vector<std::string>& layers) {
  kv::PlannerState state(command.state, kv::subject_of(command.measure));
  const auto load = [&](int layer) {
    reference::Inputs inputs =
        reference::load_qkv({command.inputs}, layers[static_cast<std::size_t>(layer)],
                            command.order)
            .inputs;
    inputs.causal = command.causal != Causal::none;
    if (command.causal == Causal::bottom_right)
      inputs.causal_offset = inputs.k.tokens - inputs.q.tokens;
    inputs.softmax_scale = command.softmax_scale;
    return inputs;
  };
  Progress progress("measuring layers", layers.size());
  return kv::measure_layers(static_cast<int>(layers.size()), load, command.measure, state,
                            [&](kv::LayerProgress) { progress.advance(); });
}

Json front_json(const std::vector<kv::PlannedMap>& front) {
  Json list = Json::array();
  for (const kv::PlannedMap& each : front) {
    list.push_back({{"bits_nominal", each.nominal_bits},
                    {"bits_effective", each.effective_bits},
                    {"error", each.error},
                    {"bytes_per_step", each.step_bytes},
                    {"map", kv::map_text(each.map)}});
  }
  return list;
}

Json report_json(const kv::PlanReport& report) {
  Json clusters = Json::array(), layers = Json::array();
  for (const kv::Cluster& cluster : report.plan.clusters) {
    Json units = Json::array(), pairs = Json::array();
    for (const kv::Unit& unit : cluster.units) {
      units.push_back({{"layer", unit.layer}});
      if (unit.head >= 0) units.back()["head"] = unit.head;
    }
    for (const kv::Pair& pair : cluster.pairs) pairs.push_back(kv::to_string(pair));
    clusters.push_back({{"units", units}, {"pairs", pairs}, {"protected", cluster.is_protected}});
  }
  for (const kv::LayerErrors& layer : report.layers) {
    Json errors = Json::object();
    for (const int k : report.options.code_bits) {
      for (const int v : report.options.code_bits) {
        const kv::Pair pair{kv::storage_of(k), kv::storage_of(v)};
        errors[kv::to_string(pair)] = layer.relative(pair);
      }
    }
    layers.push_back(errors);
  }
  return {{"cache", kv::to_string(report.options.cache)},
          {"layers", report.layers.size()},
          {"kv_heads", report.layers[0].heads.size()},
          {"head_dim", report.layers[0].head_dim},
          {"context", report.options.context},
          {"cap_bits", report.cap_bits > 0 ? Json(report.cap_bits) : Json(nullptr)},
          {"search", report.plan.search},
          {"clusters", clusters},
          {"errors", layers},
          {"front", front_json(report.plan.front)},
          {"unclustered", front_json(report.plan.unclustered)},
          {"uniform", front_json(report.plan.uniform)},
          {"chosen", report.chosen}};
}

}  // namespace

void define_kv_plan(CLI::App& options, KvPlanCommand& command) {
  std::optional<OptionGroup> group(std::in_place, options, "Measuring");
  add_choice<reference::AxisOrder>(
      options, "--input-layout", command.order,
      {{"hnd", reference::AxisOrder::hnd}, {"nhd", reference::AxisOrder::nhd}},
      "axes of Q, K and V in the file: [batch, head, token, channel] or [batch, token, head, "
      "channel] (default: hnd)");
  add_choice<Causal>(options, "--causal", command.causal,
                     {{"none", Causal::none},
                      {"top-left", Causal::top_left},
                      {"bottom-right", Causal::bottom_right}},
                     "which keys a query sees (default: bottom-right, the last query sees all)");
  require_number(
      options.add_option("--softmax-scale", command.softmax_scale, "(default: 1 / sqrt(head_dim))"),
      1e6);
  kv::CacheModel& cache = command.measure.cache;
  add_choice<kv::Grouping>(
      options, "--mode", cache.grouping,
      {{"per-token-asym", kv::Grouping::per_token}, {"kivi", kv::Grouping::kivi}},
      "per-token-asym: a scale and zero point for each token; kivi: for each channel of K "
      "and each group of V "
      "(default: per-token-asym)");
  command.kivi_only = {
      options.add_option("--group", cache.group, "values of a group of kivi (default: 32)"),
      options.add_option("--residual", cache.residual,
                         "last tokens that kivi leaves at 16 bits (default: 32)")};
  for (CLI::Option* each : command.kivi_only) require_whole(each, 1, 1 << 16);
  options.add_flag("--hadamard", cache.hadamard, "rotate K before it is quantized");
  options.add_flag("--smooth-k", cache.smooth_k,
                   "subtract the mean of K over the tokens before it is quantized");
  require_whole(options.add_option("--queries", command.measure.queries,
                                   "rows of each head that are measured; 0: all (default: 128)"),
                0, std::uint64_t{1} << 30);
  group.emplace(options, "Planning");
  options
      .add_option("--candidates", command.plan.code_bits,
                  "bits of K and V to choose from, of 2, 4, 8, 16 (default: 2,4,8)")
      ->delimiter(',')
      ->check(one_of({"2", "4", "8", "16"}));
  require_number(
      options.add_option(
          "--cap-bits", command.cap_bits,
          "the best map with at most so many bits in the mean (default: the one with the "
          "least error)"),
      64);
  add_choice<kv::BitMeasure>(
      options, "--bits", command.plan.bits,
      {{"nominal", kv::BitMeasure::nominal}, {"effective", kv::BitMeasure::effective}},
      "what is counted: nominal, of codes; effective, with scales, zero points and padding "
      "(default: nominal)");
  require_whole(options.add_option("--protect", command.plan.protect,
                                   "layers at each end that stay at 8 bits; 0: none (default: 2)"),
                0, 1 << 16);
  options.add_flag("--per-head", command.plan.per_head, "a choice for each KV head of a layer");
  require_number(options.add_option(
                     "--similar", command.plan.similar,
                     "largest ratio of the errors of layers that share a choice; 1: none shares "
                     "(default: 1.5)"),
                 1e6);
  require_whole(options.add_option("--context", command.plan.context,
                                   "tokens in the cache: for bytes per step (default: 8192); of check (default: 200)"),
                1, std::uint64_t{1} << 40);
  refuse_empty(
      options.add_option("--state", command.state,
                         "file of what is measured; a plan that was stopped goes on with it"));
  refuse_empty(options.add_option("--html", command.html, "write a page with drawings, too"));
}

Exit kv_plan(const KvPlanCommand& command, WriteMap write_map, Output& output) {
  for (const CLI::Option* each : command.kivi_only) {
    if (each->count() > 0 && command.measure.cache.grouping != kv::Grouping::kivi) {
      throw UsageError(
          fmt::format("{} is refused without --mode kivi: a cache of tokens has no such groups and "
                      "no window",
                      each->get_name()));
    }
  }
  for (const std::string* file : {&command.state, &command.out, &command.html}) {
    if (!file->empty()) check_writable(*file);
  }
  const std::vector<std::string> layers = kv::recorded_layers(command.inputs);
  kv::PlanReport report;
  report.options = command.plan;
  report.options.cache = command.measure.cache;
  report.cap_bits = command.cap_bits;
  report.layers = measured(command, layers);
  report.source =
      fmt::format("{}: {} layers, {} KV heads, head_dim {}",
                  std::filesystem::path(command.inputs).filename().string(), layers.size(),
                  report.layers[0].heads.size(), report.layers[0].head_dim);
  report.plan = kv::plan(report.layers, report.options);
  report.chosen = report.plan.front.size() - 1;
  if (command.cap_bits > 0) {
    const kv::PlannedMap& best = kv::best_under(report.plan, command.cap_bits, report.options);
    report.chosen = static_cast<std::size_t>(&best - report.plan.front.data());
  }
  std::string text = kv::plan_text(report);
  Json fields = report_json(report);
  if (!command.out.empty()) {
    write_file(command.out, write_map(report.map().map, command.out));
    text += fmt::format("written: {}\n", command.out);
    fields["file"] = command.out;
  }
  if (!command.html.empty()) {
    write_file(command.html, kv::plan_html(report));
    text += fmt::format("written: {}\n", command.html);
    fields["html"] = command.html;
  }
  output.text(text);
  output.json(fields);
  return Exit::ok;
}

}  // namespace sagegen::cli
