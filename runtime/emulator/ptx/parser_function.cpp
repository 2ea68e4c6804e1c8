// Device functions: signatures, calls, and the expansion of the ones into the others (calls.h).
#include <fmt/format.h>

#include <utility>

#include "runtime/emulator/ptx/parser.h"

namespace sagegen::emulator::ptx {

// .param type name[n] or .reg type name, separated by commas, up to the ')'.
void Parser::formals(DeviceFunction& out, std::vector<Formal>& list, Variable::Role role) {
  if (accept(')')) return;
  do {
    const bool in_register = accept(".reg");
    if (!in_register && !accept(".param")) unexpected(".param or .reg");
    const Token start = current_;
    const TypedDeclaration type = parameter_type();
    if (!in_register) {
      pointer_decoration();
      out.code.local.push_back(variable(type, false));
      out.code.local.back().role = role;
      list.push_back({.name = out.code.local.back().name, .bytes = out.code.local.back().bytes});
      continue;
    }
    if (type.scalar_bytes != 4 && type.scalar_bytes != 8) {
      throw ParseError(
          start.line, fmt::format("a register of type {} cannot be a parameter of a function; only "
                                  "those of 32 and 64 bits can",
                                  quote(start)));
    }
    count(names_, Limits::kNames, "names");
    const Token name = take_identifier("the name of a parameter");
    std::string unique = scopes_.declare(name, NameKind::reg);
    out.code.registers.push_back(
        {.name = unique,
         .type = type.scalar_bytes == 8 ? Register::Type::b64 : Register::Type::b32});
    list.push_back({.name = std::move(unique), .bytes = type.scalar_bytes, .in_register = true});
  } while (accept(','));
  expect(')', "the parameters");
}

// [.attribute(...)] [(results)] name [(inputs)], behind .func.
void Parser::signature(DeviceFunction& out) {
  if (accept(".attribute")) {
    expect('(', ".attribute");
    while (!accept(')')) {
      if (current_.kind == TokenKind::end) unexpected("')' after .attribute");
      take();
    }
  }
  if (accept('(')) formals(out, out.results, Variable::Role::result);
  const Token name = take_identifier("the name of a function");
  out.code.name = std::string(name.text);
  out.code.line = name.line;
  if (accept('(')) formals(out, out.inputs, Variable::Role::input);
  if (out.results.size() > 1) {
    for (const Formal& result : out.results) {
      if (result.in_register) continue;
      throw ParseError(name.line, quote(name) +
                                      " returns more than one .param; only registers can "
                                      "be several results");
    }
  }
}

// .noreturn and others do not change what a call does.
void Parser::skip_to_body() {
  while (!current_.is('{') && !current_.is(';')) {
    if (current_.kind == TokenKind::end) unexpected("the body of a .func");
    take();
  }
}

void Parser::device_function() {
  Declared next{.function = {}, .lexer = lexer_, .current = current_};
  count(names_, Limits::kNames, "names");
  scopes_.open();
  signature(next.function);
  scopes_.close(next.function.code.body);
  skip_to_body();
  next.defined = !accept(';');
  if (next.defined) skip_braces();

  const Function& code = next.function.code;
  next.line = code.line;
  const auto [found, first] = declared_.try_emplace(code.name, next);
  if (first) return;
  Declared& before = found->second;
  const auto same = [](const std::vector<Formal>& a, const std::vector<Formal>& b) {
    if (a.size() != b.size()) return false;
    for (std::size_t i = 0; i < a.size(); ++i) {
      if (!a[i].same_kind(b[i])) return false;
    }
    return true;
  };
  if (!same(before.function.results, next.function.results) ||
      !same(before.function.inputs, next.function.inputs)) {
    throw ParseError(code.line,
                     fmt::format("function {} is declared with other parameters in line {}",
                                 quote(code.name), before.line));
  }
  if (!next.defined) return;
  if (before.defined) {
    throw ParseError(code.line, fmt::format("function {} is defined twice", quote(code.name)));
  }
  next.line = before.line;
  before = std::move(next);
}

// (a, b, ...): registers, numbers, .param variables.
Operand Parser::arguments() {
  count(operands_, Limits::kOperands, "operands");
  expect('(', "'call'");
  Operand out;
  out.kind = Operand::Kind::vector;
  if (accept(')')) return out;
  do {
    if (out.elements.size() == Limits::kOperandsOfOne) {
      fail(fmt::format("a call has more than {} arguments", Limits::kOperandsOfOne));
    }
    const Token name = current_;
    out.elements.push_back(simple_operand());
    const Operand& element = out.elements.back();
    if (element.negated) throw ParseError(name.line, "'!' cannot stand before an argument");
    if (element.kind == Operand::Kind::symbol && !scopes_.find(name.text)) {
      throw ParseError(name.line, quote(name) + " is not declared");
    }
  } while (accept(','));
  expect(')', "the arguments of a call");
  return out;
}

// [(results),] name [, (inputs)] behind call; the operands become these three.
void Parser::call(Instruction& out) {
  Operand results;
  results.kind = Operand::Kind::vector;
  if (current_.is('(')) {
    results = arguments();
    expect(',', "the results of a call");
  }
  const Token name = take_identifier("the name of a function");
  if (name.text[0] == '%' || scopes_.find(name.text)) {
    throw ParseError(name.line, quote(name) +
                                    " is no function; the emulator executes only calls that name "
                                    "their function, none through a register");
  }
  Operand callee;
  callee.kind = Operand::Kind::symbol;
  callee.text = std::string(name.text);
  Operand inputs;
  inputs.kind = Operand::Kind::vector;
  if (accept(',')) inputs = arguments();
  out.operands = {std::move(results), std::move(callee), std::move(inputs)};
}

const DeviceFunction& Parser::read_function(const std::string& name, int call_line) {
  const auto found = declared_.find(name);
  if (found == declared_.end() || found->second.line > call_line) {
    throw ParseError(call_line,
                     quote(name) + (found == declared_.end() ? " is no device function of this text"
                                                             : " is called before it is declared"));
  }
  Declared& declared = found->second;
  if (!declared.defined && name == "__assertfail") {
    // CUDA's assert() calls it, and no text defines it: it ends the kernel, at the line of the call.
    Instruction trap;
    trap.opcode = "trap";
    trap.line = call_line;
    declared.function.code.body = {trap};
    return declared.function;
  }
  if (!declared.defined) {
    throw ParseError(call_line, quote(name) +
                                    " is called, but the text only declares it, and there is "
                                    "nothing to link it with");
  }
  if (declared.read) return declared.function;
  const Lexer lexer = lexer_;
  const Token current = current_;
  lexer_ = declared.lexer;
  current_ = declared.current;
  DeviceFunction function;
  scopes_.open();
  signature(function);
  for (const Formal& formal : function.inputs) {
    if (formal.bytes == 0)
      fail("a parameter without a size, as variadic functions have, is not supported");
  }
  skip_to_body();
  source_file_ = source_line_ = 0;
  body(function.code);
  lexer_ = lexer;
  current_ = current;
  declared.function = std::move(function);
  declared.read = true;
  return declared.function;
}

void Parser::expand_all_calls() {
  const FunctionReader reader = [&](const std::string& name, int line) -> const DeviceFunction& {
    return read_function(name, line);
  };
  std::size_t expanded = 0;
  for (Function& entry : module_.functions) {
    if (const auto same = declared_.find(entry.name); same != declared_.end()) {
      throw ParseError(entry.line, fmt::format("{} is an entry and, in line {}, a function",
                                               quote(entry.name), same->second.line));
    }
    expand_calls(entry, reader, expanded, Limits::kInstructions);
  }
}

}  // namespace sagegen::emulator::ptx
