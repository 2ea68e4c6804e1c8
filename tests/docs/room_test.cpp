// The family that docs/architecture.md adds, built from the text of that page.
#include <catch2/catch.hpp>

#include <cstdint>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "sagegen/emit.h"
#include "sagegen/runtime/emulator.h"
#include "sagegen/runtime/plan.h"
#include "sagegen/set.h"
#include "templates/row_sum/params.h"
#include "templates/row_sum/spec.h"

namespace sagegen::row_sum {
const Family& any_family();
void build(dsl::KernelBuilder& k, const Kernel& kernel);
}  // namespace sagegen::row_sum

namespace {

using namespace sagegen;

const Families& families() {
  static const Families list = Families(builtin_families()).add(row_sum::any_family());
  return list;
}

Artifact emit_it(const Kernel& kernel) {
  static const Templates templates =
      Templates(builtin_templates()).add(row_sum::any_family(), row_sum::build);
  return emit(kernel, {}, templates);
}

}  // namespace

TEST_CASE("the documented family has keys, option texts and sets") {
  const Kernel kernel(row_sum::family(), {}, Target{89});
  CHECK(kernel.key() == "sage_rowsum_f16__t128__sm89");
  CHECK(parse_key(kernel.key(), families()) == kernel);
  CHECK(kernel_of_options(row_sum::family(), "io=bf16 schedule=t32", Target{80}).key() ==
        "sage_rowsum_bf16__t32__sm80");
  CHECK(kernel.schedules().size() == 4);
  CHECK(read_set("[[row_sum]]\ntargets = [\"sm_80\", \"sm_89\"]\nio = [\"f16\", \"bf16\"]\n",
                 "set.toml", families())
            .size() == 4);
}

TEST_CASE("the documented family's released keys mean what the page says") {
  std::ifstream file(SAGEGEN_SHOWN_KEYS);
  int keys = 0;
  for (std::string key, options; file >> key && std::getline(file, options); ++keys) {
    const Kernel kernel = parse_key(key, families());
    CHECK(kernel_of_options(row_sum::family(), options, kernel.target()) == kernel);
  }
  CHECK(keys == 2);
}

TEST_CASE("every schedule of the documented family sums rows in the emulator") {
  constexpr int kRows = 3, kColumns = 520;
  constexpr std::uint16_t kHalf[] = {0x3c00, 0x4000, 0x3800};  // 1, 2, 0.5 as f16
  constexpr float kOf[] = {1.0f, 2.0f, 0.5f};
  const auto driver = runtime::make_emulator();
  const runtime::Device device(driver, static_cast<int>(runtime::EmulatorProfile::sm_89));
  const runtime::Stream stream(device);
  std::vector<std::uint16_t> rows;
  for (const std::uint16_t value : kHalf) rows.insert(rows.end(), kColumns, value);

  for (const Kernel& kernel : Kernel(row_sum::family(), {}, Target{89}).schedules()) {
    INFO(kernel.key());
    runtime::Buffer x(device, rows.size() * 2), sums(device, kRows * sizeof(float));
    x.upload(std::as_bytes(std::span(rows)));
    const runtime::LoadedSteps steps(device, {kernel}, kernel, emit_it);
    ParamPack params = steps.params(0);
    params.set(row_sum::Params{.rows = x.data(), .sums = sums.data(), .columns = kColumns});
    steps.launch(0, {.x = kRows}, params, stream.handle());
    stream.synchronize();
    float got[kRows];
    sums.download(std::as_writable_bytes(std::span(got)));
    for (int row = 0; row < kRows; ++row) CHECK(got[row] == kOf[row] * kColumns);
  }
  CHECK(driver->findings().empty());
}
