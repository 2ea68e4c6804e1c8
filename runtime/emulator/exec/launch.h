// What the driver side (runtime/emulator/device) needs of the executor: decode a parsed entry function
// for a device profile, launch it, get findings and counters back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/emulator/exec/memory.h"
#include "runtime/emulator/numerics/numerics.h"
#include "runtime/emulator/ptx/module.h"
#include "sagegen/runtime/emulator.h"

namespace sagegen::emulator {

class Program;  // an entry function, decoded; immutable, shared by concurrent launches

// Addresses of the module's .global and .const variables, by name. The driver side allocates them when
// it loads the module and writes their initial values.
using SymbolAddresses = std::map<std::string, Address>;

// A variable's initial value, as far as the text gives it, with the addresses that it holds: of
// variables that stand before it, and so are in `symbols` already.
std::vector<std::uint8_t> initial_bytes(const ptx::Variable& variable,
                                        const SymbolAddresses& symbols);

// Throws ptx::ParseError, naming line and text, for an instruction, modifier or operand that the
// emulator does not know or that the profile's device does not have.
std::shared_ptr<const Program> decode(const ptx::Module& module, const ptx::Function& function,
                                      Profile profile, const SymbolAddresses& symbols);

// What is not known about an instruction: a sentence, or empty if the emulator executes it on some
// profile. Looks at opcode and modifiers only.
std::string why_unknown(const ptx::Instruction& instruction);

struct ParamSlot {
  std::string name;
  std::size_t offset = 0;  // into LaunchRequest::params
  std::size_t bytes = 0;
};

struct ProgramInfo {
  std::string name;
  std::vector<ParamSlot> params;
  std::size_t param_bytes = 0;
  std::size_t static_shared_bytes = 0;
  std::size_t local_bytes = 0;  // per thread
  // 32-bit registers that the text as it stands keeps live at once. ptxas reorders, so it may need
  // more or fewer.
  int registers = 0;
  int max_threads = 0;         // .maxntid or .reqntid; 0 if absent
  bool exact_threads = false;  // .reqntid
  // Lint: what the PTX leaves to the assembler, such as an f32 add that ptxas may fuse. One sentence
  // each, with "line N: " in front.
  std::vector<std::string> warnings;
};
const ProgramInfo& info(const Program& program);

struct LaunchRequest {
  runtime::Dim3 grid;
  runtime::Dim3 block;
  std::size_t dynamic_shared_bytes = 0;
  std::vector<std::uint8_t> params;  // info().param_bytes, arguments at their slots' offsets
  runtime::EmulatorOptions options;
};

struct LaunchReport {
  std::vector<runtime::Finding> findings;  // empty: the launch succeeded
  bool truncated = false;                  // there were more findings than are kept
  runtime::LaunchCounters counters;
};

// Runs the grid to its end, past findings where one can go on: an access out of bounds reads zeros or
// writes nothing, undefined data counts as defined from where it is reported. A CTA ends at a deadlock, at
// collectives that diverge, at a trap, at the limit of instructions, and some time after it has findings;
// then those behind it need not run. Results, findings and counts of a launch that succeeds depend on
// the request alone, and findings always, not on the number of host threads. Throws std::invalid_argument
// for a request that no device takes: an empty grid or block, too many threads, a wrong params size.
LaunchReport launch(const Program& program, DeviceMemory& memory, const LaunchRequest& request);

}  // namespace sagegen::emulator
