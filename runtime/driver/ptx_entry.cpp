#include "runtime/driver/ptx_entry.h"

#include <cctype>
#include <charconv>

namespace sagegen::runtime {
namespace {

// Splits PTX into words and single punctuation characters, without comments and strings.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  // Empty at the end of the text.
  std::string_view next() {
    skip_blank();
    if (position_ >= text_.size()) return {};
    const std::size_t begin = position_;
    if (!is_word(text_[position_])) return text_.substr(position_++, 1);
    while (position_ < text_.size() && is_word(text_[position_])) ++position_;
    return text_.substr(begin, position_ - begin);
  }

 private:
  static bool is_word(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '%' ||
           c == '.';
  }

  void skip_past(std::string_view mark, std::size_t from) {
    const std::size_t found = text_.find(mark, from);
    position_ = found == std::string_view::npos ? text_.size() : found + mark.size();
  }

  void skip_blank() {
    while (position_ < text_.size()) {
      const std::string_view rest = text_.substr(position_);
      if (std::isspace(static_cast<unsigned char>(rest[0])) != 0) {
        ++position_;
      } else if (rest.starts_with("//")) {
        skip_past("\n", position_);
      } else if (rest.starts_with("/*")) {
        skip_past("*/", position_ + 2);
      } else if (rest[0] == '"') {
        skip_past("\"", position_ + 1);
      } else {
        return;
      }
    }
  }

  std::string_view text_;
  std::size_t position_ = 0;
};

// ".u64" -> 8; 0 for words that are no types.
std::size_t type_bytes(std::string_view word) {
  if (word.size() < 3 || word[0] != '.') return 0;
  if (std::string_view("busf").find(word[1]) == std::string_view::npos) return 0;
  const std::string_view bits = word.substr(2);
  if (bits == "8") return 1;
  if (bits == "16") return 2;
  if (bits == "32") return 4;
  if (bits == "64") return 8;
  return 0;
}

// Reads `.param [.align N] .type [.ptr ...] name [ '[' N ']' ]` up to ',' or ')', which is
// returned.
std::string_view read_parameter(Scanner& scanner, std::size_t& bytes) {
  std::size_t element = 0;
  std::size_t count = 1;
  std::string_view word = scanner.next();
  for (; !word.empty() && word != "," && word != ")"; word = scanner.next()) {
    if (element == 0) element = type_bytes(word);
    if (word == "[") {
      const std::string_view number = scanner.next();
      std::size_t value = 0;
      const auto result = std::from_chars(number.data(), number.data() + number.size(), value);
      count = result.ptr == number.data() + number.size() ? value : 0;
    }
  }
  bytes = element * count;
  return word;
}

}  // namespace

std::vector<PtxEntry> ptx_entries(std::string_view ptx) {
  std::vector<PtxEntry> entries;
  Scanner scanner(ptx);
  for (std::string_view word = scanner.next(); !word.empty(); word = scanner.next()) {
    if (word != ".entry") continue;
    PtxEntry entry{.name = std::string(scanner.next()), .parameter_bytes = {}};
    word = scanner.next();
    if (word == "(") word = scanner.next();
    while (word == ".param") {
      std::size_t bytes = 0;
      word = read_parameter(scanner, bytes);
      entry.parameter_bytes.push_back(bytes);
      if (word == ",") word = scanner.next();
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

}  // namespace sagegen::runtime
