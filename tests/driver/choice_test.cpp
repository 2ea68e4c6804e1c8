// The kernel that words mean on a device and its driver.
#include <catch2/catch.hpp>
#include <string>

#include "sagegen/runtime/artifacts.h"
#include "templates/attention/plan_choice.h"
#include "tests/driver/fake_plan.h"

using namespace sagegen;
using namespace sagegen::test;
using Catch::Matchers::Contains;

namespace {

std::string text_of(const std::shared_ptr<FakeDriver>& driver, const char* words) {
  return attention::choose_kernel(Device(driver, 0), words).kernel.key();
}

}  // namespace

TEST_CASE("each mode by name is that mode of the spec") {
  const auto driver = std::make_shared<FakeDriver>();
  for (const attention::Mode& mode : attention::modes()) {
    for (const DType io : {DType::f16, DType::bf16}) {
      const std::string words = "io=" + std::string(to_string(io)) + " mode=" + std::string(mode.name) + " head_dim=64";
      attention::Spec spec = attention::usual_spec({.sm = 89});
      spec.head_dim = 64;
      spec.io = io;
      spec = attention::with_mode(spec, mode);
      CHECK(text_of(driver, words.c_str()) == sagegen::Kernel(attention::family(), spec, {.sm = 89}).key());
    }
  }
}

TEST_CASE("what no word decides suits the device and its driver") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  const attention::Spec newest = attention::usual_spec({.sm = 89}), older = attention::usual_spec({.sm = 86});
  CHECK(text_of(driver, "") == sagegen::Kernel(attention::family(), newest, {.sm = 89}).key());
  CHECK(attention::choose_kernel(device, "").note.empty());
  driver->set_cuda_version(12020, 82);
  for (const char* words : {"", " \n", "causal", "mode=int8-fp16", "smoothing=none head_dim=64"}) {
    const attention::KernelChoice choice = attention::choose_kernel(device, words);
    CHECK(choice.kernel.target() == Target{.sm = 86});
    CHECK(choice.kernel.view(attention::family()).spec.pv == older.pv);
    CHECK_THAT(choice.note, Contains("CUDA 12.2"));
  }
  // What was asked for is not exchanged: loading says what the driver lacks.
  for (const char* words : {"mode=int8-fp8", "pv=e4m3", "out=e4m3", "qk=s8", "schedule=q64k64w4s2", "accumulation=two_level_f32",
                            "sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_f16_f32__q128k64w4s2__sm89"}) {
    INFO(words);
    const attention::KernelChoice choice = attention::choose_kernel(device, words);
    CHECK(choice.kernel.target() == Target{.sm = 89});
    CHECK(choice.kernel.violations().empty());
    CHECK(choice.note.empty());
  }
}

TEST_CASE("FP8 by mode on a device without it is refused by name") {
  const auto driver = std::make_shared<FakeDriver>();
  driver->set_compute_capability(80);
  CHECK_THROWS_WITH(text_of(driver, "head_dim=64 mode=int8-fp8"), Contains("mode int8-fp8 needs FP8 tensor cores") && Contains("8.0") &&
                                                                      Contains("int8-fp16"));
  CHECK_THROWS_AS(text_of(driver, "head_dim=64 mode=bf16-fp8"), SpecError);
}
