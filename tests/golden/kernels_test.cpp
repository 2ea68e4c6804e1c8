// Promises about every kernel of the default choices on every target: what the text never contains, the
// same bytes on every run and thread, line info that changes no instruction.
#include <catch2/catch.hpp>

#include <atomic>
#include <regex>
#include <thread>

#include "sagegen/emit.h"
#include "tests/golden/golden.h"
#include "tests/unit/spec_test_support.h"

namespace sagegen::golden {
namespace {

using Catch::Contains;

const std::vector<EmittedKernel>& default_kernels() {
  static const std::vector<EmittedKernel> kernels = [] {
    SpecSpace space;
    for (const TargetInfo& info : supported_targets()) space.targets.push_back(info.target);
    std::vector<EmittedKernel> emitted;
    for (const KernelSpec& spec : enumerate(space)) emitted.push_back(emit(spec));
    return emitted;
  }();
  return kernels;
}

TEST_CASE("every f32 sum, difference, product and quotient says how it rounds") {
  static const std::regex unrounded("\\b(add|sub|mul|fma|mad|div)(\\.ftz)?\\.(f32|f16|f16x2|bf16)");
  static const std::regex approximate("(div|sqrt)\\.(approx|full)");
  // The pattern is right only if it finds what it looks for.
  REQUIRE(std::regex_search(std::string("add.f32 %r1, %r2, %r3;"), unrounded));
  REQUIRE_FALSE(std::regex_search(std::string("add.rn.f32 %r1, %r2, %r3;"), unrounded));
  int rounded = 0;
  for (const EmittedKernel& kernel : default_kernels()) {
    for (const std::string& line : instructions(kernel.ptx)) {
      if (std::regex_search(line, unrounded) || std::regex_search(line, approximate)) {
        FAIL_CHECK(kernel.name << ": " << line);
      }
      rounded += line.find(".rn.f32") != std::string::npos ? 1 : 0;
    }
  }
  CHECK(rounded > 1000);
}

TEST_CASE("no kernel keeps anything in local memory or calls a function") {
  for (const EmittedKernel& kernel : default_kernels()) {
    INFO(kernel.name);
    CHECK_THAT(kernel.ptx, !Contains(".local") && !Contains("call") && !Contains(".func"));
  }
}

// emit() leaves verification out, it costs 1 ms; trace() verifies after each step.
TEST_CASE("every kernel is well-formed LLVM IR, as built and as optimized") {
  for (const EmittedKernel& kernel : default_kernels()) {
    INFO(kernel.name);
    CHECK_NOTHROW(trace(kernel.spec));
  }
}

TEST_CASE("the text carries no path and no line of a template unless it is asked for") {
  for (const EmittedKernel& kernel : default_kernels()) {
    INFO(kernel.name);
    CHECK_THAT(kernel.ptx,
               !Contains(".loc") && !Contains(".file") && !Contains(SAGEGEN_SOURCE_DIR));
  }
}

TEST_CASE("any thread emits the same bytes") {
  std::atomic<std::size_t> next{0};
  std::atomic<int> different{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < default_kernels().size(); i = next++) {
      const EmittedKernel& expected = default_kernels()[i];
      if (emit(expected.spec).ptx != expected.ptx) ++different;
    }
  };
  default_kernels();
  std::thread other(work);
  work();
  other.join();
  CHECK(different == 0);
}

TEST_CASE("line info changes no instruction and names files inside the repository") {
  for (const EmittedKernel& kernel : default_kernels()) {
    if (!(kernel.spec.target == Target{.sm = 89}) || kernel.spec.problem.io != DType::f16) continue;
    INFO(kernel.name);
    const EmittedKernel with = emit(kernel.spec, {.line_info = LineInfo::on});
    std::vector<std::string> code = instructions(with.ptx);
    std::erase_if(code, [](const std::string& line) {
      return line.starts_with("$L__func") || line.starts_with("$L__tmp");
    });
    CHECK(code == instructions(kernel.ptx));
    CHECK_THAT(with.ptx,
               Contains("\"templates/") && Contains("\n\t.loc") && !Contains(SAGEGEN_SOURCE_DIR));
    CHECK(ptxas_complaint(with.ptx, kernel.spec.target).empty());
  }
}

TEST_CASE("a trace shows every stage of the same emission") {
  const KernelSpec spec = default_kernels().front().spec;
  const std::vector<Stage> stages = trace(spec);
  std::vector<std::string> titles;
  for (const Stage& stage : stages) {
    titles.push_back(stage.title);
    CHECK_FALSE(stage.text.empty());
    CHECK(stage.milliseconds >= 0);
  }
  CHECK(titles == std::vector<std::string>{"spec", "resources", "LLVM IR as built",
                                           "LLVM IR optimized", "PTX"});
  CHECK(stages.back().text == emit(spec).ptx);
  CHECK_THAT(stages[2].text,
             Contains("alloca") && Contains("define ptx_kernel void @" + key(spec)));
  CHECK_THAT(stages[3].text,
             !Contains("alloca") && Contains("define ptx_kernel void @" + key(spec)));
}

TEST_CASE("what the rules let through can be emitted") {
  test::RandomSpecs random(29);
  for (int i = 0; i < 150; ++i) {
    const KernelSpec spec = random.valid();
    INFO(key(spec));
    CHECK_NOTHROW(emit(spec));
  }
}

TEST_CASE("a spec that breaks a rule is refused before anything is built") {
  KernelSpec spec = default_kernels().front().spec;
  spec.target = {.sm = 89};
  spec.problem.head_dim = 0;
  CHECK_THROWS_AS(emit(spec), SpecError);
}

}  // namespace
}  // namespace sagegen::golden
