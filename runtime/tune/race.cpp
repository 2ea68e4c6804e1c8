#include "sagegen/runtime/race.h"

#include <algorithm>
#include <cmath>
#include <random>

#include <fmt/format.h>

#include "sagegen/runtime/error.h"

namespace sagegen::runtime {
namespace {

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

}  // namespace

Race::Race(std::size_t candidates, std::size_t usual, const RaceOptions& options)
    : options_(options), usual_(usual), runners_(candidates), winner_(usual) {
  if (usual >= candidates) {
    throw ArgumentError(fmt::format(
        "a race of {} candidates has none of number {}, which was named as the default; they "
        "count from 0",
        candidates, usual));
  }
  for (std::size_t candidate = 0; candidate < candidates; ++candidate) field_.push_back(candidate);
  begin_stage(Stage::first);
}

int Race::rounds_of(Stage stage) const {
  switch (stage) {
    case Stage::first:
      return options_.first_rounds;
    case Stage::middle:
      return options_.middle_rounds;
    case Stage::finals:
      return options_.final_rounds;
    case Stage::duel:
      return options_.most_duel_rounds;
    case Stage::over:
      break;
  }
  return 0;
}

std::optional<std::size_t> Race::next() const {
  if (stage_ == Stage::over) return std::nullopt;
  return order_[position_];
}

void Race::record(double sample) {
  const std::optional<std::size_t> candidate = next();
  if (!candidate) throw ArgumentError("the race is over: there is nobody left to time");
  if (!std::isfinite(sample) || sample <= 0) {
    throw ArgumentError(
        fmt::format("a sample of {} is no time: it is positive and finite", sample));
  }
  runners_[*candidate].samples.push_back({round_, sample});
  ++recorded_;
  if (++position_ == order_.size()) end_round();
}

void Race::remove(std::size_t candidate) {
  if (runners_.at(candidate).removed) return;
  runners_[candidate].removed = true;
  if (stage_ == Stage::over) return;
  if (candidate == usual_) {
    winner_ = usual_;
    stage_ = Stage::over;
    return;
  }
  std::erase(field_, candidate);
  const auto found = std::ranges::find(order_, candidate);
  if (found != order_.end()) {
    if (static_cast<std::size_t>(found - order_.begin()) < position_) --position_;
    order_.erase(found);
  }
  if (position_ == order_.size()) end_round();
}

// Of rounds that have both. Samples are in the order of rounds.
std::vector<double> Race::ratios(std::size_t candidate, int from) const {
  std::vector<double> found;
  auto usual = runners_[usual_].samples.begin();
  const auto end = runners_[usual_].samples.end();
  for (const Sample& sample : runners_[candidate].samples) {
    if (sample.round < from) continue;
    while (usual != end && usual->round < sample.round) ++usual;
    if (usual != end && usual->round == sample.round) found.push_back(sample.value / usual->value);
  }
  return found;
}

double Race::ratio(std::size_t candidate) const { return median(ratios(candidate)); }

double Race::best_ratio() const {
  double best = 1;  // the default
  for (const std::size_t candidate : field_) {
    if (const double of_it = ratio(candidate); of_it > 0) best = std::min(best, of_it);
  }
  return best;
}

void Race::begin_round() {
  ++round_;
  order_ = field_;
  // The order follows from the number of the round alone.
  std::minstd_rand random(static_cast<std::uint32_t>(round_));
  for (std::size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random() % i]);
  position_ = 0;
}

void Race::begin_stage(Stage stage) {
  stage_ = stage;
  rounds_in_stage_ = 0;
  if (stage == Stage::duel) duel_begin_ = round_ + 1;
  // Nobody to compare with, or nobody who is left of those that were.
  if (field_.size() < 2 || rounds_of(stage) < 1) return settle();
  begin_round();
}

void Race::end_round() {
  ++rounds_in_stage_;
  if (stage_ == Stage::first && rounds_in_stage_ >= 3) keep_within(options_.drop);
  const bool enough = rounds_in_stage_ >= rounds_of(stage_) ||
                      (stage_ == Stage::duel && duel_is_clear()) || field_.size() < 2;
  if (!enough) return begin_round();
  settle();
}

// What follows a stage.
void Race::settle() {
  switch (stage_) {
    case Stage::first:
      keep_within(options_.middle_drop);
      return begin_stage(Stage::middle);
    case Stage::middle:
      keep_finalists();
      return begin_stage(Stage::finals);
    case Stage::finals: {
      // One that does not reach the margin is no equal of one that does.
      const double reached = 1 - options_.margin, best = best_ratio();
      const double limit = std::min(best * (1 + options_.tie), std::max(best, reached));
      winner_ = usual_;
      for (const std::size_t candidate : field_) {  // in the order of preference
        if (const double of_it = ratio(candidate); of_it > 0 && of_it <= limit) {
          winner_ = candidate;
          break;
        }
      }
      field_ = {std::min(winner_, usual_)};
      if (winner_ != usual_) field_.push_back(std::max(winner_, usual_));
      return begin_stage(Stage::duel);
    }
    case Stage::duel:
      if (winner_ != usual_ && !runners_[winner_].removed) {
        const std::vector<double> of_duel = ratios(winner_, duel_begin_);
        const double found = of_duel.empty() ? ratio(winner_) : median(of_duel);
        if (found >= 1 - options_.margin) winner_ = usual_;
      } else {
        winner_ = usual_;
      }
      stage_ = Stage::over;
      return;
    case Stage::over:
      return;
  }
}

void Race::keep_within(double factor) {
  const double limit = best_ratio() * factor;
  std::erase_if(field_, [&](std::size_t candidate) {
    return candidate != usual_ && ratio(candidate) > limit;
  });
}

void Race::keep_finalists() {
  std::vector<std::size_t> best = field_;
  std::ranges::stable_sort(best, {}, [&](std::size_t candidate) { return ratio(candidate); });
  best.resize(std::min(best.size(), static_cast<std::size_t>(std::max(options_.finalists, 1))));
  std::erase_if(field_, [&](std::size_t candidate) {
    return candidate != usual_ && std::ranges::find(best, candidate) == best.end();
  });
}

// Whether the ratio of the two is off the margin by more than it may be wrong. The error of a median is 1.25 sigma /
// sqrt(n) where noise is normal; the distance of quartiles, 1.35 sigma, follows no outlier.
bool Race::duel_is_clear() const {
  constexpr std::size_t kLeast = 8;
  std::vector<double> ratios = this->ratios(winner_, duel_begin_);
  if (ratios.size() < kLeast) return false;
  std::ranges::sort(ratios);
  const double quartiles = ratios[ratios.size() * 3 / 4] - ratios[ratios.size() / 4];
  const double error = 1.25 * quartiles / 1.35 / std::sqrt(static_cast<double>(ratios.size()));
  return std::abs(median(ratios) - (1 - options_.margin)) > 3 * error;
}

std::vector<Race::Standing> Race::standings() const {
  std::vector<Standing> all;
  for (std::size_t candidate = 0; candidate < runners_.size(); ++candidate) {
    const Runner& runner = runners_[candidate];
    std::vector<double> values;
    for (const Sample& sample : runner.samples) values.push_back(sample.value);
    all.push_back({.candidate = candidate,
                   .samples = runner.samples.size(),
                   .ratio = ratio(candidate),
                   .time = median(std::move(values)),
                   .removed = runner.removed});
  }
  std::ranges::stable_sort(all, [](const Standing& a, const Standing& b) {
    if (a.removed != b.removed) return b.removed;
    if ((a.ratio > 0) != (b.ratio > 0)) return a.ratio > 0;
    return a.ratio < b.ratio;
  });
  return all;
}

std::size_t Race::winner() const {
  if (stage_ == Stage::over || stage_ == Stage::duel) return winner_;
  std::size_t best = usual_;
  double ratio_of_best = 1;
  for (const std::size_t candidate : field_) {
    const double of_it = ratio(candidate);
    if (of_it > 0 && of_it < ratio_of_best) {
      best = candidate;
      ratio_of_best = of_it;
    }
  }
  return best;
}

std::size_t Race::samples_left() const {
  if (stage_ == Stage::over) return 0;
  const auto finalists = static_cast<std::size_t>(std::max(options_.finalists, 1)) + 1;
  std::size_t left = order_.size() - position_;
  std::size_t field = field_.size();
  left += field * static_cast<std::size_t>(std::max(rounds_of(stage_) - rounds_in_stage_ - 1, 0));
  for (const Stage stage : {Stage::middle, Stage::finals, Stage::duel}) {
    if (stage <= stage_) continue;
    // A third is what usually comes so far.
    if (stage == Stage::middle) field = std::min(field, std::max(field / 3, finalists));
    if (stage == Stage::finals) field = std::min(field, finalists);
    if (stage == Stage::duel) field = std::min<std::size_t>(field, 2);
    left += field * static_cast<std::size_t>(stage == Stage::duel ? rounds_of(stage) / 3
                                                                  : rounds_of(stage));
  }
  return left;
}

}  // namespace sagegen::runtime
