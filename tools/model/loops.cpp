#include "tools/model/loops.h"

#include <algorithm>
#include <cstdint>
#include <map>

namespace sagegen::model {

namespace {

// Where a relative branch goes. The distance from the next instruction is in words of 4 bytes: bits
// 34-81, and from sm_90 on 8 lower bits in bits 16-23.
std::int64_t branch_target(const Code& code, std::size_t index) {
  const Instruction& branch = code.instructions[index];
  auto words = static_cast<std::int64_t>((branch.high & 0x3ffff) << 30 | branch.low >> 34);
  if (words >> 47 != 0) words -= std::int64_t{1} << 48;
  if (code.architecture >= 90) {
    words = words * 256 + static_cast<std::int64_t>(branch.low >> 16 & 0xff);
  }
  constexpr std::int64_t kWordsPerInstruction = 4;
  return static_cast<std::int64_t>(index) + 1 + words / kWordsPerInstruction;
}

// Besides its guard a branch may carry a second predicate (bits 87-90), another form of operands or,
// before sm_90, a divergence condition (bits 32-33).
bool falls_through(const Code& code, const Instruction& branch) {
  constexpr std::uint64_t kPlainForm = 0x947;
  const bool divergent = code.architecture < 90 && (branch.low >> 32 & 3) == 3;
  return !branch.is_always_executed() || (branch.low & 0xfff) != kPlainForm || divergent ||
         (branch.high >> 23 & 0xf) != 7;
}

Flow reversed(const Flow& next) {
  Flow previous(next.size());
  for (std::size_t from = 0; from < next.size(); ++from) {
    for (const std::size_t to : next[from]) previous[to].push_back(from);
  }
  return previous;
}

constexpr std::size_t kNone = ~std::size_t{0};

// What is reached from an instruction along the edges if `without` is taken out.
std::vector<bool> reached(const Flow& edges, std::size_t from, std::size_t without) {
  std::vector<bool> seen(edges.size());
  std::vector<std::size_t> open;
  const auto visit = [&](std::size_t i) {
    if (i == without || seen[i]) return;
    seen[i] = true;
    open.push_back(i);
  };
  visit(from);
  while (!open.empty()) {
    const std::size_t i = open.back();
    open.pop_back();
    for (const std::size_t to : edges[i]) visit(to);
  }
  return seen;
}

}  // namespace

// BSYNC, where threads meet again, counts as falling through although it may jump: that changes no loop
// of the kernels here, and tracking its barriers is not needed.
Flow flow_of(const Code& code) {
  Flow next(code.instructions.size());
  for (std::size_t i = 0; i < next.size(); ++i) {
    const Instruction& instruction = code.instructions[i];
    bool falls = true, jumps = false;
    switch (instruction.operation()) {
      case operation::kBranch:
        jumps = true;
        falls = falls_through(code, instruction);
        break;
      case operation::kCallRelative:  // also serves as a plain jump
        jumps = true;
        break;
      case operation::kExit:
      case operation::kKill:
        falls = !instruction.is_always_executed() && !instruction.is_never_executed();
        break;
      case operation::kReturn:
      case operation::kJump:
      case operation::kIndirectBranch:
        falls = false;
        break;
      default:
        break;
    }
    if (falls && i + 1 < next.size()) next[i].push_back(i + 1);
    const std::int64_t target = jumps ? branch_target(code, i) : -1;
    if (target >= 0 && target < static_cast<std::int64_t>(next.size())) {
      next[i].push_back(static_cast<std::size_t>(target));
    }
  }
  return next;
}

std::vector<Loop> find_loops(const Code& code) {
  const Flow next = flow_of(code), previous = reversed(next);
  if (next.empty()) return {};
  const std::vector<bool> reachable = reached(next, 0, kNone);
  std::map<std::size_t, std::vector<std::size_t>> latches;  // of each header
  for (std::size_t i = 0; i < next.size(); ++i) {
    if (!reachable[i]) continue;
    for (const std::size_t header : next[i]) {
      if (header <= i && !reached(next, 0, header)[i]) latches[header].push_back(i);
    }
  }
  std::vector<Loop> loops;
  for (const auto& [header, ends] : latches) {
    std::vector<bool> in_body(next.size());
    in_body[header] = true;
    for (const std::size_t latch : ends) {
      const std::vector<bool> before = reached(previous, latch, header);
      for (std::size_t i = 0; i < next.size(); ++i) in_body[i] = in_body[i] || before[i];
    }
    Loop loop{.header = header, .body = {}, .every = {}};
    for (std::size_t i = 0; i < next.size(); ++i) {
      if (!in_body[i] || !reachable[i]) continue;
      loop.body.push_back(i);
      const std::vector<bool> around = reached(next, header, i);
      if (std::none_of(ends.begin(), ends.end(), [&](std::size_t end) { return around[end]; })) {
        loop.every.push_back(i);
      }
    }
    loops.push_back(loop);
  }
  return loops;
}

int count(const Code& code, const std::vector<std::size_t>& indices, int operation) {
  return static_cast<int>(std::count_if(indices.begin(), indices.end(), [&](std::size_t i) {
    return code.instructions[i].operation() == operation;
  }));
}

}  // namespace sagegen::model
