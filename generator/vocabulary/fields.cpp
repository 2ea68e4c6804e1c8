#include "sagegen/fields.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "generator/vocabulary/detail.h"
#include "generator/vocabulary/suggestion.h"
#include "generator/vocabulary/unknown_word.h"
#include "sagegen/error.h"

namespace sagegen {
namespace {

using detail::take_token;

// Takes a number off `text`, which has one form per value.
bool take_number(std::string_view& text, int& value) {
  const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  if (digits < 1 || digits > detail::kMaxDigits || (digits > 1 && text[0] == '0')) return false;
  std::from_chars(text.data(), text.data() + digits, value);
  text.remove_prefix(digits);
  return true;
}

// Takes the longest token that `text` begins with.
bool take_word(const Values& values, std::string_view& text, int& value) {
  std::size_t longest = 0;
  for (std::size_t i = 0; i < values.tokens.size(); ++i) {
    const std::string_view token = values.tokens[i];
    if (token.size() <= longest || !text.starts_with(token)) continue;
    longest = token.size();
    value = values.allowed[i];
  }
  text.remove_prefix(longest);
  return longest > 0;
}

std::string listed(const std::vector<std::string_view>& words) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) {
    text += i == 0 ? "" : i + 1 == words.size() ? " or " : ", ";
    text += words[i];
  }
  return text;
}

}  // namespace

namespace detail {

bool take_token(const Field& field, bool whole, std::string_view& text, int& value) {
  std::string_view rest = text;
  if (!rest.starts_with(field.tag)) return false;
  rest.remove_prefix(field.tag.size());
  int taken = 1;  // of a flag
  if (!field.is_flag && !(field.values.words.empty() ? take_number(rest, taken)
                                                     : take_word(field.values, rest, taken))) {
    return false;
  }
  if (whole && !rest.empty() && rest[0] != '_') return false;
  value = taken;
  text = rest;
  return true;
}

std::string token_of(const Field& field, int value) {
  std::string text(field.tag);
  if (field.is_flag) return text;
  for (std::size_t i = 0; i < field.values.tokens.size(); ++i) {
    if (field.values.allowed[i] == value) return text.append(field.values.tokens[i]);
  }
  return text + std::to_string(value);
}

}  // namespace detail

bool Values::has(int value) const {
  if (allowed.empty()) return value >= least && value <= most;
  return std::ranges::find(allowed, value) != allowed.end();
}

std::vector<int> Values::all() const {
  std::vector<int> result = allowed;
  for (int value = least; allowed.empty() && value <= most; ++value) result.push_back(value);
  return result;
}

Values numbers(std::initializer_list<int> allowed) {
  Values values;
  values.allowed = allowed;
  return values;
}

Values range(int least, int most) {
  Values values;
  values.least = least;
  values.most = most;
  return values;
}

std::string Field::word(int value) const {
  for (std::size_t i = 0; i < values.words.size(); ++i) {
    if (values.allowed[i] == value) return std::string(values.words[i]);
  }
  const std::string_view spelled = values.spell == nullptr ? "?" : values.spell(value);
  return spelled == "?" ? std::to_string(value) : std::string(spelled);
}

Field later(Field field) {
  field.silent = true;
  return field;
}

Field joined(Field field) {
  field.joined = true;
  return field;
}

std::string key_text(const Fields& fields, const void* object) {
  std::string text;
  for (const Field& field : fields) {
    const int value = field.get(object);
    if (field.silent && value == field.initial) continue;
    if (!text.empty() && !field.joined) text += '_';
    text += detail::token_of(field, value);
  }
  return text;
}

const Field* read_key_text(const Fields& fields, std::string_view& text, void* object) {
  bool first = true;
  for (std::size_t i = 0; i < fields.size(); ++i) {
    const Field& field = fields[i];
    const bool whole = i + 1 == fields.size() || !fields[i + 1].joined;
    std::string_view rest = text;
    const bool separated = first || field.joined || rest.starts_with('_');
    if (!first && !field.joined && separated) rest.remove_prefix(1);
    int value = 0;
    const bool taken = separated && take_token(field, whole, rest, value);
    // One kernel has one key: what a silent field holds anyway is not written.
    if (taken && !(field.silent && value == field.initial)) {
      field.set(object, value);
      text = rest;
      first = false;
    } else if (!field.silent) {
      return &field;
    }
  }
  return nullptr;
}

const Field* find_field(const Fields& fields, std::string_view name) {
  const auto found = std::ranges::find(fields, name, &Field::name);
  return found == fields.end() ? nullptr : &*found;
}

static std::vector<std::string> names_of(const Fields& fields) {
  std::vector<std::string> names;
  for (const Field& field : fields) names.emplace_back(field.name);
  return names;
}

void set_field(const Fields& fields, void* object, std::string_view name, std::string_view word) {
  const Field* field = find_field(fields, name);
  if (field == nullptr) throw SpecError(detail::unknown_option(name, names_of(fields)));
  const auto found = std::ranges::find(field->values.words, word);
  if (found != field->values.words.end()) {
    const auto index = static_cast<std::size_t>(found - field->values.words.begin());
    return field->set(object, field->values.allowed[index]);
  }
  int value = 0;
  std::string_view rest = word;
  if (!field->values.words.empty() || !take_number(rest, value) || !rest.empty()) {
    throw SpecError(
        fmt::format("{} = \"{}\" is refused: it must be {}{}", field->name, detail::shown(word),
                    expected_word(*field),
                    suggestion(word, {field->values.words.begin(), field->values.words.end()})));
  }
  field->set(object, value);
}

std::vector<detail::Option> detail::options_in(std::string_view text, const Fields& fields,
                                               const std::vector<std::string>& known) {
  std::vector<Option> options;
  std::string_view rest = text;
  while (true) {
    rest.remove_prefix(std::min(rest.find_first_not_of(" \t\n"), rest.size()));
    if (rest.empty()) return options;
    const std::string_view option = rest.substr(0, rest.find_first_of(" \t\n"));
    rest.remove_prefix(option.size());
    const std::size_t equals = std::min(option.find('='), option.size());
    const std::string_view name = option.substr(0, equals);
    const Field* field = find_field(fields, name);
    if (equals == option.size() && (field == nullptr || !field->is_flag)) {
      throw SpecError(
          fmt::format("option \"{}\" is refused: write name=value{}", shown(option),
                      field == nullptr ? suggestion(name, known) : ", " + expected_word(*field)));
    }
    if (std::ranges::find(options, name, &Option::name) != options.end())
      throw SpecError(fmt::format("option {} stands twice in \"{}\"", shown(name), shown(text)));
    options.push_back({name, equals == option.size() ? "true" : option.substr(equals + 1)});
  }
}

void read_options(const Fields& fields, void* object, std::string_view text) {
  for (const auto& [name, word] : detail::options_in(text, fields, names_of(fields)))
    set_field(fields, object, name, word);
}

std::string json_text(const Fields& fields, const void* object) {
  std::string text = "{";
  for (const Field& field : fields) {
    const int value = field.get(object);
    const bool quoted = !field.is_flag && !field.values.words.empty();
    text += fmt::format("{}\"{}\": {}{}{}", text.size() > 1 ? ", " : "", field.name,
                        quoted ? "\"" : "", field.word(value), quoted ? "\"" : "");
  }
  return text + "}";
}

std::string options_text(const Fields& fields, const void* object) {
  std::string text;
  for (const Field& field : fields)
    text +=
        fmt::format("{}{}={}", text.empty() ? "" : " ", field.name, field.word(field.get(object)));
  return text;
}

std::vector<std::string> refused_values(const Fields& fields, const void* object) {
  std::vector<std::string> sentences;
  for (const Field& field : fields) {
    const int value = field.get(object);
    if (field.values.has(value)) continue;
    const std::string advice = field.advice != nullptr
                                   ? field.advice(value)
                                   : fmt::format("it must be {}", expected_word(field));
    sentences.push_back(fmt::format("{} {} is refused: {}", field.name, field.word(value), advice));
  }
  return sentences;
}

std::string expected_token(const Field& field) {
  if (field.is_flag) return fmt::format("{} ({})", field.tag, field.name);
  if (!field.values.tokens.empty()) {
    std::vector<std::string> tokens;
    for (const std::string_view token : field.values.tokens)
      tokens.push_back(fmt::format("{}{}", field.tag, token));
    return fmt::format("{} ({})", listed({tokens.begin(), tokens.end()}), field.name);
  }
  return fmt::format("{}<{}>, for example {}{}", field.tag, field.name, field.tag, field.initial);
}

std::string expected_word(const Field& field) {
  if (!field.values.words.empty()) return listed(field.values.words);
  if (field.values.allowed.empty())
    return fmt::format("a number from {} to {}", field.values.least, field.values.most);
  std::vector<std::string> texts;
  for (const int value : field.values.allowed) texts.push_back(std::to_string(value));
  return listed({texts.begin(), texts.end()});
}

}  // namespace sagegen
