// Tokens and function bodies: statements, operands, nested scopes.
#include "runtime/emulator/ptx/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <utility>

namespace sagegen::emulator::ptx {
namespace {

// Names that exist without a declaration. The decoder decides which of them the emulator has.
constexpr std::string_view kSpecialRegisters[] = {"%tid",
                                                  "%ntid",
                                                  "%laneid",
                                                  "%warpid",
                                                  "%nwarpid",
                                                  "%ctaid",
                                                  "%nctaid",
                                                  "%smid",
                                                  "%nsmid",
                                                  "%gridid",
                                                  "%is_explicit_cluster",
                                                  "%clusterid",
                                                  "%nclusterid",
                                                  "%cluster_ctaid",
                                                  "%cluster_nctaid",
                                                  "%cluster_ctarank",
                                                  "%cluster_nctarank",
                                                  "%lanemask_eq",
                                                  "%lanemask_le",
                                                  "%lanemask_lt",
                                                  "%lanemask_ge",
                                                  "%lanemask_gt",
                                                  "%clock",
                                                  "%clock_hi",
                                                  "%clock64",
                                                  "%globaltimer",
                                                  "%globaltimer_lo",
                                                  "%globaltimer_hi",
                                                  "%total_smem_size",
                                                  "%aggr_smem_size",
                                                  "%dynamic_smem_size",
                                                  "%current_graph_exec"};

// %envreg0..31, %pm0..7 and %pm0_64..7_64, %reserved_smem_offset_begin, _end, _cap and _0, _1.
bool is_numbered_special(std::string_view name) {
  if (name.starts_with("%reserved_smem_offset_")) return true;
  const bool environment = name.starts_with("%envreg");
  if (!environment && !name.starts_with("%pm")) return false;
  name.remove_prefix(environment ? 7 : 3);
  if (!environment && name.ends_with("_64")) name.remove_suffix(3);
  int number = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  return error == std::errc() && end == name.data() + name.size() &&
         (name.size() == 1 || name[0] != '0') && number >= 0 && number < (environment ? 32 : 8);
}

bool is_special_register(std::string_view name) {
  return is_numbered_special(name) ||
         std::find(std::begin(kSpecialRegisters), std::end(kSpecialRegisters), name) !=
             std::end(kSpecialRegisters);
}

}  // namespace

Parser::Parser(std::string_view text) : lexer_(text), text_bytes_(text.size()) {}

Token Parser::take() {
  const Token token = current_;
  current_ = lexer_.next();
  return token;
}

bool Parser::accept(char punctuation) {
  if (!current_.is(punctuation)) return false;
  take();
  return true;
}

bool Parser::accept(std::string_view dotted) {
  if (!current_.is_dotted(dotted)) return false;
  take();
  return true;
}

void Parser::fail(const std::string& text) const { throw ParseError(current_.line, text); }

void Parser::unexpected(std::string_view wanted) const {
  fail(fmt::format("expected {}, found {}", wanted, quote(current_)));
}

void Parser::expect(char punctuation, std::string_view after) {
  if (!accept(punctuation)) unexpected(fmt::format("'{}' after {}", punctuation, after));
}

Token Parser::take_identifier(std::string_view what) {
  if (current_.kind != TokenKind::identifier) unexpected(what);
  return take();
}

Token Parser::take_dotted(std::string_view what) {
  if (current_.kind != TokenKind::dotted) unexpected(what);
  return take();
}

std::uint64_t Parser::take_integer(std::string_view what, std::uint64_t maximum) {
  if (current_.kind != TokenKind::integer) unexpected(what);
  if (current_.value > maximum) {
    fail(fmt::format("{} is {}; at most {} is possible", what, quote(current_), maximum));
  }
  return take().value;
}

std::int64_t Parser::take_signed(std::string_view what) {
  const bool negative = accept('-');
  const std::uint64_t magnitude =
      take_integer(what, static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()));
  const auto value = static_cast<std::int64_t>(magnitude);
  return negative ? -value : value;
}

void Parser::count(std::size_t& counter, std::size_t limit, std::string_view what) const {
  if (++counter > limit) fail(fmt::format("more than {} {} in one text", limit, what));
}

// Fills in a register or symbol. A name that is not known yet may be a label further on; the caller
// records it.
void Parser::name_operand(Operand& out, const Token& name) {
  if (auto known = scopes_.find(name.text)) {
    if (elements_of(known->kind) > 1) return vector_operand(out, *known);
    out.kind = known->kind == NameKind::reg ? Operand::Kind::reg : Operand::Kind::symbol;
    out.text = std::move(known->unique);
    return;
  }
  if (name.text[0] == '%') {
    if (!is_special_register(name.text)) {
      throw ParseError(name.line, "register " + quote(name) + " is not declared");
    }
    out.kind = Operand::Kind::reg;
    out.text = std::string(name.text);
    if (current_.kind == TokenKind::dotted) out.text += take().text;  // %tid.x
    return;
  }
  if (name.text == "WARP_SZ") {
    out.kind = Operand::Kind::integer;
    out.value = 32;
    return;
  }
  out.kind = Operand::Kind::symbol;
  out.text = std::string(name.text);
}

// v or v.x, where v is declared with .v2 or .v4: all of its registers, or one.
void Parser::vector_operand(Operand& out, const ResolvedName& known) {
  const std::size_t elements = elements_of(known.kind);
  if (current_.kind != TokenKind::dotted) {
    out.kind = Operand::Kind::vector;
    for (std::size_t i = 0; i < elements; ++i) {
      count(operands_, Limits::kOperands, "operands");
      Operand& element = out.elements.emplace_back();
      element.kind = Operand::Kind::reg;
      element.text = element_name(known.unique, i);
    }
    return;
  }
  const Token selector = take();
  constexpr std::string_view kElements = "xyzw", kColours = "rgba";
  const char letter = selector.text.size() == 2 ? selector.text[1] : '\0';
  const std::size_t index = std::min(kElements.find(letter), kColours.find(letter));
  if (index >= elements) {
    throw ParseError(selector.line,
                     fmt::format("{} is no element of a .v{} register", quote(selector), elements));
  }
  out.kind = Operand::Kind::reg;
  out.text = element_name(known.unique, index);
}

// "+ 4", "- 4", "+ -4" behind an address base or a symbol.
void Parser::displacement(Operand& out) {
  if (accept('+')) {
    out.value = take_signed("an offset");
  } else if (current_.is('-')) {
    out.value = take_signed("an offset");
  }
}

Operand Parser::simple_operand() {
  count(operands_, Limits::kOperands, "operands");
  Operand out;
  out.negated = accept('!');
  const bool minus = !out.negated && accept('-');
  switch (current_.kind) {
    case TokenKind::integer:
      out.kind = Operand::Kind::integer;
      out.value = static_cast<std::int64_t>(minus ? 0 - current_.value : current_.value);
      break;
    case TokenKind::f32_bits:
      out.kind = Operand::Kind::f32_bits;
      out.value = static_cast<std::int64_t>(current_.value ^ (minus ? 0x8000'0000u : 0u));
      break;
    case TokenKind::f64_bits:
      out.kind = Operand::Kind::f64_bits;
      out.value = static_cast<std::int64_t>(current_.value ^ (std::uint64_t{minus} << 63));
      break;
    case TokenKind::identifier: {
      if (minus) unexpected("a number after '-'");
      const Token name = take();
      if (name.text == "_") {
        out.kind = Operand::Kind::sink;
        out.text = "_";
      } else {
        name_operand(out, name);
      }
      if (out.negated && out.kind != Operand::Kind::reg) {
        throw ParseError(name.line, quote(name) + " is no predicate, so '!' cannot negate it");
      }
      return out;
    }
    default:
      unexpected("an operand");
  }
  if (out.negated) fail("'!' needs a predicate register, found " + quote(current_));
  take();
  return out;
}

Operand Parser::vector() {
  count(operands_, Limits::kOperands, "operands");
  expect('{', "nothing");
  Operand out;
  out.kind = Operand::Kind::vector;
  do {
    if (out.elements.size() == Limits::kVectorElements) {
      fail(fmt::format("a vector has more than {} elements", Limits::kVectorElements));
    }
    const Token name = current_;
    out.elements.push_back(simple_operand());
    const Operand& element = out.elements.back();
    if (element.kind == Operand::Kind::vector) {
      throw ParseError(name.line, quote(name) + " is a vector inside a vector; name its elements");
    }
    if (element.kind == Operand::Kind::symbol && !scopes_.find(name.text)) {
      throw ParseError(name.line, quote(name) + " is not declared");
    }
  } while (accept(','));
  expect('}', "the elements of a vector");
  return out;
}

Operand Parser::address() {
  count(operands_, Limits::kOperands, "operands");
  expect('[', "nothing");
  Operand out;
  if (current_.kind == TokenKind::integer) {
    out.value = static_cast<std::int64_t>(take().value);
  } else {
    const Token name = take_identifier("a register, a variable or a number as address");
    const auto known = scopes_.find(name.text);
    if (!known) throw ParseError(name.line, quote(name) + " is not declared");
    out.text = known->unique;
    if (elements_of(known->kind) > 1) {
      vector_operand(out, *known);
      if (out.kind == Operand::Kind::vector) {
        throw ParseError(name.line, quote(name) + " is a vector, so it is no address");
      }
    }
    displacement(out);
  }
  out.kind = Operand::Kind::address;
  if (accept(',')) out.elements = vector().elements;  // coordinates of a tensor copy
  expect(']', "an address");
  return out;
}

Operand Parser::operand(std::size_t instruction, std::size_t position) {
  if (current_.is('[')) return address();
  if (current_.is('{')) return vector();
  if (current_.is('(')) fail("'(' begins an argument list, which only 'call' takes");
  const Token first = current_;
  Operand out = simple_operand();
  if (out.kind == Operand::Kind::symbol) {
    const bool known = scopes_.find(first.text).has_value();
    if (known) {
      displacement(out);
    } else {
      count(names_, Limits::kNames, "names");
      scopes_.refer_to_label({.name = out.text, .instruction = instruction, .operand = position});
    }
  }
  if ((out.kind == Operand::Kind::reg || out.kind == Operand::Kind::sink) && accept('|')) {
    const Token second = take_identifier("a predicate register or _ after '|'");
    Operand pair;
    if (second.text != "_") name_operand(pair, second);
    if (second.text != "_" && pair.kind != Operand::Kind::reg) {
      throw ParseError(second.line, quote(second) + " is no register");
    }
    out.pair = second.text == "_" ? "_" : std::move(pair.text);
  }
  return out;
}

void Parser::instruction(Function& function) {
  count(instructions_, Limits::kInstructions, "instructions");
  Instruction out;
  out.line = current_.line;
  out.source_file = source_file_;
  out.source_line = source_line_;
  if (accept('@')) {
    out.guard_negated = accept('!');
    const Token guard = take_identifier("a predicate register after '@'");
    const auto known = scopes_.find(guard.text);
    if (!known || known->kind != NameKind::reg) {
      throw ParseError(guard.line, quote(guard) + " is no declared register, so it cannot guard");
    }
    out.guard = known->unique;
  }
  const Token opcode = take_identifier("an instruction");
  if (opcode.text[0] == '%' || opcode.text[0] == '$') {
    throw ParseError(opcode.line, quote(opcode) + " is not an instruction");
  }
  out.opcode = std::string(opcode.text);
  while (current_.kind == TokenKind::dotted) {
    if (out.modifiers.size() == Limits::kModifiers) {
      fail(fmt::format("{} has more than {} modifiers", quote(opcode), Limits::kModifiers));
    }
    out.modifiers.emplace_back(take().text.substr(1));
  }
  if (out.opcode == "call") {
    call(out);
  } else if (!current_.is(';')) {
    if (out.opcode == "ret") unexpected("';' after 'ret'");
    do {
      if (out.operands.size() == Limits::kOperandsOfOne) {
        fail(fmt::format("{} has more than {} operands", quote(opcode), Limits::kOperandsOfOne));
      }
      out.operands.push_back(operand(function.body.size(), out.operands.size()));
    } while (accept(','));
  }
  expect(';', quote(opcode));
  function.body.push_back(std::move(out));
}

void Parser::label(Function& function, const Token& name) {
  count(names_, Limits::kNames, "names");
  function.labels.emplace(scopes_.declare_label(name), static_cast<int>(function.body.size()));
}

// .loc file line column [, function_name label [+ offset]] [, inlined_at file line column]. The
// position itself is kept: it is the line that wrote the instruction, wherever it was inlined.
void Parser::location() {
  constexpr std::uint64_t kMax = std::numeric_limits<std::int32_t>::max();
  source_file_ = static_cast<int>(take_integer("the file of .loc", kMax));
  source_line_ = static_cast<int>(take_integer("the line of .loc", kMax));
  take_integer("the column of .loc", kMax);
  while (accept(',')) {
    const Token attribute = take_identifier("function_name or inlined_at");
    if (attribute.text == "function_name") {
      take_identifier("the label of function_name");
      if (accept('+')) take_integer("the offset of function_name", kMax);
    } else if (attribute.text == "inlined_at") {
      for (int i = 0; i < 3; ++i) take_integer("a position after inlined_at", kMax);
    } else {
      throw ParseError(attribute.line, quote(attribute) + " is no attribute of .loc");
    }
  }
}

void Parser::directive(Function& function) {
  const Token name = take();
  if (name.text == ".reg") {
    register_declaration(function);
  } else if (name.text == ".shared") {
    variables(function.shared, false, name.text);
  } else if (name.text == ".local") {
    variables(function.local, false, name.text);
  } else if (name.text == ".param") {
    const std::size_t first = function.local.size();
    variables(function.local, false, name.text);
    for (std::size_t i = first; i < function.local.size(); ++i) {
      function.local[i].role = Variable::Role::argument;
    }
  } else if (name.text == ".loc") {
    location();
  } else if (name.text == ".pragma") {
    do {
      if (current_.kind != TokenKind::string) unexpected("a string after .pragma");
      take();
    } while (accept(','));
    expect(';', ".pragma");
  } else {
    throw ParseError(name.line, quote(name) + " is not supported inside a function");
  }
}

void Parser::statement(Function& function) {
  if (current_.kind == TokenKind::dotted) return directive(function);
  if (accept(';')) return;
  if (current_.kind == TokenKind::identifier && lexer_.at_colon()) {
    const Token name = take();
    take();
    return label(function, name);
  }
  instruction(function);
}

// The braces of a function and of the scopes inside it, without recursion. entry() has opened the
// outermost scope, which holds the parameters too.
void Parser::body(Function& function) {
  const std::size_t outside = scopes_.depth() - 1;
  expect('{', "the declaration of an entry");
  while (scopes_.depth() > outside) {
    if (current_.kind == TokenKind::end) {
      unexpected("a '}' that ends " + quote(function.name));
    } else if (accept('{')) {
      if (scopes_.depth() - outside == Limits::kScopeDepth) {
        fail(fmt::format("scopes are nested more than {} deep", Limits::kScopeDepth));
      }
      scopes_.open();
    } else if (accept('}')) {
      scopes_.close(function.body);
    } else {
      statement(function);
    }
  }
  if (!scopes_.unresolved().empty()) {
    const LabelReference& first = scopes_.unresolved().front();
    throw ParseError(function.body[first.instruction].line, quote(first.name) + " is not declared");
  }
}

Module parse(std::string_view text) { return Parser(text).run(); }

}  // namespace sagegen::emulator::ptx
