// Reconvergence of divergent branches: hand-made graphs, and random ones against the definition.
#include <catch2/catch.hpp>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "runtime/emulator/ptx/cfg.h"
#include "tests/emulator/ptx_text.h"

namespace sagegen::emulator::ptx {
namespace {

using test::ptx_body;

Function function_of(const std::string& body) { return parse(ptx_body(body)).functions.at(0); }

// The label where the lanes of the branch to `target` that is guarded by `guard` rejoin; "" if
// nowhere.
std::string rejoins(const std::string& body, const std::string& guard) {
  const Function function = function_of(body);
  const ControlFlow flow = analyze(function);
  for (std::size_t i = 0; i < function.body.size(); ++i) {
    if (function.body[i].guard != guard) continue;
    REQUIRE(function.body[i].opcode == "bra");
    const int at = flow.reconvergence[i];
    if (at == static_cast<int>(function.body.size())) return "";
    for (const auto& [name, index] : function.labels) {
      if (index == at) return name;
    }
    return "unlabelled";
  }
  return "no such branch";
}

TEST_CASE("blocks and targets") {
  const Function function = function_of(
      "mov.u32 %r0, 1;\n"      // 0
      "@%p0 bra L1;\n"         // 1
      "mov.u32 %r0, 2;\n"      // 2
      "bra L2;\n"              // 3
      "L1: mov.u32 %r0, 3;\n"  // 4
      "L2: @!%p1 ret;\n"       // 5
      "mov.u32 %r0, 4;\n");    // 6: falls off the end
  const ControlFlow flow = analyze(function);
  REQUIRE(flow.blocks.size() == 5);
  CHECK(flow.block_of == std::vector<int>{0, 0, 1, 1, 2, 3, 4});
  CHECK(flow.blocks[0].successors == std::vector<int>{2, 1});
  CHECK(flow.blocks[1].successors == std::vector<int>{3});
  CHECK(flow.blocks[2].successors == std::vector<int>{3});
  CHECK(flow.blocks[3].successors == std::vector<int>{5, 4});
  CHECK(flow.blocks[4].successors == std::vector<int>{5});
  CHECK(flow.exit_block() == 5);
  CHECK(flow.target == std::vector<int>{-1, 4, -1, 5, -1, -1, -1});
  CHECK(flow.reconvergence == std::vector<int>{-1, 5, -1, -1, -1, -1, -1});
}

TEST_CASE("structured control flow") {
  SECTION("if without else") {
    CHECK(rejoins("@%p0 bra A; mov.u32 %r0, 1; A: add.s32 %r0, %r0, 1; ret;", "%p0") == "A");
  }
  SECTION("if with else") {
    CHECK(
        rejoins("@%p0 bra A; mov.u32 %r0, 1; bra.uni B; A: mov.u32 %r0, 2; B: mov.u32 %r1, 1; ret;",
                "%p0") == "B");
  }
  SECTION("loop: lanes that are done wait behind it") {
    CHECK(rejoins("A: add.s32 %r0, %r0, 1; @%p0 bra A; E: mov.u32 %r1, 0; ret;", "%p0") == "E");
  }
  SECTION("loop with break and continue") {
    const std::string body =
        "H: @%p0 bra E; add.s32 %r0, %r0, 1; @%p1 bra H; @%p2 bra E; bra H;"
        "E: mov.u32 %r1, 0; ret;";
    CHECK(rejoins(body, "%p0") == "E");
    CHECK(rejoins(body, "%p1") == "E");
    CHECK(rejoins(body, "%p2") == "E");
  }
  SECTION("both sides are the next instruction") {
    CHECK(rejoins("@%p0 bra A; A: mov.u32 %r1, 0; ret;", "%p0") == "A");
  }
  SECTION("the inner branch rejoins inside the outer one") {
    const std::string body =
        "@%p0 bra C; @%p1 bra A; mov.u32 %r0, 1; A: mov.u32 %r0, 2; C: mov.u32 %r0, 3; ret;";
    CHECK(rejoins(body, "%p0") == "C");
    CHECK(rejoins(body, "%p1") == "A");
  }
}

TEST_CASE("ways out") {
  SECTION("a jump to a plain return leaves at once") {
    const std::string body = "@%p0 bra R; bar.sync 0; R: ret;";
    CHECK(rejoins(body, "%p0").empty());
  }
  SECTION("a return with work before it") {
    CHECK(rejoins("@%p0 bra A; bar.sync 0; ret; A: mov.u32 %r0, 1; exit;", "%p0").empty());
  }
  SECTION("an early return does not move the reconvergence around it") {
    const std::string body =
        "@%p0 bra J; @%p1 bra R; mov.u32 %r0, 1; J: bar.sync 0; mov.u32 %r1, 1; R: ret;";
    CHECK(rejoins(body, "%p0") == "J");
    CHECK(rejoins(body, "%p1").empty());
  }
  SECTION("the same with a trap and with a guarded return") {
    CHECK(rejoins("@%p0 bra J; @%p1 bra T; mov.u32 %r0, 1; J: bar.sync 0; ret; T: trap; exit;",
                  "%p0") == "J");
    CHECK(rejoins("@%p0 bra J; @%p1 ret; mov.u32 %r0, 1; J: bar.sync 0; ret;", "%p0") == "J");
  }
  SECTION("an early return inside a loop does not stop lanes from rejoining behind it") {
    const std::string body = "H: @%p0 ret; add.s32 %r0, %r0, 1; @%p1 bra H; E: bar.sync 0; ret;";
    CHECK(rejoins(body, "%p1") == "E");
  }
  SECTION("a common tail of two sides that each may return") {
    const std::string body = "@%p0 bra B; @%p1 ret; bra J; B: @%p2 exit; J: mov.u32 %r0, 1; ret;";
    CHECK(rejoins(body, "%p0") == "J");
  }
  SECTION("no way out at all") { CHECK(rejoins("@%p0 bra B; A: bra A; B: bra B;", "%p0").empty()); }
  SECTION("one side never ends") {
    CHECK(rejoins("@%p0 bra J; @%p1 bra A; J: mov.u32 %r0, 1; ret; A: bra A;", "%p0") == "J");
  }
}

TEST_CASE("irreducible control flow") {
  // Two entries into the loop A <-> B.
  const std::string body =
      "@%p0 bra B; A: add.s32 %r0, %r0, 1; @%p1 bra E; B: add.s32 %r0, %r0, 2; @%p2 bra A;"
      "E: mov.u32 %r1, 1; ret;";
  CHECK(rejoins(body, "%p0") == "E");
  CHECK(rejoins(body, "%p1") == "E");
  CHECK(rejoins(body, "%p2") == "E");
}

TEST_CASE("what is refused") {
  CHECK_THROWS_WITH(analyze(function_of("bra %r1;")),
                    Catch::StartsWith("line 7: ") && Catch::Contains("bra"));
  CHECK_THROWS_WITH(analyze(function_of("\nA: bra A, 3;")), Catch::StartsWith("line 8: "));
  CHECK_THROWS_WITH(analyze(function_of("brx.idx %r1, 3;")), Catch::Contains("brx"));
}

TEST_CASE("a huge function is refused instead of analyzed for minutes") {
  std::string body = "A:";
  for (int i = 0; i < 40000; ++i) body += "@%p0 bra A;@%p0 ret;";
  const Function function = function_of(body);
  CHECK_THROWS_WITH(analyze(function), Catch::Contains("too many to analyze"));
}

TEST_CASE("no instructions") {
  const ControlFlow flow = analyze(function_of(""));
  CHECK(flow.blocks.empty());
  CHECK(flow.reconvergence.empty());
}

// ---- the definition, by brute force
// ---------------------------------------------------------------

// Edges of small graphs: every way out is a node of its own, as cfg.h words it.
struct SmallGraph {
  std::vector<std::set<int>> next;
  int blocks = 0;
};

SmallGraph graph_of(const Function& function, const ControlFlow& flow) {
  SmallGraph graph;
  graph.blocks = flow.exit_block();
  graph.next.resize(static_cast<std::size_t>(graph.blocks));
  for (int b = 0; b < graph.blocks; ++b) {
    for (const int s : flow.blocks[static_cast<std::size_t>(b)].successors) {
      bool out = s == graph.blocks;
      if (!out) {
        const BasicBlock& block = flow.blocks[static_cast<std::size_t>(s)];
        const Instruction& first = function.body[static_cast<std::size_t>(block.first)];
        out = block.end - block.first == 1 && first.opcode == "ret" && first.guard.empty();
      }
      graph.next[static_cast<std::size_t>(b)].insert(out ? static_cast<int>(graph.next.size()) : s);
      if (out) graph.next.emplace_back();
    }
  }
  return graph;
}

// What `from` reaches, itself included, without entering `without`.
std::set<int> reach(const SmallGraph& graph, int from, int without) {
  std::set<int> seen;
  std::vector<int> todo{from};
  while (!todo.empty()) {
    const int node = todo.back();
    todo.pop_back();
    if (node == without || !seen.insert(node).second) continue;
    for (const int s : graph.next[static_cast<std::size_t>(node)]) todo.push_back(s);
  }
  return seen;
}

// Whether every path from `block` to one of `ways` goes through `node`.
bool post_dominates(const SmallGraph& graph, int node, int block, const std::set<int>& ways) {
  for (const int way : ways) {
    if (reach(graph, block, node).contains(way)) return false;
  }
  return true;
}

int expected_rejoin(const SmallGraph& graph, int block) {
  const auto& sides = graph.next[static_cast<std::size_t>(block)];
  if (sides.size() == 1) return *sides.begin() < graph.blocks ? *sides.begin() : -1;
  std::set<int> ways;
  const std::set<int> first = reach(graph, *sides.begin(), -1);
  const std::set<int> second = reach(graph, *sides.rbegin(), -1);
  for (int way = graph.blocks; way < static_cast<int>(graph.next.size()); ++way) {
    if (first.contains(way) && second.contains(way)) ways.insert(way);
  }
  if (ways.empty()) return -1;
  std::vector<int> candidates;
  for (int node = 0; node < graph.blocks; ++node) {
    if (node != block && post_dominates(graph, node, block, ways)) candidates.push_back(node);
  }
  for (const int nearest : candidates) {
    bool immediate = true;
    for (const int other : candidates) {
      immediate &= other == nearest || post_dominates(graph, other, nearest, ways);
    }
    if (immediate) return nearest;
  }
  return -1;
}

TEST_CASE("random graphs agree with the definition") {
  std::mt19937 random(20240611);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  int rejoining = 0;
  for (int round = 0; round < 3000; ++round) {
    const int blocks = 2 + below(9);
    std::string body;
    for (int b = 0; b < blocks; ++b) {
      body += "L" + std::to_string(b) + ":";
      if (below(4) != 0) body += "mov.u32 %r0, 1;";
      const std::string target = "L" + std::to_string(below(blocks)) + ";";
      const int kind = below(10);
      if (kind < 6) body += "@%p0 bra " + target;
      if (kind == 6) body += "bra " + target;
      if (kind == 7) body += "ret;";
      if (kind == 8) body += "@%p1 ret;";
      body += "\n";
    }
    body += "mov.u32 %r1, 2; ret;\n";
    const Function function = function_of(body);
    const ControlFlow flow = analyze(function);
    const SmallGraph graph = graph_of(function, flow);
    INFO(body);
    for (std::size_t i = 0; i < function.body.size(); ++i) {
      if (function.body[i].opcode != "bra" || function.body[i].guard.empty()) continue;
      const int expected = expected_rejoin(graph, flow.block_of[i]);
      const int at = flow.reconvergence[i];
      REQUIRE(at == (expected < 0 ? static_cast<int>(function.body.size())
                                  : flow.blocks[static_cast<std::size_t>(expected)].first));
      rejoining += expected >= 0 ? 1 : 0;
    }
  }
  CHECK(rejoining > 2000);  // the property is not vacuous
}

}  // namespace
}  // namespace sagegen::emulator::ptx
