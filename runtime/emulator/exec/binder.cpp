#include "runtime/emulator/exec/binder.h"

#include <fmt/format.h>

#include <cstring>

namespace sagegen::emulator {
namespace {

using ptx::Operand;

const char* kind_name(ValueKind kind) {
  switch (kind) {
    case ValueKind::row16:
      return "a 16-bit register";
    case ValueKind::row32:
      return "a 32-bit register";
    case ValueKind::row64:
      return "a 64-bit register";
    case ValueKind::predicate:
      break;
  }
  return "a predicate";
}

std::uint8_t bytes_of(ValueKind kind) {
  return kind == ValueKind::row64 ? 8 : kind == ValueKind::row32 ? 4 : 2;
}

// A register without an id: the parser has let pass what is declared and what PTX predefines.
std::string unknown_register(const std::string& name) {
  if (name.starts_with("%envreg")) {
    return name +
           " is set by the driver, and CUDA's documents no value for it, so the emulator has none";
  }
  return name + " is a special register that the emulator does not have";
}

// Binds the operands of one instruction to one form.
class Binder {
 public:
  Binder(const ptx::Instruction& instruction, const Form& form, ValueTable& values, int target)
      : instruction_(instruction), values_(values), target_(target) {
    draft_.form = form;
    draft_.imm = form.number;
  }

  Draft bind() {
    const std::string& format = draft_.form.format;
    std::size_t operand = 0;
    for (std::size_t f = 0; f < format.size(); ++f) {
      if (format[f] == 'c' || format[f] == 'C') {
        push(values_.condition_code(), format[f] == 'c');
        continue;
      }
      if (operand == instruction_.operands.size()) throw Mismatch{count_mismatch()};
      const Operand& given = instruction_.operands[operand];
      number_ = operand + 1;
      if (format[f] == '{') {
        std::size_t close = format.find('}', f);
        bind_vector(given, std::string_view(format).substr(f + 1, close - f - 1));
        f = close;
      } else {
        bind_one(given, format[f]);
      }
      ++operand;
    }
    if (operand != instruction_.operands.size()) throw Mismatch{count_mismatch()};
    for (Access& access : draft_.accesses) {
      access.register_bytes = register_bytes_;
      access.immediate = immediate_;
    }
    return std::move(draft_);
  }

 private:
  std::string count_mismatch() const {
    return fmt::format("{} operands are given, the form takes {}", instruction_.operands.size(),
                       draft_.form.format);
  }
  [[noreturn]] void mismatch(const Operand& given, std::string_view expected) const {
    throw Mismatch{
        fmt::format("operand {} is {} where {} is expected", number_, describe(given), expected)};
  }
  std::string describe(const Operand& given) const {
    switch (given.kind) {
      case Operand::Kind::reg: {
        const std::uint32_t* id = values_.find_register(given.text);
        return id == nullptr ? unknown_register(given.text)
                             : fmt::format("{} ({})", given.text, kind_name(values_[*id].kind));
      }
      case Operand::Kind::integer:
        return fmt::format("the integer {}", given.value);
      case Operand::Kind::f32_bits:
        return "an f32 constant";
      case Operand::Kind::f64_bits:
        return "an f64 constant";
      case Operand::Kind::symbol:
        return fmt::format("the symbol {}", given.text);
      case Operand::Kind::address:
        return "an address";
      case Operand::Kind::vector:
        return fmt::format("a vector of {}", given.elements.size());
      case Operand::Kind::sink:
        break;
    }
    return "_";
  }

  void bind_vector(const Operand& given, std::string_view tokens) {
    if (given.kind != Operand::Kind::vector) {
      if (tokens.size() != 1) mismatch(given, fmt::format("a vector of {}", tokens.size()));
      bind_one(given, tokens[0]);
      return;
    }
    if (given.elements.size() != tokens.size()) {
      mismatch(given, fmt::format("a vector of {}", tokens.size()));
    }
    for (std::size_t i = 0; i < tokens.size(); ++i) bind_one(given.elements[i], tokens[i]);
  }

  void bind_one(const Operand& given, char token) {
    switch (token) {
      case 'h':
        return bind_write(given, ValueKind::row16);
      case 'w':
        return bind_write(given, ValueKind::row32);
      case 'd':
        return bind_write(given, ValueKind::row64);
      case 'p':
        return bind_write(given, ValueKind::predicate);
      case 'x':
        return bind_write_any(given);
      case 'H':
        return bind_read(given, ValueKind::row16);
      case 'W':
        return bind_read(given, ValueKind::row32);
      case 'D':
        return bind_read(given, ValueKind::row64);
      case 'X':
        return bind_read_any(given);
      case 'P':
        return bind_read_predicate(given);
      case 'q':
        return bind_pair(given, ValueKind::predicate);
      case 'v':
        return bind_pair(given, ValueKind::row32);
      case 'A':
        return bind_address(given);
      case 'I':
        if (given.kind != Operand::Kind::integer) mismatch(given, "an integer");
        immediate_ = static_cast<std::uint32_t>(given.value);
        draft_.imm = immediate_;
        return;
      case 'L':
        if (given.kind != Operand::Kind::symbol || target_ < 0) mismatch(given, "a label");
        draft_.imm = static_cast<std::uint32_t>(target_);
        return;
      default:
        throw Mismatch{fmt::format("bad format {}", draft_.form.format)};
    }
  }

  void push(std::uint32_t id, bool written, bool negated = false) {
    draft_.operands.push_back({.id = id, .written = written, .negated = negated});
  }

  std::uint32_t lookup(const std::string& name) const {
    const std::uint32_t* id = values_.find_register(name);
    if (id == nullptr) {
      throw Mismatch{fmt::format("operand {}: {}", number_, unknown_register(name))};
    }
    return *id;
  }

  void bind_write(const Operand& given, ValueKind kind) {
    if (given.kind == Operand::Kind::sink) {
      push(kind == ValueKind::predicate ? values_.predicate_sink() : values_.row_sink(), true);
      return;
    }
    if (given.kind != Operand::Kind::reg || given.negated) mismatch(given, kind_name(kind));
    std::uint32_t id = lookup(given.text);
    if (values_[id].kind != kind) mismatch(given, kind_name(kind));
    if (values_[id].fixed) mismatch(given, "a register that can be written");
    push(id, true);
  }

  void bind_write_any(const Operand& given) {
    if (given.kind == Operand::Kind::sink) {
      push(values_.row_sink(), true);
      return;
    }
    if (given.kind != Operand::Kind::reg) mismatch(given, "a register");
    std::uint32_t id = lookup(given.text);
    if (values_[id].kind == ValueKind::predicate) mismatch(given, "a 16, 32 or 64-bit register");
    note_width(given, values_[id].kind, /*shift=*/28);
    push(id, true);
  }

  void bind_read_any(const Operand& given) {
    if (given.kind == Operand::Kind::reg) {
      std::uint32_t id = lookup(given.text);
      if (values_[id].kind == ValueKind::predicate) mismatch(given, "a 16, 32 or 64-bit register");
      note_width(given, values_[id].kind, /*shift=*/30);
      push(id, false);
      return;
    }
    ValueKind kind = draft_.form.access.bytes == 8 ? ValueKind::row64 : ValueKind::row32;
    bind_read(given, kind);
    note_width(given, kind, /*shift=*/30);
  }

  // Vectors need elements of one width. Conversions find the widths in Op::imm: 0 for 16 bits, 1 for
  // 32, 2 for 64, of the destination in bits 28-29 and of the source in bits 30-31.
  void note_width(const Operand& given, ValueKind kind, int shift) {
    bool address_form = draft_.form.format.find('A') != std::string::npos;
    std::uint8_t bytes = bytes_of(kind);
    if (address_form && width_known_ && given.kind == Operand::Kind::reg &&
        bytes != register_bytes_) {
      mismatch(given, "a register as wide as the others of the vector");
    }
    if (given.kind == Operand::Kind::reg || !width_known_) register_bytes_ = bytes;
    width_known_ = true;
    if (!address_form) draft_.imm |= std::uint32_t{bytes == 8 ? 2u : bytes == 4 ? 1u : 0u} << shift;
  }

  void bind_read(const Operand& given, ValueKind kind) {
    switch (given.kind) {
      case Operand::Kind::reg: {
        std::uint32_t id = lookup(given.text);
        if (values_[id].kind != kind) mismatch(given, kind_name(kind));
        push(id, false);
        return;
      }
      case Operand::Kind::integer:
        push(values_.constant(static_cast<std::uint64_t>(given.value), kind), false);
        return;
      case Operand::Kind::f32_bits:
        if (kind != ValueKind::row32) mismatch(given, kind_name(kind));
        push(values_.constant(static_cast<std::uint64_t>(given.value), kind), false);
        return;
      case Operand::Kind::f64_bits: {
        std::uint64_t bits = static_cast<std::uint64_t>(given.value);
        if (kind == ValueKind::row32) {
          double value;
          std::memcpy(&value, &bits, sizeof value);
          float narrow = static_cast<float>(value);
          std::uint32_t narrow_bits;
          std::memcpy(&narrow_bits, &narrow, sizeof narrow_bits);
          bits = narrow_bits;
        } else if (kind != ValueKind::row64) {
          mismatch(given, kind_name(kind));
        }
        push(values_.constant(bits, kind), false);
        return;
      }
      case Operand::Kind::symbol: {
        const ValueTable::Symbol* symbol = values_.find_symbol(given.text);
        if (symbol == nullptr) {
          throw Mismatch{fmt::format("operand {}: {} is not declared", number_, given.text)};
        }
        if (kind == ValueKind::row16) mismatch(given, kind_name(kind));
        if (symbol->role == ptx::Variable::Role::argument) {
          throw Mismatch{fmt::format("operand {}: the address of the argument {} cannot be taken",
                                     number_, given.text)};
        }
        push(values_.constant(symbol->address + static_cast<std::uint64_t>(given.value), kind),
             false);
        return;
      }
      default:
        mismatch(given, kind_name(kind));
    }
  }

  void bind_read_predicate(const Operand& given) {
    if (given.kind == Operand::Kind::integer) {
      push(values_.fixed_predicate(given.value != 0 ? kAlways : kNever), false);
      return;
    }
    if (given.kind != Operand::Kind::reg) mismatch(given, "a predicate");
    std::uint32_t id = lookup(given.text);
    if (values_[id].kind != ValueKind::predicate) mismatch(given, "a predicate");
    push(id, false, given.negated);
  }

  void bind_pair(const Operand& given, ValueKind kind) {
    bind_write(given, kind);
    if (given.pair.empty() || given.pair == "_") {
      push(values_.predicate_sink(), true);
      return;
    }
    std::uint32_t id = lookup(given.pair);
    if (values_[id].kind != ValueKind::predicate) mismatch(given, "a register and a predicate");
    push(id, true);
  }

  void bind_address(const Operand& given) {
    if (given.kind != Operand::Kind::address) mismatch(given, "an address");
    Access access = draft_.form.access;
    if (!draft_.accesses.empty()) access.space = Space::global;  // cp.async's second address
    access.offset = given.value;
    const ValueTable::Symbol* symbol = values_.find_symbol(given.text);
    if (given.text.empty()) {
      push(values_.constant(0, ValueKind::row64), false);
    } else if (symbol != nullptr) {
      push(values_.constant(symbol_base(*symbol, given.text, access), ValueKind::row64), false);
    } else if (access.space == Space::param && instruction_.opcode == "st") {
      throw Mismatch{
          fmt::format("operand {}: st.param stores to a variable that it names", number_)};
    } else {
      std::uint32_t id = lookup(given.text);
      if (values_[id].kind != ValueKind::row32 && values_[id].kind != ValueKind::row64) {
        mismatch(given, "an address in a 32 or 64-bit register");
      }
      access.wide_base = values_[id].kind == ValueKind::row64;
      push(id, false);
    }
    draft_.accesses.push_back(access);
  }

  // A symbol's own address fits an access to its own space; elsewhere it would be another address.
  // What calls pass is .param for the text and lies in local memory.
  std::uint64_t symbol_base(const ValueTable::Symbol& symbol, const std::string& name,
                            Access& access) const {
    using Role = ptx::Variable::Role;
    if (symbol.space == Space::param && instruction_.opcode == "st") {
      throw Mismatch{fmt::format("operand {}: the parameter {} cannot be written", number_, name)};
    }
    if (symbol.role != Role::plain) {
      if (access.space != Space::param) throw not_in_space(name);
      access.space = Space::local;
      return symbol.address;
    }
    Space wanted = access.space == Space::constant ? Space::global : access.space;
    if (wanted == symbol.space || (wanted == Space::generic && symbol.space == Space::global)) {
      return symbol.address;
    }
    throw not_in_space(name);
  }
  Mismatch not_in_space(const std::string& name) const {
    return {fmt::format("operand {}: {} is not in the state space of this access", number_, name)};
  }

  const ptx::Instruction& instruction_;
  ValueTable& values_;
  int target_;
  Draft draft_;
  std::size_t number_ = 0;  // of the operand being bound, from 1
  std::uint32_t immediate_ = 0;
  std::uint8_t register_bytes_ = 4;
  bool width_known_ = false;
};

}  // namespace

Draft bind_operands(const ptx::Instruction& instruction, const Form& form, ValueTable& values,
                    int target) {
  return Binder(instruction, form, values, target).bind();
}

}  // namespace sagegen::emulator
