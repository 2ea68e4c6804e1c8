#include "tests/golden/golden.h"

#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>

#include "generator/codegen/codegen.h"

namespace sagegen::golden {

using namespace dsl;

Kernel::Kernel(Target target, LineInfo line_info)
    : k("golden", target, 64, sizeof(Params), line_info), p(k.params<Params>()) {
  in = p(&Params::in);
  out = p(&Params::out);
  wide = p(&Params::wide);
  a = p(&Params::a), b = p(&Params::b), c = p(&Params::c), d = p(&Params::d);
  x = p(&Params::x), y = p(&Params::y), z = p(&Params::z), w = p(&Params::w);
}

void Kernel::keep(I32 value) {
  k.store(out + kept_bytes_, value);
  kept_bytes_ += 4;
}

void Kernel::keep(F32 value) {
  k.store(out + kept_bytes_, value);
  kept_bytes_ += 4;
}

std::string ptx_of(Target target, const Build& build, LineInfo line_info) {
  Kernel kernel(target, line_info);
  build(kernel);
  codegen::ir_text(kernel.k);  // throws if it is not well formed
  codegen::optimize(kernel.k);
  codegen::ir_text(kernel.k);
  std::string ptx = codegen::print_ptx(kernel.k);
  const std::string complaint = ptxas_complaint(ptx, target);
  if (!complaint.empty()) FAIL(complaint << "\n" << ptx);
  return ptx;
}

std::vector<std::string> instructions(const std::string& ptx) {
  static const std::regex registers("%(p|rs|rd|r)[0-9]+");
  static const std::regex blanks("[ \t\n]+");
  const std::size_t body = ptx.find("\n{");
  std::vector<std::string> result;
  std::string pending;
  std::istringstream lines(ptx.substr(body + 2, ptx.rfind('}') - body - 2));
  for (std::string line; std::getline(lines, line);) {
    line = line.substr(0, line.find("//"));
    const std::size_t first = line.find_first_not_of(" \t");
    if (first == std::string::npos || line[first] == '.') continue;  // .reg, .loc
    pending += line + " ";
    const char last = line[line.find_last_not_of(" \t")];
    if (last != ';' && last != ':') continue;
    std::string text = std::regex_replace(pending, registers, "%");
    text = std::regex_replace(text, blanks, " ");
    text = text.substr(text.find_first_not_of(' '));
    text.erase(text.find_last_not_of(' ') + 1);
    result.push_back(text);
    pending.clear();
  }
  return result;
}

std::vector<std::string> verb_instructions(const std::string& ptx) {
  static const std::regex scaffold("ld\\.param.*|st\\.global\\.b32 \\[%(\\+[0-9]+)?\\], %;|ret;");
  std::vector<std::string> result;
  for (const std::string& line : instructions(ptx)) {
    if (!std::regex_match(line, scaffold)) result.push_back(line);
  }
  return result;
}

namespace {

std::string find_ptxas() {
  std::istringstream path(std::getenv("PATH") != nullptr ? std::getenv("PATH") : "");
  for (std::string directory; std::getline(path, directory, ':');) {
    if (access((directory + "/ptxas").c_str(), X_OK) == 0) return directory + "/ptxas";
  }
  const std::string usual = "/usr/local/cuda/bin/ptxas";
  return access(usual.c_str(), X_OK) == 0 ? usual : "";
}

}  // namespace

bool ptxas_is_installed() { return !find_ptxas().empty(); }

std::string ptxas_complaint(const std::string& ptx, Target target, const std::string& options) {
  static const std::string ptxas = find_ptxas();
  static std::atomic<int> runs{0};
  if (ptxas.empty()) return "";
  const std::string name =
      "sagegen_golden_" + std::to_string(getpid()) + "_" + std::to_string(runs++);
  const std::string stem = (std::filesystem::temp_directory_path() / name).string();
  std::ofstream(stem + ".ptx") << ptx;
  const std::string command = ptxas + " " + options + " -arch=" + to_string(target) + " " + stem +
                              ".ptx -o " + stem + ".cubin 2>&1";
  std::string output;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return "cannot run " + ptxas;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) output += static_cast<char>(c);
  const int status = pclose(pipe);
  std::filesystem::remove(stem + ".ptx");
  std::filesystem::remove(stem + ".cubin");
  if (status != 0 && output.empty()) output = "ptxas failed without a word";
  return output;
}

}  // namespace sagegen::golden
