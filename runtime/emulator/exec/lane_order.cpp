#include "runtime/emulator/exec/lane_order.h"

#include <algorithm>

namespace sagegen::emulator {
namespace {

template <class Times>
void raise(Times& times, const Times& to) {
  for (std::size_t i = 0; i < times.size(); ++i) times[i] = std::max(times[i], to[i]);
}

template <class F>
void for_each_lane(std::uint32_t lanes, F&& f) {
  for (; lanes != 0; lanes &= lanes - 1) f(std::countr_zero(lanes));
}

}  // namespace

void LaneOrder::begin_some() {
  if (some_met_) return;
  if (known_ == nullptr) known_ = std::make_unique<std::array<Times, 32>>();
  some_met_ = true;
}

void LaneOrder::forget_some() {
  known_->fill({});
  publishers_ = {};
  some_met_ = false;
}

void LaneOrder::meet_some(std::uint32_t group, std::uint32_t now) {
  begin_some();
  Times together = {};
  for_each_lane(group, [&](int lane) {
    raise(together, (*known_)[lane]);
    together[lane] = now + 1;
  });
  for_each_lane(group, [&](int lane) { (*known_)[lane] = together; });
}

int LaneOrder::first_unknown(std::uint32_t lanes, std::uint32_t time, int lane) const {
  for (; lanes != 0; lanes &= lanes - 1) {
    const int other = std::countr_zero(lanes);
    if (time >= (*known_)[lane][other]) return other;
  }
  return -1;
}

void LaneOrder::publish(int lane, std::uint64_t address, std::uint32_t now) {
  begin_some();
  publishers_[place_of(address)] |= 1u << lane;
  published_[lane] = now + 1;
}

void LaneOrder::take_over(int lane, std::uint64_t address) {
  if (!some_met_) return;
  Times& known = (*known_)[lane];
  for_each_lane(publishers_[place_of(address)] & ~(1u << lane), [&](int other) {
    raise(known, (*known_)[other]);
    known[other] = std::max(known[other], published_[other]);
  });
}

}  // namespace sagegen::emulator
