// Drivers that are too old for the PTX of the newest targets, and errors of a plan's kernels.
#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "runtime/artifacts/target_choice.h"
#include "runtime/driver/ptx_version.h"
#include "tests/driver/fake_plan.h"

using namespace sagegen;
using namespace sagegen::test;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

// Text with the `.version` that it needs.
Artifact code_of(const sagegen::Kernel& kernel) {
  const ParamLayout layout = kernel.params();
  const std::string text = fake_ptx(kernel.key(), layout.bytes());
  const int version = kernel.ptx_version();
  return artifact_of_ptx(
      kernel, fmt::format(".version {}.{}{}", version / 10, version % 10,
                          "\n" + params_line(layout.digest()) + text.substr(text.find('\n'))));
}

attention::Plan plan(const std::shared_ptr<FakeDriver>& driver, Target target, DType pv,
                     const ArtifactSource& source = code_of, const attention::Spec& spec = {}) {
  return attention::Plan(Device(driver, 0),
                         sagegen::Kernel(attention::family(), attention::with_pv(spec, pv), target),
                         source);
}

}  // namespace

TEST_CASE("the PTX version of a text, and the CUDA version that it needs") {
  CHECK(ptx_version(".version 8.4\n.target sm_89\n") == 84);
  CHECK(ptx_version("//\n// Generated\n//\n\n\t.version\t7.0 // low\n") == 70);
  for (const char* odd :
       {"", ".version", ".version 8", ".version x.y", ".version 8.", ".versio 8.4",
        ".version 99999999999.9", ".version -8.4", "// .version 8.4"}) {
    CHECK(ptx_version(odd) == 0);
  }
  CHECK(first_cuda_with(70) == 11000);
  CHECK(first_cuda_with(78) == 11080);
  CHECK(first_cuda_with(84) == 12040);
  CHECK(first_cuda_with(86) == 12070);
  CHECK(first_cuda_with(87) == 12080);
  CHECK(first_cuda_with(99) == 13000);
  CHECK(cuda_name(12040) == "12.4");
}

TEST_CASE("the target of a device is one that its driver compiles") {
  struct Case {
    int capability, cuda, sm;
    std::vector<std::string> note;  // parts of it; none: no note
  };
  const Case cases[] = {
      {89, 13000, 89, {}},
      {89, 12040, 89, {}},
      {89, 12020, 86, {"CUDA 12.2", "sm_89, which needs CUDA 12.4", "sm_86", "FP16 P V"}},
      {90, 12020, 86, {"sm_89", "sm_86", "FP16 P V"}},
      {120, 12040, 89, {"sm_120, which needs CUDA 12.8", "of sm_89 are used;"}},
      {86, 12020, 86, {}},
      {86, 11000, 80, {"sm_86, which needs CUDA 11.1"}},
      {80, 11000, 80, {}},
      {89, 10020, 89, {}},  // too old for everything: loading says so
  };
  for (const Case& c : cases) {
    INFO(c.capability << ", CUDA " << c.cuda);
    const TargetChoice choice = choose_target(c.capability, c.cuda, default_targets());
    CHECK(choice.target == Target{.sm = c.sm});
    CHECK(choice.note.empty() == c.note.empty());
    for (const std::string& part : c.note) CHECK_THAT(choice.note, Contains(part));
  }
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  CHECK(best_target(device) == Target{.sm = 89});
  CHECK(best_target_note(device).empty());
  driver->set_cuda_version(12020, 82);
  CHECK(best_target(device) == Target{.sm = 86});
  CHECK_THAT(best_target_note(device), Contains("CUDA 12.2"));
}

TEST_CASE(
    "a kernel that the driver refuses as too new is loaded for an older target, with a word") {
  const auto driver = std::make_shared<FakeDriver>();
  driver->set_cuda_version(12020, 82);
  {
    const attention::Plan made = plan(driver, {.sm = 89}, DType::f16);
    for (const std::string& name : made.kernel_names()) {
      CHECK(parse_key(name).target().sm == 86);
      CHECK_THAT(made.note(), Contains(name));
    }
    CHECK_THAT(made.note(), Contains("too old for the PTX of sm_89"));
    CHECK(made.kernel().target().sm == 89);  // as asked for
  }
  CHECK(driver->live().empty());
  CHECK(driver->misuse().empty());
  driver->set_cuda_version(13000, 90);
  CHECK(plan(driver, {.sm = 89}, DType::f16).note().empty());
}

TEST_CASE("where no older PTX loads, the first refusal stands, and says what helps") {
  const auto driver = std::make_shared<FakeDriver>();
  driver->set_cuda_version(12020, 82);
  SECTION("FP8 exists for no older target") {
    CHECK_THROWS_WITH(plan(driver, {.sm = 89}, DType::e4m3),
                      StartsWith("sage_fwd_d128_f16") && Contains("CUDA 12.2") &&
                          Contains("CUDA 12.4") && Contains("pv f16, mode int8-fp16"));
  }
  SECTION("sums of FP8 products in f16 need a newer one than the other kernels of the target") {
    driver->set_cuda_version(12040, 84);
    attention::Spec spec;
    CHECK_NOTHROW(plan(driver, {.sm = 89}, DType::e4m3));
    spec.accumulation = Accumulation::f32_f16;
    const auto made = [&](DType pv) {
      spec.pv = pv;
      return attention::Plan(Device(driver, 0),
                             sagegen::Kernel(attention::family(), spec, {.sm = 89}), code_of);
    };
    CHECK_THROWS_WITH(made(DType::e4m3),
                      Contains("CUDA 12.8") && Contains("accumulation two_level_f32"));
    CHECK_NOTHROW(made(DType::f16));
  }
  SECTION("the source has none") {
    const auto source = [](const sagegen::Kernel& kernel) {
      if (kernel.target().sm != 89) throw SpecError("nothing here");
      return code_of(kernel);
    };
    CHECK_THROWS_WITH(plan(driver, {.sm = 89}, DType::f16, source),
                      Contains("(222)") && Contains("update the driver") && !Contains("mode"));
  }
  SECTION("the older PTX is refused as well") {
    driver->set_cuda_version(10020, 65);
    CHECK_THROWS_WITH(plan(driver, {.sm = 89}, DType::f16), Contains("(222)") && Contains("10.2"));
  }
  SECTION("the older PTX fails in another way") {
    const auto source = [&](const sagegen::Kernel& kernel) {
      if (kernel.target().sm != 89) driver->reject_ptx("syntax error");
      return code_of(kernel);
    };
    CHECK_THROWS_WITH(plan(driver, {.sm = 89}, DType::f16, source), Contains("syntax error"));
  }
  CHECK(driver->live().empty());
}

TEST_CASE("errors of a plan name the attention that was asked for") {
  const auto driver = std::make_shared<FakeDriver>();
  // As the first kernel that is loaded is one that prepares inputs, it used to be blamed.
  CHECK_THROWS_WITH(plan(driver, {.sm = 80}, DType::e4m3),
                    StartsWith("sage_fwd_d128_f16") && Contains("pv e4m3 is refused on sm_80"));
  CHECK_THROWS_WITH(plan(driver, {.sm = 89}, DType::f16, code_of, {.head_dim = 112}),
                    StartsWith("sage_fwd_d112") && Contains("up to 128"));
  CHECK_THROWS_WITH(plan(driver, {.sm = 89}, DType::f16, code_of, {.head_dim = 320}),
                    StartsWith("sage_fwd_d320") && !Contains("pad"));
  const auto fails_for = [&](const std::string& family, const std::string& words) {
    const auto source = [&](const sagegen::Kernel& kernel) {
      if (kernel.family().title == family) throw SpecError("nothing here");
      return code_of(kernel);
    };
    CHECK_THROWS_WITH(plan(driver, {.sm = 89}, DType::f16, source), words);
  };
  fails_for("attention", "nothing here");
  const std::string asked = plan(driver, {.sm = 89}, DType::f16).kernel().key();
  fails_for(
      "quantize_rows",
      asked + " needs sage_quantrows_d128_f16_s8_r4_g64_smooth__sm89 for its inputs: nothing here");
  driver->reject_ptx("syntax error");
  CHECK_THROWS_WITH(plan(driver, {.sm = 89}, DType::f16),
                    StartsWith(asked + " needs sage_kvstats_") && Contains("syntax error"));
  CHECK(driver->live().empty());
}

TEST_CASE("a smoothing that does not exist is refused") {
  const auto driver = std::make_shared<FakeDriver>();
  attention::Spec spec;
  spec.smoothing = static_cast<Smoothing>(5);
  CHECK_THROWS_WITH(plan(driver, {.sm = 89}, DType::e4m3, code_of, spec),
                    StartsWith("sage_fwd_") && Contains("smoothing 5 is refused"));
}
