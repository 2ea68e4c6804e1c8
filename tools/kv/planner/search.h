// The search of the planner: a choice for each variable so that a cost and an error are least, both at once. It knows
// nothing of caches.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace sagegen::kv {

// What each of its choices adds to the cost of the whole; at least one.
struct Variable {
  std::vector<std::int64_t> costs;
  std::vector<double> errors;  // and to the error; of searches with an objective unused
};

struct Solution {
  std::vector<int> choices;  // of each variable
  std::int64_t cost = 0;
  double error = 0;
  friend bool operator==(const Solution&, const Solution&) = default;
};

// All that no other dominates (no more cost, no more error, and less of one), by ascending cost; of equals the one whose
// choices are first. Fronts of solutions that were found, too.
std::vector<Solution> non_dominated(std::vector<Solution> solutions);

// The front of all combinations, of equals one, where errors add up: dynamic programming over the variables, which keeps
// of each cost what no other dominates. Sums are taken in the order of the variables, as a loop would, so that costs and
// errors are those of trying all of them to the last bit. Steps: variables * choices * distinct costs.
std::vector<Solution> exact_front(std::span<const Variable> variables);

// The error of choices, where it is none that adds up. Less is better; not finite: as bad as can be. Asked once for each
// combination.
using Objective = std::function<double(std::span<const int> choices)>;

// How many combinations there are, at most `limit` + 1.
std::int64_t combinations(std::span<const Variable> variables, std::int64_t limit);
// The front of all combinations, each of which is asked for.
std::vector<Solution> exhaustive_front(std::span<const Variable> variables,
                                       const Objective& objective);

struct GeneticOptions {
  std::uint64_t seed = 1;
  int population = 48;
  int evaluations = 2000;  // at most so many combinations are asked for
  // Of these beginnings as many as the population has room for, evenly taken; the rest is drawn.
  std::vector<std::vector<int>> start = {};
};
// NSGA-II (Deb et al. 2002: fast non-dominated sorting, crowding distance, binary tournaments) with uniform crossover and
// mutation to a neighbouring choice or to any. The front of all that was asked for, which need not be the true one. The
// same arguments give the same solutions on every machine.
std::vector<Solution> genetic_front(std::span<const Variable> variables, const Objective& objective,
                                    const GeneticOptions& options);

}  // namespace sagegen::kv
