#include "tools/sagegen/emu_file.h"

#include <algorithm>
#include <cstdint>

#include <fmt/format.h>

#include "tools/reference/printable.h"
#include "tools/sagegen/errors.h"

namespace sagegen::cli {
namespace {

constexpr std::size_t kMostBytes = std::size_t{1} << 20;
constexpr std::size_t kMostKeys = 100;  // each is compared with every other

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }
bool is_bare(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '-';
}

void append_utf8(std::string& out, std::uint32_t code) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

class Reader {
 public:
  Reader(std::string_view text, const std::string& file) : text_(text), file_(file) {
    if (text_.size() > kMostBytes)
      refuse(fmt::format("a launch has at most {} bytes; put data into files of their own",
                         kMostBytes));
    if (text_.starts_with("\xef\xbb\xbf")) at_ = 3;  // a byte order mark
  }

  std::vector<LaunchKey> read() {
    std::vector<LaunchKey> keys;
    for (skip_lines(); at_ < text_.size(); skip_lines()) {
      LaunchKey key = read_key();
      for (const LaunchKey& known : keys) {
        if (known.name == key.name)
          refuse(fmt::format("{} is given again; line {} has it", reference::printable(key.name),
                             known.line));
      }
      expect_end_of_line();
      keys.push_back(std::move(key));
      if (keys.size() > kMostKeys) refuse(fmt::format("a launch has at most {} keys", kMostKeys));
    }
    return keys;
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    throw FileError(fmt::format("{}:{}: {}", file_, line_, why));
  }
  std::string here() const {
    if (at_ >= text_.size()) return "the end of the file";
    if (peek() == '\n') return "the end of the line";
    const std::string_view rest = text_.substr(at_);
    return fmt::format("\"{}\"", reference::printable(rest.substr(0, rest.find('\n')), 40));
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  char take() {
    if (peek() == '\n') ++line_;
    return text_[at_++];
  }
  void skip_blanks() {
    while (at_ < text_.size() && is_blank(peek())) ++at_;
    if (peek() != '#') return;
    while (at_ < text_.size() && peek() != '\n') ++at_;
  }
  void skip_lines() {
    for (skip_blanks(); at_ < text_.size() && peek() == '\n'; skip_blanks()) take();
  }
  void expect_end_of_line() {
    skip_blanks();
    if (at_ < text_.size() && peek() != '\n')
      refuse(fmt::format("expected the end of the line behind a value, found {}", here()));
  }

  LaunchKey read_key() {
    LaunchKey key;
    key.line = line_;
    if (peek() == '[')
      refuse("a launch has no tables; all its keys, such as arg = [...], stand at the top");
    if (peek() == '"' || peek() == '\'') {
      key.name = read_string();
    } else {
      while (at_ < text_.size() && is_bare(peek())) key.name += take();
    }
    if (key.name.empty()) refuse(fmt::format("expected KEY = VALUE, found {}", here()));
    skip_blanks();
    if (peek() != '=')
      refuse(
          fmt::format("expected '=' behind {}, found {}", reference::printable(key.name), here()));
    take();
    skip_blanks();
    if (peek() != '[') {
      key.values.push_back(read_scalar());
      return key;
    }
    key.is_list = true;
    take();
    for (skip_lines(); peek() != ']'; skip_lines()) {
      key.values.push_back(read_scalar());
      skip_lines();
      if (peek() == ',') {
        take();
      } else if (peek() != ']') {
        refuse(fmt::format("expected ',' or ']' in a list, found {}", here()));
      }
    }
    take();
    return key;
  }

  std::string read_scalar() {
    if (peek() == '"' || peek() == '\'') return read_string();
    std::string word;
    while (at_ < text_.size() && (is_bare(peek()) || peek() == '+' || peek() == '.'))
      word += take();
    std::string number;
    std::copy_if(word.begin(), word.end(), std::back_inserter(number),
                 [](char c) { return c != '_'; });
    if (number.starts_with('+')) number.erase(0, 1);
    const std::string digits = number.starts_with('-') ? number.substr(1) : number;
    const bool is_number = !digits.empty() && ((digits[0] >= '0' && digits[0] <= '9') ||
                                               digits == "inf" || digits == "nan");
    if (is_number) return number;
    if (!word.empty())
      refuse(fmt::format("{} stands without quotes; write \"{}\"", reference::printable(word),
                         reference::printable(word)));
    refuse(fmt::format("expected a string in quotes or a number, found {}", here()));
  }

  // "basic" or 'literal'.
  std::string read_string() {
    const char quote = take();
    if (text_.substr(at_).starts_with(std::string(2, quote)))
      refuse("strings of many lines are not read; write one in single quotes on one line");
    std::string result;
    while (at_ < text_.size() && peek() != quote) {
      const auto c = static_cast<unsigned char>(peek());
      if (c == '\n') break;
      if ((c < ' ' && c != '\t') || c == 0x7F)
        refuse(fmt::format("a control character (byte 0x{:02X}) in a string", c));
      if (take() == '\\' && quote == '"') {
        read_escape(result);
      } else {
        result += static_cast<char>(c);
      }
    }
    if (peek() != quote || at_ >= text_.size())
      refuse(fmt::format("a string is not closed with {} on its line", quote));
    take();
    return result;
  }

  void read_escape(std::string& out) {
    if (at_ >= text_.size() || peek() == '\n') refuse("a string ends behind a backslash");
    const char c = take();
    constexpr std::string_view kLetters = "btnfr\"\\", kMeanings = "\b\t\n\f\r\"\\";
    if (const std::size_t i = kLetters.find(c); i != std::string_view::npos) {
      out += kMeanings[i];
      return;
    }
    if (c != 'u' && c != 'U')
      refuse(fmt::format("\\{} is no escape; write \\\\ for a backslash, or use single quotes",
                         reference::printable(std::string(1, c))));
    const std::size_t length = c == 'u' ? 4 : 8;
    std::uint32_t code = 0;
    for (std::size_t i = 0; i < length; ++i) {
      constexpr std::string_view kDigits = "0123456789abcdef";
      const char digit = at_ < text_.size() ? text_[at_] : '\0';
      const char lower =
          digit >= 'A' && digit <= 'F' ? static_cast<char>(digit - 'A' + 'a') : digit;
      const std::size_t value = kDigits.find(lower);
      if (value == std::string_view::npos || lower == '\0')
        refuse(fmt::format("\\{} needs {} hexadecimal digits", c, length));
      code = code << 4 | static_cast<std::uint32_t>(value);
      ++at_;
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
      refuse(fmt::format("U+{:X} is no character", code));
    append_utf8(out, code);
  }

  std::string_view text_;
  const std::string& file_;
  std::size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

std::vector<LaunchKey> parse_launch_file(std::string_view text, const std::string& file) {
  return Reader(text, file).read();
}

}  // namespace sagegen::cli
