// Module level: directives, entries, declarations.
#include "runtime/emulator/ptx/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <optional>
#include <utility>

namespace sagegen::emulator::ptx {
namespace {

struct TypeName {
  std::string_view name;
  std::uint64_t bytes;
};
constexpr TypeName kTypes[] = {
    {".b8", 1},  {".u8", 1},  {".s8", 1},  {".b16", 2}, {".u16", 2},   {".s16", 2},
    {".f16", 2}, {".b32", 4}, {".u32", 4}, {".s32", 4}, {".f32", 4},   {".f16x2", 4},
    {".b64", 8}, {".u64", 8}, {".s64", 8}, {".f64", 8}, {".b128", 16},
};

std::optional<std::uint64_t> type_bytes(std::string_view name) {
  const auto* found = std::find_if(std::begin(kTypes), std::end(kTypes),
                                   [&](const TypeName& type) { return type.name == name; });
  if (found == std::end(kTypes)) return std::nullopt;
  return found->bytes;
}

constexpr std::uint64_t kMaxInt = 0x7fff'ffff;
constexpr std::uint64_t kMaxVectorBytes = 16;

// PTX computes with these types, but declares their bits.
[[noreturn]] void refuse_type(const Token& type, std::string_view of) {
  if (type.text == ".bf16" || type.text == ".bf16x2") {
    throw ParseError(type.line, fmt::format("{} is no type of {}; declare {}", quote(type), of,
                                            type.text == ".bf16" ? ".b16" : ".b32"));
  }
  throw ParseError(type.line, fmt::format("{} is no type of {}", quote(type), of));
}

}  // namespace

// ---- declarations ---------------------------------------------------------------------------------

// [.align n] [.v2 | .v4] .type, in the orders that occur.
Parser::TypedDeclaration Parser::declaration_type() {
  TypedDeclaration out;
  std::uint64_t align = 0;
  std::uint64_t vector = 1;
  while (true) {
    if (accept(".align")) {
      align = take_integer("the value of .align", Limits::kAlignment);
      if (!std::has_single_bit(align)) fail(fmt::format(".align {} is no power of two", align));
    } else if (accept(".v2")) {
      vector = 2;
    } else if (accept(".v4")) {
      vector = 4;
    } else {
      break;
    }
  }
  const Token type = take_dotted("a type such as .b32");
  const auto bytes = type_bytes(type.text);
  if (!bytes) refuse_type(type, "a variable");
  if (vector > 1 && *bytes * vector > kMaxVectorBytes) {
    throw ParseError(type.line,
                     fmt::format("a vector of {} {} has {} bytes; at most {} are possible", vector,
                                 type.text, *bytes * vector, kMaxVectorBytes));
  }
  out.type = type.text;
  out.scalar_bytes = *bytes;
  out.element_bytes = *bytes * vector;
  out.align = static_cast<int>(align != 0 ? align : out.element_bytes);
  return out;
}

Parser::TypedDeclaration Parser::parameter_type() {
  const TypedDeclaration out = declaration_type();
  if (out.element_bytes != out.scalar_bytes) {
    fail("a parameter cannot be a vector; pass its elements or an array of bytes");
  }
  return out;
}

// .ptr [.space] [.align n] behind the type of a parameter: describes what it points to.
void Parser::pointer_decoration() {
  if (!accept(".ptr")) return;
  for (const std::string_view space : {".global", ".shared", ".const", ".local"}) {
    if (accept(space)) break;
  }
  if (accept(".align")) take_integer("the alignment of a pointer", kMaxInt);
}

Variable Parser::variable(const TypedDeclaration& type, bool is_extern) {
  count(names_, Limits::kNames, "names");
  const Token name = take_identifier("the name of a variable");
  if (name.text[0] == '%' && name.text.size() == 1) unexpected("the name of a variable");
  Variable out;
  out.line = name.line;
  out.align = type.align;
  out.is_extern = is_extern;
  out.bytes = type.element_bytes;
  bool unsized = false;
  std::vector<std::uint64_t> extents;
  while (accept('[')) {
    if (extents.size() == Limits::kDimensions) {
      fail(fmt::format("{} has more than {} dimensions", quote(name), Limits::kDimensions));
    }
    if (accept(']')) {
      if (!extents.empty()) {
        fail("only the first dimension of " + quote(name) + " may be left open");
      }
      unsized = true;
      extents.push_back(0);
      continue;
    }
    const std::uint64_t extent = take_integer("the size of an array", Limits::kVariableBytes);
    if (extent == 0) fail("array " + quote(name) + " has size 0");
    if (extent > Limits::kVariableBytes / out.bytes) {
      fail(fmt::format("{} is larger than {} bytes", quote(name), Limits::kVariableBytes));
    }
    out.bytes *= extent;
    extents.push_back(extent);
    expect(']', "the size of an array");
  }
  item_bytes_ = {type.scalar_bytes};
  if (type.element_bytes != type.scalar_bytes && !extents.empty()) {
    item_bytes_.insert(item_bytes_.begin(), type.element_bytes);
  }
  for (std::size_t i = extents.size(); i-- > 1;) {
    item_bytes_.insert(
        item_bytes_.begin(),
        extents[i] * (i + 1 == extents.size() ? type.element_bytes : item_bytes_[0]));
  }
  if (unsized) out.bytes = 0;
  out.name = scopes_.declare(name, NameKind::variable);
  return out;
}

// name, name + 4, generic(name) + 4, or one byte of it: 0xff00(generic(name) + 4). False if the next
// value is a number. Every address is its own generic one here.
bool Parser::append_initial_address(const TypedDeclaration& type, Variable& out) {
  int shift = 0;
  const bool masked = current_.kind == TokenKind::integer && lexer_.at('(');
  if (masked) {
    const Token mask = take();
    shift = std::countr_zero(mask.value);
    if (type.scalar_bytes != 1 || mask.value == 0 || shift % 8 != 0 ||
        mask.value >> shift != 0xff) {
      throw ParseError(mask.line,
                       fmt::format("{} takes no single byte of an address for a variable "
                                   "of bytes; masks are 0xff, 0xff00 and so on",
                                   quote(mask)));
    }
    expect('(', "a mask");
  } else if (current_.kind != TokenKind::identifier || current_.text == "WARP_SZ") {
    return false;
  }
  Token name = take_identifier("the name of a variable");
  const bool generic = name.text == "generic" && accept('(');
  if (generic) {
    name = take_identifier("the name of a variable");
    expect(')', "the variable of generic()");
  }
  const auto known = scopes_.find(name.text);
  if (!known || !addressable_.contains(name.text)) {
    throw ParseError(name.line, fmt::format("{} is no .global or .const variable that is declared "
                                            "before, so no initial value can be its address",
                                            quote(name)));
  }
  std::uint64_t addend = 0;
  if (accept('+')) addend = take_integer("an offset", kMaxInt);
  if (masked) {
    expect(')', "the address behind a mask");
  } else if (type.type != ".u64" && type.type != ".u32") {
    throw ParseError(name.line,
                     fmt::format("the address of {} initializes variables of .u64 or .u32 "
                                 "only, not of {}",
                                 quote(name), type.type));
  }
  out.addresses.push_back({.offset = out.initial.size(),
                           .bytes = static_cast<int>(type.scalar_bytes),
                           .shift = shift,
                           .variable = known->unique,
                           .addend = addend});
  out.initial.resize(out.initial.size() + type.scalar_bytes);
  return true;
}

void Parser::append_initial_value(const TypedDeclaration& type, Variable& out) {
  if (append_initial_address(type, out)) return;
  const Token first = current_;
  const Operand value = simple_operand();
  const std::uint64_t size = type.scalar_bytes;
  const bool is_float = type.type[1] == 'f';
  std::uint64_t bits = 0;
  if (value.kind == Operand::Kind::integer && !is_float) {
    bits = static_cast<std::uint64_t>(value.value);
  } else if (value.kind == Operand::Kind::f32_bits && size == 4) {
    bits = static_cast<std::uint64_t>(value.value);
  } else if (value.kind == Operand::Kind::f64_bits && size == 8) {
    bits = static_cast<std::uint64_t>(value.value);
  } else if (value.kind == Operand::Kind::f64_bits && size == 4) {
    const auto narrowed = static_cast<float>(std::bit_cast<double>(value.value));
    bits = std::bit_cast<std::uint32_t>(narrowed);
  } else {
    throw ParseError(first.line,
                     fmt::format("{} cannot initialize a variable of {}{}", quote(first), type.type,
                                 value.kind == Operand::Kind::integer
                                     ? "; write it with a point, as 1.0, or in bits, as 0f3F800000"
                                     : ""));
  }
  for (std::uint64_t i = 0; i < size; ++i) {
    out.initial.push_back(static_cast<std::uint8_t>(i < 8 ? bits >> (8 * i) : 0));
  }
}

// { values } at a depth of braces: an item is a value, or a list of its own, filled up with zeros.
void Parser::initial_values(const TypedDeclaration& type, Variable& out, std::size_t depth) {
  const std::size_t begin = out.initial.size();
  const std::uint64_t limit = depth == 0 ? out.bytes : item_bytes_[depth - 1];
  const std::uint64_t most = limit != 0 ? limit : Limits::kVariableBytes;
  do {
    const std::size_t at = out.initial.size();
    if (accept('{')) {
      if (depth + 1 == item_bytes_.size() || (at - begin) % item_bytes_[depth] != 0) {
        fail("these braces do not begin an item of " + quote(out.name));
      }
      initial_values(type, out, depth + 1);
      const std::uint64_t rest = at + item_bytes_[depth] - out.initial.size();
      filled_bytes_ += rest;
      if (filled_bytes_ > Limits::kFilledBytes) {
        fail(fmt::format("more than {} bytes of initial values are left open in one text",
                         Limits::kFilledBytes));
      }
      out.initial.resize(out.initial.size() + rest);
    } else {
      append_initial_value(type, out);
    }
    if (out.initial.size() - begin > most) {
      fail(fmt::format("the initial value is longer than the {}'s {} bytes",
                       depth == 0 ? "variable" : "item", most));
    }
  } while (accept(','));
  expect('}', "the values of an initializer");
}

// = value or = { values }; the rest of the variable is zero. An open array is as long as its values.
void Parser::initializer(const TypedDeclaration& type, Variable& out) {
  if (accept('{')) {
    initial_values(type, out, 0);
  } else {
    append_initial_value(type, out);
  }
  if (out.bytes == 0) {
    const std::uint64_t item = item_bytes_[0];
    out.bytes = (out.initial.size() + item - 1) / item * item;
  }
}

void Parser::variables(std::vector<Variable>& out, bool is_extern, std::string_view space) {
  const TypedDeclaration type = declaration_type();
  do {
    Variable next = variable(type, is_extern);
    if (accept('=')) {
      if (space != ".global" && space != ".const") {
        fail(fmt::format("{} variables cannot be initialized", space));
      }
      if (is_extern) {
        fail(fmt::format("{} is extern, so its initial value is not here", quote(next.name)));
      }
      initializer(type, next);
    }
    if (next.bytes == 0 && !(is_extern && space == ".shared")) {
      fail(fmt::format("{} has no size; only .extern .shared arrays may be left open",
                       quote(next.name)));
    }
    if (space == ".global" || space == ".const") addressable_.insert(next.name);
    out.push_back(std::move(next));
  } while (accept(','));
  expect(';', "the declaration of a variable");
}

NameKind Parser::vector_kind() {
  if (accept(".v2")) return NameKind::vector2;
  return accept(".v4") ? NameKind::vector4 : NameKind::reg;
}

// .reg [.v2 | .v4] .type name {, name} with name or name<count>.
void Parser::register_declaration(Function& function) {
  const NameKind name_kind = vector_kind();
  const std::size_t elements = elements_of(name_kind);
  const Token type = take_dotted("the type of registers");
  Register::Type kind = Register::Type::pred;
  if (type.text != ".pred") {
    const std::uint64_t bytes = type_bytes(type.text).value_or(0);
    switch (bytes) {
      case 1:
      case 2:
        kind = Register::Type::b16;
        break;
      case 4:
        kind = Register::Type::b32;
        break;
      case 8:
        kind = Register::Type::b64;
        break;
      case 16:
        throw ParseError(type.line, quote(type) + " registers are not supported");
      default:
        refuse_type(type, "registers");
    }
    if (bytes * elements > kMaxVectorBytes && elements > 1) {
      throw ParseError(type.line,
                       fmt::format("a vector of {} {} has {} bytes; at most {} are "
                                   "possible",
                                   elements, type.text, bytes * elements, kMaxVectorBytes));
    }
  } else if (elements > 1) {
    throw ParseError(type.line, "predicates have no vectors");
  }
  do {
    const Token name = take_identifier("the name of a register");
    std::uint64_t number = 1;
    const bool range = accept('<');
    if (range) {
      number = take_integer("the number of registers", Limits::kRegisters);
      expect('>', "the number of registers");
    }
    registers_ += number * elements;
    if (registers_ > Limits::kRegisters) {
      fail(fmt::format("more than {} registers in one text", Limits::kRegisters));
    }
    if (elements > 1) {
      for (std::uint64_t i = 0; i < number; ++i) {
        const std::string text = std::string(name.text) + (range ? std::to_string(i) : "");
        const Token each{.kind = name.kind, .text = text, .value = 0, .line = name.line};
        scopes_.declare_vector(each, name_kind, kind, function.registers);
      }
    } else if (range) {
      scopes_.declare_range(name, number, kind, function.registers);
    } else {
      function.registers.push_back({.name = scopes_.declare(name, NameKind::reg), .type = kind});
    }
  } while (accept(','));
  expect(';', "the declaration of registers");
}

// ---- entries --------------------------------------------------------------------------------------

// "128", "128, 1, 1": the product.
int Parser::launch_bound(std::string_view directive) {
  std::uint64_t product = 1;
  int dimensions = 0;
  do {
    product *= take_integer(directive, kMaxInt);
    if (product == 0 || product > kMaxInt || ++dimensions > 3) {
      fail(fmt::format("{} needs one to three positive numbers with a product of at most {}",
                       directive, kMaxInt));
    }
  } while (accept(','));
  return static_cast<int>(product);
}

void Parser::entry_directives(Function& function) {
  std::string_view bound;
  while (current_.kind == TokenKind::dotted) {
    const Token name = take();
    if (name.text == ".maxntid" || name.text == ".reqntid") {
      if (!bound.empty() && bound != name.text) {
        throw ParseError(name.line,
                         fmt::format("an entry has either .maxntid or .reqntid; {} has both",
                                     quote(function.name)));
      }
      bound = name.text;
      function.max_threads = launch_bound(name.text);
      function.exact_threads = name.text == ".reqntid";
    } else if (name.text == ".minnctapersm") {
      function.min_blocks = static_cast<int>(take_integer(".minnctapersm", kMaxInt));
    } else if (name.text == ".maxnreg") {
      function.max_regs = static_cast<int>(take_integer(".maxnreg", kMaxInt));
    } else if (name.text == ".pragma") {
      if (current_.kind != TokenKind::string) unexpected("a string after .pragma");
      take();
      expect(';', ".pragma");
    } else {
      throw ParseError(name.line, quote(name) + " is not supported on an entry");
    }
  }
}

void Parser::entry(bool is_extern) {
  const Token name = take_identifier("the name of an entry");
  Function function;
  function.name = std::string(name.text);
  function.line = name.line;
  scopes_.open();
  if (accept('(') && !accept(')')) {
    do {
      if (!accept(".param")) unexpected(".param");
      // The size of a by-value struct stands behind its name, the .ptr decoration before it.
      const TypedDeclaration type = parameter_type();
      pointer_decoration();
      function.params.push_back(variable(type, false));
      if (function.params.back().bytes == 0) fail("a parameter has no size");
    } while (accept(','));
    expect(')', "the parameters");
  }
  entry_directives(function);
  if (accept(';')) {  // a declaration without a body
    scopes_.close(function.body);
    return;
  }
  if (is_extern) {
    throw ParseError(name.line,
                     fmt::format("entry {} is extern, so its body is not here", quote(name)));
  }
  const auto [first, is_new] = entries_.emplace(function.name, function.line);
  if (!is_new) {
    throw ParseError(name.line, fmt::format("entry {} is defined twice, first in line {}",
                                            quote(name), first->second));
  }
  source_file_ = source_line_ = 0;
  body(function);
  module_.functions.push_back(std::move(function));
}

// ---- the module -----------------------------------------------------------------------------------

void Parser::skip_braces() {
  std::size_t depth = 0;
  do {
    if (current_.kind == TokenKind::end) unexpected("'}'");
    depth += current_.is('{') ? 1 : 0;
    depth -= current_.is('}') ? 1 : 0;
    take();
  } while (depth > 0);
}

// .file index "name" [, timestamp, size]
void Parser::file_directive() {
  const auto index = static_cast<int>(take_integer("the index of .file", kMaxInt));
  if (current_.kind != TokenKind::string) unexpected("the name of a file");
  count(names_, Limits::kNames, "names");
  std::string name(take().text);
  if (current_.kind == TokenKind::string) name += "/" + std::string(take().text);
  while (accept(',')) take_integer("the timestamp or size of a file", ~std::uint64_t{0});
  module_.files.insert_or_assign(index, std::move(name));
}

// .version, .target and .address_size, in this order.
void Parser::header() {
  if (!accept(".version")) unexpected(".version at the start of a module");
  const Token version = take();
  const std::size_t dot = version.text.find('.');
  if (version.kind != TokenKind::f64_bits || dot == 0 || dot > 2 ||
      version.text.size() != dot + 2) {
    throw ParseError(version.line, quote(version) + " is no PTX version such as 8.4");
  }
  for (const char c : version.text) {
    if (c == '.') continue;
    if (c < '0' || c > '9') throw ParseError(version.line, quote(version) + " is no PTX version");
    module_.version = module_.version * 10 + (c - '0');
  }
  if (!accept(".target")) unexpected(".target after .version");
  const Token target = take_identifier("a target such as sm_89");
  if (!target.text.starts_with("sm_")) {
    throw ParseError(target.line, quote(target) + " is no target such as sm_89");
  }
  module_.target = std::string(target.text);
  while (accept(',')) {
    const Token option = take_identifier("an option of .target");
    if (option.text != "debug" && option.text != "texmode_unified" &&
        option.text != "texmode_independent") {
      throw ParseError(option.line, quote(option) + " is not supported as an option of .target");
    }
  }
  if (accept(".address_size")) {
    if (take_integer("the value of .address_size", 64) != 64) {
      fail("only .address_size 64 is supported");
    }
  }
}

void Parser::top_level() {
  bool is_extern = false;
  for (bool first = true; current_.is_dotted(".visible") || current_.is_dotted(".extern") ||
                          current_.is_dotted(".weak") || current_.is_dotted(".common");
       first = false) {
    if (!first) fail(quote(current_) + " is a second linking directive; one is possible");
    is_extern = take().text == ".extern";
  }
  const Token name = take_dotted("a directive");
  if (name.text == ".entry") {
    entry(is_extern);
  } else if (name.text == ".func") {
    device_function();
  } else if (name.text == ".shared") {
    const std::size_t first = module_.shared.size();
    variables(module_.shared, is_extern, name.text);
    for (std::size_t i = first; i < module_.shared.size(); ++i) {
      module_.shared_index.emplace(module_.shared[i].name, i);
    }
  } else if (name.text == ".global" || name.text == ".const") {
    variables(module_.globals, is_extern, name.text);
  } else if (name.text == ".file") {
    file_directive();
  } else if (name.text == ".section") {
    while (!current_.is('{')) {
      if (current_.kind == TokenKind::end) unexpected("'{' after .section");
      take();
    }
    skip_braces();
  } else {
    throw ParseError(name.line, quote(name) + " is not supported at module level");
  }
}

Module Parser::run() {
  if (text_bytes_ > Limits::kTextBytes) {
    throw ParseError(1, fmt::format("the text has {} bytes; at most {} are allowed", text_bytes_,
                                    Limits::kTextBytes));
  }
  current_ = lexer_.next();
  scopes_.open();
  header();
  while (current_.kind != TokenKind::end) {
    if (!accept(';')) top_level();
  }
  expand_all_calls();
  return std::move(module_);
}

}  // namespace sagegen::emulator::ptx
