// The PTX parser and the control-flow analysis on any bytes: they return something consistent, or throw
// ParseError with a line of the text.
#include <algorithm>
#include <cstdlib>
#include <set>
#include <string_view>

#include "runtime/emulator/ptx/cfg.h"
#include "runtime/emulator/ptx/module.h"

namespace {

namespace ptx = sagegen::emulator::ptx;

void require(bool condition) {
  if (!condition) std::abort();
}

void check(const ptx::Function& function) {
  const int count = static_cast<int>(function.body.size());
  for (const auto& [name, index] : function.labels) require(index >= 0 && index <= count);
  std::set<std::string_view> names;
  for (const ptx::Register& reg : function.registers) require(names.insert(reg.name).second);
  for (const ptx::Instruction& instruction : function.body) {
    const bool guarded = !instruction.guard.empty();
    require(!guarded || names.contains(instruction.guard));
    require(instruction.line > 0);
  }
  const ptx::ControlFlow flow = ptx::analyze(function);
  require(flow.block_of.size() == function.body.size());
  for (std::size_t i = 0; i < function.body.size(); ++i) {
    const bool branch = function.body[i].opcode == "bra";
    const bool conditional = branch && !function.body[i].guard.empty();
    require(branch == (flow.target[i] >= 0) && flow.target[i] <= count);
    require(conditional == (flow.reconvergence[i] >= 0) && flow.reconvergence[i] <= count);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    for (const ptx::Function& function : ptx::parse(text).functions) check(function);
  } catch (const ptx::ParseError& error) {
    const auto lines = 1 + std::count(text.begin(), text.end(), '\n');
    require(error.line() >= 1 && error.line() <= lines);
  }
  return 0;
}
