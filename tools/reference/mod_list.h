// All mods of some inputs, the causal mask among them, as one: what the parts of the reference ask.
#pragma once

#include <cstdint>
#include <vector>

#include "tools/reference/mods.h"
#include "tools/reference/reference.h"

namespace sagegen::reference {

// Of `inputs`, which must outlive it. Scores are natural logarithms.
class ModList {
 public:
  explicit ModList(const Inputs& inputs);

  // None but the causal mask: nobody has to ask about a single score.
  bool empty() const { return in_->mods.empty(); }
  bool change_scores() const { return change_scores_; }
  // Whether a change of a row's scores by the same amount changes them by just that afterwards.
  bool keep_differences() const { return keep_differences_; }

  // Of the keys there are; begin <= end.
  KeySpan keys_of(std::int64_t query) const;
  // Keys among those of keys_of.
  bool hides(const Place& place) const;
  // Whether the query sees the key, whatever its score.
  bool sees(const Place& place) const;
  double changed(const Place& place, double score) const;
  // The share of the largest weight so far below which tiles may be left out; 0: none may.
  double least_weight(std::int64_t batch) const;
  // Of all sinks together; -infinity: none.
  double sink(std::int64_t batch, std::int64_t head) const;

  // A score, how far off a kernel's may be, and the part of that which may be the same for all keys
  // of a row; `slope`: what a small change of the first score is worth now.
  struct Uncertain {
    double score = 0, error = 0, common = 0, slope = 1;
  };
  Uncertain changed(const Place& place, Uncertain score) const;

 private:
  const Inputs* in_;
  bool change_scores_ = false, keep_differences_ = true;
};

}  // namespace sagegen::reference
