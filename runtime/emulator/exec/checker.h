// The checks of one CTA: definedness and copies in flight of shared memory, races, undefined global
// writes. Handlers compiled for checks call it for every lane's access, after bounds and alignment.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "runtime/emulator/exec/access.h"
#include "runtime/emulator/exec/cta_races.h"

namespace sagegen::emulator {

// Of a fence: the threads that it orders.
enum class Scope : std::uint8_t { cta, wider };

class Checker {
 public:
  // `ordered`: of programs that order CTAs; `global`: of the others. One is null.
  Checker(const Cta& cta, GlobalRaces* global, CtaRaces* ordered);

  // True if all bytes are defined, or if a report says why they are not.
  bool read(const Warp& w, const Op& op, int lane, const Target& target, std::uint32_t bytes,
            AccessKind kind = AccessKind::read);
  // Without a check, bit i: byte i is undefined.
  std::uint32_t undefined_bytes(const Target& target, std::uint32_t bytes) const;
  // Call it before memory changes: `value` are the bytes to store, `defined` is their state.
  void write(const Warp& w, const Op& op, int lane, const Target& target, std::uint32_t bytes,
             const void* value, bool defined, AccessKind kind = AccessKind::write);
  // The same for at most eight bytes of which some are undefined, as bits.
  void write_partly(const Warp& w, const Op& op, int lane, const Target& target,
                    std::uint32_t bytes, const void* value, std::uint32_t undefined,
                    AccessKind kind = AccessKind::write);
  // Reports if two lanes of one instruction store different values to one address. `values` holds
  // `bytes` bytes per lane.
  void same_instruction(const Warp& w, const Op& op, std::uint32_t mask, const Target* targets,
                        std::uint32_t bytes, const std::uint8_t* values) const;

  // A copy to shared memory: from its issue until the issuing thread has waited, nobody may touch the
  // destination.
  void copy_issued(const Warp& w, const Op& op, int lane, std::uint32_t offset,
                   std::uint32_t bytes);
  void copy_landed(std::uint32_t offset, std::uint32_t bytes, std::uint32_t source_bytes,
                   const std::uint8_t* source_written);
  void copy_waited(const Warp& w, std::uint32_t copy_op, int lane, std::uint32_t offset,
                   std::uint32_t bytes);

  void barrier_arrive(int warp, int barrier);
  void barrier_release(int barrier, std::uint32_t warps);
  void fence(int warp, Scope scope);
  // Lanes of the warp have waited for each other.
  void lanes_met(const Warp& w, std::uint32_t lanes) {
    races_.lanes(w.index).meet(lanes, w.live, time_of(w));
  }

 private:
  enum State : std::uint8_t { kDefined = 1, kInFlight = 2 };

  bool shared_defined(std::uint32_t offset, std::uint32_t bytes) const;
  // False if there was a report.
  bool require_landed(const Warp& w, const Op& op, int lane, std::uint64_t offset,
                      std::uint32_t bytes, const char* doing) const;
  // Instructions of the warp so far; in the end it stands still, and nothing more is a hazard of lanes.
  static std::uint32_t time_of(const Warp& w) {
    return static_cast<std::uint32_t>(
        std::min<std::uint64_t>(w.executed - static_cast<std::uint64_t>(w.budget), 0xffff'fffe));
  }
  // `value`: what a write to global memory stores.
  void race_check(const Warp& w, const Op& op, int lane, const Target& target, std::uint32_t bytes,
                  AccessKind kind, const void* value = nullptr);

  const Cta& cta_;
  GlobalRaces* global_;
  CtaRaces* ordered_;
  RaceDetector races_;
  std::vector<Knowledge> known_;            // by warp; empty without `ordered_`
  std::array<Knowledge, 16> handed_on_;     // by barrier
  std::vector<std::uint8_t> shared_state_;  // State bits, by shared offset
  std::vector<std::uint32_t> copy_op_;      // per 4 bytes of shared memory: the copy in flight
};

}  // namespace sagegen::emulator
