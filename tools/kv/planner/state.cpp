#include "tools/kv/planner/state.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tools/reference/json_depth.h"
#include "tools/reference/printable.h"
#include "tools/reference/whole_file.h"

namespace sagegen::kv {
namespace {

using Json = nlohmann::ordered_json;
using reference::FileError;

constexpr std::string_view kKind = "sagegen kv plan";
constexpr int kVersion = 2;  // raised when the same inputs come to other errors

std::string digest_text(std::uint64_t digest) { return fmt::format("{:016x}", digest); }

// JSON has no infinity.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }
double value_of(const Json& number) {
  return number.is_null() ? std::numeric_limits<double>::infinity() : number.get<double>();
}

Json json_of(const LayerErrors& errors) {
  Json heads = Json::array();
  for (const HeadErrors& head : errors.heads)
    heads.push_back({{"exact", head.exact}, {"error", head.error}});
  return {{"head_dim", errors.head_dim}, {"heads", heads}};
}

// What a file may say, whoever wrote it.
bool plausible(const LayerErrors& errors) {
  const auto is_sum = [](double x) { return std::isfinite(x) && x >= 0; };
  double exact = 0;
  for (const HeadErrors& head : errors.heads) {
    exact += head.exact;
    if (!is_sum(head.exact)) return false;
    for (const auto& of_k : head.error) {
      if (!std::ranges::all_of(of_k, is_sum)) return false;
    }
  }
  return errors.head_dim >= 1 && errors.head_dim <= kMostHeadDim && exact > 0;
}

LayerErrors errors_of(const Json& json) {
  LayerErrors errors{.head_dim = json.at("head_dim").get<int>(), .heads = {}};
  for (const Json& each : json.at("heads")) {
    HeadErrors& head = errors.heads.emplace_back();
    each.at("exact").get_to(head.exact);
    each.at("error").get_to(head.error);
  }
  if (!plausible(errors)) throw std::domain_error("no errors of a layer");
  return errors;
}

}  // namespace

std::string map_text(const Map& map) {
  std::string text;
  for (const Layer& layer : map.layers) {
    for (std::size_t head = 0; head < layer.size(); ++head) {
      if (head > 0)
        text += ',';
      else if (!text.empty())
        text += ' ';
      text += to_string(layer[head]);
    }
  }
  return text;
}

PlannerState::PlannerState(std::filesystem::path file, std::string subject)
    : file_(std::move(file)), subject_(std::move(subject)) {
  if (!file_.empty() && std::filesystem::exists(file_)) read(reference::read_whole_file(file_));
}

void PlannerState::read(const std::string& text) {
  const auto refuse = [&](const std::string& why) {
    return FileError(fmt::format("{}: {}; remove it, or name another file", file_.string(), why));
  };
  const Json json = reference::nests_deeper_than(text, 8) ? Json(Json::value_t::discarded)
                                                          : Json::parse(text, nullptr, false);
  const bool is_state = json.is_object() && json.value("kind", Json()) == kKind;
  if (!is_state) throw refuse("this is no state of `sagegen kv plan`");
  if (json.value("version", Json()) != kVersion)
    throw refuse("this is the state of another version of `sagegen kv plan`");
  try {
    const std::string subject = json.at("subject").get<std::string>();
    if (subject != subject_) {
      throw refuse(fmt::format("this is the state of another plan, '{}', and this one is '{}'",
                               reference::printable(subject), subject_));
    }
    for (const Json& layer : json.at("layers")) {
      layers_[layer.at("layer").get<int>()] = {
          .digest = std::stoull(layer.at("inputs").get<std::string>(), nullptr, 16),
          .errors = errors_of(layer)};
    }
    for (const auto& [map, metric] : json.at("metrics").items()) metrics_[map] = value_of(metric);
  } catch (const Json::exception&) {
    throw refuse("this state of `sagegen kv plan` is damaged");
  } catch (const std::logic_error&) {  // of stoull
    throw refuse("this state of `sagegen kv plan` is damaged");
  }
}

void PlannerState::write() const {
  if (file_.empty()) return;
  Json layers = Json::array(), metrics = Json::object();
  for (const auto& [layer, measured] : layers_) {
    Json line{{"layer", layer}, {"inputs", digest_text(measured.digest)}};
    line.update(json_of(measured.errors));
    layers.push_back(std::move(line));
  }
  for (const auto& [map, metric] : metrics_) metrics[map] = number(metric);
  const Json json{{"kind", kKind},
                  {"version", kVersion},
                  {"subject", subject_},
                  {"layers", layers},
                  {"metrics", metrics}};
  reference::write_whole_file(file_, json.dump(1) + "\n");
}

const LayerErrors* PlannerState::layer(int layer, std::uint64_t digest) const {
  const auto found = layers_.find(layer);
  if (found == layers_.end()) return nullptr;
  if (found->second.digest == digest) return &found->second.errors;
  throw FileError(
      fmt::format("{}: layer {} was measured with inputs of digest {}, and now they have {}; "
                  "remove it, or name another file",
                  file_.string(), layer, digest_text(found->second.digest), digest_text(digest)));
}

void PlannerState::add(int layer, std::uint64_t digest, const LayerErrors& errors) {
  layers_[layer] = {.digest = digest, .errors = errors};
  write();
}

const double* PlannerState::metric(const std::string& map) const {
  const auto found = metrics_.find(map);
  return found == metrics_.end() ? nullptr : &found->second;
}

void PlannerState::add(const std::string& map, double metric) {
  metrics_[map] = metric;
  write();
}

std::string subject_of(const MeasureOptions& options, const std::string& metric) {
  std::string text = to_string(options.cache);
  text += options.queries > 0 ? fmt::format(" queries={}", options.queries) : " queries=all";
  return metric.empty() ? text : text + " metric=" + metric;
}

std::vector<LayerErrors> measure_layers(int count,
                                        const std::function<reference::Inputs(int)>& load,
                                        const MeasureOptions& options, PlannerState& state,
                                        const std::function<void(LayerProgress)>& done) {
  std::vector<LayerErrors> all;
  for (int layer = 0; layer < count; ++layer) {
    const reference::Inputs inputs = load(layer);
    const std::uint64_t digest = digest_of(inputs);
    const LayerErrors* known = state.layer(layer, digest);
    all.push_back(known ? *known : measure_layer(inputs, options));
    if (!known) state.add(layer, digest, all.back());
    if (done) done({.done = layer + 1, .count = count, .measured = !known});
  }
  return all;
}

Metric remembered(Metric metric, PlannerState& state) {
  return [metric = std::move(metric), &state](const Map& map) {
    const std::string text = map_text(map);
    if (const double* known = state.metric(text)) return *known;
    const double value = metric(map);
    state.add(text, value);
    return value;
  };
}

}  // namespace sagegen::kv
