// What a launch may execute in all: EmulatorOptions::launch_limit.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>

namespace sagegen::emulator {

// CTAs are charged in the order of the grid, whatever order they end in, so that the same CTA passes the
// limit for any number of host threads. Thread-safe.
class LaunchBudget {
 public:
  // What a CTA costs beside its instructions: without them a grid of empty kernels would be free.
  static constexpr std::uint64_t kCtaInstructions = 256;

  explicit LaunchBudget(std::uint64_t limit) : limit_(limit) {}  // 0: none

  // CTA `linear` has ended. The CTA that passes the limit, once it is known.
  std::optional<std::uint32_t> spend(std::uint32_t linear, std::uint64_t instructions) {
    if (limit_ == 0) return std::nullopt;
    const std::lock_guard lock(mutex_);
    ended_[linear] = instructions + kCtaInstructions;
    for (auto next = ended_.begin(); next != ended_.end() && next->first == charged_;) {
      spent_ += next->second;
      if (spent_ > limit_ && !passed_) passed_ = charged_;
      ++charged_;
      next = ended_.erase(next);
    }
    return passed_;
  }
  std::optional<std::uint32_t> passed() {
    const std::lock_guard lock(mutex_);
    return passed_;
  }

 private:
  const std::uint64_t limit_;
  std::mutex mutex_;
  std::uint32_t charged_ = 0;                     // CTAs before this one
  std::uint64_t spent_ = 0;                       // by these
  std::map<std::uint32_t, std::uint64_t> ended_;  // not yet charged
  std::optional<std::uint32_t> passed_;
};

}  // namespace sagegen::emulator
