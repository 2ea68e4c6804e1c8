// The micro-benchmarks as ptxas assembles them: nothing spills, there is no remark, and the timed
// loops hold the instructions that the benchmarks count. Skipped (exit code 77) where there is no
// ptxas.
#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>

#include "tests/assembly/ptxas.h"
#include "tests/assembly/sass.h"
#include "tools/bench/micro/micro.h"

namespace sagegen::micro {
namespace {

std::string problem_of(const Program& program) {
  const assembly::Assembled assembled = assembly::assemble(program.ptx, "sm_90a", "-v");
  std::string problem = assembly::complaint(assembled.report);
  if (!problem.empty()) return problem;
  const assembly::Code code = assembly::read_cubin(assembled.cubin);
  const std::vector<assembly::Loop> loops = assembly::find_loops(code);
  for (const SassCount& expected : program.sass) {
    int count = 0;  // the largest in any loop
    for (const assembly::Loop& loop : loops) {
      count = std::max(count, assembly::count(code, loop.body, expected.opcode));
    }
    if (count != expected.count) {
      return fmt::format("{} {} in the loop, {} wanted", count, expected.operation, expected.count);
    }
    if (!program.name.starts_with("rate_")) continue;
    // A rate must not be that of something else: counter, comparison, branch and very few more.
    for (const assembly::Loop& loop : loops) {
      if (assembly::count(code, loop.body, expected.opcode) != count) continue;
      const int all = static_cast<int>(loop.body.size()) -
                      assembly::count(code, loop.body, assembly::operation::kNop);
      if (all > count + count / 50 + 5)
        return fmt::format("{} instructions in the loop, for {}", all, count);
    }
  }
  return {};
}

TEST_CASE(
    "every kernel assembles without a spill or a remark, and its loop holds what is counted") {
  assembly::skip_without_ptxas();
  std::vector<Program> programs;
  for (const Benchmark& benchmark : all_benchmarks()) {
    programs.insert(programs.end(), benchmark.programs.begin(), benchmark.programs.end());
  }
  std::vector<std::string> problems(programs.size());
  assembly::in_parallel(programs.size(), [&](std::size_t i) {
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
  if (assembly::ptxas_path().empty()) return;
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
