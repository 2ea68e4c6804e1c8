// What a planner has measured, in a file: a plan that was stopped goes on where it was and measures nothing twice.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tools/kv/planner/planner.h"

namespace sagegen::kv {

// "KV8 K4V2 ...": a word for each layer, "K8V4,KV4" where heads differ.
std::string map_text(const Map& map);

// The file is written as a whole with every result (whole_file.h), so that it has all of them whenever the process ends.
// Throws FileError for a file that is none of these, or is of another subject.
class PlannerState {
 public:
  // Goes on with the file if there is one; an empty path keeps everything in memory. subject: all that results depend on
  // but the inputs, as a line: CacheModel, rows, the metric's name.
  PlannerState(std::filesystem::path file, std::string subject);

  // Null: not measured. Throws FileError if it was measured of inputs of another digest.
  const LayerErrors* layer(int layer, std::uint64_t digest) const;
  void add(int layer, std::uint64_t digest, const LayerErrors& errors);

  // Of a map, in the words of map_text(). Null: not measured.
  const double* metric(const std::string& map) const;
  void add(const std::string& map, double metric);

 private:
  struct Measured {
    std::uint64_t digest = 0;
    LayerErrors errors;
  };
  void read(const std::string& text);
  void write() const;

  std::filesystem::path file_;
  std::string subject_;
  std::map<int, Measured> layers_;
  std::map<std::string, double> metrics_;
};

// The line that a state is of.
std::string subject_of(const MeasureOptions& options, const std::string& metric = {});

// Layers one after the other, each on all threads, so that one layer's inputs are in memory at a time and every result is
// on the disk before the next one begins. load: of a layer; it is asked for all, to see that inputs are what they were.
// done: after each layer, with how many there are; it may throw to stop.
struct LayerProgress {
  int done = 0, count = 0;
  bool measured = false;  // false: the state had it
};
std::vector<LayerErrors> measure_layers(int count,
                                        const std::function<reference::Inputs(int)>& load,
                                        const MeasureOptions& options, PlannerState& state,
                                        const std::function<void(LayerProgress)>& done = {});

// The metric, asked only for maps that the state has no result of. The state must outlive it.
Metric remembered(Metric metric, PlannerState& state);

}  // namespace sagegen::kv
