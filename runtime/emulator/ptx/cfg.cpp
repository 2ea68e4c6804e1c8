#include "runtime/emulator/ptx/cfg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "runtime/emulator/ptx/calls.h"
#include "runtime/emulator/ptx/dominators.h"

namespace sagegen::emulator::ptx {
namespace {

bool leaves(const Instruction& instruction) {
  return (instruction.opcode == "ret" && !is_jump(instruction)) || instruction.opcode == "exit" ||
         instruction.opcode == "trap";
}

int branch_target(const Function& function, const Instruction& branch) {
  const bool one_symbol =
      branch.operands.size() == 1 && branch.operands[0].kind == Operand::Kind::symbol;
  const auto found =
      one_symbol ? function.labels.find(branch.operands[0].text) : function.labels.end();
  if (found == function.labels.end()) {
    throw ParseError(branch.line, "the target of 'bra' is no label of " + function.name);
  }
  return found->second;
}

// Blocks and, behind them, one node for every way out of the kernel; edges in both directions.
class Graph {
 public:
  Graph(const Function& function, const ControlFlow& flow) : block_count_(flow.exit_block()) {
    const auto only_leaves = [&](int block) {
      const BasicBlock& candidate = flow.blocks[static_cast<std::size_t>(block)];
      const Instruction& first = function.body[static_cast<std::size_t>(candidate.first)];
      return candidate.end == candidate.first + 1 && leaves(first) && first.guard.empty();
    };
    next_.resize(flow.blocks.size());
    for (int block = 0; block < block_count_; ++block) {
      for (const int successor : flow.blocks[static_cast<std::size_t>(block)].successors) {
        if (successor == block_count_ || only_leaves(successor)) {
          next_[static_cast<std::size_t>(block)].push_back(static_cast<int>(next_.size()));
          next_.emplace_back();
        } else {
          next_[static_cast<std::size_t>(block)].push_back(successor);
        }
      }
    }
    previous_.resize(next_.size());
    for (std::size_t node = 0; node < next_.size(); ++node) {
      for (const int successor : next_[node]) {
        previous_[static_cast<std::size_t>(successor)].push_back(static_cast<int>(node));
      }
    }
  }

  std::size_t size() const { return next_.size(); }
  bool is_way_out(int node) const { return node >= block_count_; }
  const std::vector<int>& next(int node) const { return next_[static_cast<std::size_t>(node)]; }
  const std::vector<int>& previous(int node) const {
    return previous_[static_cast<std::size_t>(node)];
  }

  // Per node: the first node that every path from it to any way out goes through; size() if there is none,
  // -1 if no path leads out.
  std::vector<int> post_dominators() const {
    std::vector<std::vector<int>> backwards = previous_;
    backwards.emplace_back();  // behind all ways out
    for (std::size_t node = static_cast<std::size_t>(block_count_); node < size(); ++node) {
      if (!previous_[node].empty()) backwards.back().push_back(static_cast<int>(node));
    }
    return immediate_dominators(backwards, static_cast<int>(size()));
  }

 private:
  int block_count_;
  std::vector<std::vector<int>> next_;
  std::vector<std::vector<int>> previous_;
};

// Answers for one branch at a time; the arrays are kept between questions.
class Reconvergence {
 public:
  explicit Reconvergence(const Graph& graph)
      : graph_(graph),
        post_dominator_(graph.post_dominators()),
        flags_(graph.size()),
        position_(graph.size()),
        parent_(graph.size()) {}

  // The block where the two sides of the branch that ends `block` rejoin, or -1.
  int of(int block) {
    if (graph_.next(block).size() == 1) {  // both sides are the same block
      const int side = graph_.next(block)[0];
      return graph_.is_way_out(side) ? -1 : side;
    }
    // A way out belongs to one branch, so nothing else leads to it: the sides have none in common. Nor
    // have they if one of them never ends.
    const int first = graph_.next(block)[0], second = graph_.next(block)[1];
    if (graph_.is_way_out(first) || graph_.is_way_out(second)) return -1;
    if (post_dominator(first) < 0 || post_dominator(second) < 0) return -1;
    // What lies on every path out of the kernel lies on those to the common ways out.
    if (const int meet = post_dominator(block); meet < static_cast<int>(graph_.size())) return meet;
    work_ += graph_.size();
    std::fill(flags_.begin(), flags_.end(), std::uint8_t{0});
    flood(graph_.next(block)[0], kFromFirst);
    flood(graph_.next(block)[1], kFromSecond);
    if (!find_common_ways(block)) return -1;
    find_path(block);
    return first_post_dominator();
  }

  // Nodes visited so far, for a bound on the time.
  std::uint64_t work() const { return work_; }

 private:
  static constexpr std::uint8_t kFromFirst = 1;
  static constexpr std::uint8_t kFromSecond = 2;
  static constexpr std::uint8_t kCommon = 4;  // leads to a way out that both sides can take
  static constexpr std::uint8_t kVisited = 8;

  int post_dominator(int node) const { return post_dominator_[static_cast<std::size_t>(node)]; }
  std::uint8_t& flags(int node) { return flags_[static_cast<std::size_t>(node)]; }
  int& position(int node) { return position_[static_cast<std::size_t>(node)]; }
  int& parent(int node) { return parent_[static_cast<std::size_t>(node)]; }
  bool common_way(int node) { return graph_.is_way_out(node) && (flags(node) & kCommon) != 0; }

  void flood(int start, std::uint8_t flag) {
    stack_.assign(1, start);
    flags(start) |= flag;
    while (!stack_.empty()) {
      const int node = stack_.back();
      stack_.pop_back();
      ++work_;
      for (const int successor : graph_.next(node)) {
        if ((flags(successor) & flag) != 0) continue;
        flags(successor) |= flag;
        stack_.push_back(successor);
      }
    }
  }

  // Marks, among the branch and what it reaches, everything that leads to a common way out.
  bool find_common_ways(int block) {
    stack_.clear();
    for (int node = 0; node < static_cast<int>(graph_.size()); ++node) {
      const int both = kFromFirst | kFromSecond;
      if (graph_.is_way_out(node) && (flags(node) & both) == both) {
        flags(node) |= kCommon;
        stack_.push_back(node);
      }
    }
    const bool any = !stack_.empty();
    while (!stack_.empty()) {
      const int node = stack_.back();
      stack_.pop_back();
      ++work_;
      for (const int before : graph_.previous(node)) {
        const bool reached = before == block || (flags(before) & (kFromFirst | kFromSecond)) != 0;
        if (!reached || (flags(before) & kCommon) != 0) continue;
        flags(before) |= kCommon;
        stack_.push_back(before);
      }
    }
    return any;
  }

  // A shortest path from the branch to a common way out; all its post-dominators lie on it.
  void find_path(int block) {
    std::fill(position_.begin(), position_.end(), -1);
    std::fill(parent_.begin(), parent_.end(), -1);
    path_.clear();
    stack_.assign(1, block);
    parent(block) = block;
    for (std::size_t i = 0; i < stack_.size(); ++i) {  // a queue here: breadth first
      const int node = stack_[i];
      if (common_way(node)) {
        for (int at = node; at != block; at = parent(at)) path_.push_back(at);
        path_.push_back(block);
        std::reverse(path_.begin(), path_.end());
        break;
      }
      ++work_;
      for (const int successor : graph_.next(node)) {
        if ((flags(successor) & kCommon) == 0 || parent(successor) != -1) continue;
        parent(successor) = node;
        stack_.push_back(successor);
      }
    }
    for (std::size_t i = 0; i < path_.size(); ++i) position(path_[i]) = static_cast<int>(i);
  }

  // Walks the path and keeps the furthest position that can be reached around it: a node of the path
  // that nothing bypasses is a post-dominator.
  int first_post_dominator() {
    const int leave = static_cast<int>(path_.size()) - 1;
    int furthest = 0;
    for (int i = 0; i < leave; ++i) {
      if (i > 0 && furthest == i) return path_[static_cast<std::size_t>(i)];
      stack_.assign(1, path_[static_cast<std::size_t>(i)]);
      while (!stack_.empty()) {
        const int node = stack_.back();
        stack_.pop_back();
        ++work_;
        for (const int successor : graph_.next(node)) {
          if ((flags(successor) & kCommon) == 0) continue;
          if (graph_.is_way_out(successor)) {
            furthest = leave;
          } else if (position(successor) >= 0) {
            furthest = std::max(furthest, position(successor));
          } else if ((flags(successor) & kVisited) == 0) {
            flags(successor) |= kVisited;
            stack_.push_back(successor);
          }
        }
      }
    }
    return -1;
  }

  const Graph& graph_;
  std::vector<int> post_dominator_;
  std::vector<std::uint8_t> flags_;
  std::vector<int> position_;  // on path_, or -1
  std::vector<int> parent_;
  std::vector<int> stack_;
  std::vector<int> path_;
  std::uint64_t work_ = 0;
};

void find_blocks(const Function& function, ControlFlow& flow) {
  const std::size_t count = function.body.size();
  std::vector<bool> leader(count + 1, false);
  leader[0] = true;
  // Labels that nothing jumps to, as debug information has them, start no block.
  for (std::size_t i = 0; i < count; ++i) {
    if (flow.target[i] >= 0) leader[static_cast<std::size_t>(flow.target[i])] = true;
    if (is_jump(function.body[i]) || leaves(function.body[i])) leader[i + 1] = true;
  }
  flow.block_of.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    if (leader[i])
      flow.blocks.push_back({.first = static_cast<int>(i), .end = 0, .successors = {}});
    flow.blocks.back().end = static_cast<int>(i) + 1;
    flow.block_of[i] = static_cast<int>(flow.blocks.size()) - 1;
  }
}

void find_successors(const Function& function, ControlFlow& flow) {
  const int count = static_cast<int>(function.body.size());
  const auto block_at = [&](int index) {
    return index == count ? flow.exit_block() : flow.block_of[static_cast<std::size_t>(index)];
  };
  for (BasicBlock& block : flow.blocks) {
    const auto last = static_cast<std::size_t>(block.end - 1);
    const Instruction& instruction = function.body[last];
    const bool conditional = !instruction.guard.empty();
    if (is_jump(instruction)) {
      block.successors.push_back(block_at(flow.target[last]));
      if (!conditional) continue;
    } else if (leaves(instruction)) {
      block.successors.push_back(flow.exit_block());
      if (!conditional) continue;
    }
    const int fall_through = block_at(block.end);
    if (block.successors.empty() || block.successors[0] != fall_through) {
      block.successors.push_back(fall_through);
    }
  }
}

}  // namespace

ControlFlow analyze(const Function& function) {
  ControlFlow flow;
  flow.reconvergence.assign(function.body.size(), -1);
  flow.target.assign(function.body.size(), -1);
  if (function.body.empty()) return flow;
  for (std::size_t i = 0; i < function.body.size(); ++i) {
    const Instruction& instruction = function.body[i];
    if (instruction.opcode == "brx") throw ParseError(instruction.line, "'brx' is not supported");
    if (is_jump(instruction)) flow.target[i] = branch_target(function, instruction);
  }
  find_blocks(function, flow);
  find_successors(function, flow);

  const Graph graph(function, flow);
  Reconvergence reconvergence(graph);
  constexpr std::uint64_t kMaxWork = 200'000'000;
  for (int block = 0; block < flow.exit_block(); ++block) {
    const auto last =
        static_cast<std::size_t>(flow.blocks[static_cast<std::size_t>(block)].end - 1);
    if (!is_jump(function.body[last]) || function.body[last].guard.empty()) continue;
    const int rejoin = reconvergence.of(block);
    flow.reconvergence[last] = rejoin < 0 ? static_cast<int>(function.body.size())
                                          : flow.blocks[static_cast<std::size_t>(rejoin)].first;
    if (reconvergence.work() > kMaxWork) {
      const bool calls = std::any_of(function.body.begin(), function.body.end(),
                                     [](const Instruction& i) { return i.opcode == "call"; });
      throw ParseError(
          function.line,
          fmt::format("{} has {} basic blocks{} and too many branches with returns on both sides, "
                      "too many to analyze; return at one place, or split the function",
                      function.name, flow.blocks.size(),
                      calls ? ", with the functions that it calls expanded at every call," : ""));
    }
  }
  return flow;
}

}  // namespace sagegen::emulator::ptx
