// The state of one CTA while it runs, and the accessors that handlers use.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/emulator/exec/program.h"

namespace sagegen::emulator {

class Checker;
class GlobalRaces;
struct Cta;

// After a divergent branch a warp runs in parts, one at a time. The rest lies on a stack of these.
struct Split {
  enum class Kind : std::uint8_t {
    side,     // lanes that have not had their turn
    blocked,  // lanes at a collective instruction, which waits for lanes of other parts
    join,     // where lanes that diverged above this entry rejoin; the lanes that are there
  };
  const Op* pc = nullptr;
  std::uint32_t mask = 0;
  Kind kind = Kind::side;
  bool spins = false;  // a side that had its turn and did not get on
};

// The running part of a diverged warp as it was at the end of an earlier turn. If it comes back to the
// same place with the same registers, it waits for someone.
struct SpinWatch {
  std::uint64_t executed = 0;  // since the warp diverged, or since another part had its turn
  const Op* pc = nullptr;
  std::uint32_t active = 0;
  std::uint64_t registers = 0;         // a hash
  std::uint32_t turns = 0, until = 1;  // when to look from here
};

enum class WarpState : std::uint8_t { ready, at_barrier, exited };

// One cp.async instruction whose data has not been waited for by the lanes in `pending`.
struct AsyncCopy {
  std::uint32_t pending = 0;  // lanes that have not waited for it
  std::uint32_t landed = 0;   // lanes whose data is already in shared memory
  std::uint8_t bytes = 16;
  std::uint32_t op = 0;                           // op index
  std::array<std::uint32_t, kLanes> group;        // per lane: number of the lane's group
  std::array<std::uint32_t, kLanes> destination;  // shared offset
  std::array<std::uint8_t, kLanes> source_bytes;  // the rest is zeros
  std::array<const std::uint8_t*, kLanes> source;
  std::array<const std::uint8_t*, kLanes> source_written;  // shadow; only with checks
};

struct Warp {
  // What the loop touches for every instruction.
  const Op* pc = nullptr;
  std::uint32_t active = 0;  // running lanes
  std::int32_t budget = 0;   // instructions left of the quantum; a blocking handler sets it to 0
  std::uint32_t* rows = nullptr;
  std::uint32_t* predicates = nullptr;
  std::uint32_t* defined = nullptr;  // a lane mask per definedness cell; only with checks
  // Of lanes that are not defined: per row, those of which some bits are, and which bits are not.
  std::uint32_t* partial = nullptr;
  std::uint32_t* undefined = nullptr;  // like rows

  Cta* cta = nullptr;
  const Program* program = nullptr;
  const Op* ops = nullptr;  // Program::plain or checked
  std::uint32_t live = 0;   // lanes that have not exited
  int index = 0;
  WarpState state = WarpState::ready;
  int barrier = -1;               // number of the barrier it waits at
  const Op* reduction = nullptr;  // the bar.red that takes the barrier's votes
  std::vector<Split> splits;
  SpinWatch watch;
  const Op* last_chance = nullptr;  // where blocked lanes try again, with nobody left to wait for
  // Lanes put aside at a bar.warp.sync whose group has come together meanwhile, at other ones.
  std::uint32_t met = 0;
  std::vector<std::uint8_t> local;          // local memory, thread after thread
  std::vector<std::uint8_t> local_written;  // its shadow; only with checks
  std::vector<AsyncCopy> copies;            // in order of issue
  std::array<std::uint32_t, kLanes> open_group =
      {};  // per lane: the group that the next copy joins
  std::uint64_t executed = 0;
  std::uint32_t turns = 0;  // since it last waited at a barrier; see SchedulePolicy::reverse
};

struct Barrier {
  std::uint32_t expected = 0;  // threads, if the instructions give a count; otherwise 0, and all
                               // warps that have not exited are expected
  std::uint32_t arrived = 0;   // threads; 0: idle
  std::uint32_t waiting = 0;   // warps blocked at it
  std::uint32_t came = 0;      // warps that arrived, waiting or not
  std::uint32_t voters = 0, votes = 0;  // bar.red: threads, and those whose predicate holds
  // Of these, those whose predicate is undefined.
  std::uint32_t undefined_voters = 0, undefined_votes = 0;
};

struct Counts {
  std::vector<std::uint64_t> executed;  // per op
  std::vector<std::uint64_t> wavefronts;
  std::vector<std::uint64_t> wavefronts_ideal;
};

// A small deterministic generator; one per CTA, seeded by seed and CTA.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  std::uint32_t below(std::uint32_t bound) { return static_cast<std::uint32_t>(next() % bound); }

 private:
  std::uint64_t state_;
};

// The findings of one CTA. Each check reports once per PTX line and counts after that.
struct FindingLog {
  static constexpr std::size_t kMost = 16;
  std::vector<runtime::Finding> findings;
  bool full = false;  // there was one more
};

struct Cta {
  const LaunchRequest* request = nullptr;
  const AddressMap* map = nullptr;
  std::uint64_t instruction_limit = 0;
  std::uint32_t linear = 0;  // position in the grid
  int id[3] = {0, 0, 0};

  std::vector<Warp> warps;
  std::array<Barrier, 16> barriers;
  std::uint32_t passed_over = 0;  // warps whose turn it is not until the others had theirs
  std::uint8_t* shared =
      nullptr;  // indexed by shared offset; valid from kSharedStart to shared_end
  std::uint32_t shared_end = 0;
  Random random{0};
  std::vector<const Allocation*> hits;  // per access: where it went last
  Checker* checker = nullptr;           // null without checks
  Counts* counts = nullptr;             // null without counting
  FindingLog* log = nullptr;
  alignas(64) std::array<std::uint8_t, 64> nowhere = {};  // see Space::nowhere
};

// ---- accessors ---------------------------------------------------------------------------------

inline std::uint32_t* row32(const Warp& w, std::uint16_t row) {
  return static_cast<std::uint32_t*>(
      __builtin_assume_aligned(w.rows + std::size_t{row} * kLanes, 128));
}
inline std::uint64_t* row64(const Warp& w, std::uint16_t row) {
  return reinterpret_cast<std::uint64_t*>(row32(w, row));
}
inline std::uint32_t op_index(const Warp& w, const Op& op) {
  return static_cast<std::uint32_t>(&op - w.ops);
}
inline const OpInfo& op_info(const Warp& w, const Op& op) {
  return w.program->ops[op_index(w, op)];
}
inline const std::uint16_t* pooled(const Warp& w, const Op& op) {
  return w.program->pool.data() + op.pool;
}
// A predicate operand of the form, complemented if the text says so.
inline std::uint32_t predicate_operand(const Warp& w, const Op& op, int operand) {
  std::uint32_t value = w.predicates[op.r[operand]];
  return (op.negated >> operand & 1) != 0 ? ~value : value;
}
inline void set_predicate(const Warp& w, std::uint16_t predicate, std::uint32_t value,
                          std::uint32_t mask) {
  std::uint32_t& p = w.predicates[predicate];
  p = (p & ~mask) | (value & mask);
}
inline int first_lane(std::uint32_t mask) { return std::countr_zero(mask); }

template <class F>
inline void for_lanes(std::uint32_t mask, F&& f) {
  for (; mask != 0; mask &= mask - 1) f(std::countr_zero(mask));
}

// ---- definedness -------------------------------------------------------------------------------

inline std::uint32_t defined_row(const Warp& w, std::uint16_t row) { return w.defined[row]; }
inline std::uint32_t defined_predicate(const Warp& w, std::uint16_t predicate) {
  return w.defined[w.program->predicate_cell(predicate)];
}
// Inlined always, like all that the lane loops call: see lanes.h.
[[gnu::always_inline]] inline void set_defined_row(const Warp& w, std::uint16_t row,
                                                   std::uint32_t lanes, std::uint32_t mask) {
  std::uint32_t& cell = w.defined[row];
  cell = (cell & ~mask) | (lanes & mask);
  if ((mask & ~lanes) != 0) w.partial[row] &= ~mask;
}
inline void set_defined_predicate(const Warp& w, std::uint16_t predicate, std::uint32_t lanes,
                                  std::uint32_t mask) {
  std::uint32_t& cell = w.defined[w.program->predicate_cell(predicate)];
  cell = (cell & ~mask) | (lanes & mask);
}

// ---- reports -----------------------------------------------------------------------------------

// Ends the CTA. Thrown by handlers, caught by the CTA's runner. The finding, if there is one, is in the log.
struct Stop {};
// For what nobody can go on from.
[[noreturn]] void fail(const Warp& w, const Op& op, int lane, const char* check,
                       std::string message);
// For everything else: the caller goes on as if nothing had been wrong. Throws Stop if there are too
// many findings already. `message` makes the text, of the first report only.
bool first_report(const Warp& w, const Op& op, const char* check);
void keep_report(const Warp& w, const Op& op, int lane, const char* check, std::string message);
template <class Message>
void report(const Warp& w, const Op& op, int lane, const char* check, Message&& message) {
  if (first_report(w, op, check)) keep_report(w, op, lane, check, message());
}
// "0x00ff00ff" for masks in messages.
std::string hex_mask(std::uint32_t mask);
// Reports "uninitialized" if a lane of the mask reads an undefined row, which then counts as defined;
// `role` says for what it is read. Returns these lanes.
std::uint32_t require_defined(const Warp& w, const Op& op, std::uint16_t row, std::uint32_t mask,
                              const char* role);

// ---- the loop and its control ------------------------------------------------------------------

// Runs a warp until its quantum ends, it blocks, or it has exited.
void run_warp(Warp& w, std::int32_t quantum);
// Ends the warp's quantum.
void yield(Warp& w);
// ---- divergence (divergence.cpp) ----

// Lanes of `taken` go to `target`, the other running lanes go on; they rejoin at the op `rejoin_at`.
void diverge(Warp& w, const Op* target, std::uint32_t taken, std::uint32_t rejoin_at);
// Parks the running lanes if this is where others rejoin them, and goes on with the next part.
void rejoin(Warp& w);
// Removes lanes for good and goes on with the next part of the warp.
void exit_lanes(Warp& w, std::uint32_t mask);
// For instructions that lanes execute together. True if all `needed` lanes are here. Otherwise the
// running lanes wait for those that are elsewhere and the handler must return at once: the instruction
// will be executed again. Fails with divergent-collective if they cannot come.
bool assemble(Warp& w, const Op& op, std::uint32_t mask, std::uint32_t needed);
// What these lanes have done comes before what they will do; only checks need to know.
void order_lanes(const Warp& w, std::uint32_t lanes);
// Both.
bool gather(Warp& w, const Op& op, std::uint32_t mask, std::uint32_t needed);
// The same with member masks in a row; a lane must be a member of its own mask. Members that have exited
// are not waited for (PTX ISA: all non-exited threads of the mask).
bool gather_members(Warp& w, const Op& op, std::uint16_t row, std::uint32_t mask);
// bar.warp.sync: the members of a group wait for each other, each at any such instruction that names the
// group (PTX ISA, bar.warp.sync, from sm_70 on). Lanes whose group is not complete are put aside.
void meet_members(Warp& w, const Op& op, std::uint16_t row, std::uint32_t mask);
// Lanes of one warp may wait for each other in loops (independent thread scheduling). After each turn of a
// warp: `executed` are its instructions. Finds a part that goes round without getting on, and lets another
// part of the warp run.
void take_turns(Warp& w, std::uint64_t executed);

// Releases barriers that only waited for warps that have exited meanwhile.
void settle_barriers(Cta& cta);
// Runs all warps of the CTA to the end; throws Stop.
void run_cta(Cta& cta);

}  // namespace sagegen::emulator
