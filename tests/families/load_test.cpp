// PTX that was made for other parameters than the plan passes is refused before it is loaded.
#include <catch2/catch.hpp>

#include <fmt/format.h>

#include "sagegen/error.h"
#include "sagegen/runtime/emulator.h"
#include "sagegen/runtime/plan.h"
#include "tests/families/random_kernels.h"

using namespace sagegen;
using Catch::Matchers::Contains;

namespace {

// A kernel that does nothing, with the parameter and the block of the real one.
std::string empty_ptx(const Kernel& kernel, const std::string& params) {
  return fmt::format(
      "{}.version 8.4\n.target sm_80\n.address_size 64\n"
      ".visible .entry {}(.param .align 8 .b8 p[{}])\n.reqntid {}, 1, 1\n{{\nret;\n}}\n",
      params, kernel.key(), kernel.params().bytes(), kernel.resources().threads);
}

std::string load_error(const Kernel& kernel, const std::string& params) {
  using runtime::EmulatorProfile;
  int ordinal = 0;
  while (to_string(static_cast<EmulatorProfile>(ordinal)) != to_string(kernel.target())) ++ordinal;
  const runtime::Device device(runtime::make_emulator(), ordinal);
  try {
    const runtime::LoadedSteps steps(device, {kernel}, kernel, [&](const Kernel& asked) {
      return runtime::artifact_of_ptx(asked, empty_ptx(asked, params));
    });
    CHECK(steps.entries() == std::vector<std::string>{kernel.key()});
  } catch (const SpecError& error) {
    return error.what();
  }
  return "loaded";
}

}  // namespace

TEST_CASE("PTX with the digest of another parameter layout is refused, and says why") {
  for (const Family* family : builtin_families().all()) {
    test::RandomKernels random(*family, 1);
    for (int i = 0; i < 5; ++i) {
      const Kernel kernel = random.valid();
      const std::uint64_t digest = kernel.params().digest();
      INFO(kernel.key());
      CHECK(load_error(kernel, params_line(digest)) == "loaded");
      for (const std::string& line : {params_line(digest ^ 1), params_line(0), std::string(),
                                      params_line(digest).substr(0, 30) + "\n"}) {
        INFO(line);
        const bool says = line == params_line(digest ^ 1);
        CHECK_THAT(
            load_error(kernel, line),
            Contains(kernel.key()) &&
                Contains(says ? "made for other parameters" : "does not say its parameters") &&
                Contains(fmt::format("{:016x}: {}", digest, kernel.params().text())) &&
                Contains("generate it again"));
      }
    }
  }
}

TEST_CASE("the digest of a PTX text is that of its first line of parameters") {
  CHECK(params_of_ptx("// first\n" + params_line(0x0123456789abcdefu) + params_line(7)) ==
        0x0123456789abcdefu);
  CHECK(params_line(0x1f) == "// sagegen parameters: 000000000000001f\n");
  CHECK(params_of_ptx(params_line(0)) == 0u);
  CHECK_FALSE(params_of_ptx("").has_value());
  CHECK_FALSE(params_of_ptx("// sagegen parameters: ").has_value());
  CHECK_FALSE(params_of_ptx("// sagegen parameters: 0123456789abcde\n").has_value());
  CHECK_FALSE(params_of_ptx("// sagegen parameters: 0123456789abcdeg\n").has_value());
  CHECK_FALSE(params_of_ptx("// sagegen parameters: -123456789abcdef\n").has_value());
}
