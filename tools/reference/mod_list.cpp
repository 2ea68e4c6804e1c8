#include "tools/reference/mod_list.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tools/reference/streaming_softmax.h"

namespace sagegen::reference {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

ModList::ModList(const Inputs& inputs) : in_(&inputs) {
  for (const ScoreMod& mod : inputs.mods) {
    change_scores_ |= static_cast<bool>(mod.changes);
    keep_differences_ &= !mod.derivative;
  }
}

KeySpan ModList::keys_of(std::int64_t query) const {
  KeySpan keys{.begin = 0, .end = in_->k.tokens};
  if (in_->causal) keys.end = causal_keys(query, in_->causal_offset, in_->k.tokens);
  for (const ScoreMod& mod : in_->mods) {
    if (!mod.keys_of) continue;
    const KeySpan more = mod.keys_of(query);
    keys.begin = std::max(keys.begin, more.begin);
    keys.end = std::min(keys.end, more.end);
  }
  if (keys.begin >= keys.end) return {};
  return keys;
}

bool ModList::hides(const Place& place) const {
  return std::any_of(in_->mods.begin(), in_->mods.end(),
                     [&](const ScoreMod& mod) { return mod.hides && mod.hides(place); });
}

bool ModList::sees(const Place& place) const {
  return !hides(place) && (!change_scores_ || changed(place, 0.0) > -kInfinity);
}

double ModList::changed(const Place& place, double score) const {
  for (const ScoreMod& mod : in_->mods)
    if (mod.changes) score = mod.changes(place, score);
  return score;
}

double ModList::least_weight(std::int64_t batch) const {
  double least = 0;
  for (const ScoreMod& mod : in_->mods)
    if (mod.least_weight) least = std::max(least, mod.least_weight(batch));
  return least;
}

double ModList::sink(std::int64_t batch, std::int64_t head) const {
  double sum = -kInfinity;
  for (const ScoreMod& mod : in_->mods) {
    if (!mod.sink) continue;
    const double one = mod.sink(batch, head), top = std::max(sum, one);
    if (top > -kInfinity) sum = top + std::log(std::exp(sum - top) + std::exp(one - top));
  }
  return sum;
}

// f(s + e) = f(s) + f'(s) e + at most bend / 2 e^2; and never farther from f(s) than steepest e.
ModList::Uncertain ModList::changed(const Place& place, Uncertain s) const {
  for (const ScoreMod& mod : in_->mods) {
    if (!mod.changes) continue;
    Uncertain next = s;
    next.score = mod.changes(place, s.score);
    if (next.score == -kInfinity) {  // for certain; a cap may make a number of it again
      s = {.score = -kInfinity, .slope = 0};
      continue;
    }
    if (mod.derivative) {
      const double derivative = mod.derivative(place, s.score), slope = std::fabs(derivative);
      const double bent =
          std::min(mod.bend / 2 * s.error * s.error, (mod.steepest + slope) * s.error);
      next.error = std::min(slope * s.error + bent, mod.steepest * s.error);
      next.common = slope * s.common + bent;
      next.slope = s.slope * derivative;
    }
    const double rounding = mod.rounding ? mod.rounding(place, s.score, next.score) : 0;
    next.error += rounding;
    next.common += rounding;
    s = next;
  }
  return s;
}

}  // namespace sagegen::reference
