// Edits of PTX text for mutation tests: by patterns, so that they survive a regenerated kernel. Every edit
// throws std::runtime_error if it does not find its place, so that a mutation cannot become a no-op.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace sagegen::emulator::test {

class PtxEdit {
 public:
  explicit PtxEdit(const std::string& text);
  std::string text() const;

  // Which of the lines that match: the n-th from the start (0, 1, ...) or from the end (-1, -2, ...).
  static constexpr int kFirst = 0;
  static constexpr int kLast = -1;
  static constexpr int kAll = 1'000'000;

  // `pattern` is an ECMAScript regular expression searched in single lines.
  void drop(const std::string& pattern, int which = kFirst);
  void replace(const std::string& pattern, const std::string& format, int which = kFirst);
  void insert_before(const std::string& pattern, const std::string& lines, int which = kFirst);
  void insert_after(const std::string& pattern, const std::string& lines, int which = kFirst);
  // Swaps the lines that stand `offset` lines behind the two matching lines: an operand of two mma.
  void swap_lines(const std::string& pattern, std::size_t offset, int first, int second);

  // Adds `delta` to the launch parameter at `offset` wherever the kernel loads it.
  void shift_parameter(std::size_t offset, long delta);
  // Makes the first conditional branch to a label above it unconditional.
  void never_leave_first_loop();
  // Declares scratch registers "%mut_p", "%mut_r0..3", "%mut_d0..3" for inserted code.
  void declare_scratch();

 private:
  std::vector<std::size_t> find(const std::string& pattern, int which) const;
  std::vector<std::string> lines_;
};

}  // namespace sagegen::emulator::test
