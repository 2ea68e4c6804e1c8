// ptx::Function -> Program: finds the form of each instruction, binds its operands, assigns rows.

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <unordered_map>

#include "runtime/emulator/exec/binder.h"
#include "runtime/emulator/exec/definedness.h"
#include "runtime/emulator/exec/forms.h"
#include "runtime/emulator/exec/values.h"
#include "runtime/emulator/exec/warp.h"
#include "runtime/emulator/numerics/fused_sum.h"
#include "runtime/emulator/ptx/cfg.h"

namespace sagegen::emulator {
namespace {

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
    program_->info.exact_threads = function.exact_threads;
    for (const ptx::Instruction& instruction : function.body) {
      if (program_->files.contains(instruction.source_file)) continue;
      const auto name = module.files.find(instruction.source_file);
      if (name != module.files.end()) program_->files.insert(*name);
    }
  }

  std::shared_ptr<const Program> run() {
    for (std::size_t i = 0; i < function_.body.size(); ++i) drafts_.push_back(draft(i));
    let_first_reads_race();
    assign_rows();
    for (std::size_t i = 0; i < drafts_.size(); ++i) emit(i);
    emit_end();
    for (const OpInfo& op : program_->ops) {
      if (op.rejoin == kNoRejoin) continue;
      program_->plain[op.rejoin].joins = program_->checked[op.rejoin].joins = 1;
    }
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
        Draft result = bind_operands(instruction, form, values_, flow_.target[index]);
        result.guard = bind_guard(instruction);
        if (reads_clock(instruction)) {
          result.form.plain = read_clock;
          result.imm = form.format[0] == 'd' ? 1 : 0;
          if (instruction.operands[1].text.ends_with("_hi")) result.imm |= 2;
        }
        check_accesses(instruction, result);
        if (!form.warning.empty()) {
          program_->info.warnings.push_back(
              fmt::format("line {}: {} {}", instruction.line, text_of(instruction), form.warning));
        }
        if (form.orders_ctas) program_->orders_ctas = true;
        return result;
      } catch (const Mismatch& m) {
        if (why.empty()) why = m.why;
      }
    }
    refuse(instruction, why);
  }

  // The loop of the CUDA C++ Programming Guide, `old = *p; do { assumed = old; old = atomicCAS(p, assumed,
  // ..); } while (assumed != old)`, begins with a plain read. Whatever it reads, the atomic compares again:
  // such reads race with atomics no more than volatile ones.
  void let_first_reads_race() {
    std::vector<int> writes(values_.values().size(), 0);
    std::vector<const Draft*> writer(writes.size(), nullptr);
    for (const Draft& d : drafts_) {
      for (const BoundOperand& operand : d.operands) {
        if (!operand.written) continue;
        ++writes[operand.id];
        writer[operand.id] = &d;
      }
    }
    const auto copies = [&](const Draft& d) {
      const std::string& opcode = function_.body[&d - drafts_.data()].opcode;
      return (opcode == "mov" || opcode == "cvta") && d.operands.size() == 2;
    };
    // Where an address comes from; addresses of global memory are their generic ones.
    const auto origin = [&](std::uint32_t id) {
      for (int steps = 0; steps < 16 && writes[id] == 1 && copies(*writer[id]); ++steps) {
        id = writer[id]->operands[1].id;
      }
      return id;
    };
    std::unordered_map<std::uint32_t, std::vector<std::uint32_t>> copied_from;
    for (const Draft& d : drafts_) {
      if (copies(d)) copied_from[d.operands[0].id].push_back(d.operands[1].id);
    }
    using Place = std::tuple<std::uint32_t, std::int64_t, std::uint8_t>;  // register, offset, bytes
    const auto place_of = [&](const Draft& d) {
      const Access& access = d.accesses.front();
      return Place{origin(d.operands[1].id), access.offset, access.bytes};
    };
    std::map<Place, std::set<std::uint32_t>> compared;  // registers that are copied to the operand
    constexpr std::size_t kMostCopies = 64;             // of one atomic: texts may be hostile
    for (std::size_t i = 0; i < drafts_.size(); ++i) {
      const ptx::Instruction& atomic = function_.body[i];
      if (atomic.opcode != "atom" || !takes(atomic, "cas")) continue;
      const Place place = place_of(drafts_[i]);
      if (writes[std::get<0>(place)] > 1) continue;  // it may be another place by then
      std::vector<std::uint32_t> found = {drafts_[i].operands[2].id};
      for (std::size_t k = 0; k < found.size() && found.size() < kMostCopies; ++k) {
        if (!compared[place].insert(found[k]).second) continue;
        const auto sources = copied_from.find(found[k]);
        if (sources == copied_from.end()) continue;
        found.insert(found.end(), sources->second.begin(), sources->second.end());
      }
    }
    for (std::size_t i = 0; i < drafts_.size() && !compared.empty(); ++i) {
      Draft& load = drafts_[i];
      if (function_.body[i].opcode != "ld" || load.operands.size() != 2) continue;
      const auto found = compared.find(place_of(load));
      if (found == compared.end() || !found->second.contains(load.operands[0].id)) continue;
      load.accesses.front().strong = true;
    }
  }

  static bool takes(const ptx::Instruction& instruction, std::string_view modifier) {
    const auto& all = instruction.modifiers;
    return std::find(all.begin(), all.end(), modifier) != all.end();
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
    request.line = function_.line;
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
    request.births = births();
    SlotAssignment slots = assign_slots(request, flow_);
    for (std::size_t i = 0; i < request.births.size(); ++i) {
      std::vector<std::uint32_t>& ids = unwritten_[request.births[i].at];
      ids = std::move(slots.unwritten[i]);
      for (const std::uint32_t id : request.births[i].ids) {
        if (values_[id].kind == ValueKind::predicate) ids.push_back(id);
      }
    }
    program_->info.registers = static_cast<int>(slots.rows);
    values_.place(slots, *program_);
    if (program_->rows > 0xffff || program_->predicates > 0xffff) {
      throw ptx::ParseError(function_.line,
                            fmt::format("{} needs {} register rows and {} predicates at once; the "
                                        "emulator has 65535 of each",
                                        function_.name, program_->rows, program_->predicates));
    }
  }

  // The registers of each expanded call (ptx/calls.h), by the suffix of their names.
  std::vector<Births> births() {
    std::map<std::string, std::vector<std::uint32_t>> by_call;
    for (const ptx::Register& r : function_.registers) {
      const std::size_t suffix = r.name.rfind('#');
      if (suffix != std::string::npos) {
        by_call[r.name.substr(suffix)].push_back(*values_.find_register(r.name));
      }
    }
    std::vector<Births> out;
    for (std::size_t i = 0; !by_call.empty() && i < function_.body.size(); ++i) {
      const ptx::Instruction& instruction = function_.body[i];
      if (instruction.opcode != "call") continue;
      const auto found = by_call.find(instruction.operands[0].text);
      if (found != by_call.end()) {
        out.push_back({.at = static_cast<int>(i), .ids = std::move(found->second)});
      }
    }
    return out;
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
    program_->spread.push_back(spread_rule(instruction, d, operand_bytes(d)));
  }

  std::uint32_t add_mma(const ptx::Instruction& instruction, const MmaShape& shape) {
    const bool doubles = shape.a == MmaType::f64;
    MmaFunction routine = doubles ? nullptr : mma_function(program_->profile, shape);
    MmaDoubleFunction for_doubles = mma_double_function(program_->profile, shape);
    if (routine == nullptr && for_doubles == nullptr) {
      refuse(instruction, "the emulated device has no such instruction");
    }
    bool half = shape.k * bits_of(shape.a) == 128;
    MmaDetail detail{.shape = shape,
                     .run = routine,
                     .run_double = for_doubles,
                     .a = static_cast<std::uint8_t>(half ? 2 : 4),
                     .b = static_cast<std::uint8_t>(half ? 1 : 2),
                     .c = static_cast<std::uint8_t>(shape.f16_accumulator ? 2 : 4),
                     .f16_accumulators = shape.f16_accumulator};
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
    if (flow_.target[index] >= 0) info.target = static_cast<std::uint32_t>(flow_.target[index]);
    bool leaves = instruction.opcode == "ret" || instruction.opcode == "exit";
    info.ends_path = instruction.guard.empty() && (instruction.opcode == "bra" || leaves);
    info.taint = d.form.taint;
    info.cells = static_cast<std::uint32_t>(program_->taint_pool.size());
    for (const BoundOperand& operand : d.operands) {
      if (operand.written) info.destinations += push_cell(operand.id);
    }
    if (const auto born = unwritten_.find(static_cast<int>(index)); born != unwritten_.end()) {
      for (const std::uint32_t id : born->second) info.destinations += push_cell(id);
    }
    if (!clears_itself(instruction, d)) {
      for (const BoundOperand& operand : d.operands) {
        if (!operand.written && !values_[operand.id].fixed) info.sources += push_cell(operand.id);
      }
    }
    return info;
  }

  std::vector<std::uint8_t> operand_bytes(const Draft& d) const {
    std::vector<std::uint8_t> bytes;
    for (const BoundOperand& operand : d.operands) {
      const ValueKind kind = values_[operand.id].kind;
      bytes.push_back(kind == ValueKind::row64   ? 8
                      : kind == ValueKind::row32 ? 4
                      : kind == ValueKind::row16 ? 2
                                                 : 0);
    }
    return bytes;
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
    info.ends_path = true;
    info.line = function_.body.empty() ? function_.line : function_.body.back().line;
    program_->ops.push_back(info);
    program_->spread.emplace_back();
  }

  const FormTable& table_;
  const ptx::Function& function_;
  ptx::ControlFlow flow_;
  std::shared_ptr<Program> program_;
  ValueTable values_;
  std::vector<Draft> drafts_;
  std::map<int, std::vector<std::uint32_t>> unwritten_;  // registers that a call leaves undefined
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

std::vector<std::uint8_t> initial_bytes(const ptx::Variable& variable,
                                        const SymbolAddresses& symbols) {
  std::vector<std::uint8_t> bytes = variable.initial;
  for (const ptx::InitialAddress& each : variable.addresses) {
    const Address address = symbols.at(each.variable) + each.addend;
    for (int i = 0; i < each.bytes; ++i) {
      bytes[each.offset + static_cast<std::size_t>(i)] =
          static_cast<std::uint8_t>(address >> (each.shift + 8 * i));
    }
  }
  return bytes;
}

std::string Program::source_of(std::size_t op) const {
  const OpInfo& i = ops[op];
  const auto file = files.find(i.source_file);
  if (i.source_line == 0 || file == files.end()) return {};
  return fmt::format("{}:{}", file->second, i.source_line);
}

}  // namespace sagegen::emulator
