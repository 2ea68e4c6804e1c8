// What the library carries, and how a kernel is found in a store of PTX.
#include <catch2/catch.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/artifacts/embedded.h"
#include "runtime/artifacts/store.h"
#include "runtime/artifacts/target_choice.h"
#include "sagegen/runtime/ptx_entry.h"
#include "sagegen/set.h"
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
}

TEST_CASE("what is not there is answered with what is, for this device") {
  const Set set(std::vector{Target{.sm = 80}, Target{.sm = 89}});
  CHECK_THROWS_WITH(Set(std::vector{Target{.sm = 89}}).find({.sm = 80}),
                    Contains(attention_for({.sm = 80}).key()) && Contains("is in the set") &&
                        Contains("sage_fwd are there for sm_89, which do not load on sm_80") &&
                        Contains("ask for another"));
  const sagegen::Kernel other = usual_kernel({.head_dim = 64}, {.sm = 86});
  CHECK_THROWS_WITH(set.find(other), Contains("load on sm_86") &&
                                         Contains(attention_for({.sm = 80}).key()) &&
                                         !Contains(attention_for({.sm = 89}).key()));
  CHECK_THROWS_WITH(set.find(other.inputs().back()),
                    Contains("none of the 2 kernels there") && Contains("kind sage_quantrows"));
  CHECK_THROWS_WITH(Set({}).find(other), Contains("there is none at all"));
}

TEST_CASE("a kernel of an older target is launched under its own name") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  const auto source = [](const sagegen::Kernel& kernel) {
    return artifact_of_ptx(kernel, fake_ptx_of(kernel.on({.sm = 80})));
  };
  const attention::Plan plan(device, usual_kernel({}, {.sm = 86}), source);
  for (const std::string& name : plan.kernel_names()) CHECK(parse_key(name).target().sm == 80);
}

TEST_CASE("the embedded set is well formed") {
  for (const std::string_view name : embedded_bundle().names()) {
    INFO(name);
    const sagegen::Kernel kernel = parse_key(name);
    const std::string ptx = embedded_bundle().find(name).value();
    const auto entries = ptx_entries(ptx);
    REQUIRE(entries.size() == 1);
    CHECK(entries[0].name == name);
    CHECK(entries[0].parameter_bytes() == std::vector<std::size_t>{kernel.params().bytes()});
    CHECK(embedded_ptx()(kernel)->code == ptx);
    CHECK(params_of_ptx(ptx) == kernel.params().digest());
    CHECK(ptx.find('\0') == std::string_view::npos);
  }
}

TEST_CASE("the embedded set is the default set, or empty") {
  const Bundle& bundle = embedded_bundle();
  if (bundle.names().empty()) {
    WARN("built from an empty generated/ directory");
    CHECK_THROWS_WITH(embedded_ptx()(attention_for({.sm = 89})),
                      Contains("empty generated/ directory"));
    return;
  }
  std::vector<sagegen::Kernel> kernels;
  for (const auto& room : std::filesystem::directory_iterator(SAGEGEN_SOURCE_DIR "/templates")) {
    const std::filesystem::path set = room.path() / "set.toml";
    if (!std::filesystem::exists(set)) continue;
    for (const sagegen::Kernel& kernel : read_set_file(set.string())) kernels.push_back(kernel);
  }
  CHECK(bundle.names().size() == kernels.size());
  for (const sagegen::Kernel& kernel : kernels) {
    INFO(kernel.key());
    CHECK(bundle.find(kernel.key()).has_value());
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
