// What the emulator can execute: every combination of opcode and modifiers, with the shape of its
// operands and the routine that runs it. An instruction that has no form is refused.
//
// A form's format lists its operands, one character each; lower case is written, upper case read:
//   h H  16-bit register    w W  32-bit register    d D  64-bit register    x X  a register of any width
//   p P  predicate          q    predicate with an optional second one, `p|q`: two operands
//   v    32-bit register with an optional predicate, `r|p`: two operands
//   {..} a vector           A    an address: its base register is the operand
//   I    an integer that the form keeps (Op::imm, or Access::immediate if there is an address)
//   L    a label: Op::imm is the target's op index
//   c C  the condition code, which the text does not name
// Where a register is read, an immediate, a symbol or a special register will do; `_` where one is
// written.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/emulator/exec/program.h"
#include "runtime/emulator/numerics/host_lanes.h"

namespace sagegen::emulator {

struct Form {
  std::string format;
  Handler plain = nullptr;
  Handler checked = nullptr;  // null: the same as plain
  Taint taint = Taint::propagate;
  std::uint32_t number = 0;  // initial Op::imm
  Access access;             // template for the form's addresses
  std::optional<MmaShape> mma;
  bool orders_ctas = false;  // see Program
  std::string warning;       // lint, as a sentence; empty if none
};

// The text after "line N: " when an instruction is refused.
class UnknownForm : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The table of fixed forms. Patterns may hold alternatives, "min{.s32|.u32}{|.relu}": each expansion
// is entered. The vectorized translation units call add() with literals only (see lanes.h).
class FormTable {
 public:
  void add(const char* pattern, const char* format, Handler handler, std::uint32_t number = 0);
  void add_checked(const char* pattern, const char* format, Handler plain, Handler checked,
                   Taint taint, std::uint32_t number = 0);
  // setp.<compare>[.and|.or|.xor][.ftz].<type>; number is the boolean operation.
  void add_setp(const char* compare, const char* type, const char* format, Handler handler);
  void add_form(const std::string& pattern, const Form& form);
  void lint(const char* pattern, const char* warning);

  const std::vector<Form>* find(const std::string& text) const;
  // The forms whose text has the same modifiers in another order; see find_forms.
  const std::vector<Form>* find_reordered(const ptx::Instruction& instruction) const;
  bool knows_opcode(const std::string& opcode) const { return opcodes_.contains(opcode); }

 private:
  std::set<std::string> opcodes_;
  std::unordered_map<std::string, std::vector<Form>> forms_;
};

// Numbers of boolean operations in setp.
enum BooleanOperation : std::uint32_t { kBoolNone, kBoolAnd, kBoolOr, kBoolXor };

// All forms with fixed text, built on first use; for host_lanes(), or for any that this processor has.
const FormTable& form_table();
const FormTable& form_table(HostLanes lanes);

// The forms of an instruction, one per shape of operands, at least one; throws UnknownForm. Modifiers
// may come in other orders than the PTX ISA's, as the assembler takes them
// (ldmatrix.sync.aligned.trans.m8n8.x4.shared.b16); types keep theirs.
std::vector<Form> find_forms(const ptx::Instruction& instruction, const FormTable& table);

// decode() with a given table; for tests that compare host vector widths.
std::shared_ptr<const Program> decode_with(const FormTable& table, const ptx::Module& module,
                                           const ptx::Function& function, Profile profile,
                                           const SymbolAddresses& symbols);

// "add.rn.f32"
std::string text_of(const ptx::Instruction& instruction);

// Each family enters its forms; one function per translation unit.
void register_lanes(FormTable& table, HostLanes lanes);
void register_scalar(FormTable& table);
void register_carry(FormTable& table);
void register_half(FormTable& table);
void register_moves(FormTable& table);
void register_control(FormTable& table);
void register_exchange(FormTable& table);
void register_matrix(FormTable& table);
void register_async(FormTable& table);

// Families whose modifiers combine freely parse them instead. Each returns no forms for other opcodes.
std::vector<Form> convert_forms(const ptx::Instruction& instruction);
std::vector<Form> set_forms(const ptx::Instruction& instruction);
std::vector<Form> memory_forms(const ptx::Instruction& instruction);
std::vector<Form> atomic_forms(const ptx::Instruction& instruction);
std::vector<Form> mma_forms(const ptx::Instruction& instruction);
std::vector<Form> async_forms(const ptx::Instruction& instruction);
std::vector<Form> call_forms(const ptx::Instruction& instruction);
std::vector<Form> wmma_forms(const ptx::Instruction& instruction);

// shfl.sync for any mask. The lane loops have a quick one for whole warps, which falls back on it.
enum class Shuffle : std::uint32_t { up, down, bfly, idx };
enum class ShuffleChecks { off, on };
Handler careful_shuffle(Shuffle mode, ShuffleChecks checks);

// Handler of a mov from a clock: warp instructions executed so far.
void read_clock(Warp& w, const Op& op, std::uint32_t mask);

// Walks an instruction's modifiers in order; what is left at the end is unknown.
class ModifierReader {
 public:
  explicit ModifierReader(const ptx::Instruction& instruction) : instruction_(instruction) {}
  bool take(std::string_view modifier);
  // The first of the list that is next, or empty.
  std::string_view take_any(std::initializer_list<std::string_view> modifiers);
  std::string_view peek() const;
  bool done() const { return next_ == instruction_.modifiers.size(); }
  [[noreturn]] void refuse(std::string_view expected) const;
  void finish() const;  // refuses anything that is left

 private:
  const ptx::Instruction& instruction_;
  std::size_t next_ = 0;
};

}  // namespace sagegen::emulator
