// Which embedded kernel a spec gets, and which target a device.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "runtime/artifacts/embed.h"
#include "runtime/artifacts/target_choice.h"
#include "sagegen/abi.h"
#include "sagegen/runtime/ptx_entry.h"
#include "tests/driver/fake_plan.h"

using namespace sagegen;
using namespace sagegen::test;
using Catch::Matchers::Contains;

namespace {

KernelSpec attention_spec(Target target) {
  // FP16 PV is a valid kernel on every target.
  QuantSpec quant = default_quant(Target{.sm = 80});
  const AttentionProblem problem;
  return canonical({.kind = KernelKind::attention,
                    .problem = problem,
                    .quant = quant,
                    .schedule = default_schedule(problem, quant, Target{.sm = 80}),
                    .target = target});
}

// A set with this attention kernel for the given targets; the text is the target's name.
class Set {
 public:
  explicit Set(const std::vector<Target>& targets) {
    for (const Target target : targets) {
      keys_.push_back(key(attention_spec(target)));
      texts_.push_back(to_string(target));
    }
    for (std::size_t i = 0; i < keys_.size(); ++i) kernels_.push_back({keys_[i], texts_[i]});
  }
  std::string find(Target target) const {
    return std::string(find_kernel(kernels_, attention_spec(target)).ptx);
  }

 private:
  std::vector<std::string> keys_, texts_;
  std::vector<EmbeddedKernel> kernels_;
};

}  // namespace

TEST_CASE("an exact target comes first, then the highest below it") {
  const Set set({{.sm = 120}, {.sm = 80}, {.sm = 89}});
  CHECK(set.find({.sm = 80}) == "sm_80");
  CHECK(set.find({.sm = 89}) == "sm_89");
  CHECK(set.find({.sm = 120}) == "sm_120");
  CHECK(set.find({.sm = 86}) == "sm_80");  // same major version
  CHECK(set.find({.sm = 121}) == "sm_120");
  CHECK(set.find({.sm = 90}) == "sm_89");  // none of its major version: the driver compiles sm_89
  CHECK(set.find({.sm = 103}) == "sm_89");
  CHECK(set.find({.sm = 999}) == "sm_120");  // newer than everything
  CHECK_THROWS_AS(set.find({.sm = 75}), SpecError);
}

TEST_CASE("targets with a suffix neither replace nor are replaced") {
  const std::vector<Target> targets{
      {.sm = 80}, {.sm = 90, .suffix = 'a'}, {.sm = 120, .suffix = 'f'}, {.sm = 86}};
  const auto closest = [&](Target wanted) {
    const auto found = closest_target(targets, wanted);
    return found ? to_string(targets[*found]) : std::string("none");
  };
  CHECK(closest({.sm = 90, .suffix = 'a'}) == "sm_90a");
  CHECK(closest({.sm = 90}) == "sm_86");
  CHECK(closest({.sm = 121}) == "sm_86");
  CHECK(closest({.sm = 80}) == "sm_80");
  CHECK(closest({.sm = 100, .suffix = 'a'}) == "none");
  CHECK(closest({.sm = 75}) == "none");
  CHECK_FALSE(closest_target({}, {.sm = 90}).has_value());
}

TEST_CASE("what is not there is answered with what is") {
  const Set set(std::vector{Target{.sm = 89}});
  CHECK_THROWS_WITH(set.find({.sm = 80}), Contains(key(attention_spec({.sm = 80}))) &&
                                              Contains("embedded kernels of this kind") &&
                                              Contains(key(attention_spec({.sm = 89}))));
  KernelSpec other = attention_spec({.sm = 89});
  other.problem.head_dim = 64;
  const std::string text = key(attention_spec({.sm = 89}));
  const std::vector<EmbeddedKernel> kernels{{text, "ptx"}};
  CHECK_THROWS_AS(find_kernel(kernels, other), SpecError);
  other.kind = KernelKind::quantize_k;
  CHECK_THROWS_WITH(find_kernel(kernels, canonical(other)),
                    Contains("none of the 1 embedded kernels"));
  CHECK_THROWS_WITH(find_kernel({}, other), Contains("empty generated/ directory"));
}

TEST_CASE("a kernel of an older target is launched under its own name") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  const AttentionProblem problem;
  const Target asked{.sm = 86};
  const QuantSpec quant = default_quant(asked);
  const auto source = [](const KernelSpec& spec) {
    KernelSpec older = spec;
    older.target = Target{.sm = 80};
    return fake_ptx(key(older), abi::param_bytes(spec.kind));
  };
  const Attention attention(device, problem, quant, default_schedule(problem, quant, asked), asked,
                            source);
  for (const std::string& name : attention.kernel_names()) CHECK(parse_key(name).target.sm == 80);
}

TEST_CASE("the embedded set is well formed") {
  for (const EmbeddedKernel& kernel : embedded_kernels()) {
    INFO(kernel.key);
    const KernelSpec spec = parse_key(kernel.key);
    const auto entries = ptx_entries(kernel.ptx);
    REQUIRE(entries.size() == 1);
    CHECK(entries[0].name == kernel.key);
    CHECK(entries[0].parameter_bytes() == std::vector<std::size_t>{abi::param_bytes(spec.kind)});
    CHECK(&find_kernel(embedded_kernels(), spec) != nullptr);
    CHECK(kernel.ptx.find('\0') == std::string_view::npos);
  }
}

TEST_CASE("the embedded set is the default set, or empty") {
  const std::vector<EmbeddedKernel> kernels = embedded_kernels();
  if (kernels.empty()) {
    WARN("built from an empty generated/ directory");
    return;
  }
  const auto specs = read_spec_set_file(SAGEGEN_SOURCE_DIR "/templates/specs/default.toml");
  CHECK(kernels.size() == specs.size());
  std::size_t bytes = 0;
  for (const KernelSpec& spec : specs) {
    const EmbeddedKernel& kernel = find_kernel(kernels, spec);
    CHECK(kernel.key == key(spec));
    bytes += kernel.ptx.size();
  }
  CHECK(bytes < 3'950'000);  // with the manifest, generated/ stays under 4 MB
}

TEST_CASE("each device gets the highest target that its driver can compile") {
  CHECK(best_target(80) == Target{.sm = 80});
  CHECK(best_target(86) == Target{.sm = 86});
  CHECK(best_target(87) == Target{.sm = 86});
  CHECK(best_target(89) == Target{.sm = 89});
  CHECK(best_target(90) == Target{.sm = 89});
  CHECK(best_target(100) == Target{.sm = 89});
  CHECK(best_target(103) == Target{.sm = 89});
  CHECK(best_target(120) == Target{.sm = 120});
  CHECK(best_target(121) == Target{.sm = 120});
  CHECK_THROWS_AS(best_target(75), SpecError);
  CHECK_THROWS_WITH(best_target(75), Contains("7.5") && Contains("sm_80"));
}
