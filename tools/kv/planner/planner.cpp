#include "tools/kv/planner/planner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "sagegen/error.h"

namespace sagegen::kv {
namespace {

constexpr double kLeastError = 1e-12;  // of logarithms: below it errors are equal

struct Table {
  std::vector<Unit> units;
  std::vector<Pair> pairs;                   // to choose from, and KV8 of protected layers
  std::size_t choosable = 0;                 // pairs, the first ones
  std::size_t eight = 0;                     // which is KV8
  std::vector<int> bits;                     // [pair], of a token of a KV head
  std::vector<std::vector<double>> squared;  // [unit][pair]: what it adds to the mean of e_o^2
};

bool is_protected(int layer, int layers, int protect) {
  return layer < protect || layer >= layers - protect;
}

int bits_of_pair(const Pair& pair, int head_dim, BitMeasure measure, const CacheModel& cache) {
  return measure == BitMeasure::nominal ? bits_of(pair.k) + bits_of(pair.v)
                                        : token_bits(pair, head_dim, cache);
}

void check(const std::vector<LayerErrors>& layers, const PlanOptions& options) {
  validate(options.cache);
  if (layers.empty()) throw SpecError("there is no layer to plan for");
  for (const LayerErrors& layer : layers) {
    if (layer.heads.size() == layers[0].heads.size() && layer.head_dim == layers[0].head_dim)
      continue;
    throw SpecError(
        fmt::format("layer {} has {} KV heads of head_dim {} and layer 0 has {} of {}: a plan is "
                    "of layers with equal caches",
                    &layer - layers.data(), layer.heads.size(), layer.head_dim,
                    layers[0].heads.size(), layers[0].head_dim));
  }
  if (options.code_bits.empty()) throw SpecError("no number of bits is given to choose from");
  if (options.protect < 0)
    throw SpecError(fmt::format("{} protected layers are refused: 0 or more", options.protect));
  if (!(options.similar >= 1)) {
    throw SpecError(fmt::format(
        "a ratio of {} between the errors of a cluster's layers is refused: it is 1 or more",
        options.similar));
  }
  if (options.context < 1)
    throw SpecError(fmt::format("a context of {} tokens is refused: 1 or more", options.context));
}

Table table_of(const std::vector<LayerErrors>& layers, const PlanOptions& options) {
  Table table;
  for (const int k : options.code_bits) {
    for (const int v : options.code_bits) table.pairs.push_back({storage_of(k), storage_of(v)});
  }
  table.choosable = table.pairs.size();
  const Pair eight{storage_of(8), storage_of(8)};
  table.eight =
      static_cast<std::size_t>(std::ranges::find(table.pairs, eight) - table.pairs.begin());
  if (table.eight == table.choosable) table.pairs.push_back(eight);
  for (const Pair& pair : table.pairs)
    table.bits.push_back(bits_of_pair(pair, layers[0].head_dim, options.bits, options.cache));
  const int heads = static_cast<int>(layers[0].heads.size());
  for (int layer = 0; layer < static_cast<int>(layers.size()); ++layer) {
    for (int head = 0; head < (options.per_head ? heads : 1); ++head) {
      table.units.push_back({layer, options.per_head ? head : -1});
      std::vector<double>& squared = table.squared.emplace_back();
      for (const Pair& pair : table.pairs) {
        const LayerErrors& of = layers[static_cast<std::size_t>(layer)];
        const double share = options.per_head
                                 ? of.squared_share(static_cast<std::size_t>(head), pair)
                                 : std::pow(of.relative(pair), 2);
        squared.push_back(share / static_cast<double>(layers.size()));
      }
    }
  }
  return table;
}

// The members are indices of pairs; those of the searches are indices of these.
struct Choice {
  std::vector<std::size_t> units;
  std::vector<std::size_t> pairs;
};

Variable variable_of(const Table& table, const Choice& choice) {
  Variable variable;
  for (const std::size_t pair : choice.pairs) {
    variable.costs.push_back(static_cast<std::int64_t>(choice.units.size()) * table.bits[pair]);
    double error = 0;
    for (const std::size_t unit : choice.units) error += table.squared[unit][pair];
    variable.errors.push_back(error);
  }
  return variable;
}

Map map_of(const Table& table, const std::vector<Choice>& choices, std::span<const int> chosen,
           std::size_t layers) {
  Map map;
  map.layers.resize(layers);
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const Pair& pair = table.pairs[choices[i].pairs[static_cast<std::size_t>(chosen[i])]];
    for (const std::size_t at : choices[i].units) {
      const Unit& unit = table.units[at];
      Layer& heads = map.layers[static_cast<std::size_t>(unit.layer)];
      const auto head = static_cast<std::size_t>(std::max(unit.head, 0));
      if (heads.size() <= head) heads.resize(head + 1);
      heads[head] = pair;
    }
  }
  return map;
}

PlannedMap planned(Map map, double error, const std::vector<LayerErrors>& layers,
                   const PlanOptions& options) {
  const int head_dim = layers[0].head_dim;
  const auto kv_heads = static_cast<double>(layers[0].heads.size());
  PlannedMap out{.map = std::move(map), .error = error};
  for (const Layer& layer : out.map.layers) {
    const double weight = kv_heads / static_cast<double>(layer.size());  // heads of a pair
    for (const Pair& pair : layer) {
      out.nominal_bits += weight * (bits_of(pair.k) + bits_of(pair.v));
      out.effective_bits += weight * token_bits(pair, head_dim, options.cache) / head_dim;
      out.step_bytes += weight * cache_bytes(pair, head_dim, options.context, options.cache);
    }
  }
  const double tensors = 2 * kv_heads * static_cast<double>(layers.size());  // K and V
  out.nominal_bits /= tensors;
  out.effective_bits /= tensors;
  return out;
}

// One pair for all layers, of those that no other one beats.
std::vector<PlannedMap> uniform_maps(const Table& table, const std::vector<LayerErrors>& layers,
                                     const PlanOptions& options) {
  std::vector<double> errors(table.choosable);
  for (const std::vector<double>& unit : table.squared) {
    for (std::size_t pair = 0; pair < errors.size(); ++pair) errors[pair] += unit[pair];
  }
  std::vector<PlannedMap> maps;
  for (const std::size_t pair : pruned({table.bits.data(), table.choosable}, errors)) {
    Map map;
    map.layers.assign(layers.size(), Layer{table.pairs[pair]});
    maps.push_back(planned(std::move(map), std::sqrt(errors[pair]), layers, options));
  }
  return maps;
}

double measured_bits(const PlannedMap& map, const PlanOptions& options) {
  return options.bits == BitMeasure::nominal ? map.nominal_bits : map.effective_bits;
}

}  // namespace

std::vector<std::size_t> pruned(std::span<const int> bits, std::span<const double> errors) {
  std::vector<std::size_t> order(bits.size()), left;
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) {
    return std::pair(bits[a], errors[a]) < std::pair(bits[b], errors[b]);
  });
  for (const std::size_t each : order) {
    if (left.empty() || errors[each] < errors[left.back()]) left.push_back(each);
  }
  return left;
}

std::vector<std::vector<std::size_t>> clustered(const std::vector<std::vector<std::size_t>>& lists,
                                                const std::vector<std::vector<double>>& errors,
                                                double similar) {
  const std::size_t count = lists.size();
  constexpr double kApart = std::numeric_limits<double>::infinity();
  const auto between = [&](std::size_t a, std::size_t b) {
    if (lists[a] != lists[b]) return kApart;
    double most = 0;
    for (const std::size_t pair : lists[a]) {
      const double ratio =
          std::max(errors[a][pair], kLeastError) / std::max(errors[b][pair], kLeastError);
      most = std::max(most, std::fabs(std::log(ratio)));
    }
    return most;
  };
  // Of two groups the distance is that of their farthest members.
  std::vector<std::vector<double>> distance(count, std::vector<double>(count));
  std::vector<std::vector<std::size_t>> groups(count);
  for (std::size_t a = 0; a < count; ++a) {
    groups[a] = {a};
    for (std::size_t b = 0; b < count; ++b) distance[a][b] = between(a, b);
  }
  for (;;) {
    double least = kApart;
    std::size_t into = 0, from = 0;
    for (std::size_t a = 0; a < count; ++a) {
      for (std::size_t b = a + 1; b < count; ++b) {
        if (groups[a].empty() || groups[b].empty() || distance[a][b] >= least) continue;
        least = distance[a][b];
        into = a;
        from = b;
      }
    }
    if (similar == 1 || least > std::log(similar)) break;
    groups[into].insert(groups[into].end(), groups[from].begin(), groups[from].end());
    std::ranges::sort(groups[into]);
    groups[from].clear();
    for (std::size_t other = 0; other < count; ++other) {
      distance[into][other] = distance[other][into] =
          std::max(distance[into][other], distance[from][other]);
    }
  }
  std::erase_if(groups, [](const auto& group) { return group.empty(); });
  std::vector<int> members(count);
  for (const auto& group : groups) {
    for (const std::size_t each : group) ++members[each];
  }
  if (std::ranges::any_of(members, [](int n) { return n != 1; }))
    throw InternalError("the clusters of layers are no partition of them");
  return groups;
}

Plan plan(const std::vector<LayerErrors>& layers, const PlanOptions& options) {
  check(layers, options);
  const Table table = table_of(layers, options);
  std::vector<std::vector<std::size_t>> lists;
  std::vector<std::vector<double>> errors;
  std::vector<bool> fixed;
  for (std::size_t at = 0; at < table.units.size(); ++at) {
    std::vector<double>& roots = errors.emplace_back();
    for (const double squared : table.squared[at]) roots.push_back(std::sqrt(squared));
    fixed.push_back(
        is_protected(table.units[at].layer, static_cast<int>(layers.size()), options.protect));
    lists.push_back(
        fixed[at] ? std::vector{table.eight}
                  : pruned({table.bits.data(), table.choosable}, {roots.data(), table.choosable}));
    // There is nothing to choose, so that it does not matter how far apart their errors are.
    if (fixed[at]) roots.assign(roots.size(), 1);
  }
  std::vector<Choice> choices, alone;
  Plan out;
  for (const auto& group : clustered(lists, errors, options.similar)) {
    choices.push_back({group, lists[group[0]]});
    Cluster& cluster = out.clusters.emplace_back();
    cluster.is_protected = fixed[group[0]];
    for (const std::size_t unit : group) cluster.units.push_back(table.units[unit]);
    for (const std::size_t pair : choices.back().pairs) cluster.pairs.push_back(table.pairs[pair]);
  }
  for (std::size_t unit = 0; unit < table.units.size(); ++unit)
    alone.push_back({{unit}, lists[unit]});

  const auto variables_of = [&](const std::vector<Choice>& of) {
    std::vector<Variable> variables;
    for (const Choice& choice : of) variables.push_back(variable_of(table, choice));
    return variables;
  };
  const std::vector<Variable> variables = variables_of(choices);
  std::vector<Solution> front = exact_front(variables);
  const auto rms = [&](const std::vector<Choice>& of, const std::vector<Solution>& solutions) {
    std::vector<PlannedMap> maps;
    for (const Solution& each : solutions) {
      maps.push_back(planned(map_of(table, of, each.choices, layers.size()), std::sqrt(each.error),
                             layers, options));
    }
    return maps;
  };
  if (!options.metric) {
    out.search = "dynamic programming";
    out.front = rms(choices, front);
    out.unclustered = rms(alone, exact_front(variables_of(alone)));
    out.uniform = uniform_maps(table, layers, options);
    return out;
  }
  const Objective objective = [&](std::span<const int> chosen) {
    return options.metric(map_of(table, choices, chosen, layers.size()));
  };
  if (const std::int64_t all = combinations(variables, options.exhaustive);
      all <= options.exhaustive) {
    front = exhaustive_front(variables, objective);
    out.search = fmt::format("all {} maps", all);
  } else {
    GeneticOptions genetic = options.genetic;
    for (const Solution& each : front) genetic.start.push_back(each.choices);
    front = genetic_front(variables, objective, genetic);
    out.search = fmt::format("NSGA-II, at most {} maps", genetic.evaluations);
  }
  for (const Solution& each : front) {
    out.front.push_back(
        planned(map_of(table, choices, each.choices, layers.size()), each.error, layers, options));
  }
  return out;
}

const PlannedMap& best_under(const Plan& plan, double cap_bits, const PlanOptions& options) {
  const PlannedMap* best = nullptr;
  for (const PlannedMap& each : plan.front) {
    // The last digits of means are no reason to refuse a map that is exactly at the cap.
    if (measured_bits(each, options) <= cap_bits * (1 + 1e-12)) best = &each;
  }
  if (best) return *best;
  throw SpecError(fmt::format(
      "a cap of {} bits is refused: the fewest {} bits of any map are {:.4g}{}; raise the cap{}",
      cap_bits, options.bits == BitMeasure::nominal ? "nominal" : "effective",
      measured_bits(plan.front.front(), options),
      options.protect > 0
          ? fmt::format(", with the first and the last {} layers at 8 bits", options.protect)
          : "",
      options.protect > 0 ? " or protect fewer layers" : " or allow fewer bits"));
}

}  // namespace sagegen::kv
