// The micro-benchmarks as ptxas assembles them: nothing spills, there is no remark, and the timed
// loops hold the instructions that the benchmarks count. Skipped (exit code 77) where there is no
// ptxas.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <regex>
#include <thread>

#include "tools/bench/micro/micro.h"

namespace sagegen::micro {
namespace {

namespace fs = std::filesystem;

std::string find_ptxas() {
  std::string path = std::getenv("PATH") != nullptr ? std::getenv("PATH") : "";
  path += ":/usr/local/cuda/bin";
  for (std::size_t at = 0; at < path.size();) {
    const std::size_t end = std::min(path.find(':', at), path.size());
    const std::string candidate = path.substr(at, end - at) + "/ptxas";
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
    at = end + 1;
  }
  return {};
}

struct Assembled {
  std::string report;  // of ptxas -v
  std::string cubin;
};

Assembled assemble(const std::string& ptx) {
  static const std::string ptxas = find_ptxas();
  static std::atomic<int> runs{0};
  const std::string stem =
      (fs::temp_directory_path() / fmt::format("sagegen_micro_{}_{}", getpid(), runs++)).string();
  std::ofstream(stem + ".ptx") << ptx;
  const std::string command =
      fmt::format("{0} -v -arch=sm_90a {1}.ptx -o {1}.cubin 2>&1", ptxas, stem);
  Assembled assembled;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return {.report = "cannot run " + ptxas, .cubin = {}};
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) {
    assembled.report += static_cast<char>(c);
  }
  pclose(pipe);
  std::ifstream file(stem + ".cubin", std::ios::binary);
  assembled.cubin.assign(std::istreambuf_iterator<char>(file), {});
  fs::remove(stem + ".ptx");
  fs::remove(stem + ".cubin");
  return assembled;
}

std::string complaint(const std::string& report) {
  static const std::regex remark("warning|error|fatal|\\(C[0-9]+\\)");
  static const std::regex no_spill(
      "\\b0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads");
  return std::regex_search(report, remark) || !std::regex_search(report, no_spill) ? report : "";
}

// ---- machine code: 16 bytes an instruction, the operation in the low 9 bits ------------

struct Instruction {
  std::uint64_t low, high;
  int operation() const { return static_cast<int>(low & 0x1ff); }
};
constexpr int kBranch = 0x147, kNop = 0x118;

template <typename Value>
Value at(const std::string& bytes, std::size_t offset) {
  Value value{};
  if (offset + sizeof value > bytes.size()) throw std::runtime_error("the cubin ends early");
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

std::vector<Instruction> kernel_code(const std::string& cubin) {
  const auto sections = at<std::uint64_t>(cubin, 0x28);
  const auto size = at<std::uint16_t>(cubin, 0x3a), count = at<std::uint16_t>(cubin, 0x3c),
             names = at<std::uint16_t>(cubin, 0x3e);
  const auto name_table = at<std::uint64_t>(cubin, sections + names * size + 24u);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t header = sections + i * size;
    if (std::string(cubin.c_str() + name_table + at<std::uint32_t>(cubin, header)) != ".text.micro")
      continue;
    std::vector<Instruction> code(at<std::uint64_t>(cubin, header + 32) / sizeof(Instruction));
    for (std::size_t j = 0; j < code.size(); ++j) {
      code[j] =
          at<Instruction>(cubin, at<std::uint64_t>(cubin, header + 24) + j * sizeof(Instruction));
    }
    return code;
  }
  throw std::runtime_error("the cubin has no kernel micro");
}

// The index that a branch goes to. The distance in words is spread over bits 34-81 and 16-23.
std::ptrdiff_t branch_target(const Instruction& branch, std::ptrdiff_t index) {
  std::int64_t words = static_cast<std::int64_t>((branch.high & 0x3ffff) << 30 | branch.low >> 34);
  if (words >> 47 != 0) words -= std::int64_t{1} << 48;
  words = words * 256 + static_cast<std::int64_t>(branch.low >> 16 & 0xff);
  return index + 1 + words / 4;
}

struct Loop {
  std::ptrdiff_t first, last;
};

std::vector<Loop> loops_of(const std::vector<Instruction>& code) {
  std::vector<Loop> loops;
  for (std::ptrdiff_t i = 0; i < static_cast<std::ptrdiff_t>(code.size()); ++i) {
    const Instruction& instruction = code[static_cast<std::size_t>(i)];
    if (instruction.operation() != kBranch) continue;
    const std::ptrdiff_t target = branch_target(instruction, i);
    if (target >= 0 && target < i) loops.push_back({target, i});
  }
  return loops;
}

int count_in(const std::vector<Instruction>& code, const Loop& loop, int operation) {
  return static_cast<int>(
      std::count_if(code.begin() + loop.first, code.begin() + loop.last + 1,
                    [&](const Instruction& i) { return i.operation() == operation; }));
}

// The largest count of an operation in any loop.
int count_of(const std::vector<Instruction>& code, int operation) {
  int most = 0;
  for (const Loop& loop : loops_of(code)) most = std::max(most, count_in(code, loop, operation));
  return most;
}

std::string problem_of(const Program& program) {
  const Assembled assembled = assemble(program.ptx);
  if (const std::string text = complaint(assembled.report); !text.empty()) return text;
  const std::vector<Instruction> code = kernel_code(assembled.cubin);
  for (const SassCount& expected : program.sass) {
    const int count = count_of(code, expected.opcode);
    if (count != expected.count) {
      return fmt::format("{} {} in the loop, {} wanted", count, expected.operation, expected.count);
    }
    if (!program.name.starts_with("rate_")) continue;
    // A rate must not be that of something else: counter, comparison, branch and very few more.
    for (const Loop& loop : loops_of(code)) {
      if (count_in(code, loop, expected.opcode) != count) continue;
      const auto all = static_cast<int>(loop.last - loop.first) + 1 - count_in(code, loop, kNop);
      if (all > count + count / 50 + 5)
        return fmt::format("{} instructions in the loop, for {}", all, count);
    }
  }
  return {};
}

TEST_CASE(
    "every kernel assembles without a spill or a remark, and its loop holds what is counted") {
  if (find_ptxas().empty()) {
    std::puts("skipped: there is no ptxas on PATH or in /usr/local/cuda/bin");
    std::exit(77);
  }
  std::vector<Program> programs;
  for (const Benchmark& benchmark : all_benchmarks()) {
    programs.insert(programs.end(), benchmark.programs.begin(), benchmark.programs.end());
  }
  std::vector<std::string> problems(programs.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < programs.size(); i = next++) {
      try {
        problems[i] = problem_of(programs[i]);
      } catch (const std::exception& e) {
        problems[i] = e.what();
      }
    }
  };
  std::vector<std::jthread> threads;
  for (unsigned i = 1; i < std::thread::hardware_concurrency(); ++i) threads.emplace_back(work);
  work();
  threads.clear();
  for (std::size_t i = 0; i < programs.size(); ++i) {
    if (!problems[i].empty()) FAIL_CHECK(programs[i].name << ": " << problems[i]);
  }
}

TEST_CASE("a step that is missing shows in the count") {
  if (find_ptxas().empty()) return;
  const std::vector<Benchmark> list = all_benchmarks();
  const auto program = [&](const std::string& name) {
    for (const Benchmark& benchmark : list) {
      if (benchmark.name == name) return benchmark.programs[0];
    }
    throw std::runtime_error("no benchmark " + name);
  };
  Program shorter = program("rate_ex2");
  const std::string step = "\tex2.approx.ftz.f32 %x3, %y;\n";
  const std::size_t found = shorter.ptx.find(step);
  REQUIRE(found != std::string::npos);
  shorter.ptx.erase(found, step.size());
  CHECK(problem_of(shorter) == "127 MUFU in the loop, 128 wanted");
}

}  // namespace
}  // namespace sagegen::micro
