// Immediate dominators of a directed graph, in time that grows with its size and hardly faster.
#pragma once

#include <vector>

namespace sagegen::emulator::ptx {

// Per node: the last node, other than itself, that lies on every path from `root` to it; -1 for the root and
// for nodes that it does not reach. `next`: successors, several edges between two nodes allowed.
std::vector<int> immediate_dominators(const std::vector<std::vector<int>>& next, int root);

}  // namespace sagegen::emulator::ptx
