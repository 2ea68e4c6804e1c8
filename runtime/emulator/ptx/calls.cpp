#include "runtime/emulator/ptx/calls.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "runtime/emulator/ptx/lexer.h"

namespace sagegen::emulator::ptx {
namespace {

constexpr std::size_t kMaxDepth = 64;  // of calls in calls; bounds the recursion of Expander::copy

std::uint64_t bytes_of(Register::Type type) {
  switch (type) {
    case Register::Type::pred:
      return 0;
    case Register::Type::b16:
      return 2;
    case Register::Type::b32:
      return 4;
    case Register::Type::b64:
      break;
  }
  return 8;
}

// What a function declares, by the names that its operands use.
struct Locals {
  std::unordered_map<std::string, Register::Type> registers;
  std::unordered_map<std::string, const Variable*> variables;  // .local and .param
  std::unordered_set<std::string> shared;
};

Locals locals_of(const Function& code) {
  Locals out;
  for (const Register& r : code.registers) out.registers.emplace(r.name, r.type);
  for (const Variable& v : code.local) out.variables.emplace(v.name, &v);
  for (const Variable& v : code.shared) out.shared.insert(v.name);
  return out;
}

Operand integer(std::uint64_t value) {
  Operand out;
  out.value = static_cast<std::int64_t>(value);
  return out;
}

Operand named(Operand::Kind kind, std::string name) {
  Operand out;
  out.kind = kind;
  out.text = std::move(name);
  return out;
}

class Expander {
 public:
  Expander(const FunctionReader& reader, std::size_t& instructions, std::size_t limit)
      : reader_(reader), instructions_(instructions), limit_(limit) {}

  void run(Function& entry) {
    const Function code = std::move(entry);
    out_ = code;
    out_.body.clear();
    out_.labels.clear();
    out_.local.clear();
    Instance top{.code = code, .locals = known(code)};
    lay_out(top);
    copy(top);
    entry = std::move(out_);
  }

 private:
  // One expansion of a function; the entry is the first, with names as they are written.
  struct Instance {
    const Function& code;
    const Locals& locals;
    std::string suffix = {};      // of its names
    std::string end = {};         // the label that a ret jumps to
    std::uint64_t frame = 0;      // where its variables begin in local memory ...
    std::uint64_t frame_end = 0;  // ... and end
    std::unordered_map<std::string, std::uint64_t> places = {};  // of its variables
    std::unordered_set<std::string> used = {};                   // registers declared so far
  };
  struct Move {
    std::uint64_t to = 0, from = 0, bytes = 0;
  };

  const Locals& known(const Function& code) {
    auto found = known_.find(&code);
    if (found == known_.end()) found = known_.emplace(&code, locals_of(code)).first;
    return found->second;
  }

  void lay_out(Instance& instance) {
    std::uint64_t at = instance.frame;
    for (const Variable& v : instance.code.local) {
      const auto align = static_cast<std::uint64_t>(v.align);
      at = (at + align - 1) / align * align;
      out_.local.push_back(v);
      out_.local.back().name += instance.suffix;
      out_.local.back().place = at;
      instance.places.emplace(v.name, at);
      at += v.bytes;
    }
    instance.frame_end = at;
  }

  // ---- names ----

  std::string register_name(Instance& instance, const std::string& name) {
    const auto found = instance.locals.registers.find(name);
    if (found == instance.locals.registers.end()) return name;  // %tid.x
    std::string renamed = name + instance.suffix;
    if (!instance.suffix.empty() && instance.used.insert(name).second) {
      out_.registers.push_back({.name = renamed, .type = found->second});
    }
    return renamed;
  }

  std::string symbol_name(Instance& instance, const std::string& name) const {
    if (instance.suffix.empty()) return name;
    // A .shared variable is one for all calls of its function.
    if (instance.locals.shared.contains(name)) return name + "@" + instance.code.name;
    const bool own =
        instance.locals.variables.contains(name) || instance.code.labels.contains(name);
    return own ? name + instance.suffix : name;
  }

  void rename(Instance& instance, Operand& operand) {
    switch (operand.kind) {
      case Operand::Kind::reg:
        operand.text = register_name(instance, operand.text);
        break;
      case Operand::Kind::symbol:
        operand.text = symbol_name(instance, operand.text);
        break;
      case Operand::Kind::address:
        operand.text = instance.locals.registers.contains(operand.text)
                           ? register_name(instance, operand.text)
                           : symbol_name(instance, operand.text);
        break;
      default:
        break;
    }
    if (!operand.pair.empty()) operand.pair = register_name(instance, operand.pair);
    for (Operand& element : operand.elements) rename(instance, element);
  }

  // ---- output ----

  // Labels and variables count as instructions do: a hostile text may have many of either.
  void charge(std::size_t number, int line) {
    instructions_ += number;
    if (instructions_ <= limit_) return;
    throw ParseError(line, fmt::format("the functions that {} calls make it longer than {} "
                                       "instructions; the emulator expands every call where it "
                                       "stands",
                                       out_.name, limit_));
  }

  void emit(Instruction instruction) {
    charge(1, instruction.line);
    out_.body.push_back(std::move(instruction));
  }

  void put_label(std::string name) {
    out_.labels.emplace(std::move(name), static_cast<int>(out_.body.size()));
  }

  // What the assembler refuses: writing an input, reading a result, a guard beside an argument.
  static void check_access(const Instance& instance, const Instruction& given) {
    const bool store = given.opcode == "st", load = given.opcode == "ld";
    const std::size_t address = load ? 1 : 0;
    if ((!store && !load) || given.operands.size() <= address) return;
    const auto found = instance.locals.variables.find(given.operands[address].text);
    if (found == instance.locals.variables.end()) return;
    const std::string name = quote(found->first), function = quote(instance.code.name);
    switch (found->second->role) {
      case Variable::Role::input:
        if (!store) return;
        throw ParseError(given.line,
                         fmt::format("{} is an input of {} and cannot be written", name, function));
      case Variable::Role::result:
        if (!load) return;
        throw ParseError(given.line,
                         fmt::format("{} is the result of {} and cannot be read", name, function));
      case Variable::Role::argument:
        if (given.guard.empty()) return;
        throw ParseError(given.line,
                         fmt::format("a guard cannot stand before an access to {}, which a call "
                                     "passes; branch around it",
                                     name));
      case Variable::Role::plain:
        return;
    }
  }

  void copy(Instance& instance) {
    std::vector<int> positions;
    for (const Instruction& given : instance.code.body) {
      positions.push_back(static_cast<int>(out_.body.size()));
      if (given.opcode == "call") {
        expand(instance, given);
        continue;
      }
      check_access(instance, given);
      Instruction next = given;
      if (!next.guard.empty()) next.guard = register_name(instance, next.guard);
      for (Operand& operand : next.operands) rename(instance, operand);
      if (next.opcode == "ret" && !instance.end.empty()) {
        next.operands.push_back(named(Operand::Kind::symbol, instance.end));
      }
      emit(std::move(next));
    }
    positions.push_back(static_cast<int>(out_.body.size()));
    for (const auto& [name, index] : instance.code.labels) {
      out_.labels.emplace(name + instance.suffix, positions[static_cast<std::size_t>(index)]);
    }
  }

  // ---- calls ----

  const DeviceFunction& callee_of(const Instruction& call) {
    const std::string& name = call.operands[1].text;
    const DeviceFunction& callee = reader_(name, call.line);
    if (std::find(active_.begin(), active_.end(), &callee) != active_.end()) {
      throw ParseError(call.line,
                       quote(name) +
                           " calls itself, at once or through others; the emulator expands every "
                           "call where it stands, so it cannot run recursion: make it a loop");
    }
    if (active_.size() == kMaxDepth) {
      throw ParseError(call.line, fmt::format("calls are nested more than {} deep", kMaxDepth));
    }
    const auto check = [&](std::size_t given, std::size_t wanted, const char* what) {
      if (given == wanted) return;
      throw ParseError(call.line, fmt::format("{} has {} {}; the call gives {}", quote(name),
                                              wanted, what, given));
    };
    check(call.operands[0].elements.size(), callee.results.size(), "results");
    check(call.operands[2].elements.size(), callee.inputs.size(), "arguments");
    return callee;
  }

  void expand(Instance& caller, const Instruction& call) {
    const DeviceFunction& callee = callee_of(call);
    if (!callee.code.shared.empty() && with_shared_.insert(&callee).second) {
      for (const Variable& v : callee.code.shared) {
        out_.shared.push_back(v);
        out_.shared.back().name += "@" + callee.code.name;
      }
    }
    const std::string suffix = fmt::format("#{}", ++instances_);
    Instance inner{.code = callee.code,
                   .locals = known(callee.code),
                   .suffix = suffix,
                   .end = "return" + suffix,
                   .frame = caller.frame_end};
    charge(callee.code.local.size() + callee.code.labels.size(), call.line);
    lay_out(inner);
    if (!call.guard.empty()) {
      Instruction skip = like(call, "call", call.modifiers);
      skip.guard = register_name(caller, call.guard);
      skip.guard_negated = !call.guard_negated;
      skip.operands = {named(Operand::Kind::symbol, "behind" + suffix)};
      emit(std::move(skip));
    }
    pass_inputs(caller, inner, callee, call);
    active_.push_back(&callee);
    copy(inner);
    active_.pop_back();
    put_label(inner.end);
    pass_results(caller, inner, callee, call);
    if (!call.guard.empty()) put_label("behind" + suffix);
  }

  static Instruction like(const Instruction& call, std::string opcode,
                          std::vector<std::string> modifiers) {
    Instruction out;
    out.opcode = std::move(opcode);
    out.modifiers = std::move(modifiers);
    out.line = call.line;
    out.source_file = call.source_file;
    out.source_line = call.source_line;
    return out;
  }

  // "b32" for a parameter of 4 bytes.
  static std::string type_of(const Formal& formal) { return fmt::format("b{}", 8 * formal.bytes); }

  void emit_frame(const Instruction& call, std::uint64_t start, std::uint64_t bytes,
                  const std::vector<Move>& moves) {
    Instruction frame = like(call, "call", call.modifiers);
    frame.operands = {integer(start), integer(bytes)};
    for (const Move& move : moves) {
      for (const std::uint64_t value : {move.to, move.from, move.bytes}) {
        frame.operands.push_back(integer(value));
      }
    }
    emit(std::move(frame));
  }

  // The .param variable of the caller that an argument names, or null if it is a register or a number.
  const Variable* variable_of(const Instance& caller, const Instruction& call,
                              const Operand& given) const {
    if (given.kind != Operand::Kind::symbol) return nullptr;
    const auto found = caller.locals.variables.find(given.text);
    if (found == caller.locals.variables.end() || found->second->role == Variable::Role::plain) {
      throw ParseError(call.line, quote(given.text) +
                                      " is no .param variable, register or number, so it cannot be "
                                      "an argument of a call");
    }
    return found->second;
  }

  static void check_size(const Instruction& call, const Formal& formal, std::uint64_t bytes) {
    if (bytes == formal.bytes) return;
    throw ParseError(call.line,
                     fmt::format("parameter {} of {} has {} bytes, but the call gives {}",
                                 quote(formal.name), quote(call.operands[1].text), formal.bytes,
                                 bytes == 0 ? "a predicate" : fmt::format("{} bytes", bytes)));
  }

  void check_register(const Instance& caller, const Instruction& call, const Formal& formal,
                      const Operand& given) const {
    if (given.kind != Operand::Kind::reg) {  // a number
      if (formal.bytes == 2 || formal.bytes == 4 || formal.bytes == 8) return;
      throw ParseError(call.line, fmt::format("a number cannot be parameter {} of {} bytes",
                                              quote(formal.name), formal.bytes));
    }
    const auto found = caller.locals.registers.find(given.text);
    check_size(call, formal, found == caller.locals.registers.end() ? 4 : bytes_of(found->second));
  }

  void pass_inputs(Instance& caller, Instance& inner, const DeviceFunction& callee,
                   const Instruction& call) {
    std::vector<Move> moves;
    std::vector<Instruction> others;
    for (std::size_t i = 0; i < callee.inputs.size(); ++i) {
      const Formal& formal = callee.inputs[i];
      Operand given = call.operands[2].elements[i];
      const Variable* variable = variable_of(caller, call, given);
      if (variable != nullptr) {
        check_size(call, formal, variable->bytes);
        if (!formal.in_register) {
          moves.push_back(
              {inner.places.at(formal.name), caller.places.at(given.text), formal.bytes});
          continue;
        }
        given.kind = Operand::Kind::address;
      } else {
        check_register(caller, call, formal, given);
      }
      rename(caller, given);
      const Operand place = parameter(inner, formal);
      if (formal.in_register) {
        const bool load = variable != nullptr;
        others.push_back(like(call, load ? "ld" : "mov", {}));
        if (load) others.back().modifiers = {"param"};
        others.back().operands = {place, given};
      } else {
        others.push_back(like(call, "st", {"param"}));
        others.back().operands = {place, given};
      }
      others.back().modifiers.push_back(type_of(formal));
    }
    emit_frame(call, inner.frame, inner.frame_end - inner.frame, moves);
    out_.body.back().operands[0].text = inner.suffix;
    for (Instruction& other : others) emit(std::move(other));
  }

  void pass_results(Instance& caller, Instance& inner, const DeviceFunction& callee,
                    const Instruction& call) {
    std::vector<Move> moves;
    for (std::size_t i = 0; i < callee.results.size(); ++i) {
      const Formal& formal = callee.results[i];
      Operand given = call.operands[0].elements[i];
      if (given.kind == Operand::Kind::sink) continue;
      const Variable* variable = variable_of(caller, call, given);
      if (variable != nullptr) {
        check_size(call, formal, variable->bytes);
        if (variable->role == Variable::Role::input) {
          throw ParseError(call.line, quote(given.text) +
                                          " is an input of the function that calls "
                                          "and so cannot take a result");
        }
        if (!formal.in_register) {
          moves.push_back(
              {caller.places.at(given.text), inner.places.at(formal.name), formal.bytes});
          continue;
        }
        given.kind = Operand::Kind::address;
      } else {
        if (given.kind != Operand::Kind::reg) {
          throw ParseError(call.line, "a number cannot take the result of a call");
        }
        check_register(caller, call, formal, given);
      }
      rename(caller, given);
      const Operand place = parameter(inner, formal);
      Instruction take = like(call,
                              variable != nullptr  ? "st"
                              : formal.in_register ? "mov"
                                                   : "ld",
                              {});
      if (take.opcode != "mov") take.modifiers = {"param"};
      take.modifiers.push_back(type_of(formal));
      take.operands = {given, place};
      emit(std::move(take));
    }
    if (!moves.empty()) emit_frame(call, inner.frame, 0, moves);
  }

  Operand parameter(Instance& inner, const Formal& formal) {
    return formal.in_register ? named(Operand::Kind::reg, register_name(inner, formal.name))
                              : named(Operand::Kind::address, formal.name + inner.suffix);
  }

  const FunctionReader& reader_;
  std::size_t& instructions_;
  std::size_t limit_;
  Function out_;
  std::unordered_map<const Function*, Locals> known_;
  std::vector<const DeviceFunction*> active_;  // being expanded, outermost first
  std::set<const DeviceFunction*> with_shared_;
  int instances_ = 0;
};

}  // namespace

bool is_jump(const Instruction& instruction) {
  if (instruction.opcode == "bra") return true;
  return (instruction.opcode == "ret" || instruction.opcode == "call") &&
         instruction.operands.size() == 1;
}

void expand_calls(Function& entry, const FunctionReader& reader, std::size_t& instructions,
                  std::size_t limit) {
  const bool calls = std::any_of(entry.body.begin(), entry.body.end(),
                                 [](const Instruction& i) { return i.opcode == "call"; });
  if (calls) Expander(reader, instructions, limit).run(entry);
}

}  // namespace sagegen::emulator::ptx
