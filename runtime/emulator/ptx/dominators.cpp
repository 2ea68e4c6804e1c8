// Lengauer and Tarjan, "A fast algorithm for finding dominators in a flowgraph" (1979), the simple version.
// Written without recursion: graphs come from texts that nobody has to trust.
#include "runtime/emulator/ptx/dominators.h"

#include <algorithm>
#include <cstddef>

namespace sagegen::emulator::ptx {
namespace {

constexpr int kNone = -1;

// Nodes are known by the order in which a depth-first search from the root meets them; 0 is the root.
class Dominators {
 public:
  Dominators(const std::vector<std::vector<int>>& next, int root) : number_(next.size(), kNone) {
    search(next, root);
    const std::size_t count = node_.size();
    previous_.resize(count);
    for (std::size_t v = 0; v < count; ++v) {
      for (const int s : next[index(node_[v])]) {
        previous_[index(number_[index(s)])].push_back(static_cast<int>(v));
      }
    }
    semi_.resize(count);
    for (std::size_t v = 0; v < count; ++v) semi_[v] = static_cast<int>(v);
    label_ = semi_;
    ancestor_.assign(count, kNone);
    dominator_.assign(count, kNone);
    bucket_.resize(count);
  }

  std::vector<int> find() {
    const int count = static_cast<int>(node_.size());
    for (int w = count - 1; w > 0; --w) {
      for (const int v : previous_[index(w)]) {
        semi_[index(w)] = std::min(semi_[index(w)], semi_[index(best(v))]);
      }
      bucket_[index(semi_[index(w)])].push_back(w);
      const int parent = parent_[index(w)];
      ancestor_[index(w)] = parent;
      for (const int v : bucket_[index(parent)]) {
        const int u = best(v);
        dominator_[index(v)] = semi_[index(u)] < semi_[index(v)] ? u : parent;
      }
      bucket_[index(parent)].clear();
    }
    std::vector<int> result(number_.size(), kNone);
    for (int w = 1; w < count; ++w) {
      int& dominator = dominator_[index(w)];
      if (dominator != semi_[index(w)]) dominator = dominator_[index(dominator)];
      result[index(node_[index(w)])] = node_[index(dominator)];
    }
    return result;
  }

 private:
  static std::size_t index(int i) { return static_cast<std::size_t>(i); }

  void search(const std::vector<std::vector<int>>& next, int root) {
    struct Visit {
      int number;
      std::size_t edge;
    };
    std::vector<Visit> path;
    const auto enter = [&](int node, int parent) {
      number_[index(node)] = static_cast<int>(node_.size());
      path.push_back({number_[index(node)], 0});
      node_.push_back(node);
      parent_.push_back(parent);
    };
    enter(root, kNone);
    while (!path.empty()) {
      Visit& visit = path.back();
      const std::vector<int>& edges = next[index(node_[index(visit.number)])];
      if (visit.edge == edges.size()) {
        path.pop_back();
        continue;
      }
      const int to = edges[visit.edge++];
      if (number_[index(to)] == kNone) enter(to, visit.number);
    }
  }

  // The node with the least semidominator on the way from v up to, and without, the root of v's tree. Ways
  // are shortened as they are walked.
  int best(int v) {
    if (ancestor_[index(v)] == kNone) return v;
    way_.clear();
    for (int at = v; ancestor_[index(ancestor_[index(at)])] != kNone; at = ancestor_[index(at)]) {
      way_.push_back(at);
    }
    for (auto at = way_.rbegin(); at != way_.rend(); ++at) {
      const int above = ancestor_[index(*at)];
      if (semi_[index(label_[index(above)])] < semi_[index(label_[index(*at)])]) {
        label_[index(*at)] = label_[index(above)];
      }
      ancestor_[index(*at)] = ancestor_[index(above)];
    }
    return label_[index(v)];
  }

  std::vector<int> number_;  // per node of the graph
  std::vector<int> node_;    // the other way round
  std::vector<int> parent_;  // in the search
  std::vector<std::vector<int>> previous_;
  std::vector<int> semi_, label_, ancestor_, dominator_;
  std::vector<std::vector<int>> bucket_;
  std::vector<int> way_;
};

}  // namespace

std::vector<int> immediate_dominators(const std::vector<std::vector<int>>& next, int root) {
  return Dominators(next, root).find();
}

}  // namespace sagegen::emulator::ptx
