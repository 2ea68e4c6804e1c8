// Which bits the KV cache of each layer gets: the planner of KVTuner (arXiv 2502.04420, section 5). From what quantization
// costs each layer (errors.h) it finds the maps that no other beats in both bits and error.
//
//   prune    of a layer those pairs stay that no other pair beats in bits and in its e_o;
//   cluster  layers with the same pairs left, and errors that differ by little, get one choice together;
//   search   a pair for each cluster. The error of a map is the mean over layers of e_o^2, as its root (RMS): it adds up,
//            so that dynamic programming finds the whole front, without sampling. With a metric of the caller's, such as
//            a task's, all maps are tried where they are few; else NSGA-II searches, from the front of e_o on.
//
// e_o is of one layer with exact inputs: how errors travel to later layers is not in it. That is what a metric is for.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tools/kv/planner/errors.h"
#include "tools/kv/planner/search.h"

namespace sagegen::kv {

// What a cap and the pruning count. nominal: the bits of codes; effective: with scales, zero points and padding, as a
// full page has them.
enum class BitMeasure { nominal, effective };

// Of a whole map, less is better: a task's loss, say.
using Metric = std::function<double(const Map&)>;

struct PlanOptions {
  CacheModel cache = {};  // that the errors were measured with
  BitMeasure bits = BitMeasure::nominal;
  std::vector<int> code_bits = {2, 4, 8};  // of pairs: K and V get any two of these
  int protect = 2;        // layers at each end that stay at KV8, whatever their errors; 0: none
  bool per_head = false;  // a choice for each KV head in place of each layer
  // The largest ratio of the errors of two layers of a cluster, in any of their pairs; 1: no two layers share.
  double similar = 1.5;
  std::int64_t context = 8192;    // tokens, for bytes per step
  Metric metric = {};             // none: e_o
  std::int64_t exhaustive = 512;  // maps that are tried at most before NSGA-II takes over
  GeneticOptions genetic = {.population = 32, .evaluations = 400};
};

// A layer, or one of its KV heads.
struct Unit {
  int layer = 0;
  int head = -1;  // -1: all of them
  friend bool operator==(const Unit&, const Unit&) = default;
};

struct Cluster {
  std::vector<Unit> units;  // ascending
  std::vector<Pair> pairs;  // that are left, by ascending bits
  bool is_protected = false;
};

struct PlannedMap {
  Map map;
  double nominal_bits = 0, effective_bits = 0;  // mean over layers, heads, K and V
  double error = 0;                             // RMS over layers of e_o, or what the metric says
  double step_bytes =
      0;  // that a decode step reads of the caches of one sequence with `context` tokens
};

struct Plan {
  std::vector<Cluster> clusters;  // a partition of all units, by their first one
  std::vector<PlannedMap> front;  // by ascending bits and descending error; never empty
  // Where the error is e_o: the front if every unit had a choice of its own, which tells what clusters cost.
  std::vector<PlannedMap> unclustered;
  // Likewise: one pair for all layers, protected ones too, of those that no other pair beats. What a plan is worth beside.
  std::vector<PlannedMap> uniform;
  std::string search;  // "dynamic programming", "all 81 maps", "NSGA-II, 400 maps"
};

// The pairs that no other dominates, by ascending bits: `bits` and `errors` of each pair, in the same order.
std::vector<std::size_t> pruned(std::span<const int> bits, std::span<const double> errors);

// Indices in groups: of one group are equal lists, and errors of the list no two of which differ by more than the ratio
// `similar`. Agglomerative with complete linkage on log errors: the two closest groups merge, the first of equally close
// ones, while all of the result are that close. Every index is in one group.
std::vector<std::vector<std::size_t>> clustered(const std::vector<std::vector<std::size_t>>& lists,
                                                const std::vector<std::vector<double>>& errors,
                                                double similar);

// Throws SpecError for options and errors that do not fit together.
Plan plan(const std::vector<LayerErrors>& layers, const PlanOptions& options);

// The map with the least error among those with no more bits than the cap, of the measure of the options. Throws SpecError
// if none is: it names the fewest bits that there are, and what takes them.
const PlannedMap& best_under(const Plan& plan, double cap_bits, const PlanOptions& options);

}  // namespace sagegen::kv
