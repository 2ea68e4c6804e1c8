#include "tools/model/ptxas.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <system_error>

namespace sagegen::model {

namespace fs = std::filesystem;

namespace {

constexpr const char* kToolkit = "/usr/local/cuda/bin";

// Empty if the system does not say.
std::string this_program() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  return error ? std::string() : program.string();
}

std::string folder_beside(const std::string& program) {
  return (fs::path(program).parent_path().parent_path() / "tools" / "ptxas").string();
}

bool is_program(const std::string& path) {
  return access(path.c_str(), X_OK) == 0 && !fs::is_directory(path);
}

// What the user asks for; empty if nothing.
std::string named_ptxas() {
  const char* name = std::getenv("SAGEGEN_PTXAS");
  return name == nullptr ? std::string() : name;
}

std::string path_variable() {
  const char* path = std::getenv("PATH");
  return path == nullptr ? std::string() : path;
}

std::string find_ptxas() {
  const std::string named = named_ptxas();
  if (!named.empty()) return is_program(named) ? named : std::string();
  return first_ptxas(ptxas_folders(path_variable(), this_program()));
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

// One word of a shell.
std::string quoted(const std::string& text) {
  std::string word = "'";
  for (const char c : text) word += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return word + "'";
}

class TemporaryFolder {
 public:
  TemporaryFolder() : path_((fs::temp_directory_path() / "sagegen_assembly_XXXXXX").string()) {
    if (mkdtemp(path_.data()) == nullptr)
      throw std::runtime_error("no folder can be made for ptxas: " + path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// What the pattern catches in the text; empty if it is not there.
std::string caught(const std::string& text, const std::regex& pattern) {
  std::smatch match;
  return std::regex_search(text, match, pattern) ? match[1].str() : std::string();
}

int number_in(const std::string& text, const std::regex& pattern) {
  const std::string number = caught(text, pattern);
  return number.empty() ? 0 : std::stoi(number);
}

}  // namespace

std::vector<std::string> ptxas_folders(const std::string& path, const std::string& program) {
  std::vector<std::string> folders;
  std::istringstream words(path);
  for (std::string folder; std::getline(words, folder, ':');) {
    if (!folder.empty()) folders.push_back(folder);
  }
  folders.emplace_back(kToolkit);
  if (!program.empty()) folders.push_back(folder_beside(program));
  return folders;
}

std::string first_ptxas(const std::vector<std::string>& folders) {
  for (const std::string& folder : folders) {
    const std::string candidate = folder + "/ptxas";
    if (is_program(candidate)) return candidate;
  }
  return {};
}

const std::string& ptxas_path() {
  static const std::string path = find_ptxas();
  return path;
}

std::string ptxas_places() {
  if (!named_ptxas().empty()) return "at " + named_ptxas() + ", which SAGEGEN_PTXAS names";
  const std::string program = this_program();
  if (program.empty()) return std::string("on PATH or in ") + kToolkit;
  return std::string("on PATH, in ") + kToolkit + " or in " + folder_beside(program);
}

std::string why_named_ptxas_fails() {
  const std::string named = named_ptxas();
  if (named.empty() || !ptxas_version().empty()) return {};
  return "SAGEGEN_PTXAS=\"" + named + "\" is no ptxas; it is the path of one";
}

const std::string& ptxas_version() {
  static const std::string version =
      ptxas_path().empty()
          ? std::string()
          : caught(run(quoted(ptxas_path()) + " --version").output, std::regex("V([0-9.]+)"));
  return version;
}

int ptxas_major_version() { return number_in(ptxas_version(), std::regex("^([0-9]+)\\.")); }

Assembled assemble(const std::string& ptx, const std::string& target, const std::string& options) {
  const TemporaryFolder folder;
  const std::string from = folder.file("k.ptx"), to = folder.file("k.cubin");
  std::ofstream(from) << ptx;
  const Outcome outcome = run(quoted(ptxas_path()) + " " + options + " -arch=" + target + " " +
                              quoted(from) + " -o " + quoted(to));
  Assembled assembled{.report = outcome.output, .cubin = {}};
  if (outcome.status == 0) {
    std::ifstream file(to, std::ios::binary);
    assembled.cubin.assign(std::istreambuf_iterator<char>(file), {});
  } else if (outcome.output.empty()) {
    assembled.report = "error: ptxas failed without a word";
  }
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

}  // namespace sagegen::model
