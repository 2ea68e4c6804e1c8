// The search of the planner: exact where errors add up, and close to that where it samples.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <vector>

#include "tools/kv/planner/search.h"

using namespace sagegen::kv;

namespace {

// splitmix64: the same numbers everywhere.
struct Draw {
  std::uint64_t state;
  std::uint64_t bits() {
    std::uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  int below(int n) { return static_cast<int>(uniform() * n); }
};

// Errors that need not fall as costs rise, so that some choices are of no use.
std::vector<Variable> random_variables(int count, std::uint64_t seed) {
  Draw draw{seed};
  std::vector<Variable> variables(static_cast<std::size_t>(count));
  for (Variable& each : variables) {
    const int choices = 1 + draw.below(6), layers = 1 + draw.below(4);
    for (int i = 0; i < choices; ++i) {
      each.costs.push_back(layers * (4 + 2 * draw.below(7)));
      each.errors.push_back(std::exp(-8 * draw.uniform()));
    }
  }
  return variables;
}

Solution solution_of(const std::vector<Variable>& variables, const std::vector<int>& choices) {
  Solution solution{.choices = choices};
  for (std::size_t i = 0; i < variables.size(); ++i) {
    solution.cost += variables[i].costs[static_cast<std::size_t>(choices[i])];
    solution.error += variables[i].errors[static_cast<std::size_t>(choices[i])];
  }
  return solution;
}

// From the definition: everything is compared with everything.
std::map<std::int64_t, double> brute_force(const std::vector<Variable>& variables) {
  std::vector<Solution> all = {{}};
  for (const Variable& variable : variables) {
    std::vector<Solution> longer;
    for (const Solution& each : all) {
      for (std::size_t i = 0; i < variable.costs.size(); ++i) {
        Solution more = each;
        more.choices.push_back(static_cast<int>(i));
        longer.push_back(std::move(more));
      }
    }
    all = std::move(longer);
  }
  std::map<std::int64_t, double> least;  // error by cost
  for (const Solution& each : all) {
    const Solution whole = solution_of(variables, each.choices);
    const auto [at, is_new] = least.emplace(whole.cost, whole.error);
    if (!is_new) at->second = std::min(at->second, whole.error);
  }
  for (auto at = least.begin(); at != least.end();) {
    const bool beaten = std::any_of(
        least.begin(), at, [&](const auto& cheaper) { return cheaper.second <= at->second; });
    at = beaten ? least.erase(at) : std::next(at);
  }
  return least;
}

std::map<std::int64_t, double> as_map(const std::vector<Solution>& front) {
  std::map<std::int64_t, double> map;
  for (const Solution& each : front) map[each.cost] = each.error;
  CHECK(map.size() == front.size());
  return map;
}

Objective sum_of(const std::vector<Variable>& variables, int* asked = nullptr) {
  return [&variables, asked](std::span<const int> choices) {
    if (asked) ++*asked;
    return solution_of(variables, {choices.begin(), choices.end()}).error;
  };
}

// The area that a front dominates, with errors as logarithms, below a point that all dominate.
double hypervolume(const std::vector<Solution>& front, double cost, double error) {
  double volume = 0;
  for (std::size_t i = 0; i < front.size(); ++i) {
    const double next = i + 1 < front.size() ? static_cast<double>(front[i + 1].cost) : cost;
    volume +=
        (next - static_cast<double>(front[i].cost)) * (std::log(error) - std::log(front[i].error));
  }
  return volume;
}

// Twelve clusters of one to eight layers with the five pairs that KVTuner mostly leaves: errors as codes have them,
// about a factor of 16 for two bits, and layers that differ by up to a hundred.
std::vector<Variable> twelve_clusters() {
  Draw draw{12};
  std::vector<Variable> variables(12);
  for (Variable& each : variables) {
    const int layers = 1 + draw.below(8);
    const double scale = layers * std::pow(100, draw.uniform()), of_keys = 1 + 9 * draw.uniform();
    const auto add = [&](int k, int v) {
      each.costs.push_back(layers * (k + v));
      each.errors.push_back(scale * (of_keys * std::pow(16, -k) + std::pow(16, -v)));
    };
    add(2, 2);
    add(4, 2);
    add(4, 4);
    add(8, 4);
    add(8, 8);
  }
  return variables;
}

}  // namespace

TEST_CASE("dynamic programming and trying all give the front of the definition, to the last bit") {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    INFO("seed " << seed);
    const std::vector<Variable> variables = random_variables(1 + static_cast<int>(seed % 6), seed);
    const auto expected = brute_force(variables);
    const std::vector<Solution> exact = exact_front(variables);
    CHECK(as_map(exact) == expected);
    for (const Solution& each : exact) CHECK(each == solution_of(variables, each.choices));
    int asked = 0;
    CHECK(as_map(exhaustive_front(variables, sum_of(variables, &asked))) == expected);
    CHECK(asked == combinations(variables, 1'000'000));
  }
}

TEST_CASE("combinations are counted up to a limit") {
  std::vector<Variable> variables(100, {.costs = {1, 2, 3}, .errors = {3, 2, 1}});
  CHECK(combinations(variables, 500) == 501);
  variables.resize(4);
  CHECK(combinations(variables, 81) == 81);
  CHECK(combinations(variables, 80) == 81);
  CHECK(combinations({}, 10) == 1);
}

TEST_CASE(
    "of equal solutions the first stays, and fronts have nothing that another one dominates") {
  const std::vector<Solution> front = non_dominated(
      {{{1}, 4, 1.0}, {{0}, 4, 1.0}, {{2}, 5, 1.0}, {{3}, 6, 0.5}, {{4}, 3, 2.0}, {{5}, 4, 3.0}});
  CHECK(front == std::vector<Solution>{{{4}, 3, 2.0}, {{0}, 4, 1.0}, {{3}, 6, 0.5}});
}

TEST_CASE("NSGA-II comes within 1 % of the hypervolume of the exact front of twelve clusters") {
  const std::vector<Variable> variables = twelve_clusters();
  const std::vector<Solution> exact = exact_front(variables);
  REQUIRE(exact.size() > 100);
  const double cost = 1.05 * static_cast<double>(exact.back().cost), error = 2 * exact[0].error;
  const double best = hypervolume(exact, cost, error);
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    int asked = 0;
    const GeneticOptions options{.seed = seed, .population = 100, .evaluations = 20'000};
    const std::vector<Solution> found =
        genetic_front(variables, sum_of(variables, &asked), options);
    CAPTURE(seed, asked, found.size(), exact.size(), hypervolume(found, cost, error) / best);
    CHECK(asked <= options.evaluations);  // of 5^12 = 244 million
    CHECK(hypervolume(found, cost, error) >= 0.99 * best);
    CHECK(hypervolume(found, cost, error) <= best * (1 + 1e-12));
    CHECK(found == non_dominated(found));
    for (const Solution& each : found) CHECK(each == solution_of(variables, each.choices));
    CHECK(found == genetic_front(variables, sum_of(variables), options));
  }
}

TEST_CASE(
    "NSGA-II asks no combination twice, ends when it knows all, and takes what it is given to "
    "start from") {
  const std::vector<Variable> variables(3, {.costs = {1, 2, 3}, .errors = {3, 2, 1}});
  std::map<std::vector<int>, int> asked;
  const Objective objective = [&](std::span<const int> choices) {
    ++asked[{choices.begin(), choices.end()}];
    return solution_of(variables, {choices.begin(), choices.end()}).error;
  };
  const std::vector<Solution> found =
      genetic_front(variables, objective, {.evaluations = 1'000'000});
  CHECK(asked.size() == 27);
  for (const auto& [choices, times] : asked) CHECK(times == 1);
  CHECK(as_map(found) == brute_force(variables));

  const std::vector<Variable> twelve = twelve_clusters();
  std::vector<std::vector<int>> start;
  for (const Solution& each : exact_front(twelve)) start.push_back(each.choices);
  const std::vector<Solution> from_start =
      genetic_front(twelve, sum_of(twelve), {.population = 32, .evaluations = 32, .start = start});
  for (const std::size_t end : {std::size_t{0}, start.size() - 1}) {
    CHECK(std::ranges::any_of(from_start,
                              [&](const Solution& s) { return s.choices == start[end]; }));
  }
}

TEST_CASE("an objective that is not finite is as bad as can be") {
  const std::vector<Variable> variables(2, {.costs = {1, 2}, .errors = {0, 0}});
  const Objective objective = [](std::span<const int> choices) {
    return choices[0] == 0 ? std::numeric_limits<double>::quiet_NaN() : 1.0 - choices[1];
  };
  for (const auto& front :
       {exhaustive_front(variables, objective), genetic_front(variables, objective, {})}) {
    REQUIRE(front.size() == 3);
    CHECK(std::isinf(front[0].error));
    CHECK(front[1].choices == std::vector{1, 0});
    CHECK(front[2].choices == std::vector{1, 1});
  }
}
