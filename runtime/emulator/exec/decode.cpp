// ptx::Function -> Program: finds the form of each instruction, binds its operands, assigns rows.

#include <fmt/format.h>

#include <cstring>

#include "runtime/emulator/exec/forms.h"
#include "runtime/emulator/exec/values.h"
#include "runtime/emulator/exec/warp.h"
#include "runtime/emulator/ptx/cfg.h"

namespace sagegen::emulator {
namespace {

using ptx::Operand;

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

const char* kind_name(ValueKind kind) {
  switch (kind) {
    case ValueKind::row16: return "a 16-bit register";
    case ValueKind::row32: return "a 32-bit register";
    case ValueKind::row64: return "a 64-bit register";
    case ValueKind::predicate: break;
  }
  return "a predicate";
}

std::uint8_t bytes_of(ValueKind kind) {
  return kind == ValueKind::row64 ? 8 : kind == ValueKind::row32 ? 4 : 2;
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
    for (std::size_t f = 0; f < format.size(); ++f, ++operand) {
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
    throw Mismatch{fmt::format("operand {} is {} where {} is expected", number_, describe(given),
                               expected)};
  }
  std::string describe(const Operand& given) const {
    switch (given.kind) {
      case Operand::Kind::reg: {
        const std::uint32_t* id = values_.find_register(given.text);
        return id == nullptr ? given.text + " (not declared)"
                             : fmt::format("{} ({})", given.text, kind_name(values_[*id].kind));
      }
      case Operand::Kind::integer: return fmt::format("the integer {}", given.value);
      case Operand::Kind::f32_bits: return "an f32 constant";
      case Operand::Kind::f64_bits: return "an f64 constant";
      case Operand::Kind::symbol: return fmt::format("the symbol {}", given.text);
      case Operand::Kind::address: return "an address";
      case Operand::Kind::vector: return fmt::format("a vector of {}", given.elements.size());
      case Operand::Kind::sink: break;
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
      case 'h': return bind_write(given, ValueKind::row16);
      case 'w': return bind_write(given, ValueKind::row32);
      case 'd': return bind_write(given, ValueKind::row64);
      case 'p': return bind_write(given, ValueKind::predicate);
      case 'x': return bind_write_any(given);
      case 'H': return bind_read(given, ValueKind::row16);
      case 'W': return bind_read(given, ValueKind::row32);
      case 'D': return bind_read(given, ValueKind::row64);
      case 'X': return bind_read_any(given);
      case 'P': return bind_read_predicate(given);
      case 'q': return bind_pair(given, ValueKind::predicate);
      case 'v': return bind_pair(given, ValueKind::row32);
      case 'A': return bind_address(given);
      case 'I':
        if (given.kind != Operand::Kind::integer) mismatch(given, "an integer");
        immediate_ = static_cast<std::uint32_t>(given.value);
        draft_.imm = immediate_;
        return;
      case 'L':
        if (given.kind != Operand::Kind::symbol || target_ < 0) mismatch(given, "a label");
        draft_.imm = static_cast<std::uint32_t>(target_);
        return;
      default: throw Mismatch{fmt::format("bad format {}", draft_.form.format)};
    }
  }

  void push(std::uint32_t id, bool written, bool negated = false) {
    draft_.operands.push_back({.id = id, .written = written, .negated = negated});
  }

  std::uint32_t lookup(const std::string& name) const {
    const std::uint32_t* id = values_.find_register(name);
    if (id == nullptr) {
      throw Mismatch{fmt::format("operand {}: register {} is not declared", number_, name)};
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
    if (address_form && width_known_ && given.kind == Operand::Kind::reg && bytes != register_bytes_) {
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
        push(values_.constant(symbol->address + static_cast<std::uint64_t>(given.value), kind), false);
        return;
      }
      default: mismatch(given, kind_name(kind));
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
    if (!draft_.accesses.empty()) access.space = Space::global;   // cp.async's second address
    access.offset = given.value;
    const ValueTable::Symbol* symbol = values_.find_symbol(given.text);
    if (given.text.empty()) {
      push(values_.constant(0, ValueKind::row64), false);
    } else if (symbol != nullptr) {
      push(values_.constant(symbol_base(*symbol, given.text, access), ValueKind::row64), false);
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
  std::uint64_t symbol_base(const ValueTable::Symbol& symbol, const std::string& name,
                            const Access& access) const {
    Space wanted = access.space == Space::constant ? Space::global : access.space;
    if (wanted == symbol.space || (wanted == Space::generic && symbol.space == Space::global)) {
      return symbol.address;
    }
    throw Mismatch{fmt::format("operand {}: {} is not in the state space of this access", number_, name)};
  }

  const ptx::Instruction& instruction_;
  ValueTable& values_;
  int target_;
  Draft draft_;
  std::size_t number_ = 0;           // of the operand being bound, from 1
  std::uint32_t immediate_ = 0;
  std::uint8_t register_bytes_ = 4;
  bool width_known_ = false;
};

class Decoder {
 public:
  Decoder(const FormTable& table, const ptx::Module& module, const ptx::Function& function,
          Profile profile, const SymbolAddresses& symbols)
      : table_(table),
        function_(function),
        flow_(ptx::analyze(function)),
        program_(std::make_shared<Program>()),
        values_(module, function, symbols, *program_) {
    program_->profile = profile;
    program_->info.name = function.name;
    program_->info.max_threads = function.max_threads;
    for (const auto& [index, name] : module.files) {
      if (index < 0 || index > 0xffff) continue;
      if (program_->files.size() <= static_cast<std::size_t>(index)) program_->files.resize(index + 1);
      program_->files[index] = name;
    }
  }

  std::shared_ptr<const Program> run() {
    for (std::size_t i = 0; i < function_.body.size(); ++i) drafts_.push_back(draft(i));
    assign_rows();
    for (std::size_t i = 0; i < drafts_.size(); ++i) emit(i);
    emit_end();
    return program_;
  }

 private:
  [[noreturn]] static void refuse(const ptx::Instruction& instruction, const std::string& why) {
    throw ptx::ParseError(instruction.line, fmt::format("{}: {}", text_of(instruction), why));
  }

  Draft draft(std::size_t index) {
    const ptx::Instruction& instruction = function_.body[index];
    std::vector<Form> forms;
    try {
      forms = find_forms(instruction, table_);
    } catch (const UnknownForm& e) {
      throw ptx::ParseError(instruction.line, e.what());
    }
    std::string why;
    for (const Form& form : forms) {
      try {
        Draft result = Binder(instruction, form, values_, flow_.target[index]).bind();
        result.guard = bind_guard(instruction);
        if (reads_clock(instruction)) {
          result.form.plain = read_clock;
          result.imm = form.format[0] == 'd' ? 1 : 0;
        }
        check_accesses(instruction, result);
        if (!form.warning.empty()) {
          program_->info.warnings.push_back(fmt::format("line {}: {} {}", instruction.line,
                                                        text_of(instruction), form.warning));
        }
        if (form.global_atomic) program_->has_global_atomics = true;
        return result;
      } catch (const Mismatch& m) {
        if (why.empty()) why = m.why;
      }
    }
    refuse(instruction, why);
  }

  // Integer registers of cvt may be wider than the type, not narrower.
  static void check_widths(const ptx::Instruction& instruction, const Draft& draft) {
    auto bytes = [](std::uint32_t code) { return 2u << code; };
    const Form& form = draft.form;
    if ((form.format[0] == 'x' && bytes(draft.imm >> 28 & 3) < form.access.register_bytes) ||
        (form.format.back() == 'X' && bytes(draft.imm >> 30) < form.access.bytes)) {
      refuse(instruction, "a register is narrower than the type");
    }
  }

  static void check_accesses(const ptx::Instruction& instruction, const Draft& draft) {
    if (instruction.opcode == "cvt" && draft.accesses.empty()) check_widths(instruction, draft);
    if (draft.accesses.empty()) return;
    const Access& access = draft.accesses.front();
    if (instruction.opcode == "cp") {
      std::uint32_t size = access.immediate;
      if ((size != 4 && size != 8 && size != 16) || size < access.detail) {
        refuse(instruction, fmt::format("{} bytes cannot be copied; sizes are {}", size,
                                        access.detail == 16 ? "16" : "4, 8 and 16"));
      }
    } else if ((instruction.opcode == "ld" || instruction.opcode == "st") &&
               access.register_bytes < access.bytes) {
      refuse(instruction, fmt::format("{} bytes do not fit the register of {} bytes", access.bytes,
                                      access.register_bytes));
    }
  }

  static bool reads_clock(const ptx::Instruction& instruction) {
    return instruction.opcode == "mov" && instruction.operands.size() == 2 &&
           is_clock(instruction.operands[1].text);
  }

  std::uint32_t bind_guard(const ptx::Instruction& instruction) {
    if (instruction.guard.empty()) return values_.fixed_predicate(kAlways);
    const std::uint32_t* id = values_.find_register(instruction.guard);
    if (id == nullptr || values_[*id].kind != ValueKind::predicate) {
      refuse(instruction, fmt::format("the guard {} is not a predicate", instruction.guard));
    }
    return *id;
  }

  void assign_rows() {
    SlotRequest request;
    for (const Value& value : values_.values()) {
      bool none = value.fixed || value.kind == ValueKind::predicate;
      request.size.push_back(none ? 0 : value.kind == ValueKind::row64 ? 2 : 1);
    }
    for (const Draft& d : drafts_) {
      std::vector<RegisterUse> uses;
      for (const BoundOperand& operand : d.operands) {
        if (request.size[operand.id] != 0) uses.push_back({operand.id, operand.written});
      }
      request.uses.push_back(std::move(uses));
      request.guarded.push_back(d.guard != values_.fixed_predicate(kAlways));
    }
    SlotAssignment slots = assign_slots(request, flow_);
    program_->info.registers = static_cast<int>(slots.rows);
    values_.place(slots, *program_);
    if (program_->rows > 0xffff || program_->predicates > 0xffff) {
      throw ptx::ParseError(function_.line,
                            fmt::format("{} needs {} register rows and {} predicates at once; the "
                                        "emulator has 65535 of each",
                                        function_.name, program_->rows, program_->predicates));
    }
  }

  void emit(std::size_t index) {
    const ptx::Instruction& instruction = function_.body[index];
    const Draft& d = drafts_[index];
    Op op;
    op.guard = values_[d.guard].place;
    op.guard_negated = instruction.guard_negated ? 1 : 0;
    op.imm = d.imm;
    op.pool = static_cast<std::uint32_t>(program_->pool.size());
    for (std::size_t i = 0; i < d.operands.size(); ++i) {
      const BoundOperand& operand = d.operands[i];
      std::uint16_t place = values_[operand.id].place;
      if (i < kInlineOperands) op.r[i] = place;
      if (operand.negated && i < 8) op.negated |= static_cast<std::uint8_t>(1u << i);
      if (d.operands.size() > kInlineOperands) program_->pool.push_back(place);
    }
    if (!d.accesses.empty()) {
      op.imm = static_cast<std::uint32_t>(program_->accesses.size());
      program_->accesses.insert(program_->accesses.end(), d.accesses.begin(), d.accesses.end());
    }
    if (d.form.mma) op.imm = add_mma(instruction, *d.form.mma);

    program_->plain.push_back(op);
    program_->plain.back().run = d.form.plain;
    program_->checked.push_back(op);
    program_->checked.back().run = d.form.checked != nullptr ? d.form.checked : d.form.plain;
    program_->text.push_back(text_of(instruction));
    program_->ops.push_back(describe(index));
  }

  std::uint32_t add_mma(const ptx::Instruction& instruction, const MmaShape& shape) {
    MmaFunction routine = mma_function(program_->profile, shape);
    if (routine == nullptr) refuse(instruction, "the emulated device has no such instruction");
    bool sub_byte = shape.a == MmaType::s4 || shape.a == MmaType::u4;
    bool two_bytes = shape.a == MmaType::f16 || shape.a == MmaType::bf16;
    bool half = (sub_byte ? shape.k / 2 : two_bytes ? shape.k * 2 : shape.k) == 16;
    MmaDetail detail{.run = routine,
                     .a = static_cast<std::uint8_t>(half ? 2 : 4),
                     .b = static_cast<std::uint8_t>(half ? 1 : 2),
                     .c = static_cast<std::uint8_t>(shape.f16_accumulator ? 2 : 4)};
    program_->mmas.push_back(detail);
    return static_cast<std::uint32_t>(program_->mmas.size() - 1);
  }

  OpInfo describe(std::size_t index) {
    const ptx::Instruction& instruction = function_.body[index];
    const Draft& d = drafts_[index];
    OpInfo info;
    info.body_index = static_cast<int>(index);
    info.line = instruction.line;
    info.source_file = instruction.source_file;
    info.source_line = instruction.source_line;
    int rejoin = flow_.reconvergence[index];
    bool joins = rejoin >= 0 && static_cast<std::size_t>(rejoin) < drafts_.size();
    info.rejoin = joins ? static_cast<std::uint32_t>(rejoin) : kNoRejoin;
    info.taint = d.form.taint;
    info.cells = static_cast<std::uint32_t>(program_->taint_pool.size());
    for (const BoundOperand& operand : d.operands) {
      if (operand.written) info.destinations += push_cell(operand.id);
    }
    if (!clears_itself(instruction, d)) {
      for (const BoundOperand& operand : d.operands) {
        if (!operand.written && !values_[operand.id].fixed) info.sources += push_cell(operand.id);
      }
    }
    return info;
  }

  std::uint16_t push_cell(std::uint32_t id) {
    std::uint16_t place = values_[id].place;
    program_->taint_pool.push_back(values_[id].kind == ValueKind::predicate
                                       ? static_cast<std::uint16_t>(program_->predicate_cell(place))
                                       : place);
    return 1;
  }

  // x ^ x and x - x are 0 whatever x is.
  static bool clears_itself(const ptx::Instruction& instruction, const Draft& d) {
    return (instruction.opcode == "xor" || instruction.opcode == "sub") && d.operands.size() == 3 &&
           d.operands[1].id == d.operands[2].id &&
           (instruction.modifiers.back()[0] == 'b' || instruction.modifiers.back()[0] == 's' ||
            instruction.modifiers.back()[0] == 'u');
  }

  // Falling off the end leaves the kernel.
  void emit_end() {
    const std::vector<Form>* exit = table_.find("exit");
    Op op;
    op.run = exit->front().plain;
    program_->plain.push_back(op);
    program_->checked.push_back(op);
    program_->text.emplace_back("end of the function");
    OpInfo info;
    info.body_index = static_cast<int>(function_.body.size());
    info.line = function_.body.empty() ? function_.line : function_.body.back().line;
    program_->ops.push_back(info);
  }

  const FormTable& table_;
  const ptx::Function& function_;
  ptx::ControlFlow flow_;
  std::shared_ptr<Program> program_;
  ValueTable values_;
  std::vector<Draft> drafts_;
};

}  // namespace

std::shared_ptr<const Program> decode_with(const FormTable& table, const ptx::Module& module,
                                           const ptx::Function& function, Profile profile,
                                           const SymbolAddresses& symbols) {
  return Decoder(table, module, function, profile, symbols).run();
}

std::shared_ptr<const Program> decode(const ptx::Module& module, const ptx::Function& function,
                                      Profile profile, const SymbolAddresses& symbols) {
  return decode_with(form_table(), module, function, profile, symbols);
}

const ProgramInfo& info(const Program& program) { return program.info; }

std::string Program::source_of(std::size_t op) const {
  const OpInfo& i = ops[op];
  if (i.source_line == 0 || i.source_file < 0 ||
      static_cast<std::size_t>(i.source_file) >= files.size()) {
    return {};
  }
  return fmt::format("{}:{}", files[i.source_file], i.source_line);
}

}  // namespace sagegen::emulator
