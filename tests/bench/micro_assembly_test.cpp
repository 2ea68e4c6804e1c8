// The micro-benchmarks as ptxas assembles them: nothing spills, there is no remark, and the timed
// loops hold the instructions that the benchmarks count. Skipped (exit code 77) where there is no
// ptxas.
#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdint>

#include "tests/assembly/needs_ptxas.h"
#include "tools/bench/micro/micro.h"
#include "tools/model/loops.h"
#include "tools/reference/parallel_for.h"

namespace sagegen::micro {
namespace {

std::string problem_of(const Program& program) {
  const model::Assembled assembled = model::assemble(program.ptx, "sm_90a", "-v");
  std::string problem = model::complaint(assembled.report);
  if (!problem.empty()) return problem;
  const model::Code code = model::read_cubin(assembled.cubin);
  const std::vector<model::Loop> loops = model::find_loops(code);
  for (const SassCount& expected : program.sass) {
    int count = 0;  // the largest in any loop
    for (const model::Loop& loop : loops) {
      count = std::max(count, model::count(code, loop.body, expected.opcode));
    }
    if (count != expected.count) {
      return fmt::format("{} {} in the loop, {} wanted", count, expected.operation, expected.count);
    }
    if (!program.name.starts_with("rate_")) continue;
    // A rate must not be that of something else: counter, comparison, branch and very few more.
    for (const model::Loop& loop : loops) {
      if (model::count(code, loop.body, expected.opcode) != count) continue;
      const int all = static_cast<int>(loop.body.size()) -
                      model::count(code, loop.body, model::operation::kNop);
      if (all > count + count / 50 + 5)
        return fmt::format("{} instructions in the loop, for {}", all, count);
    }
  }
  return {};
}

TEST_CASE(
    "every kernel assembles without a spill or a remark, and its loop holds what is counted") {
  test::skip_without_ptxas();
  std::vector<Program> programs;
  for (const Benchmark& benchmark : all_benchmarks()) {
    programs.insert(programs.end(), benchmark.programs.begin(), benchmark.programs.end());
  }
  std::vector<std::string> problems(programs.size());
  reference::parallel_for(static_cast<std::int64_t>(programs.size()), 0, [&](std::int64_t n) {
    const auto i = static_cast<std::size_t>(n);
    try {
      problems[i] = problem_of(programs[i]);
    } catch (const std::exception& e) {
      problems[i] = e.what();
    }
  });
  for (std::size_t i = 0; i < programs.size(); ++i) {
    if (!problems[i].empty()) FAIL_CHECK(programs[i].name << ": " << problems[i]);
  }
}

TEST_CASE("a step that is missing shows in the count") {
  if (model::ptxas_path().empty()) return;
  const std::vector<Benchmark> list = all_benchmarks();
  const auto program = [&](const std::string& name) {
    for (const Benchmark& benchmark : list) {
      if (benchmark.name == name) return benchmark.programs[0];
    }
    throw std::runtime_error("no benchmark " + name);
  };
  Program shorter = program("rate_ex2");
  const std::string step = "\tex2.approx.ftz.f32 %x3, %y;\n";
  const std::size_t found = shorter.ptx.find(step);
  REQUIRE(found != std::string::npos);
  shorter.ptx.erase(found, step.size());
  CHECK(problem_of(shorter) == "127 MUFU in the loop, 128 wanted");
}

}  // namespace
}  // namespace sagegen::micro
