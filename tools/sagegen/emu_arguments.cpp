#include "tools/sagegen/emu_arguments.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tools/reference/printable.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/options.h"

namespace sagegen::cli {
namespace {

constexpr int kMostLevels = 8;  // of structs in structs
constexpr std::size_t kMostDimensions = 8;
constexpr std::uint64_t kMostElements = std::uint64_t{1} << 40;  // no product overflows

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

std::string_view trimmed(std::string_view text) {
  while (text.starts_with(' ') || text.starts_with('\t')) text.remove_prefix(1);
  while (text.ends_with(' ') || text.ends_with('\t')) text.remove_suffix(1);
  return text;
}

bool is_file_name(std::string_view word) {
  return word.ends_with(".npy") || word.ends_with(".bin") || word.ends_with(".safetensors") ||
         word.find(".safetensors:") != std::string_view::npos;
}

template <typename Value>
bool read_whole(std::string_view text, Value& value, int base) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

bool read_double(std::string_view text, double& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

// Reads one text from its beginning to its end.
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  ArgumentSpec whole_argument() {
    ArgumentSpec result = argument(0);
    skip_blanks();
    if (at_ != text_.size()) refuse("the end of the argument");
    return result;
  }

  ValueSpec whole_value() {
    ValueSpec result = value(false);
    skip_blanks();
    if (at_ != text_.size()) refuse("the end of the value");
    return result;
  }

 private:
  [[noreturn]] void refuse(const std::string& expected, const std::string& hint = {}) const {
    const std::string there =
        at_ < text_.size() ? fmt::format("at \"{}\"", reference::printable(text_.substr(at_), 40))
                           : "at its end";
    refuse_because(fmt::format("expected {} {}{}", expected, there, hint));
  }
  [[noreturn]] void refuse_because(const std::string& why) const {
    throw UsageError(fmt::format("\"{}\": {}", reference::printable(text_), why));
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void skip_blanks() {
    while (peek() == ' ' || peek() == '\t') ++at_;
  }
  bool accept(char c) {
    skip_blanks();
    if (peek() != c || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }
  void expect(char c, const std::string& where) {
    if (!accept(c)) refuse(fmt::format("'{}' {}", c, where));
  }

  std::string_view word() {
    skip_blanks();
    const std::size_t begin = at_;
    while (is_letter(peek()) || is_digit(peek())) ++at_;
    return text_.substr(begin, at_ - begin);
  }

  std::uint64_t whole(const std::string& what) {
    skip_blanks();
    const std::size_t begin = at_;
    while (is_digit(peek())) ++at_;
    std::uint64_t value = 0;
    if (read_whole(text_.substr(begin, at_ - begin), value, 10)) return value;
    at_ = begin;
    refuse(what);
  }

  ElementType element_type() {
    const std::size_t begin = at_;
    const std::string given(word());
    std::string name = given;
    if (name.size() > 1 && name[0] == 's' && is_digit(name[1])) name[0] = 'i';  // as PTX has it
    std::vector<std::string> names;
    for (const ElementInfo& one : element_types()) {
      if (name == one.name) return one.type;
      names.emplace_back(one.name);
    }
    at_ = begin;
    refuse(fmt::format("a type ({}), '&' or '{{'", fmt::join(names, ", ")),
           given.empty() ? "" : suggestion(given, names));
  }

  std::vector<std::uint64_t> shape() {
    std::vector<std::uint64_t> extents;
    std::uint64_t elements = 1;
    do {
      if (extents.size() == kMostDimensions)
        refuse_because(fmt::format("a shape has at most {} dimensions", kMostDimensions));
      extents.push_back(whole("a number of elements, such as 1024 or 64x128"));
      if (extents.back() != 0 && elements > kMostElements / extents.back())
        refuse_because(fmt::format("more than {} elements; make the shape smaller", kMostElements));
      elements *= extents.back();
    } while (accept('x'));
    expect(']', "or 'x' behind a number of elements");
    return extents;
  }

  std::string key() {
    const std::size_t begin = at_;
    while (is_letter(peek()) || is_digit(peek()) || peek() == '.') ++at_;
    if (at_ == begin) refuse("the name or position of a buffer behind '&', such as &x or &0");
    return std::string(text_.substr(begin, at_ - begin));
  }

  // Up to what ends a value, which in a struct is ',' or '}' outside of parentheses.
  std::string_view raw_value(bool in_struct) {
    const std::size_t begin = at_;
    int depth = 0;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (in_struct && depth == 0 && (c == ',' || c == '}')) break;
      if (c == '(') ++depth;
      if (c == ')') --depth;
      ++at_;
    }
    return trimmed(text_.substr(begin, at_ - begin));
  }

  ValueSpec value(bool in_struct) {
    skip_blanks();
    ValueSpec result;
    if (accept('"')) {
      const std::size_t begin = at_;
      while (at_ < text_.size() && peek() != '"') ++at_;
      result.kind = ValueSpec::Kind::file;
      result.file = text_.substr(begin, at_ - begin);
      expect('"', "at the end of a file's name");
      if (!is_file_name(result.file)) refuse_unknown_file(result.file);
      return result;
    }
    const std::size_t begin = at_;
    const std::string_view raw = raw_value(in_struct);
    if (is_file_name(raw)) {
      if (raw.find('"') != std::string_view::npos)
        refuse_because("a file's name cannot hold quotes");
      result.kind = ValueSpec::Kind::file;
      result.file = raw;
      return result;
    }
    if (parse_number(raw)) {
      result.kind = ValueSpec::Kind::number;
      result.number = raw;
      return result;
    }
    at_ = begin;
    return named_value();
  }

  [[noreturn]] void refuse_unknown_file(std::string_view name) const {
    refuse_because(fmt::format(
        "a file's name ends in .npy, .bin, .safetensors or .safetensors:TENSOR, and {} does not",
        name.empty() ? "an empty one" : reference::printable(name)));
  }

  ValueSpec named_value() {
    using Kind = ValueSpec::Kind;
    static const std::vector<std::pair<std::string, Kind>> kWords = {
        {"zeros", Kind::zeros},   {"iota", Kind::iota},       {"scratch", Kind::scratch},
        {"normal", Kind::normal}, {"uniform", Kind::uniform},
    };
    const std::size_t begin = at_;
    const std::string given(word());
    std::vector<std::string> names;
    for (const auto& [name, kind] : kWords) {
      if (name == given) {
        ValueSpec result;
        result.kind = kind;
        if ((kind == Kind::normal || kind == Kind::uniform) && accept('(')) parameters(result);
        return result;
      }
      names.push_back(name);
    }
    at_ = begin;
    refuse(fmt::format("a number, {}, or a file (.npy, .bin, .safetensors:TENSOR)",
                       fmt::join(names, ", ")),
           suggestion(given, names));
  }

  double real(const std::string& what) {
    skip_blanks();
    const std::size_t begin = at_;
    while (at_ < text_.size() && peek() != ',' && peek() != ')') ++at_;
    double value = 0;
    if (read_double(trimmed(text_.substr(begin, at_ - begin)), value) && std::isfinite(value))
      return value;
    at_ = begin;
    refuse(what);
  }

  void parameters(ValueSpec& value) {
    value.seed = whole("a seed");
    if (accept(',')) {
      const bool is_normal = value.kind == ValueSpec::Kind::normal;
      const double first = real(is_normal ? "the mean" : "the lowest value");
      expect(',', is_normal ? "and the deviation" : "and the highest value");
      const double second = real(is_normal ? "the deviation" : "the highest value");
      if (is_normal ? second < 0 : second < first) {
        refuse_because(is_normal ? "a deviation is not negative"
                                 : "the lowest value is above the highest");
      }
      value.range = {first, second};
    }
    expect(')', "at the end of the parameters");
  }

  ArgumentSpec argument(int level) {
    ArgumentSpec result;
    result.name = name();
    skip_blanks();
    if (accept('{')) {
      if (level == kMostLevels)
        refuse_because(fmt::format("structs are at most {} deep", kMostLevels));
      result.kind = ArgumentSpec::Kind::structure;
      do {
        result.fields.push_back(argument(level + 1));
      } while (accept(','));
      expect('}', "or ',' behind a field");
      return result;
    }
    if (accept('&')) {
      result.kind = ArgumentSpec::Kind::reference;
      result.target = key();
      if (accept('+')) result.offset = whole("an offset in bytes");
      return result;
    }
    result.type = element_type();
    if (accept('[')) {
      result.kind = ArgumentSpec::Kind::buffer;
      if (!accept(']')) result.shape = shape();
      if (accept('=')) result.value = value(level > 0);
      if (!result.shape && result.value.kind != ValueSpec::Kind::file)
        refuse_because("a buffer without a shape takes it from a file: f32[]=x.npy");
      return result;
    }
    if (!accept('=')) refuse("'=NUMBER' of a scalar or '[SHAPE]' of a buffer");
    skip_blanks();
    const std::size_t begin = at_;
    result.value.number = raw_value(level > 0);
    result.value.kind = ValueSpec::Kind::number;
    if (!parse_number(result.value.number)) {
      at_ = begin;
      refuse("a number");
    }
    return result;
  }

  // "x:" in front of an argument, if it is there.
  std::string name() {
    skip_blanks();
    const std::size_t begin = at_;
    if (is_letter(peek())) {
      const std::string_view name = word();
      if (accept(':')) return std::string(name);
    }
    at_ = begin;
    return {};
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

const std::vector<ElementInfo>& element_types() {
  using enum ElementType;
  static const std::vector<ElementInfo> kTypes = {
      {i8, "i8", 1, false, "|i1"},      {u8, "u8", 1, false, "|u1"},
      {i16, "i16", 2, false, "<i2"},    {u16, "u16", 2, false, "<u2"},
      {i32, "i32", 4, false, "<i4"},    {u32, "u32", 4, false, "<u4"},
      {i64, "i64", 8, false, "<i8"},    {u64, "u64", 8, false, "<u8"},
      {f16, "f16", 2, true, "<f2"},     {bf16, "bf16", 2, true, nullptr},
      {f32, "f32", 4, true, "<f4"},     {f64, "f64", 8, true, "<f8"},
      {e4m3, "e4m3", 1, true, nullptr}, {e5m2, "e5m2", 1, true, nullptr}};
  return kTypes;
}

const ElementInfo& info(ElementType type) {
  return element_types().at(static_cast<std::size_t>(type));
}

ArgumentSpec parse_argument(std::string_view text) { return Parser(text).whole_argument(); }

ValueSpec parse_value(std::string_view text) { return Parser(text).whole_value(); }

std::string spelled(const ValueSpec& value) {
  const auto with_parameters = [&](const char* word) {
    std::string text = word;
    if (!value.seed) return text;
    text += fmt::format("({}", *value.seed);
    if (value.range) text += fmt::format(",{},{}", (*value.range)[0], (*value.range)[1]);
    return text + ")";
  };
  switch (value.kind) {
    case ValueSpec::Kind::output:
      return {};
    case ValueSpec::Kind::scratch:
      return "scratch";
    case ValueSpec::Kind::number:
      return value.number;
    case ValueSpec::Kind::zeros:
      return "zeros";
    case ValueSpec::Kind::iota:
      return "iota";
    case ValueSpec::Kind::normal:
      return with_parameters("normal");
    case ValueSpec::Kind::uniform:
      return with_parameters("uniform");
    case ValueSpec::Kind::file:
      return value.file.find_first_of(" \t,{}()") == std::string::npos
                 ? value.file
                 : fmt::format("\"{}\"", value.file);
  }
  return {};
}

std::string spelled(const ArgumentSpec& argument) {
  const std::string name = argument.name.empty() ? "" : argument.name + ":";
  switch (argument.kind) {
    case ArgumentSpec::Kind::structure: {
      std::vector<std::string> fields;
      for (const ArgumentSpec& field : argument.fields) fields.push_back(spelled(field));
      return fmt::format("{}{{{}}}", name, fmt::join(fields, ","));
    }
    case ArgumentSpec::Kind::reference:
      return fmt::format("{}&{}{}", name, argument.target,
                         argument.offset == 0 ? "" : fmt::format("+{}", argument.offset));
    case ArgumentSpec::Kind::scalar:
      return fmt::format("{}{}={}", name, info(argument.type).name, spelled(argument.value));
    case ArgumentSpec::Kind::buffer:
      break;
  }
  const std::string value = spelled(argument.value);
  return fmt::format("{}{}[{}]{}{}", name, info(argument.type).name,
                     argument.shape ? fmt::format("{}", fmt::join(*argument.shape, "x")) : "",
                     value.empty() ? "" : "=", value);
}

std::vector<std::uint64_t> parse_extents(std::string_view text, std::size_t most,
                                         const std::string& what) {
  std::vector<std::uint64_t> extents;
  const std::string_view whole = text;
  while (extents.size() < most) {
    const std::size_t end = std::min(text.find('x'), text.size());
    std::uint64_t extent = 0;
    if (!read_whole(text.substr(0, end), extent, 10) || extent == 0 ||
        extent > std::numeric_limits<std::int32_t>::max())
      break;
    extents.push_back(extent);
    if (end == text.size()) return extents;
    text.remove_prefix(end + 1);
  }
  throw UsageError(fmt::format(
      "{} {} is refused; it is one to {} whole numbers from 1 with x between them, such "
      "as 8 or 64x2",
      what, whole.empty() ? "without a number" : reference::printable(whole), most));
}

std::optional<Number> parse_number(std::string_view text) {
  const bool negative = text.starts_with('-');
  std::string_view digits = text.substr(negative ? 1 : 0);
  int base = 10;
  if (digits.starts_with("0x") || digits.starts_with("0X")) {
    digits.remove_prefix(2);
    base = 16;
  }
  std::uint64_t value = 0;
  if (!digits.starts_with('-') && read_whole(digits, value, base))
    return negative ? -static_cast<Number>(value) : static_cast<Number>(value);
  double real = 0;
  if (base == 10 && !digits.starts_with('-') && read_double(digits, real))
    return negative ? -static_cast<Number>(real) : static_cast<Number>(real);
  return std::nullopt;
}

}  // namespace sagegen::cli
