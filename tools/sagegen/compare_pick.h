// The fastest of several kernels whose errors are within bounds, and the map of layers that a program loads.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "sagegen/kernel.h"
#include "tools/sagegen/run_judge.h"

namespace sagegen::cli {

// An error that a bound can be set to. `of` is 0 where there is none, and larger where there is more, but that the
// cosine similarity is 1 and smaller.
struct Measure {
  const char* option;  // "--max-l1"
  const char* name;    // "relative L1"
  double (*of)(const Errors&);
  bool is_least;  // the bound is the least value that is let through
};
std::span<const Measure> measures();

struct Bound {
  const Measure* measure;
  double limit;
  bool met(const Errors& errors) const;       // NaN meets none
  double excess(const Errors& errors) const;  // error / largest error that is let through
  std::string text() const;                   // "relative L1 <= 0.05"
};
using Bounds = std::vector<Bound>;
void define_bounds(CLI::App& app, Bounds& bounds);
std::string bounds_text(const Bounds& bounds);

// A kernel on the inputs of one layer.
struct Compared {
  Kernel kernel;
  Errors errors;
  std::vector<double> tops = {};  // predicted, of each GPU; empty: nobody knows
  bool sound = true;  // false: the kernel ran, and did not come to what its formats allow
};

bool within(const Compared& compared, const Bounds& bounds);

// Index of the fastest on the first GPU, of those that are sound and within all bounds. Whose predicted speed is at
// most `margin` percent below that counts as equally fast, and of these the one of the smallest relative L1 is taken.
std::optional<std::size_t> pick(const std::vector<Compared>& compared, const Bounds& bounds,
                                double margin);
// Index of the one whose largest excess is smallest: what a missed bound has to come to.
std::size_t nearest(const std::vector<Compared>& compared, const Bounds& bounds);

struct LayerChoice {
  std::string layer;  // empty: without a name
  std::vector<Compared> compared;
  std::optional<std::size_t> picked;
};

// The kernel for layers that were not looked at: picked as above of those that are within the bounds on every layer,
// by its errors where they are largest. None if no kernel is.
std::optional<Compared> pick_for_others(const std::vector<LayerChoice>& layers,
                                        const Bounds& bounds, double margin);

// Whether a map can name a layer so.
bool is_layer_name(const std::string& name);

// The text of attention::ModeMap (templates/attention/plan_mode_map.h): a line for each layer that has a name, one
// for the others, and `remarks` as comments. Layers have picks.
std::string mode_map_text(const std::vector<LayerChoice>& layers,
                          const std::optional<Compared>& others,
                          const std::vector<std::string>& remarks);

}  // namespace sagegen::cli
