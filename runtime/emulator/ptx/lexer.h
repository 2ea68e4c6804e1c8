// Tokens of PTX text. Views point into the text, which must outlive them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sagegen::emulator::ptx {

enum class TokenKind {
  identifier,   // mov, %r1, $L__BB0_2, _
  dotted,       // .reg, .sync, .shared::cta, with the dot in `text`
  integer,      // value: the 64-bit pattern
  f32_bits,     // 0f3F800000
  f64_bits,     // 0d3FF0000000000000, or a decimal such as 1.5
  string,       // text without the quotes
  punctuation,  // one character
  end,
};

struct Token {
  TokenKind kind = TokenKind::end;
  std::string_view text;
  std::uint64_t value = 0;
  int line = 1;

  bool is(char c) const { return kind == TokenKind::punctuation && text[0] == c; }
  bool is_dotted(std::string_view name) const { return kind == TokenKind::dotted && text == name; }
};

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  // The next token; `end` for ever after the last. Throws ParseError for a character that PTX does not
  // have, an unterminated comment or string, a malformed or too large number, and an over-long token.
  Token next();
  // Whether the next token is a ':' (which makes the identifier before it a label).
  bool at_colon() { return at(':'); }
  // Whether the next token begins with this character.
  bool at(char c);

 private:
  void skip_blanks();
  Token word(TokenKind kind, std::size_t begin);
  Token number();
  Token hexadecimal_float(TokenKind kind, std::size_t digits);
  Token decimal_float(std::size_t begin);
  Token quoted();
  Token make(TokenKind kind, std::size_t begin, std::uint64_t value = 0) const;
  char peek(std::size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }

  std::string_view text_;
  std::size_t at_ = 0;
  int line_ = 1;
};

// The text as it may stand in a message: in quotes, cut to a readable length, control bytes escaped.
std::string quote(std::string_view text);
std::string quote(const Token& token);

}  // namespace sagegen::emulator::ptx
