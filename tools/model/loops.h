// Loops of machine code.
#pragma once

#include <cstddef>
#include <vector>

#include "tools/model/cubin.h"

namespace sagegen::model {

// Of each instruction, those that may execute after it.
using Flow = std::vector<std::vector<std::size_t>>;
Flow flow_of(const Code& code);

// A natural loop: a branch goes back to an instruction that nothing of the loop is reached without.
// Numbers are indices into Code::instructions, ascending.
struct Loop {
  std::size_t header;
  std::vector<std::size_t> body;   // with everything that is executed in some iterations only
  std::vector<std::size_t> every;  // what each iteration executes; an inner loop counts once
};
std::vector<Loop> find_loops(const Code& code);  // by their headers

int count(const Code& code, const std::vector<std::size_t>& indices, int operation);

}  // namespace sagegen::model
