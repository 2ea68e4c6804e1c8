// Binds the operands of an instruction to the format of a form (forms.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/emulator/exec/forms.h"
#include "runtime/emulator/exec/values.h"

namespace sagegen::emulator {

struct BoundOperand {
  std::uint32_t id = 0;
  bool written = false;
  bool negated = false;
};

// An instruction with its operands as ids.
struct Draft {
  Form form;
  std::vector<BoundOperand> operands;
  std::vector<Access> accesses;
  std::uint32_t imm = 0;
  std::uint32_t guard = 0;
};

struct Mismatch {
  std::string why;
};

// Throws Mismatch. `target` is the op index that the instruction's label stands for, or -1.
Draft bind_operands(const ptx::Instruction& instruction, const Form& form, ValueTable& values,
                    int target);

}  // namespace sagegen::emulator
