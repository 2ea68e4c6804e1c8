// The parts of a warp after divergent branches, and where they come together again.
//
// The reconvergence points of the control-flow analysis are where lanes should rejoin; nothing here
// relies on their being perfect. Lanes park at any enclosing point that they reach, also if they got
// there around an inner one. And lanes at an instruction that they must execute together with others
// wait while those others can still come.
//
// A part that spins in a loop may wait for lanes that have not had their turn, or that are parked behind
// it: whoever holds a lock leaves the loop first. Then these run, and the parts rejoin further on.

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "runtime/emulator/exec/checker.h"
#include "runtime/emulator/exec/warp.h"

namespace sagegen::emulator {
namespace {

using Kind = Split::Kind;

// A diverged warp is watched after so many instructions; and after so many, other parts have a turn even if
// it seems to get on, since it may count while it waits.
constexpr std::uint64_t kWatchedAfter = 1024;
constexpr std::uint64_t kLongestTurn = 1 << 16;

void run_part(Warp& w, std::size_t index) {
  Split part = w.splits[index];
  w.splits.erase(w.splits.begin() + static_cast<std::ptrdiff_t>(index));
  w.pc = part.pc;
  w.active = part.mask;
}

// Something changed that blocked lanes may have waited for.
void unblock(Warp& w) {
  for (Split& split : w.splits) {
    if (split.kind == Kind::blocked) split.kind = Kind::side;
  }
}

bool reaches(const Warp& w, const Op* from, const Op* to) {
  const Program& program = *w.program;
  std::vector<bool> seen(program.ops.size(), false);
  std::vector<std::uint32_t> stack = {op_index(w, *from)};
  while (!stack.empty()) {
    std::uint32_t at = stack.back();
    stack.pop_back();
    if (at >= seen.size() || seen[at]) continue;
    seen[at] = true;
    const Op& op = w.ops[at];
    if (&op == to) return true;
    if (program.ops[at].target != kNoTarget) stack.push_back(program.ops[at].target);
    if (!program.ops[at].ends_path) stack.push_back(at + 1);
  }
  return false;
}

// The topmost entry of a kind that has lanes, or -1.
template <class Wanted>
int find_split(const Warp& w, Wanted&& wanted) {
  for (int i = static_cast<int>(w.splits.size()) - 1; i >= 0; --i) {
    if (w.splits[i].mask != 0 && wanted(w.splits[i])) return i;
  }
  return -1;
}

// Chooses the part that runs next; false if there is none.
bool resume(Warp& w) {
  while (!w.splits.empty()) {
    const Split& top = w.splits.back();
    if (top.mask == 0) {
      w.splits.pop_back();
      continue;
    }
    if (top.kind != Kind::blocked) {  // a join on top: all that diverged before it are there
      run_part(w, w.splits.size() - 1);
      return true;
    }
    int next = find_split(w, [](const Split& s) { return s.kind == Kind::side; });
    if (next < 0) {
      // Lanes wait at a join that none of the others can reach any more: they need not. Where all others
      // are blocked they need not, either: they may be the ones that are waited for.
      next = find_split(w, [&](const Split& join) {
        return join.kind == Kind::join && find_split(w, [&](const Split& s) {
                                            return s.kind == Kind::blocked &&
                                                   reaches(w, s.pc, join.pc);
                                          }) < 0;
      });
    }
    if (next < 0) next = find_split(w, [](const Split& s) { return s.kind == Kind::join; });
    if (next >= 0) {
      run_part(w, static_cast<std::size_t>(next));
      return true;
    }
    run_part(w, w.splits.size() - 1);
    w.last_chance = w.pc;
    return true;
  }
  return false;
}

std::uint64_t hash_of_registers(const Warp& w) {
  std::uint64_t hash = 0;
  const std::uint32_t* rows = w.rows;
  for (std::size_t i = 0, n = std::size_t{w.program->rows} * kLanes; i < n; ++i) {
    hash = (hash ^ rows[i]) * 0x100000001b3u;
  }
  for (std::uint32_t p = 0; p < w.program->predicates; ++p) {
    hash = (hash ^ w.predicates[p]) * 0x100000001b3u;
  }
  return hash;
}

bool spins(Warp& w) {
  SpinWatch& watch = w.watch;
  if (w.pc == watch.pc && w.active == watch.active) {
    if (hash_of_registers(w) == watch.registers) return true;
    watch.pc = nullptr;  // one comparison for each time looked at: they cost as much as a turn
  }
  if (++watch.turns < watch.until) return false;
  watch.turns = 0;
  watch.until *= 2;
  watch.pc = w.pc;
  watch.active = w.active;
  watch.registers = hash_of_registers(w);
  return false;
}

// Puts the running part aside and runs, of those that can: the side that has waited longest, as long as
// one of them has not spun; otherwise the innermost lanes that are parked; otherwise that side.
void switch_part(Warp& w) {
  const Split running{.pc = w.pc, .mask = w.active, .kind = Kind::side, .spins = true};
  const auto first = [&](auto&& wanted) {
    return std::find_if(w.splits.begin(), w.splits.end(),
                        [&](const Split& s) { return s.mask != 0 && wanted(s); });
  };
  auto next = first([](const Split& s) { return s.kind == Kind::side && !s.spins; });
  if (next == w.splits.end()) {
    for (Split& split : w.splits) split.spins = false;
    const int join = find_split(w, [](const Split& s) { return s.kind == Kind::join; });
    if (join >= 0) {
      // The join stays for those that come later.
      w.pc = w.splits[join].pc;
      w.active = std::exchange(w.splits[join].mask, 0);
      w.splits.push_back(running);
      return;
    }
    next = first([](const Split& s) { return s.kind == Kind::side; });
  }
  if (next == w.splits.end()) return;
  run_part(w, static_cast<std::size_t>(next - w.splits.begin()));
  w.splits.push_back(running);
}

// Parks the running lanes at the innermost join of this place; false if it is none.
bool park(Warp& w) {
  for (auto split = w.splits.rbegin(); split != w.splits.rend(); ++split) {
    if (split->kind != Kind::join || split->pc != w.pc) continue;
    split->mask |= w.active;
    w.active = 0;
    unblock(w);
    return true;
  }
  return false;
}

// For messages: where the other parts of the warp wait.
std::string others_wait(const Warp& w) {
  std::string text;
  for (const Split& split : w.splits) {
    if (split.kind != Kind::blocked || split.mask == 0) continue;
    text += fmt::format("; lanes {} wait at line {} ({})", hex_mask(split.mask),
                        op_info(w, *split.pc).line, w.program->text[op_index(w, *split.pc)]);
  }
  return text;
}

void require_membership(const Warp& w, const Op& op, const std::uint32_t* members,
                        std::uint32_t mask) {
  for_lanes(mask, [&](int lane) {
    if ((members[lane] >> lane & 1) != 0) return;
    fail(w, op, lane, "divergent-collective",
         fmt::format("lane {} executes this, but is not among the lanes {} that it names", lane,
                     hex_mask(members[lane])));
  });
}

// ---- bar.warp.sync: lanes that are at different ones ----

bool waits_at_such(const Split& split, const Op& op) {
  return split.kind == Kind::blocked && split.mask != 0 && split.pc->run == op.run;
}

std::uint32_t lanes_that_name(std::uint32_t group, const std::uint32_t* members,
                              std::uint32_t lanes) {
  std::uint32_t naming = 0;
  for_lanes(lanes, [&](int lane) {
    naming |= static_cast<std::uint32_t>(members[lane] == group) << lane;
  });
  return naming;
}

// Those that wait for the group, wherever. What they gave as operand still stands in their registers.
std::uint32_t waiting_for(const Warp& w, const Op& op, std::uint32_t group) {
  std::uint32_t waiting = 0;
  for (const Split& split : w.splits) {
    if (!waits_at_such(split, op)) continue;
    waiting |= lanes_that_name(group, row32(w, split.pc->r[0]), split.mask);
  }
  return waiting;
}

// The running lanes have completed the group of these, which wait: those at the same instruction come
// along, the others go on from theirs.
void let_go(Warp& w, const Op& op, std::uint32_t lanes) {
  for (std::size_t i = 0, n = w.splits.size(); i < n; ++i) {
    Split& split = w.splits[i];
    if (!waits_at_such(split, op)) continue;
    const std::uint32_t going = split.mask & lanes;
    if (split.pc == &op) {
      w.active |= going;
      split.mask &= ~going;
      continue;
    }
    w.met |= going;
    if (going == split.mask) {
      split.kind = Kind::side;
    } else if (going != 0) {
      split.mask &= ~going;
      w.splits.push_back({.pc = split.pc, .mask = going, .kind = Kind::side});
    }
  }
}

}  // namespace

void rejoin(Warp& w) {
  while (w.active != 0 && park(w)) resume(w);
}

void diverge(Warp& w, const Op* target, std::uint32_t taken, std::uint32_t rejoin_at) {
  std::uint32_t rest = w.active & ~taken;
  if (rejoin_at != kNoRejoin) {
    const Op* join = w.ops + rejoin_at;
    int innermost = -1;
    for (int i = static_cast<int>(w.splits.size()) - 1; i >= 0 && innermost < 0; --i) {
      if (w.splits[i].kind == Kind::join) innermost = i;
    }
    // Iterations of a loop share the join behind it.
    if (innermost < 0 || w.splits[innermost].pc != join) {
      w.splits.push_back({.pc = join, .mask = 0, .kind = Kind::join});
    }
  }
  w.splits.push_back({.pc = w.pc, .mask = rest, .kind = Kind::side});
  w.pc = target;
  w.active = taken;
}

void exit_lanes(Warp& w, std::uint32_t mask) {
  w.live &= ~mask;
  w.active &= ~mask;
  unblock(w);
  if (w.active != 0) return;
  if (resume(w)) {
    rejoin(w);
    return;
  }
  w.state = WarpState::exited;
  w.pc = w.ops;  // a valid place, never run
  yield(w);
}

void take_turns(Warp& w, std::uint64_t executed) {
  if (w.splits.empty()) {
    w.watch = {};
    return;
  }
  w.watch.executed += executed;
  if (w.state != WarpState::ready || w.watch.executed < kWatchedAfter) return;
  if (w.watch.executed < kLongestTurn && !spins(w)) return;
  w.watch = {};
  switch_part(w);
}

void order_lanes(const Warp& w, std::uint32_t lanes) {
  if (w.cta->checker != nullptr) w.cta->checker->lanes_met(w, lanes);
}

bool gather(Warp& w, const Op& op, std::uint32_t mask, std::uint32_t needed) {
  if (!assemble(w, op, mask, needed)) return false;
  order_lanes(w, needed);
  return true;
}

bool assemble(Warp& w, const Op& op, std::uint32_t mask, std::uint32_t needed) {
  std::uint32_t missing = needed & ~mask;
  if (missing == 0) {
    w.last_chance = nullptr;
    return true;
  }
  bool may_come = (missing & w.live & ~w.active) == missing && w.last_chance != &op;
  if (!may_come) {
    fail(w, op, first_lane(missing), "divergent-collective",
         fmt::format(
             "lanes {} must execute this together, but only lanes {} do (running together {}, "
             "exited {}){}",
             hex_mask(needed), hex_mask(mask), hex_mask(w.active), hex_mask(~w.live),
             others_wait(w)));
  }
  // Parts that wait at this very instruction come along; otherwise the others have their turn.
  std::uint32_t here = 0;
  for (Split& split : w.splits) {
    if (split.kind != Kind::blocked || split.pc != &op) continue;
    here |= split.mask;
    split.mask = 0;
  }
  if (here != 0) {
    w.active |= here;
    w.pc = &op;
    return false;
  }
  w.splits.push_back({.pc = &op, .mask = w.active, .kind = Kind::blocked});
  w.active = 0;
  resume(w);
  rejoin(w);
  return false;
}

bool gather_members(Warp& w, const Op& op, std::uint16_t row, std::uint32_t mask) {
  const std::uint32_t* members = row32(w, row);
  std::uint32_t needed = 0;
  require_membership(w, op, members, mask);
  for_lanes(mask, [&](int lane) { needed |= members[lane]; });
  if (!assemble(w, op, mask, needed & w.live)) return false;
  for (std::uint32_t rest = mask; rest != 0;) {  // groups that name themselves; usually one
    const std::uint32_t group = members[first_lane(rest)] & mask;
    order_lanes(w, group);
    rest &= ~group;
  }
  return true;
}

void meet_members(Warp& w, const Op& op, std::uint16_t row, std::uint32_t mask) {
  const std::uint32_t* members = row32(w, row);
  require_membership(w, op, members, mask);
  std::uint32_t going = mask & w.met;
  w.met &= ~mask;
  for (std::uint32_t rest = mask & ~going; rest != 0;) {
    const std::uint32_t group = members[first_lane(rest)];
    const std::uint32_t here = lanes_that_name(group, members, rest);
    rest &= ~here;
    const std::uint32_t elsewhere = waiting_for(w, op, group);
    if ((group & w.live & ~(here | elsewhere)) != 0) continue;
    order_lanes(w, here | elsewhere);
    let_go(w, op, elsewhere);
    going |= here;
  }
  const std::uint32_t staying = mask & ~going;
  if (going == 0 && w.last_chance == &op) {
    const std::uint32_t group = members[first_lane(staying)];
    const std::uint32_t came = lanes_that_name(group, members, staying) | waiting_for(w, op, group);
    const std::uint32_t missing = group & w.live & ~came;
    fail(
        w, op, first_lane(missing), "divergent-collective",
        fmt::format("lanes {} must execute a bar.warp.sync with the member mask {}, but only lanes "
                    "{} do (exited {}){}",
                    hex_mask(group & w.live), hex_mask(group), hex_mask(came), hex_mask(~w.live),
                    others_wait(w)));
  }
  w.last_chance = nullptr;
  if (staying == 0) return;
  w.splits.push_back({.pc = &op, .mask = staying, .kind = Kind::blocked});
  w.active &= ~staying;
  if (w.active != 0) return;
  resume(w);
  rejoin(w);
}

}  // namespace sagegen::emulator
