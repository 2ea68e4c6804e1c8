// Micro-benchmarks of compute capability 9.0, for machines with a GPU and no toolkit:
//   sagegen-micro list
//   sagegen-micro run --device cuda:0 --out FILE.json [--cubin DIR] [--only NAME]...
//   sagegen-micro run --device emulator:sm_90 --out FILE.json     results only, no times
//   sagegen-micro ptx --out DIR      every kernel; `ptxas -arch=sm_90a` makes them cubins
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "tools/bench/micro/micro.h"
#include "tools/reference/printable.h"
#include "tools/reference/whole_file.h"

namespace {

using namespace sagegen::micro;

constexpr int kExitProblems = 1;
constexpr std::size_t kMaxMessage = 4000;  // bytes; what files hold may be quoted in it

void print_list() {
  for (const Benchmark& benchmark : all_benchmarks()) {
    fmt::print("{:28} {}{}\n", benchmark.name, benchmark.what,
               benchmark.not_emulated.empty() ? "" : " (not in a dry run)");
  }
}

void write_ptx(const std::string& directory) {
  std::filesystem::create_directories(directory);
  int count = 0;
  for (const Benchmark& benchmark : all_benchmarks()) {
    for (const Program& program : benchmark.programs) {
      sagegen::reference::write_whole_file(fmt::format("{}/{}.ptx", directory, program.name),
                                           program.ptx);
      ++count;
    }
  }
  fmt::print("{} kernels in {}\n", count, directory);
}

// For the report: paths say nothing beyond their last part.
std::string without_directory(const std::string& argument) {
  const std::size_t value = argument.starts_with("--") ? argument.find('=') + 1 : 0;
  const std::size_t end = argument.find_last_not_of('/') + 1;
  const std::size_t slash = argument.substr(0, end).rfind('/');
  if (slash == std::string::npos) return argument;
  return argument.substr(0, value) + argument.substr(slash + 1, end - slash - 1);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Micro-benchmarks of compute capability 9.0"};
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::help);

  const CLI::App* list_command = app.add_subcommand("list", "names and what they measure");

  RunOptions options;
  CLI::App* run_command = app.add_subcommand("run", "measure, and write a report");
  run_command->add_option("--device", options.device, "cuda:N, or emulator:sm_90 for a dry run")
      ->capture_default_str();
  run_command
      ->add_option("--out", options.out, "report; a run that was cut off goes on from its report")
      ->required();
  run_command->add_option("--only", options.only, "only this benchmark; may be repeated");
  run_command
      ->add_option("--cubin", options.session.cubins,
                   "directory of NAME.cubin files that are loaded in place of the PTX")
      ->check(CLI::ExistingDirectory);
  run_command->add_option("--seconds-load", options.session.load_seconds, "of the runs under load")
      ->check(CLI::Range(0.1, 30.0))
      ->check([](const std::string& text) -> std::string {  // which lies in every Range
        return std::isnan(std::strtod(text.c_str(), nullptr)) ? text + " is no time" : "";
      })
      ->capture_default_str();

  std::string directory;
  CLI::App* ptx_command = app.add_subcommand("ptx", "write every kernel's PTX");
  ptx_command->add_option("--out", directory, "directory; made if missing")->required();
  std::vector<std::string> arguments(argv + 1, argv + argc);
  std::transform(arguments.begin(), arguments.end(), arguments.begin(), without_directory);
  options.command = fmt::format("{}", fmt::join(arguments, " "));
  try {
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& e) {  // or --help
      const int code = app.exit(e);
      sagegen::reference::flush_standard_output();
      return code;
    }
    if (list_command->parsed()) print_list();
    if (ptx_command->parsed()) write_ptx(directory);
    int code = 0;
    if (run_command->parsed()) code = run_benchmarks(options) == 0 ? 0 : kExitProblems;
    sagegen::reference::flush_standard_output();
    return code;
  } catch (const std::exception& e) {
    const std::string why = sagegen::reference::printable(e.what(), kMaxMessage);
    std::fputs(("sagegen-micro: " + why + "\n").c_str(), stderr);
    return kExitProblems;
  }
}
