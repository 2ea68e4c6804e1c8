// What the library carries, and how a kernel is found in a store of PTX.
#include <catch2/catch.hpp>
#include <chrono>
#include <string>
#include <vector>

#include "runtime/artifacts/embedded.h"
#include "runtime/artifacts/store.h"
#include "runtime/artifacts/target_choice.h"
#include "sagegen/abi.h"
#include "sagegen/runtime/ptx_entry.h"
#include "tests/driver/fake_plan.h"
#include "tests/driver/kernels.h"

using namespace sagegen;
using namespace sagegen::test;
using Catch::Matchers::Contains;

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
  CHECK(set.find({.sm = 90, .suffix = 'a'}) == "sm_89");
  CHECK_THROWS_AS(set.find({.sm = 75}), SpecError);
  CHECK(Set({{.sm = 89}, {.sm = 90, .suffix = 'a'}}).find({.sm = 90, .suffix = 'a'}) == "sm_90a");
}

TEST_CASE("what is not there is answered with what is, for this device") {
  const Set set(std::vector{Target{.sm = 80}, Target{.sm = 89}});
  CHECK_THROWS_WITH(Set(std::vector{Target{.sm = 89}}).find({.sm = 80}),
                    Contains(key(attention_spec({.sm = 80}))) && Contains("is in the set") &&
                        Contains("sage_fwd are there for sm_89, which do not load on sm_80") &&
                        Contains("ask for another"));
  KernelSpec other = attention_spec({.sm = 86});
  other.problem.head_dim = 64;
  CHECK_THROWS_WITH(set.find(other), Contains("load on sm_86") &&
                                         Contains(key(attention_spec({.sm = 80}))) &&
                                         !Contains(key(attention_spec({.sm = 89}))));
  other.kind = KernelKind::quantize_k;
  CHECK_THROWS_WITH(set.find(canonical(other)),
                    Contains("none of the 2 kernels there") && Contains("kind sage_quantk"));
  CHECK_THROWS_WITH(Set({}).find(other), Contains("there is none at all"));
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
  for (const std::string_view name : embedded_bundle().names()) {
    INFO(name);
    const KernelSpec spec = parse_key(name);
    const std::string ptx = embedded_bundle().find(name).value();
    const auto entries = ptx_entries(ptx);
    REQUIRE(entries.size() == 1);
    CHECK(entries[0].name == name);
    CHECK(entries[0].parameter_bytes() == std::vector<std::size_t>{abi::param_bytes(spec.kind)});
    CHECK(embedded_ptx()(spec) == ptx);
    CHECK(ptx.find('\0') == std::string_view::npos);
  }
}

TEST_CASE("the embedded set is the default set, or empty") {
  const Bundle& bundle = embedded_bundle();
  if (bundle.names().empty()) {
    WARN("built from an empty generated/ directory");
    CHECK_THROWS_WITH(embedded_ptx()(attention_spec({.sm = 89})),
                      Contains("empty generated/ directory"));
    return;
  }
  const auto specs = read_spec_set_file(SAGEGEN_SOURCE_DIR "/templates/specs/default.toml");
  CHECK(bundle.names().size() == specs.size());
  for (const KernelSpec& spec : specs) {
    INFO(key(spec));
    CHECK(bundle.find(key(spec)).has_value());
  }
}

TEST_CASE("an embedded kernel is read in less than 0.2 ms") {
  const Bundle& bundle = embedded_bundle();
  for (const std::string_view name : bundle.names()) {
    double best = 1e9;  // of several: the machine may be busy with other things
    for (int i = 0; i < 20 && best > 200; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      bundle.find(name);
      best = std::min(
          best, std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
                    .count());
    }
    INFO(name << ": " << best << " us");
#if defined(NDEBUG) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    CHECK(best < 200);
#endif
  }
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
