#include "tools/kv/planner/search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <tuple>
#include <utility>

namespace sagegen::kv {
namespace {

std::int64_t cost_of(std::span<const Variable> variables, std::span<const int> choices) {
  std::int64_t cost = 0;
  for (std::size_t i = 0; i < variables.size(); ++i)
    cost += variables[i].costs[static_cast<std::size_t>(choices[i])];
  return cost;
}

int choices_of(const Variable& variable) { return static_cast<int>(variable.costs.size()); }

double or_worst(double error) {
  return std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
}

}  // namespace

std::vector<Solution> non_dominated(std::vector<Solution> solutions) {
  std::ranges::sort(solutions, [](const Solution& a, const Solution& b) {
    return std::tie(a.cost, a.error, a.choices) < std::tie(b.cost, b.error, b.choices);
  });
  std::vector<Solution> front;
  for (Solution& each : solutions) {
    if (front.empty() || each.error < front.back().error) front.push_back(std::move(each));
  }
  return front;
}

std::vector<Solution> exact_front(std::span<const Variable> variables) {
  struct State {
    std::int64_t cost = 0;
    double error = 0;
    int choice = 0;          // of the last variable
    std::size_t before = 0;  // the state of the variables before it
  };
  std::vector<std::vector<State>> stages = {{State{}}};
  for (const Variable& variable : variables) {
    const std::vector<State>& from = stages.back();
    std::vector<State> all;
    for (std::size_t before = 0; before < from.size(); ++before) {
      for (int choice = 0; choice < choices_of(variable); ++choice) {
        const auto at = static_cast<std::size_t>(choice);
        all.push_back({.cost = from[before].cost + variable.costs[at],
                       .error = from[before].error + variable.errors[at],
                       .choice = choice,
                       .before = before});
      }
    }
    // Stable: equals stay in the order of their choices, so that the first of them is kept.
    std::ranges::stable_sort(all, [](const State& a, const State& b) {
      return std::tie(a.cost, a.error) < std::tie(b.cost, b.error);
    });
    std::vector<State> kept;
    for (const State& each : all) {
      if (kept.empty() || each.error < kept.back().error) kept.push_back(each);
    }
    stages.push_back(std::move(kept));
  }
  std::vector<Solution> front;
  for (const State& last : stages.back()) {
    Solution solution{
        .choices = std::vector<int>(variables.size()), .cost = last.cost, .error = last.error};
    const State* state = &last;
    for (std::size_t i = variables.size(); i > 0; --i) {
      solution.choices[i - 1] = state->choice;
      state = &stages[i - 1][state->before];
    }
    front.push_back(std::move(solution));
  }
  return front;
}

std::int64_t combinations(std::span<const Variable> variables, std::int64_t limit) {
  std::int64_t count = 1;
  for (const Variable& variable : variables) {
    if (count > limit / choices_of(variable)) return limit + 1;
    count *= choices_of(variable);
  }
  return count;
}

std::vector<Solution> exhaustive_front(std::span<const Variable> variables,
                                       const Objective& objective) {
  std::vector<Solution> all;
  std::vector<int> choices(variables.size());
  for (bool more = true; more;) {
    all.push_back({choices, cost_of(variables, choices), or_worst(objective(choices))});
    more = false;
    for (std::size_t i = variables.size(); i > 0 && !more; --i) {
      more = ++choices[i - 1] < choices_of(variables[i - 1]);
      if (!more) choices[i - 1] = 0;
    }
  }
  return non_dominated(std::move(all));
}

// ---- NSGA-II --------------------------------------------------------------------------------------

namespace {

// splitmix64: whole numbers only, so that every machine draws the same.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  int below(int count) {
    return static_cast<int>((bits() >> 32) * static_cast<std::uint64_t>(count) >> 32);
  }
  bool heads() { return bits() >> 63 != 0; }

 private:
  std::uint64_t state_;
};

struct Individual {
  Solution solution;
  int rank = 0;         // of its front, the best is 0
  double crowding = 0;  // the perimeter between its neighbours in that front
};

bool dominates(const Solution& a, const Solution& b) {
  return a.cost <= b.cost && a.error <= b.error && (a.cost < b.cost || a.error < b.error);
}

// Fronts after fronts, by number.
std::vector<std::vector<std::size_t>> fronts_of(const std::vector<Individual>& all) {
  std::vector<std::vector<std::size_t>> beaten(all.size()), fronts(1);
  std::vector<int> beaten_by(all.size());
  for (std::size_t a = 0; a < all.size(); ++a) {
    for (std::size_t b = 0; b < all.size(); ++b) {
      if (dominates(all[a].solution, all[b].solution)) beaten[a].push_back(b);
      if (dominates(all[b].solution, all[a].solution)) ++beaten_by[a];
    }
    if (beaten_by[a] == 0) fronts[0].push_back(a);
  }
  while (!fronts.back().empty()) {
    std::vector<std::size_t> next;
    for (const std::size_t a : fronts.back()) {
      for (const std::size_t b : beaten[a]) {
        if (--beaten_by[b] == 0) next.push_back(b);
      }
    }
    std::ranges::sort(next);
    fronts.push_back(std::move(next));
  }
  fronts.pop_back();
  return fronts;
}

void set_crowding(std::vector<Individual>& all, std::vector<std::size_t> front) {
  const auto spread = [&](auto&& coordinate) {
    std::ranges::stable_sort(front, [&](std::size_t a, std::size_t b) {
      return coordinate(all[a].solution) < coordinate(all[b].solution);
    });
    const double range =
        coordinate(all[front.back()].solution) - coordinate(all[front.front()].solution);
    for (const std::size_t end : {front.front(), front.back()})
      all[end].crowding = std::numeric_limits<double>::infinity();
    if (!(range > 0) || !std::isfinite(range)) return;
    for (std::size_t i = 1; i + 1 < front.size(); ++i) {
      all[front[i]].crowding +=
          (coordinate(all[front[i + 1]].solution) - coordinate(all[front[i - 1]].solution)) / range;
    }
  };
  for (const std::size_t each : front) all[each].crowding = 0;
  spread([](const Solution& s) { return static_cast<double>(s.cost); });
  spread([](const Solution& s) { return s.error; });
}

// The best of all, as many as there is room for, with ranks and crowding distances.
std::vector<Individual> survivors(std::vector<Individual> all, std::size_t room) {
  std::vector<Individual> kept;
  const std::vector<std::vector<std::size_t>> fronts = fronts_of(all);
  for (std::size_t rank = 0; rank < fronts.size() && kept.size() < room; ++rank) {
    set_crowding(all, fronts[rank]);
    std::vector<std::size_t> order = fronts[rank];
    std::ranges::stable_sort(
        order, [&](std::size_t a, std::size_t b) { return all[a].crowding > all[b].crowding; });
    for (const std::size_t each : order) {
      if (kept.size() == room) break;
      all[each].rank = static_cast<int>(rank);
      kept.push_back(all[each]);
    }
  }
  return kept;
}

class Evolution {
 public:
  Evolution(std::span<const Variable> variables, const Objective& objective,
            const GeneticOptions& options)
      : variables_(variables), objective_(objective), options_(options), random_(options.seed) {}

  std::vector<Solution> run() {
    const auto room = static_cast<std::size_t>(std::max(options_.population, 4));
    std::vector<Individual> all;
    const std::size_t given = std::min(options_.start.size(), room / 2);
    for (std::size_t i = 0; i < given; ++i) {
      const std::size_t last = options_.start.size() - 1;
      add(all, options_.start[given > 1 ? i * last / (given - 1) : 0]);
    }
    add(all, std::vector<int>(variables_.size(), 0));
    std::vector<int> ends;
    for (const Variable& variable : variables_) ends.push_back(choices_of(variable) - 1);
    add(all, ends);
    while (all.size() < room) {
      std::vector<int> choices;
      for (const Variable& variable : variables_)
        choices.push_back(random_.below(choices_of(variable)));
      if (!add(all, std::move(choices))) break;
    }
    std::vector<Individual> parents = survivors(std::move(all), room);
    // Generations without a new combination: all neighbours are known.
    for (int idle = 0; idle < kPatience && left() > 0;) {
      const std::size_t known = asked_.size();
      std::vector<Individual> pool = parents;
      for (std::size_t i = 0; i < room; ++i) {
        const Solution& mother = tournament(parents);
        const Solution& father = tournament(parents);
        std::vector<int> child = crossed(mother, father);
        mutate(child);
        if (!add(pool, std::move(child))) break;
      }
      parents = survivors(without_twins(std::move(pool)), room);
      idle = asked_.size() == known ? idle + 1 : 0;
    }
    std::vector<Solution> found;
    for (const auto& [choices, error] : asked_)
      found.push_back({choices, cost_of(variables_, choices), error});
    return non_dominated(std::move(found));
  }

 private:
  static constexpr int kPatience = 20;

  int left() const { return options_.evaluations - static_cast<int>(asked_.size()); }

  // False when there is no evaluation left for it.
  bool add(std::vector<Individual>& to, std::vector<int> choices) {
    auto known = asked_.find(choices);
    if (known == asked_.end()) {
      if (left() <= 0) return false;
      const double error = or_worst(objective_(choices));
      known = asked_.emplace(choices, error).first;
    }
    to.push_back({.solution = {std::move(choices), 0, known->second}});
    Solution& solution = to.back().solution;
    solution.cost = cost_of(variables_, solution.choices);
    return true;
  }

  const Solution& tournament(const std::vector<Individual>& from) {
    const int count = static_cast<int>(from.size());
    const Individual& a = from[static_cast<std::size_t>(random_.below(count))];
    const Individual& b = from[static_cast<std::size_t>(random_.below(count))];
    const bool b_wins = b.rank < a.rank || (b.rank == a.rank && b.crowding > a.crowding);
    return (b_wins ? b : a).solution;
  }

  std::vector<int> crossed(const Solution& a, const Solution& b) {
    std::vector<int> child = a.choices;
    for (std::size_t i = 0; i < child.size(); ++i) {
      if (random_.heads()) child[i] = b.choices[i];
    }
    return child;
  }

  // About one variable of a child; half of the time to a neighbour, for choices are in the order of their costs.
  void mutate(std::vector<int>& choices) {
    const int count = static_cast<int>(choices.size());
    for (std::size_t i = 0; i < choices.size(); ++i) {
      if (random_.below(count) != 0) continue;
      const int of = choices_of(variables_[i]);
      choices[i] = random_.heads() ? std::clamp(choices[i] + (random_.heads() ? 1 : -1), 0, of - 1)
                                   : random_.below(of);
    }
  }

  static std::vector<Individual> without_twins(std::vector<Individual> pool) {
    std::set<std::vector<int>> seen;
    std::erase_if(
        pool, [&](const Individual& each) { return !seen.insert(each.solution.choices).second; });
    return pool;
  }

  std::span<const Variable> variables_;
  const Objective& objective_;
  const GeneticOptions& options_;
  Random random_;
  std::map<std::vector<int>, double> asked_;
};

}  // namespace

std::vector<Solution> genetic_front(std::span<const Variable> variables, const Objective& objective,
                                    const GeneticOptions& options) {
  return Evolution(variables, objective, options).run();
}

}  // namespace sagegen::kv
