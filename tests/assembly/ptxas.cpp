#include "tests/assembly/ptxas.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <sstream>
#include <system_error>
#include <thread>
#include <vector>

namespace sagegen::assembly {

namespace fs = std::filesystem;

namespace {

std::string find_ptxas() {
  const char* path = std::getenv("PATH");
  std::istringstream directories((path != nullptr ? std::string(path) + ":" : std::string()) +
                                 "/usr/local/cuda/bin");
  for (std::string directory; std::getline(directories, directory, ':');) {
    const std::string candidate = directory + "/ptxas";
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return {};
}

struct Outcome {
  int status;
  std::string output;
};

Outcome run(const std::string& command) {
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return {.status = -1, .output = "cannot run " + command};
  std::string output;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) output += static_cast<char>(c);
  return {.status = pclose(pipe), .output = output};
}

// The number that the pattern catches; 0 if the text has none.
int number_in(const std::string& text, const std::regex& pattern) {
  std::smatch match;
  return std::regex_search(text, match, pattern) ? std::stoi(match[1]) : 0;
}

}  // namespace

const std::string& ptxas_path() {
  static const std::string path = find_ptxas();
  return path;
}

int ptxas_major_version() {
  static const int version = [] {
    if (ptxas_path().empty()) return 0;
    return number_in(run(ptxas_path() + " --version").output, std::regex("release ([0-9]+)\\."));
  }();
  return version;
}

void skip_without_ptxas() {
  if (!ptxas_path().empty()) return;
  std::puts("skipped: there is no ptxas on PATH or in /usr/local/cuda/bin");
  std::exit(77);
}

Assembled assemble(const std::string& ptx, const std::string& target, const std::string& options) {
  static std::atomic<int> runs{0};
  const std::string name =
      "sagegen_assembly_" + std::to_string(getpid()) + "_" + std::to_string(runs++);
  const std::string stem = (fs::temp_directory_path() / name).string();
  std::ofstream(stem + ".ptx") << ptx;
  const Outcome outcome = run(ptxas_path() + " " + options + " -arch=" + target + " " + stem +
                              ".ptx -o " + stem + ".cubin");
  Assembled assembled{.report = outcome.output, .cubin = {}};
  if (outcome.status == 0) {
    std::ifstream file(stem + ".cubin", std::ios::binary);
    assembled.cubin.assign(std::istreambuf_iterator<char>(file), {});
  } else if (outcome.output.empty()) {
    assembled.report = "error: ptxas failed without a word";
  }
  fs::remove(stem + ".ptx");
  fs::remove(stem + ".cubin");
  return assembled;
}

bool has_remark(const std::string& verbose_report) {
  static const std::regex remark("warning|error|fatal|\\(C[0-9]+\\)");
  return std::regex_search(verbose_report, remark);
}

int spilled_bytes(const std::string& verbose_report) {
  static const std::regex spilled("([0-9]+) bytes spill stores");
  return number_in(verbose_report, spilled);
}

std::string complaint(const std::string& verbose_report) {
  static const std::regex no_spill(
      "\\b0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads");
  const bool clean = !has_remark(verbose_report) && std::regex_search(verbose_report, no_spill) &&
                     registers(verbose_report) > 0;
  if (clean) return {};
  return verbose_report.empty() ? "ptxas reported nothing" : verbose_report;
}

int registers(const std::string& verbose_report) {
  static const std::regex used("Used ([0-9]+) registers");
  return number_in(verbose_report, used);
}

void in_parallel(std::size_t count, const std::function<void(std::size_t)>& work) {
  std::atomic<std::size_t> next{0};
  const auto take = [&] {
    for (std::size_t i = next++; i < count; i = next++) work(i);
  };
  std::vector<std::jthread> threads;
  try {
    for (unsigned i = 1; i < std::thread::hardware_concurrency(); ++i) threads.emplace_back(take);
  } catch (const std::system_error&) {  // a limit of processes: fewer threads do it all
  }
  take();
}

}  // namespace sagegen::assembly
