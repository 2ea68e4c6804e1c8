// The machine code of a kernel, out of what ptxas writes: a 64-bit ELF file. No disassembler is involved.
#pragma once

#include <string>
#include <vector>

#include "tools/model/instruction.h"

namespace sagegen::model {

struct Code {
  int architecture = 0;  // 89 of sm_89
  int registers = 0;     // of a thread; 0 if the file does not say
  int static_shared =
      0;  // bytes of shared memory that the code itself declares, without the system's
  std::vector<Instruction> instructions = {};
};

// The only kernel of a cubin. Throws std::runtime_error if the bytes are something else.
Code read_cubin(const std::string& cubin);

}  // namespace sagegen::model
