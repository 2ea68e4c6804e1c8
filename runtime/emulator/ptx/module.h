// PTX text as data: what the parser produces and the decoder consumes. Types are not resolved here;
// opcodes and modifiers stay text, so that a refusal can quote them. Every node knows its line.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace sagegen::emulator::ptx {

struct Operand {
  enum class Kind {
    reg,       // %r1, %rd3, %p2, %tid.x, a name declared by .reg
    integer,   // 12, -3, 0x1f
    f32_bits,  // 0f3F800000
    f64_bits,  // 0d..., and decimals such as 1.5, which PTX converts to the instruction's type
    symbol,    // a param, a shared or global variable, a label; text names it
    address,  // [base + offset]; base is a reg or symbol in `text`, or empty for an absolute address.
              // elements: the coordinates of a tensor copy, [base, {x, y}]
    vector,  // {a, b, ...}: elements
    sink,    // _
  };
  Kind kind = Kind::integer;
  std::string text;        // register or symbol name; names declared in an inner { } scope carry
                           // a suffix ("p@3") and so are unique in their function
  bool negated = false;    // !p
  std::int64_t value = 0;  // integer, bit pattern, or the byte offset of an address or symbol
  std::string pair;        // second register of `p|q`; "_" if it is a sink
  std::vector<Operand> elements;  // vector elements
};

struct Instruction {
  std::string opcode;                  // "mma", "ld", "bra"
  std::vector<std::string> modifiers;  // without dots, in order: "sync", "aligned", "m16n8k32", ...
  std::string guard;                   // predicate register of @p, or empty
  bool guard_negated = false;
  std::vector<Operand> operands;
  int line = 0;                          // 1-based line of the PTX text
  int source_file = 0, source_line = 0;  // from the last .loc, or 0
};

// Bytes of an initial value that hold the address of another variable, or one byte of it.
struct InitialAddress {
  std::size_t offset = 0;  // into the variable
  int bytes = 8;
  int shift = 0;  // of the address, in bits: a mask such as 0xff00(name) takes its second byte
  std::string variable;
  std::uint64_t addend = 0;
};

struct Variable {  // .shared, .global, .const, .local, .param
  std::string name;
  std::uint64_t bytes = 0;  // 0: unsized (extern dynamic shared memory)
  int align = 1;
  bool is_extern = false;
  int line = 0;
  // .local only. Arguments of calls live there too: ld.param and st.param name them.
  enum class Role { plain, argument, input, result } role = Role::plain;
  std::optional<std::uint64_t> place;     // in local memory, from its start; not set: the next free
  std::vector<std::uint8_t> initial;      // .global and .const: the first bytes; the rest is zero
  std::vector<InitialAddress> addresses;  // what to write into `initial` when places are known
};

struct Register {
  std::string name;  // "%r12"; ranges (%r<13>) are expanded
  enum class Type { pred, b16, b32, b64 } type = Type::b32;
};

struct Function {
  std::string name;
  std::vector<Variable> params;
  std::vector<Variable> shared;
  std::vector<Variable> local;
  std::vector<Register> registers;
  std::vector<Instruction> body;
  std::map<std::string, int> labels;  // label -> index into body of the next instruction
  int max_threads = 0;                // product of .maxntid or .reqntid, 0 if absent
  bool exact_threads = false;         // .reqntid
  int min_blocks = 0;                 // .minnctapersm
  int max_regs = 0;                   // .maxnreg
  int line = 0;
};

struct Module {
  int version = 0;     // 84 for 8.4
  std::string target;  // "sm_89"
  int address_size = 64;
  std::vector<Function> functions;   // .entry only, with the functions that they call (calls.h)
  std::vector<Variable> shared;      // module scope
  std::vector<Variable> globals;     // .global and .const
  std::map<int, std::string> files;  // .file
  std::map<std::string, std::size_t, std::less<>> shared_index;  // of names into `shared`
};

// A syntax error or something the emulator does not take; what() starts with "line N: ".
class ParseError : public std::runtime_error {
 public:
  ParseError(int line, const std::string& text)
      : std::runtime_error("line " + std::to_string(line) + ": " + text), line_(line) {}
  int line() const { return line_; }

 private:
  int line_;
};

// Throws ParseError; never crashes, whatever the text.
Module parse(std::string_view text);

}  // namespace sagegen::emulator::ptx
