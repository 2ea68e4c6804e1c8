#include "tests/golden/golden.h"

#include <catch2/catch.hpp>
#include <regex>
#include <sstream>

#include "generator/codegen/codegen.h"
#include "tools/model/ptxas.h"

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

std::string ptxas_complaint(const std::string& ptx, Target target) {
  if (model::ptxas_path().empty()) return "";
  return model::assemble(ptx, to_string(target)).report;
}

}  // namespace sagegen::golden
