// What a set description may not exceed, found before the TOML library sees it: the library recurses over
// the parts of dotted keys, and has undefined behaviour for letters beyond ASCII outside strings.
#include <fmt/format.h>

#include "generator/vocabulary/detail.h"
#include "sagegen/error.h"

namespace sagegen::detail {
namespace {

constexpr int kMaxDepth = 8;     // of brackets and braces; a list of values needs 1
constexpr int kMaxKeyParts = 8;  // of a name, between its dots; no name that means something has 2

// Follows TOML's own rules for where strings and comments end. Behind the first mistake the two may
// disagree, but there the library has stopped.
class LimitScan {
 public:
  LimitScan(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  void run() {
    if (text_.size() > kMaxSetBytes) {
      refuse(
          fmt::format("the set description has more than {} bytes, the most that is read; "
                      "describe the kernels by fewer and larger tables, or in "
                      "several files",
                      kMaxSetBytes));
    }
    if (text_.starts_with("\xef\xbb\xbf")) text_.remove_prefix(3);  // a byte order mark
    while (at_ < text_.size()) step();
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw SpecError(fmt::format("{}:{}:{}: {}", file_, line_, column_, what));
  }

  bool here(std::string_view word) const { return text_.substr(at_).starts_with(word); }

  // Over one byte; columns count characters, as the library does.
  void advance() {
    const auto byte = static_cast<unsigned char>(text_[at_++]);
    if (byte == '\n') {
      ++line_;
      column_ = 1;
    } else if ((byte & 0xC0) != 0x80) {
      ++column_;
    }
  }

  void advance(std::size_t count) {
    while (count-- > 0 && at_ < text_.size()) advance();
  }

  void step() {
    const char c = text_[at_];
    if (c == '#') {
      while (at_ < text_.size() && text_[at_] != '\n') advance();
      return;
    }
    if (c == '"' || c == '\'') return skip_string(c);
    count(c);
    advance();
  }

  void count(char c) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x80) {
      refuse(
          fmt::format("a letter beyond ASCII (byte 0x{:02X}) outside of quotes and comments; "
                      "names and numbers are ASCII, so write it in ASCII or in quotes",
                      byte));
    }
    if (c == '.') {
      if (++parts_ > kMaxKeyParts) {
        refuse(
            fmt::format("a name of more than {} parts with dots between them; names here are "
                        "plain words, such as head_dim",
                        kMaxKeyParts));
      }
    } else if (std::string_view("=,[]{}\n").find(c) != std::string_view::npos) {
      parts_ = 1;
    }
    if (c == '[' || c == '{') {
      if (++depth_ > kMaxDepth) {
        refuse(
            fmt::format("brackets are more than {} deep; the deepest that a set needs is a list of "
                        "values, head_dim = [64, 128]",
                        kMaxDepth));
      }
    } else if ((c == ']' || c == '}') && depth_ > 0) {
      --depth_;
    }
  }

  void skip_string(char quote) {
    const std::string three(3, quote);
    const bool lines = here(three);
    advance(lines ? 3 : 1);
    while (at_ < text_.size()) {
      if (quote == '"' && text_[at_] == '\\') {
        advance(2);
      } else if (lines && here(three)) {
        advance(3);
        for (int more = 0; more < 2 && at_ < text_.size() && text_[at_] == quote; ++more) advance();
        return;
      } else if (!lines && text_[at_] == quote) {
        return advance();
      } else if (!lines && text_[at_] == '\n') {
        return;  // unterminated: the library says so
      } else {
        advance();
      }
    }
  }

  std::string_view text_;
  const std::string& file_;
  std::size_t at_ = 0;
  int line_ = 1;
  int column_ = 1;
  int depth_ = 0;
  int parts_ = 1;
};

}  // namespace

void check_set_limits(std::string_view text, const std::string& file) {
  LimitScan(text, file).run();
}

std::string shown(std::string_view text, std::size_t most) {
  std::string result(text.substr(0, most));
  for (char& c : result) {
    if (c < ' ' || c > '~') c = '?';
  }
  return text.size() > most ? result + "..." : result;
}

}  // namespace sagegen::detail
