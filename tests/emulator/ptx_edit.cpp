#include "tests/emulator/ptx_edit.h"

#include <regex>
#include <set>
#include <sstream>
#include <stdexcept>

namespace sagegen::emulator::test {

PtxEdit::PtxEdit(const std::string& text) {
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines_.push_back(line);
}

std::string PtxEdit::text() const {
  std::string out;
  for (const std::string& line : lines_) out += line + "\n";
  return out;
}

std::vector<std::size_t> PtxEdit::find(const std::string& pattern, int which) const {
  const std::regex regex(pattern);
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < lines_.size(); ++i) {
    if (std::regex_search(lines_[i], regex)) found.push_back(i);
  }
  const int count = static_cast<int>(found.size());
  const int index = which < 0 ? count + which : which;
  if (which == kAll && count > 0) return found;
  if (index < 0 || index >= count) {
    throw std::runtime_error("only " + std::to_string(count) + " lines match " + pattern);
  }
  return {found[static_cast<std::size_t>(index)]};
}

void PtxEdit::drop(const std::string& pattern, int which) {
  for (const std::size_t line : find(pattern, which)) lines_[line] = "// dropped: " + lines_[line];
}

void PtxEdit::replace(const std::string& pattern, const std::string& format, int which) {
  for (const std::size_t line : find(pattern, which)) {
    const std::string edited = std::regex_replace(lines_[line], std::regex(pattern), format,
                                                  std::regex_constants::format_first_only);
    if (edited == lines_[line]) throw std::runtime_error("nothing changes in " + lines_[line]);
    lines_[line] = edited;
  }
}

void PtxEdit::insert_before(const std::string& pattern, const std::string& lines, int which) {
  for (const std::size_t line : find(pattern, which)) lines_[line] = lines + "\n" + lines_[line];
}

void PtxEdit::insert_after(const std::string& pattern, const std::string& lines, int which) {
  for (const std::size_t line : find(pattern, which)) lines_[line] += "\n" + lines;
}

void PtxEdit::swap_lines(const std::string& pattern, std::size_t offset, int first, int second) {
  std::string& a = lines_.at(find(pattern, first)[0] + offset);
  std::string& b = lines_.at(find(pattern, second)[0] + offset);
  if (a == b) throw std::runtime_error("nothing changes: two equal lines " + a);
  std::swap(a, b);
}

void PtxEdit::shift_parameter(std::size_t offset, long delta) {
  // The base is the parameter itself or a register that holds its address.
  const std::string place = offset == 0 ? R"(\])" : R"(\+)" + std::to_string(offset) + R"(\])";
  const std::string load = R"(ld\.param\.\w+\s+(%r\w*\d+), \[(?:\w+_param_0|%rd\d+))" + place;
  for (const std::size_t line : find(load, kAll)) {
    std::smatch match;
    std::regex_search(lines_[line], match, std::regex(load));
    const std::string reg = match[1];
    const std::string type = reg.starts_with("%rd") ? "s64" : "s32";
    lines_[line] += "\n\tadd." + type + " " + reg + ", " + reg + ", " + std::to_string(delta) + ";";
  }
}

void PtxEdit::never_leave_first_loop() {
  const std::regex label(R"(^(\$\w+):)");
  const std::regex branch(R"(@!?%p\d+ bra\s+(\$\w+);)");
  std::set<std::string> above;
  for (std::string& line : lines_) {
    std::smatch match;
    if (std::regex_search(line, match, label)) above.insert(match[1]);
    if (std::regex_search(line, match, branch) && above.contains(match[1])) {
      line = "\tbra " + match[1].str() + ";";
      return;
    }
  }
  throw std::runtime_error("no conditional branch goes upwards");
}

void PtxEdit::declare_scratch() {
  insert_after(R"(^\{)", ".reg .pred %mut_p<4>; .reg .b32 %mut_r<4>; .reg .b64 %mut_d<4>;");
}

}  // namespace sagegen::emulator::test
