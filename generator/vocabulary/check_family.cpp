// What makes a family's tables sound, whoever wrote them: a kernel has one key, and a key is read in one way.
#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "generator/vocabulary/detail.h"
#include "sagegen/error.h"

namespace sagegen::detail {
namespace {

constexpr std::string_view kWord = "abcdefghijklmnopqrstuvwxyz0123456789";
constexpr std::string_view kName = "abcdefghijklmnopqrstuvwxyz0123456789_";
constexpr std::string_view kValueWord =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-";

bool consists_of(std::string_view text, std::string_view letters) {
  return !text.empty() && text.find_first_not_of(letters) == std::string_view::npos;
}
bool begins_with_letter(std::string_view text) { return text[0] >= 'a' && text[0] <= 'z'; }

template <typename T>
bool has_twice(std::vector<T> values) {
  std::ranges::sort(values);
  return std::ranges::adjacent_find(values) != values.end();
}

// Values that stand for all that a key may say, also such as the rules refuse.
std::vector<int> sample(const Field& field) {
  const Values& values = field.values;
  if (!values.words.empty()) return values.allowed;
  std::vector<int> sample = values.allowed;
  constexpr int kLargest = 999'999;
  for (int digit = 0; digit < 10; ++digit) sample.push_back(digit);
  for (const int value : {values.least, values.most, 10, kLargest}) sample.push_back(value);
  return sample;
}
std::vector<int> printed_values(const Field& field) {
  return field.is_flag ? std::vector<int>{1} : sample(field);
}

class FamilyCheck {
 public:
  explicit FamilyCheck(const Family& family) : family_(family) {}

  void run() {
    for (const std::string_view word : {family_.owner, family_.word}) {
      if (!consists_of(word, kWord) || !begins_with_letter(word)) {
        refuse(fmt::format(
            "\"{}\" is no word of a key: lower-case letters and digits, a letter first", word));
      }
    }
    if (!consists_of(family_.title, kName))
      refuse("its title names tables of sets: lower-case letters, digits and '_'");
    std::set<std::string_view> names{"schedule", "schedules", "targets"};  // of texts and sets
    for (const Fields* fields : {&family_.what, &family_.how}) {
      for (const Field& field : *fields) {
        if (!names.insert(field.name).second)
          refuse(fmt::format("the name {} is in use already", field.name));
        check_field(field);
      }
    }
    check_order(family_.what, {"", "__"}, {"", "__"});
    // The target follows where no field of the schedule is in the key.
    check_order(family_.how, {"", "__"}, {"", "sm89", "sm120a"});
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    throw InternalError(
        fmt::format("family {}_{} ({}): {}", family_.owner, family_.word, family_.title, why));
  }

  void check_field(const Field& field) const {
    const Values& values = field.values;
    const auto refuse_field = [&](std::string_view why) {
      refuse(fmt::format("field {}: {}", field.name, why));
    };
    if (!consists_of(field.name, kName) || !begins_with_letter(field.name))
      refuse_field("a name is of lower-case letters, digits and '_', a letter first");
    if (values.words.size() != values.tokens.size() ||
        (!values.words.empty() && values.words.size() != values.allowed.size())) {
      refuse_field("words, tokens and values are not of one number");
    }
    if (has_twice(values.allowed) || has_twice(values.words) ||
        (!field.is_flag && has_twice(values.tokens))) {
      refuse_field("a value, word or token stands twice");
    }
    if (!values.has(field.initial)) refuse_field("its default is not one of its values");
    if (field.is_flag && field.initial != 0)
      refuse_field("a flag is off by default; use field() with words");
    for (const std::string_view word : values.words) {
      if (!consists_of(word, kValueWord))
        refuse_field(fmt::format("\"{}\" cannot be a word of a text", word));
    }
    if (values.words.empty()) {
      for (const int value : values.all()) {
        if (value < 0 || std::to_string(value).size() > kMaxDigits)
          refuse_field(
              fmt::format("{}: numbers are from 0, of at most {} digits", value, kMaxDigits));
      }
    }
    for (const int value : printed_values(field)) {
      const std::string token = token_of(field, value);
      if (!consists_of(token, kName) || token.front() == '_' || token.back() == '_' ||
          token.find("__") != std::string::npos) {
        refuse_field(
            fmt::format("\"{}\" cannot stand in a key: lower-case letters, digits and single "
                        "'_' inside",
                        token));
      }
    }
  }

  // What may follow field `i` where the silent ones behind it are absent.
  static std::vector<std::string> followers(const Fields& fields, std::size_t i,
                                            const std::vector<std::string>& ends) {
    std::vector<std::string> texts;
    for (std::size_t j = i + 1; j < fields.size(); ++j) {
      for (const int value : printed_values(fields[j]))
        texts.push_back((fields[j].joined ? "" : "_") + token_of(fields[j], value));
      if (!fields[j].silent) return texts;
    }
    texts.insert(texts.end(), ends.begin(), ends.end());
    return texts;
  }

  // ends: what may follow fields; bare_ends: the same where none of them is in the key.
  void check_order(const Fields& fields, const std::vector<std::string>& ends,
                   const std::vector<std::string>& bare_ends) const {
    bool can_be_first = true;  // the fields before are all silent
    for (std::size_t i = 0; i < fields.size(); ++i) {
      const Field& field = fields[i];
      const bool whole = i + 1 == fields.size() || !fields[i + 1].joined;
      for (const std::string& follower : followers(fields, i, ends)) {
        for (const int value : printed_values(field)) check_read(field, value, whole, follower);
        // Absent, behind other fields.
        const bool separated = field.joined || follower.starts_with('_');
        if (field.silent && i > 0 && separated)
          check_absent(field, whole, follower.substr(field.joined ? 0 : 1));
      }
      if (field.silent && can_be_first) {
        for (std::string follower : followers(fields, i, bare_ends)) {
          if (follower.starts_with('_') && !follower.starts_with("__")) follower.erase(0, 1);
          check_absent(field, whole, follower);
        }
      }
      can_be_first = can_be_first && field.silent;
    }
  }

  void check_read(const Field& field, int value, bool whole, const std::string& follower) const {
    const std::string text = token_of(field, value) + follower;
    std::string_view rest = text;
    int taken = 0;
    if (take_token(field, whole, rest, taken) && taken == value && rest == follower) return;
    refuse(fmt::format("\"{}\" in a key does not read back as {} = {}; give the fields other tags",
                       text, field.name, field.word(value)));
  }

  void check_absent(const Field& field, bool whole, std::string_view text) const {
    std::string_view rest = text;
    int taken = 0;
    if (!take_token(field, whole, rest, taken)) return;
    refuse(fmt::format("\"{}\" in a key reads as {}, which is absent there; give it another tag",
                       text, field.name));
  }

  const Family& family_;
};

}  // namespace

void check_family(const Family& family) { FamilyCheck(family).run(); }

}  // namespace sagegen::detail
