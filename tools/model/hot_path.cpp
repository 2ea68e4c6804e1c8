#include "tools/model/hot_path.h"

#include <algorithm>
#include <array>
#include <compare>
#include <cstdint>

#include "tools/model/operation_class.h"

namespace sagegen::model {

namespace {

constexpr std::size_t kNone = ~std::size_t{0};

// What is seen of the two products between an instruction and the end of the iteration.
constexpr int kQk = 1, kPv = 2, kBoth = kQk | kPv, kSeen = kBoth + 1;

// The smaller, the nearer to what most tiles take. The weights only have to tell apart: a block that hides scores
// has tens of FSEL, one that copies has at least a copy and may have an FSEL of its own.
struct Cost {
  std::int64_t multiplications = 0, weight = 0;
  auto operator<=>(const Cost&) const = default;
  Cost operator+(const Cost& o) const {
    return {multiplications + o.multiplications, weight + o.weight};
  }
};

Cost cost_of(const Instruction& instruction) {
  constexpr std::int64_t kHides = 100, kCopies = -1000;
  Cost cost{.multiplications = mma_work(instruction).multiplications, .weight = 1};
  if (instruction.is_never_executed()) return cost;
  switch (instruction.operation()) {
    case operation::kFloatSelect:
    case operation::kStoreShared:
      cost.weight += kHides;
      break;
    case operation::kCopy:
      cost.weight += kCopies;
      break;
    default:
      break;
  }
  return cost;
}

struct Choice {  // the best way from an instruction to the end of the iteration
  bool exists = false;
  Cost cost;
  std::size_t next = kNone;  // kNone: the header again
  int seen_after = 0;
};
using Choices = std::array<Choice, kSeen>;  // by what is seen

class Paths {
 public:
  Paths(const Code& code, const Flow& flow, const Loop& loop, const QkProducts& qk)
      : code_(code), flow_(flow), loop_(loop), qk_(qk), choices_(flow.size()) {
    in_loop_.resize(flow.size());
    for (const std::size_t i : loop.body) in_loop_[i] = true;
    for (const std::size_t i : from_last_to_first()) choose(i);
  }

  const Choice& best() const { return choices_[loop_.header][kBoth]; }

  std::vector<Step> steps() const {
    std::vector<std::size_t> order;
    int seen = kBoth;
    for (std::size_t i = loop_.header; i != kNone;) {
      order.push_back(i);
      const Choice& choice = choices_[i][static_cast<std::size_t>(seen)];
      seen = choice.seen_after;
      i = choice.next;
    }
    std::vector<Step> steps;
    for (std::size_t n = 0; n < order.size(); ++n) {
      const std::size_t after = n + 1 < order.size() ? order[n + 1] : loop_.header;
      steps.push_back({code_.instructions[order[n]], after != order[n] + 1});
    }
    return steps;
  }

 private:
  // What follows an instruction comes before it in this order, but for the way back in an inner loop. That has no
  // choices yet when it is asked for, so that inner loops are passed through once.
  std::vector<std::size_t> from_last_to_first() const {
    std::vector<std::size_t> order;
    std::vector<bool> seen(flow_.size());
    std::vector<std::pair<std::size_t, std::size_t>> open{{loop_.header, 0}};  // and its edges done
    seen[loop_.header] = true;
    while (!open.empty()) {
      auto& [i, edge] = open.back();
      if (edge == flow_[i].size()) {
        order.push_back(i);
        open.pop_back();
        continue;
      }
      const std::size_t to = flow_[i][edge++];
      if (!in_loop_[to] || seen[to]) continue;
      seen[to] = true;
      open.push_back({to, 0});
    }
    return order;
  }

  void choose(std::size_t i) {
    const Instruction& instruction = code_.instructions[i];
    const Cost own = cost_of(instruction);
    const MmaWork work = mma_work(instruction);
    const int sees = work.multiplications == 0 ? 0
                     : !qk_.has(work.kind)     ? kPv
                                               : (qk_.with_pv ? kBoth : kQk);
    const auto offer = [&](const Cost& rest, std::size_t next, int seen_after) {
      Choice& choice = choices_[i][static_cast<std::size_t>(seen_after | sees)];
      const Cost cost = own + rest;
      if (!choice.exists || cost < choice.cost)
        choice = {.exists = true, .cost = cost, .next = next, .seen_after = seen_after};
    };
    for (const std::size_t to : flow_[i]) {
      if (to == loop_.header) {
        offer({}, kNone, 0);
      } else if (in_loop_[to] && to != i) {
        for (int seen = 0; seen < kSeen; ++seen) {
          const Choice& rest = choices_[to][static_cast<std::size_t>(seen)];
          if (rest.exists) offer(rest.cost, to, seen);
        }
      }
    }
  }

  const Code& code_;
  const Flow& flow_;
  const Loop& loop_;
  const QkProducts qk_;
  std::vector<bool> in_loop_;
  std::vector<Choices> choices_;
};

struct Candidate {
  const Loop* loop;
  Cost cost;
  std::vector<Step> steps;
};

bool contains(const Loop& outer, const Loop& inner) {
  return outer.header != inner.header &&
         std::binary_search(outer.body.begin(), outer.body.end(), inner.header);
}

}  // namespace

QkProducts qk_products(MmaKindSet all) {
  constexpr MmaKindSet kIntegers = set_of(MmaKind::s8) | set_of(MmaKind::s4),
                       kF16 = set_of(MmaKind::f16_f32);
  if ((all & kIntegers) != 0) return {.kinds = kIntegers};
  return {.kinds = kF16, .with_pv = (all & ~kF16) == 0};
}

std::optional<HotPath> hot_path(const Code& code) {
  MmaKindSet kinds = 0;
  for (const Instruction& instruction : code.instructions) {
    const MmaWork work = mma_work(instruction);
    if (work.multiplications > 0) kinds |= set_of(work.kind);
  }
  const QkProducts qk = qk_products(kinds);
  const Flow flow = flow_of(code);
  const std::vector<Loop> loops = find_loops(code);
  std::vector<Candidate> candidates;
  for (const Loop& loop : loops) {
    const Paths paths(code, flow, loop, qk);
    if (paths.best().exists) candidates.push_back({&loop, paths.best().cost, paths.steps()});
  }
  const auto is_outer = [&](const Candidate& one) {
    return std::any_of(candidates.begin(), candidates.end(),
                       [&](const Candidate& other) { return contains(*one.loop, *other.loop); });
  };
  const Candidate* taken = nullptr;
  for (const Candidate& candidate : candidates) {
    if (is_outer(candidate)) continue;
    const bool better = taken == nullptr ||
                        candidate.cost.multiplications > taken->cost.multiplications ||
                        (candidate.cost.multiplications == taken->cost.multiplications &&
                         candidate.loop->body.size() < taken->loop->body.size());
    if (better) taken = &candidate;
  }
  if (taken == nullptr) return std::nullopt;
  return HotPath{.header = taken->loop->header, .steps = taken->steps};
}

}  // namespace sagegen::model
