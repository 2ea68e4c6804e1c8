// Every kernel of the default set assembles for its target: nothing spills, and ptxas has no remark.
// Skipped (exit code 77) where there is no ptxas.
#include <catch2/catch.hpp>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <regex>
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
  std::vector<std::string> reports(specs.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < specs.size(); i = next++) {
      reports[i] = ptxas_complaint(emit(specs[i]).ptx, specs[i].target, "-v");
    }
  };
  std::vector<std::jthread> threads;
  for (unsigned i = 1; i < std::thread::hardware_concurrency(); ++i) threads.emplace_back(work);
  work();
  threads.clear();
  for (std::size_t i = 0; i < specs.size(); ++i) {
    if (clean_registers(reports[i]) == 0) FAIL_CHECK(key(specs[i]) << ":\n" << reports[i]);
  }
}

}  // namespace
}  // namespace sagegen::golden
