// Planted costs with the noise of a real clock: some percent on each sample, a clock that drifts, and now and then an
// outlier.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

namespace sagegen::tests {

struct Noise {
  double sigma = 0.01;        // of each sample
  double drift = 0.1;         // of all, over some hundred samples
  double outliers = 0.02;     // how many samples take up to twice as long
  double short_outliers = 0;  // and how many take down to half as long
};

class PlantedClock {
 public:
  PlantedClock(std::vector<double> costs, std::uint64_t seed, const Noise& noise = {})
      : costs_(std::move(costs)), noise_(noise), random_(seed) {}

  double time(std::size_t candidate) {
    ++samples_;
    double value = costs_[candidate];
    value *= 1 + noise_.sigma * std::normal_distribution<double>()(random_);
    value *= 1 + noise_.drift * std::sin(static_cast<double>(samples_) / 150);
    if (std::bernoulli_distribution(noise_.outliers)(random_))
      value *= 1 + std::uniform_real_distribution<double>()(random_);
    if (std::bernoulli_distribution(noise_.short_outliers)(random_))
      value /= 1 + std::uniform_real_distribution<double>()(random_);
    return value;
  }
  std::size_t samples() const { return samples_; }

 private:
  std::vector<double> costs_;
  Noise noise_;
  std::mt19937_64 random_;
  std::size_t samples_ = 0;
};

// A field as schedules make it: most are far off, some are close.
inline std::vector<double> planted_costs(std::size_t candidates, std::mt19937_64& random) {
  std::vector<double> costs;
  for (std::size_t i = 0; i < candidates; ++i) {
    const double off = std::exponential_distribution<double>(4)(random);
    costs.push_back(100 * (1 + off));
  }
  return costs;
}

}  // namespace sagegen::tests
