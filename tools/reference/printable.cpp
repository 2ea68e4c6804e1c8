#include "tools/reference/printable.h"

#include <cstdint>

#include <fmt/format.h>

namespace sagegen::reference {
namespace {

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// Bytes of the well-formed UTF-8 character at `at`; 0 if there is none (RFC 3629, section 4).
std::size_t utf8_length(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) -> unsigned {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u;
  };
  const auto follows = [&](std::size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const unsigned first = byte(0), second = byte(1);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return follows(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    if (first == 0xE0 && second < 0xA0) return 0;  // too long a form
    if (first == 0xED && second > 0x9F) return 0;  // surrogates
    return follows(1) && follows(2) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    if (first == 0xF0 && second < 0x90) return 0;
    if (first == 0xF4 && second > 0x8F) return 0;
    return follows(1) && follows(2) && follows(3) ? 4 : 0;
  }
  return 0;
}

// C0, DEL and C1: what ECMA-48 gives a meaning beyond a glyph. U+2028 and the like only look odd.
bool is_control(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  if (character.size() == 1)
    return (first < 0x20 && first != '\n' && first != '\t') || first == 0x7F;
  return first == 0xC2 && static_cast<unsigned char>(character[1]) < 0xA0;
}

}  // namespace

std::string without_controls(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_length(text, at);
    const std::string_view character = text.substr(at, length == 0 ? 1 : length);
    if (length == 0 || is_control(character)) {
      for (const char c : character)
        result += fmt::format("\\x{:02x}", static_cast<std::uint8_t>(c));
    } else {
      result += character;
    }
    at += character.size();
  }
  return result;
}

std::string printable(std::string_view text, std::size_t most) {
  if (text.size() <= most) return without_controls(text);
  std::size_t head = most * 2 / 3, tail = most - head;
  // Not within a character.
  for (int i = 0; i < 3 && head > 0 && is_continuation(text[head]); ++i) --head;
  for (int i = 0; i < 3 && tail > 0 && is_continuation(text[text.size() - tail]); ++i) --tail;
  return fmt::format("{}[... {} bytes ...]{}", without_controls(text.substr(0, head)),
                     text.size() - head - tail, without_controls(text.substr(text.size() - tail)));
}

}  // namespace sagegen::reference
