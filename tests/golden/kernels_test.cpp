// Promises about every kernel of the default choices on every target: what the text never contains, the
// same bytes on every run and thread, line info that changes no instruction.
#include <catch2/catch.hpp>

#include <atomic>
#include <regex>
#include <thread>

#include "sagegen/emit.h"
#include "sagegen/set.h"
#include "templates/attention/spec.h"
#include "tests/golden/golden.h"
#include "tests/random_kernels.h"

namespace sagegen::golden {
namespace {

using Catch::Contains;

struct Default {
  sagegen::Kernel kernel;
  Artifact artifact;
};

const std::vector<Default>& default_kernels() {
  static const std::vector<Default> kernels = [] {
    KernelProduct product{.targets = {},
                          .fields = {{"head_dim", {"64", "128"}},
                                     {"io", {"f16", "bf16"}},
                                     {"causal", {"false", "true"}}},
                          .schedules = {}};
    for (const TargetInfo& info : supported_targets()) product.targets.push_back(info.target);
    std::vector<Default> emitted;
    for (const sagegen::Kernel& kernel : enumerate(product))
      emitted.push_back({kernel, emit(kernel)});
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
  for (const auto& [kernel, artifact] : default_kernels()) {
    for (const std::string& line : instructions(artifact.code)) {
      if (std::regex_search(line, unrounded) || std::regex_search(line, approximate)) {
        FAIL_CHECK(kernel.key() << ": " << line);
      }
      rounded += line.find(".rn.f32") != std::string::npos ? 1 : 0;
    }
  }
  CHECK(rounded > 1000);
}

TEST_CASE("no kernel keeps anything in local memory or calls a function") {
  for (const auto& [kernel, artifact] : default_kernels()) {
    INFO(kernel.key());
    CHECK_THAT(artifact.code, !Contains(".local") && !Contains("call") && !Contains(".func"));
  }
}

// emit() leaves verification out, it costs 1 ms; trace() verifies after each step.
TEST_CASE("every kernel is well-formed LLVM IR, as built and as optimized") {
  for (const auto& [kernel, artifact] : default_kernels()) {
    INFO(kernel.key());
    CHECK_NOTHROW(trace(kernel));
  }
}

TEST_CASE("the text carries no path and no line of a template unless it is asked for") {
  for (const auto& [kernel, artifact] : default_kernels()) {
    INFO(kernel.key());
    CHECK_THAT(artifact.code,
               !Contains(".loc") && !Contains(".file") && !Contains(SAGEGEN_SOURCE_DIR));
  }
}

TEST_CASE("any thread emits the same bytes") {
  std::atomic<std::size_t> next{0};
  std::atomic<int> different{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < default_kernels().size(); i = next++) {
      const auto& [kernel, expected] = default_kernels()[i];
      if (emit(kernel).code != expected.code) ++different;
    }
  };
  default_kernels();
  std::thread other(work);
  work();
  other.join();
  CHECK(different == 0);
}

TEST_CASE("line info changes no instruction and names files inside the repository") {
  for (const auto& [kernel, artifact] : default_kernels()) {
    if (!(kernel.target() == Target{.sm = 89}) || kernel.key().find("_bf16") != std::string::npos)
      continue;
    INFO(kernel.key());
    const Artifact with = emit(kernel, {.line_info = LineInfo::on});
    std::vector<std::string> code = instructions(with.code);
    std::erase_if(code, [](const std::string& line) {
      return line.starts_with("$L__func") || line.starts_with("$L__tmp");
    });
    CHECK(code == instructions(artifact.code));
    CHECK_THAT(with.code,
               Contains("\"templates/") && Contains("\n\t.loc") && !Contains(SAGEGEN_SOURCE_DIR));
    CHECK(ptxas_complaint(with.code, kernel.target()).empty());
  }
}

TEST_CASE("a trace shows every stage of the same emission") {
  const sagegen::Kernel kernel = default_kernels().front().kernel;
  const std::vector<Stage> stages = trace(kernel);
  std::vector<std::string> titles;
  for (const Stage& stage : stages) {
    titles.push_back(stage.title);
    CHECK_FALSE(stage.text.empty());
    CHECK(stage.milliseconds >= 0);
  }
  CHECK(titles == std::vector<std::string>{"kernel", "resources", "parameters", "LLVM IR as built",
                                           "LLVM IR optimized", "PTX"});
  CHECK(stages.back().text == emit(kernel).code);
  CHECK_THAT(stages[3].text,
             Contains("alloca") && Contains("define ptx_kernel void @" + kernel.key()));
  CHECK_THAT(stages[4].text,
             !Contains("alloca") && Contains("define ptx_kernel void @" + kernel.key()));
}

// An emission is instruction selection, for the most part, which takes about 4 us for each of these on the
// machine of README.md, "How fast to emit"; a time cannot be a test. The numbers are 3 % more than there are.
TEST_CASE("the largest kernels hand instruction selection no more than they did") {
  struct Most {
    const char* key;
    std::ptrdiff_t instructions;
  };
  static constexpr Most kMost[] = {
      {"sage_fwd_d64_bf16_qk_s8t_g32x64_smk_pv_f16_f32_causal_sinks__q128k64w4s2__sm80", 4870},
      {"sage_fwd_d64_bf16_qk_s4t_g32x64_smqk_pv_f16_f32_causal__q128k64w4s2__sm80", 4720},
      {"sage_fwd_d128_bf16_qk_s8t_g32x64_smk_pv_f16_f32_causal_window__q128k64w4s2__sm80", 4390},
      {"sage_fwd_d128_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2_causal__q128k64w4s2__sm89", 3550},
      {"sage_fwd_d256_bf16_qk_s4t_g32x64_smqk_pv_f16_f32_causal__q64k64w4s1__sm80", 4070},
      {"sage_meanscores_d256_bf16__sm80", 5870},
  };
  for (const auto& [key, most] : kMost) {
    const std::string ir = trace(parse_key(key)).at(4).text;
    CAPTURE(key);
    std::ptrdiff_t instructions = 0;
    for (std::size_t at = 0; (at = ir.find("\n  ", at)) != std::string::npos; ++at) ++instructions;
    CHECK(instructions <= most);
    CHECK(instructions > most * 4 / 5);  // else the bound is none
  }
}

TEST_CASE("what the rules let through can be emitted") {
  test::RandomKernels random(29);
  for (int i = 0; i < 150; ++i) {
    const sagegen::Kernel kernel = random.valid();
    INFO(kernel.key());
    CHECK_NOTHROW(emit(kernel));
  }
}

TEST_CASE("a kernel that breaks a rule is refused before anything is built") {
  const sagegen::Kernel kernel(attention::family(), {.head_dim = 0}, Target{.sm = 89});
  CHECK_THROWS_AS(emit(kernel), SpecError);
}

}  // namespace
}  // namespace sagegen::golden
