// Every kernel of the default set assembles for its target, and for Hopper, which loads the PTX of lower
// targets: nothing spills, and ptxas has no remark.
// Skipped (exit code 77) where there is no ptxas.
#include <catch2/catch.hpp>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <regex>
#include <string_view>
#include <thread>

#include "sagegen/emit.h"
#include "tests/golden/golden.h"

namespace sagegen::golden {
namespace {

// Registers in a report of ptxas -v; 0 if the report tells of anything but a clean kernel.
int clean_registers(const std::string& report) {
  static const std::regex remark("warning|error|fatal|\\(C[0-9]+\\)");
  static const std::regex no_spill(
      "\\b0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads");
  static const std::regex registers("Used ([0-9]+) registers");
  std::smatch match;
  if (std::regex_search(report, remark) || !std::regex_search(report, no_spill)) return 0;
  return std::regex_search(report, match, registers) ? std::stoi(match[1]) : 0;
}

TEST_CASE("a report of ptxas is clean only without spills and remarks") {
  const std::string clean =
      "ptxas info    : 0 bytes gmem\n"
      "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
      "ptxas info    : Used 168 registers, used 1 barriers\n";
  CHECK(clean_registers(clean) == 168);
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string report = clean;
    report.replace(report.find(from), from.size(), to);
    return report;
  };
  CHECK(clean_registers(with("0 bytes spill stores", "10 bytes spill stores")) == 0);
  CHECK(clean_registers(with("0 bytes spill loads", "4 bytes spill loads")) == 0);
  CHECK(clean_registers(with("0 bytes stack", "40 bytes stack")) == 0);
  CHECK(clean_registers(clean + "ptxas info    : (C7517) Potential Performance Loss") == 0);
  CHECK(clean_registers("ptxas fatal   : Ptx assembly aborted due to errors") == 0);
}

TEST_CASE("every default kernel assembles without a spill or a remark") {
  if (!ptxas_is_installed()) {
    std::puts("skipped: there is no ptxas on PATH or in /usr/local/cuda/bin");
    std::exit(77);
  }
  const std::vector<KernelSpec> specs =
      read_spec_set_file(SAGEGEN_SOURCE_DIR "/templates/specs/default.toml");
  REQUIRE(specs.size() > 50);
  constexpr Target kHopper{.sm = 90};
  // Spills 8 bytes there, on a GPU that is to get kernels of its own.
  constexpr std::string_view kSpillsOnHopper =
      "sage_fwd_d128_f16_none_qk_s8b_g128x64_pv_e4m3_f32x2_q128k64w4s2_sm89";
  struct Assembly {
    KernelSpec spec;
    Target target;
    std::string report = {};
  };
  std::vector<Assembly> assemblies;
  for (const KernelSpec& spec : specs) {
    assemblies.push_back({spec, spec.target});
    if (spec.target.sm < kHopper.sm) assemblies.push_back({spec, kHopper});
  }
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < assemblies.size(); i = next++) {
      Assembly& a = assemblies[i];
      a.report = ptxas_complaint(emit(a.spec).ptx, a.target, "-v");
    }
  };
  std::vector<std::jthread> threads;
  for (unsigned i = 1; i < std::thread::hardware_concurrency(); ++i) threads.emplace_back(work);
  work();
  threads.clear();
  for (const Assembly& a : assemblies) {
    const bool spills = a.target == kHopper && key(a.spec) == kSpillsOnHopper;
    if (spills ? a.report.find(" 8 bytes spill stores") == std::string::npos
               : clean_registers(a.report) == 0) {
      FAIL_CHECK(key(a.spec) << " on " << to_string(a.target) << ":\n" << a.report);
    }
  }
}

}  // namespace
}  // namespace sagegen::golden
