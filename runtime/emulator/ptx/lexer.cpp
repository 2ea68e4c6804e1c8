#include "runtime/emulator/ptx/lexer.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <charconv>

#include "runtime/emulator/ptx/module.h"

namespace sagegen::emulator::ptx {
namespace {

constexpr std::size_t kMaxToken = 4096;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

constexpr std::array<bool, 256> kWordCharacter = [] {
  std::array<bool, 256> table{};
  for (int c = '0'; c <= '9'; ++c) table[c] = true;
  for (int c = 'a'; c <= 'z'; ++c) table[c] = true;
  for (int c = 'A'; c <= 'Z'; ++c) table[c] = true;
  table['_'] = table['$'] = table['%'] = true;
  return table;
}();

bool is_word(char c) { return kWordCharacter[static_cast<unsigned char>(c)]; }

int digit_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'z') return c - 'a' + 10;
  if (c >= 'A' && c <= 'Z') return c - 'A' + 10;
  return 36;
}

}  // namespace

std::string quote(std::string_view text) {
  constexpr std::size_t kShown = 60;
  std::string out = "'";
  for (const char c : text.substr(0, kShown)) {
    if (c >= ' ' && c <= '~') {
      out += c;
    } else {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  return out + (text.size() > kShown ? "...'" : "'");
}

std::string quote(const Token& token) {
  return token.kind == TokenKind::end ? "the end of the text" : quote(token.text);
}

Token Lexer::make(TokenKind kind, std::size_t begin, std::uint64_t value) const {
  const std::string_view text = text_.substr(begin, at_ - begin);
  if (text.size() > kMaxToken) {
    throw ParseError(line_, fmt::format("{} is {} characters long; at most {} are allowed",
                                        quote(text), text.size(), kMaxToken));
  }
  return {.kind = kind, .text = text, .value = value, .line = line_};
}

void Lexer::skip_blanks() {
  while (at_ < text_.size()) {
    const char c = text_[at_];
    if (c == '\n') {
      ++line_;
      ++at_;
    } else if (c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v') {
      ++at_;
    } else if (c == '/' && peek(1) == '/') {
      at_ = std::min(text_.find('\n', at_), text_.size());
    } else if (c == '/' && peek(1) == '*') {
      const std::size_t close = text_.find("*/", at_ + 2);
      if (close == std::string_view::npos)
        throw ParseError(line_, "a comment is not closed with */");
      for (; at_ < close; ++at_) line_ += text_[at_] == '\n' ? 1 : 0;
      at_ += 2;
    } else {
      return;
    }
  }
}

Token Lexer::word(TokenKind kind, std::size_t begin) {
  while (is_word(peek())) ++at_;
  // .shared::cta, .L2::128B
  while (kind == TokenKind::dotted && peek() == ':' && peek(1) == ':' && is_word(peek(2))) {
    at_ += 2;
    while (is_word(peek())) ++at_;
  }
  return make(kind, begin);
}

Token Lexer::hexadecimal_float(TokenKind kind, std::size_t digits) {
  const std::size_t begin = at_;
  at_ += 2;
  std::uint64_t bits = 0;
  std::size_t count = 0;
  for (; digit_value(peek()) < 16 && count <= digits; ++at_, ++count) {
    bits = bits << 4 | static_cast<std::uint64_t>(digit_value(peek()));
  }
  if (count != digits || is_word(peek())) {
    throw ParseError(line_, fmt::format("{} is not a floating-point constant: it needs exactly {} "
                                        "hexadecimal digits after {}",
                                        quote(text_.substr(begin, at_ - begin)), digits,
                                        text_.substr(begin, 2)));
  }
  return make(kind, begin, bits);
}

Token Lexer::decimal_float(std::size_t begin) {
  while (is_digit(peek())) ++at_;
  if (peek() == '.') {
    ++at_;
    while (is_digit(peek())) ++at_;
  }
  if (peek() == 'e' || peek() == 'E') {
    ++at_;
    if (peek() == '+' || peek() == '-') ++at_;
    while (is_digit(peek())) ++at_;
  }
  const Token token = make(TokenKind::f64_bits, begin);
  double value = 0;
  const char* end = token.text.data() + token.text.size();
  const auto [stop, error] = std::from_chars(token.text.data(), end, value);
  if (error != std::errc() || stop != end || is_word(peek())) {
    throw ParseError(line_, quote(token.text) + " is not a number");
  }
  return {.kind = token.kind,
          .text = token.text,
          .value = std::bit_cast<std::uint64_t>(value),
          .line = line_};
}

Token Lexer::number() {
  const std::size_t begin = at_;
  const char second = peek(1);
  if (peek() == '0' && (second == 'f' || second == 'F')) {
    return hexadecimal_float(TokenKind::f32_bits, 8);
  }
  if (peek() == '0' && (second == 'd' || second == 'D')) {
    return hexadecimal_float(TokenKind::f64_bits, 16);
  }
  int base = 10;
  if (peek() == '0' && (second == 'x' || second == 'X')) {
    base = 16;
    at_ += 2;
  } else if (peek() == '0' && (second == 'b' || second == 'B')) {
    base = 2;
    at_ += 2;
  } else if (peek() == '0' && is_digit(second)) {
    base = 8;
    ++at_;
  }
  const std::size_t first_digit = at_;
  std::uint64_t value = 0;
  bool overflow = false;
  for (; digit_value(peek()) < base; ++at_) {
    const auto digit = static_cast<std::uint64_t>(digit_value(peek()));
    overflow |= value > (~std::uint64_t{0} - digit) / static_cast<std::uint64_t>(base);
    value = value * static_cast<std::uint64_t>(base) + digit;
  }
  if (base == 10 && (peek() == '.' || peek() == 'e' || peek() == 'E')) {
    at_ = begin;
    return decimal_float(begin);
  }
  const bool no_digits = at_ == first_digit;
  if (peek() == 'U' || peek() == 'u') ++at_;
  if (no_digits || is_word(peek())) {
    while (is_word(peek())) ++at_;
    throw ParseError(line_, quote(text_.substr(begin, at_ - begin)) + " is not a number");
  }
  if (overflow) {
    throw ParseError(line_, quote(text_.substr(begin, at_ - begin)) + " does not fit in 64 bits");
  }
  return make(TokenKind::integer, begin, value);
}

Token Lexer::quoted() {
  const std::size_t begin = ++at_;
  while (at_ < text_.size() && text_[at_] != '"' && text_[at_] != '\n') ++at_;
  if (peek() != '"') throw ParseError(line_, "a string is not closed with \" on its line");
  const Token token = make(TokenKind::string, begin);
  ++at_;
  return token;
}

bool Lexer::at(char c) {
  skip_blanks();
  return peek() == c;
}

Token Lexer::next() {
  skip_blanks();
  if (at_ >= text_.size()) return {.kind = TokenKind::end, .text = {}, .value = 0, .line = line_};
  const char c = text_[at_];
  const std::size_t begin = at_;
  if (is_digit(c)) return number();
  if (is_word(c)) return word(TokenKind::identifier, begin);
  if (c == '.' && is_word(peek(1))) {
    ++at_;
    return word(TokenKind::dotted, begin);
  }
  if (c == '"') return quoted();
  constexpr std::string_view kPunctuation = "@!;:,{}[]()<>+-|=~*/&^?";
  if (c != '\0' && kPunctuation.find(c) != std::string_view::npos) {
    ++at_;
    return make(TokenKind::punctuation, begin);
  }
  throw ParseError(line_, quote(text_.substr(at_, 1)) + " has no meaning in PTX");
}

}  // namespace sagegen::emulator::ptx
