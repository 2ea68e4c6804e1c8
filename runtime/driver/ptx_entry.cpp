#include "sagegen/runtime/ptx_entry.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>

namespace sagegen::runtime {
namespace {

constexpr std::array<bool, 256> word_characters() {
  std::array<bool, 256> result{};
  for (int c = '0'; c <= '9'; ++c) result[static_cast<std::size_t>(c)] = true;
  for (int c = 'a'; c <= 'z'; ++c) result[static_cast<std::size_t>(c)] = true;
  for (int c = 'A'; c <= 'Z'; ++c) result[static_cast<std::size_t>(c)] = true;
  for (const unsigned char c : {'_', '$', '%', '.'}) result[c] = true;
  return result;
}
constexpr std::array<bool, 256> kIsWord = word_characters();

bool is_word(char c) { return kIsWord[static_cast<unsigned char>(c)]; }
bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Splits PTX into words and single punctuation characters, without comments and strings. Words that nobody
// asked for are jumped over: seek() looks for single characters, which memchr does at many bytes a cycle.
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

  // Goes behind the next `directive`, which is a whole word outside of comments and strings. `rare`: an
  // offset into it whose character is rare in PTX. False: there is none.
  bool seek(std::string_view directive, std::size_t rare) {
    std::size_t found = find_word(directive, rare, position_);
    while (found != std::string_view::npos) {
      if (slash_ < position_) slash_ = text_.find('/', position_);
      if (quote_ < position_) quote_ = text_.find('"', position_);
      const std::size_t mark = std::min(slash_, quote_);
      if (found < mark) {
        position_ = found + directive.size();
        return true;
      }
      position_ = mark;
      skip_blank();
      if (position_ == mark) ++position_;  // a division
      if (found < position_) found = find_word(directive, rare, position_);
    }
    return false;
  }

 private:
  std::size_t find_word(std::string_view word, std::size_t rare, std::size_t from) const {
    for (std::size_t at = from + rare;; ++at) {
      at = text_.find(word[rare], at);
      if (at == std::string_view::npos) return at;
      const std::size_t begin = at - rare;
      const std::size_t end = begin + word.size();
      if (text_.substr(begin, word.size()) == word && (begin == 0 || !is_word(text_[begin - 1])) &&
          (end == text_.size() || !is_word(text_[end]))) {
        return begin;
      }
    }
  }

  void skip_past(std::string_view mark, std::size_t from) {
    const std::size_t found = text_.find(mark, from);
    position_ = found == std::string_view::npos ? text_.size() : found + mark.size();
  }

  void skip_blank() {
    while (position_ < text_.size()) {
      const std::string_view rest = text_.substr(position_);
      if (is_blank(rest[0])) {
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
  // The next of each, if not before position_: kept from one seek to the next, so that many seeks together
  // read the text once.
  std::size_t slash_ = text_.find('/'), quote_ = text_.find('"');
};

// "u64" -> 8; 0 for words that are no types.
std::size_t type_bytes(std::string_view type) {
  if (type == "f16x2" || type == "bf16x2") return 4;
  if (type.starts_with("bf")) type.remove_prefix(1);
  if (type.empty() || std::string_view("busf").find(type[0]) == std::string_view::npos) return 0;
  const std::string_view bits = type.substr(1);
  if (bits == "8") return 1;
  if (bits == "16") return 2;
  if (bits == "32") return 4;
  if (bits == "64") return 8;
  if (bits == "128") return 16;
  return 0;
}

// 0 for what is no number, or none that fits.
std::size_t number(std::string_view word) {
  int base = 10;
  if (word.starts_with("0x") || word.starts_with("0X")) {
    word.remove_prefix(2);
    base = 16;
  }
  if (word.ends_with('U')) word.remove_suffix(1);
  std::size_t value = 0;
  const auto result = std::from_chars(word.data(), word.data() + word.size(), value, base);
  return result.ec == std::errc() && result.ptr == word.data() + word.size() ? value : 0;
}

// 0 where the product does not fit.
std::size_t product(std::size_t a, std::size_t b) {
  return b != 0 && a > std::numeric_limits<std::size_t>::max() / b ? 0 : a * b;
}

// Reads `.param [.align N] .type [.ptr [.space] [.align N]] name [ '[' N ']' ]...` up to ',' or ')', which
// is returned. An alignment behind .ptr is that of the memory which is pointed to.
std::string_view read_parameter(Scanner& scanner, PtxParameter& parameter) {
  std::size_t element = 0, count = 1, vector = 1, aligned = 0;
  bool is_pointer = false;
  std::string_view word = scanner.next();
  for (; !word.empty() && word != "," && word != ")"; word = scanner.next()) {
    if (word == "[") {
      parameter.is_array = true;
      count = product(count, number(scanner.next()));
    } else if (word == ".align") {
      const std::size_t bytes = number(scanner.next());
      if (!is_pointer) aligned = bytes;
    } else if (word == ".ptr") {
      is_pointer = true;
    } else if (word == ".v2" || word == ".v4") {
      vector = word == ".v2" ? 2 : 4;
    } else if (word[0] != '.') {
      if (is_word(word[0])) parameter.name = word;
    } else if (element == 0) {
      element = type_bytes(word.substr(1));
      if (element != 0) parameter.type = word.substr(1);
    }
  }
  parameter.bytes = product(element * vector, count);
  parameter.alignment = std::max<std::size_t>(1, aligned != 0 ? aligned : element * vector);
  return word;
}

// Up to three numbers with commas between them; those that are not given are 1. Returns the word behind.
std::string_view read_block(Scanner& scanner, Dim3& block) {
  block = Dim3{};
  std::string_view word;
  for (unsigned* extent : {&block.x, &block.y, &block.z}) {
    *extent = static_cast<unsigned>(
        std::min<std::size_t>(number(scanner.next()), std::numeric_limits<unsigned>::max()));
    word = scanner.next();
    if (word != ",") break;
  }
  return word;
}

PtxEntry read_entry(Scanner& scanner) {
  PtxEntry entry;
  entry.name = scanner.next();
  std::string_view word = scanner.next();
  if (word == "(") word = scanner.next();
  std::size_t end = 0;
  while (word == ".param") {
    PtxParameter parameter;
    word = read_parameter(scanner, parameter);
    const std::size_t above = end % parameter.alignment;
    parameter.offset = above == 0 ? end : end + (parameter.alignment - above);
    end = parameter.offset + parameter.bytes;
    entry.parameters.push_back(std::move(parameter));
    if (word == ",") word = scanner.next();
  }
  while (!word.empty() && word != "{" && word != ";") {
    if (word == ".reqntid") {
      word = read_block(scanner, entry.required_block);
    } else if (word == ".maxntid") {
      word = read_block(scanner, entry.largest_block);
    } else if (word ==
               ".pragma") {  // its strings count as blanks, its semicolon ends no declaration
      do word = scanner.next();
      while (word == ",");
      if (word == ";") word = scanner.next();
    } else {
      word = scanner.next();
    }
  }
  return entry;
}

}  // namespace

std::vector<std::size_t> PtxEntry::parameter_bytes() const {
  std::vector<std::size_t> bytes;
  for (const PtxParameter& parameter : parameters) bytes.push_back(parameter.bytes);
  return bytes;
}

std::vector<PtxEntry> ptx_entries(std::string_view ptx) {
  constexpr std::string_view kEntry = ".entry";
  std::vector<PtxEntry> entries;
  Scanner scanner(ptx);
  while (scanner.seek(kEntry, kEntry.find('y'))) entries.push_back(read_entry(scanner));
  return entries;
}

std::string ptx_target(std::string_view ptx) {
  constexpr std::string_view kTarget = ".target";
  Scanner scanner(ptx);
  return scanner.seek(kTarget, kTarget.find('g')) ? std::string(scanner.next()) : std::string();
}

}  // namespace sagegen::runtime
