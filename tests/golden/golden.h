// Small kernels through the DSL: what a verb prints, line by line. A test builds a kernel with a lambda
// and compares the instructions of its body.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "sagegen/dsl/kernel_builder.h"

namespace sagegen::golden {

// Operands of golden kernels, as launch arguments so that nothing folds.
struct Params {
  Address in;
  Address out;
  std::int64_t wide;
  std::int32_t a, b, c, d;
  float x, y, z, w;
};

class Kernel {
 public:
  explicit Kernel(Target target, LineInfo line_info = LineInfo::off);

  dsl::KernelBuilder k;
  dsl::ParamReader<Params> p;
  dsl::GlobalPtr in, out;
  dsl::I64 wide;
  dsl::I32 a, b, c, d;
  dsl::F32 x, y, z, w;
  std::array<dsl::I32, 4> ints() const { return {a, b, c, d}; }

  // Writes a result, so that it is not dead.
  void keep(dsl::I32 value);
  void keep(dsl::F32 value);
  template <typename Registers>
  requires requires(const Registers& values) { values.begin(); }
  void keep(const Registers& values) {
    for (const dsl::I32& value : values) keep(value);
  }

 private:
  std::int64_t kept_bytes_ = 0;
};

using Build = std::function<void(Kernel&)>;

// The whole text of the kernel that `build` fills in. If ptxas is installed the text is also assembled,
// and a complaint fails the test.
std::string ptx_of(Target target, const Build& build, LineInfo line_info = LineInfo::off);

// Instructions of a kernel's body and its labels, one per line, registers written as "%" and blanks as
// one blank.
std::vector<std::string> instructions(const std::string& ptx);

// The same without what every golden kernel has: ld.param, the stores of keep(), ret.
std::vector<std::string> verb_instructions(const std::string& ptx);

// What ptxas says about the text; empty if it assembles without a word or ptxas is not installed.
std::string ptxas_complaint(const std::string& ptx, Target target);

}  // namespace sagegen::golden
