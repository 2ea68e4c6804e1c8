// Which accesses of the lanes of one warp are ordered. A warp need not run in lockstep (independent thread
// scheduling, sm_70 and later), so what one lane did comes before what another does only if the two have
// met in between.
//
// Lanes meet where the PTX ISA lets them wait for each other: at bar.warp.sync, at barriers of the CTA, and
// at every other warp-wide instruction with .sync (shfl, vote, match, redux, elect, ldmatrix, stmatrix,
// movmatrix, mma). The ISA promises an order of memory only for the barriers; programs rely on it for
// shuffles, too, and hardware brings the lanes together for all of them. What ldmatrix and stmatrix access
// themselves belongs to the time before.
//
// An atomic or volatile write hands on what its lane did, to those that read the same place so: less than
// the fences that the memory consistency model asks for, since whether they are there is not followed here.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <memory>

namespace sagegen::emulator {

class LaneOrder {
 public:
  // Times are counts of instructions of the warp. An instruction has one time for all its lanes and is no
  // hazard to itself: see Checker::same_instruction.

  // The lanes of `group` have met at `now`; `live`: those that have not exited.
  void meet(std::uint32_t group, std::uint32_t live, std::uint32_t now) {
    if ((live & ~group) == 0) {
      all_met_ = now + 1;
      if (some_met_) forget_some();
      return;
    }
    meet_some(group, now);
  }

  // What lane `first` did at `time` is over before what lane `second` does at `now`.
  bool before(int first, std::uint32_t time, int second, std::uint32_t now) const {
    return time < all_met_ || first == second || time == now ||
           (some_met_ && time < (*known_)[second][first]);
  }
  // Of the lanes that did something at `time`, the first for which it is not over for `lane`; -1 if none.
  int first_not_before(std::uint32_t lanes, std::uint32_t time, int lane) const {
    lanes &= ~(1u << lane);
    if (time < all_met_ || lanes == 0) return -1;
    if (!some_met_) return std::countr_zero(lanes);
    return first_unknown(lanes, time, lane);
  }
  // It is over for all lanes.
  bool before_all(std::uint32_t time) const { return time < all_met_; }
  // No lanes have met since.
  bool since_all_met(std::uint32_t time) const { return time >= all_met_ && !some_met_; }

  void publish(int lane, std::uint64_t address, std::uint32_t now);
  void take_over(int lane, std::uint64_t address);

 private:
  // Where addresses fall together, more counts as ordered.
  static constexpr std::size_t kPlaces = 64;
  using Times = std::array<std::uint32_t, 32>;  // what was done before them is over, by lane

  static std::size_t place_of(std::uint64_t address) { return (address >> 2) % kPlaces; }
  void meet_some(std::uint32_t group, std::uint32_t now);
  void begin_some();
  void forget_some();
  int first_unknown(std::uint32_t lanes, std::uint32_t time, int lane) const;

  std::uint32_t all_met_ = 1;
  bool some_met_ = false;  // what follows is in use
  std::unique_ptr<std::array<Times, 32>> known_;
  std::array<std::uint32_t, kPlaces> publishers_ = {};  // lanes
  Times published_ = {};
};

}  // namespace sagegen::emulator
