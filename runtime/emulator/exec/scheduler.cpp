// Runs the warps of one CTA by turns until all have exited.

#include <fmt/format.h>

#include <algorithm>

#include "runtime/emulator/exec/checker.h"
#include "runtime/emulator/exec/warp.h"

namespace sagegen::emulator {
namespace {

using runtime::SchedulePolicy;

constexpr std::int32_t kQuantum = 256;
// SchedulePolicy::reverse: a warp that has had so many turns since it last waited at a barrier may spin on
// what a lower warp will do. From then on the others have a turn after each of its own.
constexpr std::uint32_t kTurnsInARow = 64;
// A CTA may go astray after a finding: it is given a while for more of them.
constexpr std::uint64_t kInstructionsAfterFinding = 1'000'000;

std::uint32_t ready_warps(const Cta& cta) {
  std::uint32_t ready = 0;
  for (const Warp& w : cta.warps) {
    if (w.state == WarpState::ready) ready |= 1u << w.index;
  }
  return ready;
}

// The warp that runs next, given the one that ran last.
int choose(Cta& cta, std::uint32_t ready, int last) {
  switch (cta.request->options.schedule) {
    case SchedulePolicy::reverse:
      if ((ready & ~cta.passed_over) == 0) cta.passed_over = 0;
      return 31 - std::countl_zero(ready & ~cta.passed_over);
    case SchedulePolicy::random: {
      std::uint32_t skip = cta.random.below(static_cast<std::uint32_t>(std::popcount(ready)));
      for (; skip > 0; --skip) ready &= ready - 1;
      return std::countr_zero(ready);
    }
    case SchedulePolicy::round_robin:
      break;
  }
  std::uint32_t after = last >= 31 ? 0 : ready & (kFullMask << (last + 1));
  return std::countr_zero(after != 0 ? after : ready);
}

std::int32_t choose_quantum(Cta& cta) {
  bool random = cta.request->options.schedule == SchedulePolicy::random;
  return random ? 1 + static_cast<std::int32_t>(cta.random.below(2 * kQuantum)) : kQuantum;
}

std::string describe_wait(const Warp& w) {
  const Barrier& barrier = w.cta->barriers[w.barrier];
  const Op& op = *(w.pc - 1);
  std::uint32_t index = op_index(w, op);
  std::string source = w.program->source_of(index);
  std::uint32_t threads = barrier.expected;
  if (threads == 0) {
    for (const Warp& other : w.cta->warps) threads += other.state == WarpState::exited ? 0 : kLanes;
  }
  return fmt::format(
      "warp {} waits at line {}{} ({}) for barrier {}: {} of {} threads have arrived", w.index,
      w.program->ops[index].line, source.empty() ? "" : fmt::format(" ({})", source),
      w.program->text[index], w.barrier, barrier.arrived, threads);
}

[[noreturn]] void report_deadlock(const Cta& cta) {
  std::string text = "no warp can go on.";
  const Warp* first = nullptr;
  std::uint32_t exited = 0;
  for (const Warp& w : cta.warps) {
    if (w.state == WarpState::exited) {
      exited |= 1u << w.index;
      continue;
    }
    if (first == nullptr) first = &w;
    text += "\n  " + describe_wait(w);
  }
  if (exited != 0) text += fmt::format("\n  {} warps have exited", std::popcount(exited));
  fail(*first, *(first->pc - 1), -1, "deadlock", text);
}

// A CTA that has executed all it may. Watches it for a while, no longer than it ran, one instruction at a
// time, for the branch that jumps back the farthest: that closes the loop that does not end.
[[noreturn]] void report_endless(Cta& cta, const Warp& stopped, int last) {
  const std::uint64_t watched = std::min<std::uint64_t>(1'000'000, cta.instruction_limit);
  const Warp* looping = &stopped;
  const Op* branch = nullptr;
  std::uint32_t branch_target = 0;
  for (std::uint64_t i = 0; i < watched; ++i) {
    std::uint32_t ready = ready_warps(cta);
    if (ready == 0) break;
    last = choose(cta, ready, last);
    Warp& w = cta.warps[last];
    const Op* op = w.pc;
    run_warp(w, 1);
    if (w.state == WarpState::exited) settle_barriers(cta);
    std::uint32_t target = op_info(w, *op).target;
    if (target > op_index(w, *op) || w.pc != w.ops + target) continue;
    if (branch != nullptr && op_index(w, *op) - target <= op_index(w, *branch) - branch_target) {
      continue;
    }
    looping = &w;
    branch = op;
    branch_target = target;
  }
  const std::vector<OpInfo>& ops = cta.warps[0].program->ops;
  std::string where =
      branch == nullptr
          ? fmt::format("warp {} {}", stopped.index,
                        stopped.state == WarpState::exited ? "began here and has just ended"
                                                           : "is here and may never finish")
          : fmt::format("warp {} goes round the loop from line {} to here, which may have no end",
                        looping->index, ops[branch_target].line);
  fail(*looping, branch == nullptr ? *stopped.pc : *branch, -1, "instruction-limit",
       fmt::format(
           "the CTA has executed {} warp instructions, the limit of this launch; {}. If the "
           "kernel is right, give a larger EmulatorOptions::{}",
           cta.instruction_limit, where,
           cta.instruction_limit == cta.request->options.launch_limit ? "launch_limit"
                                                                      : "instruction_limit"));
}

bool interrupted(const Cta& cta) {
  const auto& interrupt = cta.request->options.interrupt;
  return interrupt != nullptr && interrupt->load(std::memory_order_relaxed);
}

}  // namespace

void run_cta(Cta& cta) {
  int last = -1;
  std::uint64_t total = 0, before_findings = 0;
  for (;;) {
    std::uint32_t ready = ready_warps(cta);
    if (ready == 0) break;
    last = choose(cta, ready, last);
    Warp& w = cta.warps[last];
    if (interrupted(cta)) {
      fail(w, *w.pc, -1, "interrupted",
           fmt::format(
               "the launch was ended from outside (EmulatorOptions::interrupt); this CTA had "
               "executed {} warp instructions, and warp {} was here",
               total, w.index));
    }
    std::uint64_t before = w.executed;
    run_warp(w, choose_quantum(cta));
    if (w.state == WarpState::exited) settle_barriers(cta);
    take_turns(w, w.executed - before);
    if (w.state == WarpState::ready && ++w.turns >= kTurnsInARow) cta.passed_over |= 1u << w.index;
    total += w.executed - before;
    if (total > cta.instruction_limit) report_endless(cta, w, last);
    if (cta.log->findings.empty()) {
      before_findings = total;
    } else if (total - before_findings > kInstructionsAfterFinding) {
      cta.log->full = true;
      throw Stop{};
    }
  }
  bool all_exited = std::all_of(cta.warps.begin(), cta.warps.end(),
                                [](const Warp& w) { return w.state == WarpState::exited; });
  if (!all_exited) report_deadlock(cta);
}

}  // namespace sagegen::emulator
