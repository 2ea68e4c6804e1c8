// Calls of device functions. A call is expanded where it stands: the callee's instructions follow it with
// registers, labels and local variables of their own, and a `ret` in them jumps behind the call. So
// divergence, liveness, local memory and every check work in a function as they do in an entry. What
// that cannot do is refused: recursion, and calls through a register.
//
// Frames lie on a stack in local memory: a callee's variables, and its parameters in .param space, begin
// behind its caller's. An expanded call leaves instructions that no text can hold:
//   call [frame, bytes {, to, from, bytes}...]  the frame becomes undefined, then bytes are copied in
//                                               local memory: arguments before the callee's body,
//                                               results behind it. Before the body the first operand's
//                                               text is the suffix of the names of the callee's
//                                               registers, which become undefined too
//   @p call label     a call with a guard, jumping over the expansion where the guard does not hold
//   ret label         a return
// Source: PTX ISA, "call", "Parameter State Space", "Function declarations and definitions".
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "runtime/emulator/ptx/module.h"

namespace sagegen::emulator::ptx {

// A parameter of a device function, by its name in the function.
struct Formal {
  std::string name;
  std::uint64_t bytes = 0;
  bool in_register = false;

  bool same_kind(const Formal& other) const {
    return bytes == other.bytes && in_register == other.in_register;
  }
};

// Parameters stand in code.local or code.registers too.
struct DeviceFunction {
  Function code;
  std::vector<Formal> results, inputs;
};

// The function of that name, for a call in that line; throws ParseError if it cannot be called.
using FunctionReader = std::function<const DeviceFunction&(const std::string& name, int line)>;

// Replaces every call in the entry. `instructions` counts what all entries of a text grow to; more than
// `limit` throws ParseError, and so do recursion and arguments that do not fit their parameters.
void expand_calls(Function& entry, const FunctionReader& reader, std::size_t& instructions,
                  std::size_t limit);

// Whether the instruction jumps to the label that is its only operand.
bool is_jump(const Instruction& instruction);

}  // namespace sagegen::emulator::ptx
