// The values an instruction can name while it is decoded: virtual registers, immediates, symbols and
// special registers. Each is an id until rows are assigned.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/emulator/exec/program.h"
#include "runtime/emulator/exec/slots.h"

namespace sagegen::emulator {

enum class ValueKind : std::uint8_t { row16, row32, row64, predicate };

struct Value {
  ValueKind kind = ValueKind::row32;
  bool fixed = false;       // not a virtual register: it has a row or number of its own
  std::uint16_t place = 0;  // row or predicate number, once known
};

class ValueTable {
 public:
  // Lays out the symbols of the function: parameters, local and shared variables. Throws
  // ptx::ParseError if they are larger than on any device.
  ValueTable(const ptx::Module& module, const ptx::Function& function,
             const SymbolAddresses& globals, Program& program);

  const std::vector<Value>& values() const { return values_; }
  const Value& operator[](std::uint32_t id) const { return values_[id]; }

  // Null if nobody declared the name. Special registers count as declared.
  const std::uint32_t* find_register(const std::string& name);
  std::uint32_t constant(std::uint64_t value, ValueKind kind);
  std::uint32_t row_sink() const { return row_sink_; }
  std::uint32_t predicate_sink() const { return predicate_sink_; }
  std::uint32_t fixed_predicate(std::uint16_t number) const;
  // CC.CF, a predicate that no text can name.
  std::uint32_t condition_code();

  struct Symbol {
    Space space = Space::global;
    std::uint64_t address = 0;  // in its own space
    ptx::Variable::Role role = ptx::Variable::Role::plain;  // other: in .param space for the text
  };
  const Symbol* find_symbol(const std::string& name);

  // Assigns rows: to virtual registers as given, to everything else after them.
  void place(const SlotAssignment& slots, Program& program);

 private:
  std::uint32_t add(ValueKind kind, bool fixed);
  void lay_out_symbols(const ptx::Module& module, const ptx::Function& function, Program& program);

  const SymbolAddresses& globals_;
  std::vector<Value> values_;
  std::unordered_map<std::string, std::uint32_t> registers_;
  std::map<std::pair<std::uint64_t, ValueKind>, std::uint32_t> constants_;
  struct SpecialValue {
    std::uint32_t id;
    Special which;
  };
  std::vector<SpecialValue> specials_;
  std::map<std::string, Symbol> symbols_;
  std::uint32_t row_sink_ = 0, predicate_sink_ = 0, always_ = 0, never_ = 0;
  std::uint32_t condition_code_ = 0;  // 0, which is the row sink: not used so far
};

// True for registers that change while a warp runs: %clock, %clock64, %globaltimer and their halves.
bool is_clock(std::string_view name);

}  // namespace sagegen::emulator
