// Every kernel of the default set assembles for its target, and for Hopper, which loads the PTX of lower
// targets: nothing spills, and ptxas has no remark.
// Skipped (exit code 77) where there is no ptxas.
#include <catch2/catch.hpp>

#include <string_view>

#include "sagegen/emit.h"
#include "tests/assembly/ptxas.h"

namespace sagegen {
namespace {

using assembly::Assembled;

struct Job {
  KernelSpec spec;
  Target target;
  Assembled assembled = {};
};

void assemble_all(std::vector<Job>& jobs) {
  assembly::in_parallel(jobs.size(), [&](std::size_t i) {
    jobs[i].assembled = assembly::assemble(emit(jobs[i].spec).ptx, to_string(jobs[i].target), "-v");
  });
}

std::vector<KernelSpec> default_specs() {
  return read_spec_set_file(SAGEGEN_SOURCE_DIR "/templates/specs/default.toml");
}

TEST_CASE("every default kernel assembles without a spill or a remark") {
  assembly::skip_without_ptxas();
  const std::vector<KernelSpec> specs = default_specs();
  REQUIRE(specs.size() > 50);
  constexpr Target kHopper{.sm = 90};
  // Spills 8 bytes there, on a GPU that is to get kernels of its own.
  constexpr std::string_view kSpillsOnHopper =
      "sage_fwd_d128_f16_none_qk_s8b_g128x64_pv_e4m3_f32x2_q128k64w4s2_sm89";
  std::vector<Job> jobs;
  for (const KernelSpec& spec : specs) {
    jobs.push_back({spec, spec.target});
    if (spec.target.sm < kHopper.sm) jobs.push_back({spec, kHopper});
  }
  assemble_all(jobs);
  for (const Job& job : jobs) {
    const std::string& report = job.assembled.report;
    const bool spills = job.target == kHopper && key(job.spec) == kSpillsOnHopper;
    if (spills ? report.find(" 8 bytes spill stores") == std::string::npos
               : !assembly::complaint(report).empty()) {
      FAIL_CHECK(key(job.spec) << " on " << to_string(job.target) << ":\n" << report);
    }
  }
}

}  // namespace
}  // namespace sagegen
