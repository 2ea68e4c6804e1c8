#include "sagegen/kernel.h"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "generator/vocabulary/detail.h"
#include "generator/vocabulary/suggestion.h"
#include "generator/vocabulary/unknown_word.h"
#include "sagegen/error.h"

namespace sagegen {
namespace {

using detail::kScheduleOption;

std::string target_token(Target target) {
  std::string text = fmt::format("sm{}", target.sm);
  if (target.suffix != '\0') text += target.suffix;
  return text;
}

// All tokens of a field with words; of a flag, its only one.
std::vector<std::string> tokens_of(const Field& field) {
  if (field.is_flag) return {std::string(field.tag)};
  std::vector<std::string> tokens;
  for (const std::string_view token : field.values.tokens)
    tokens.push_back(fmt::format("{}{}", field.tag, token));
  return tokens;
}

// The words of a key, from left to right; every complaint names token and position.
class KeyReader {
 public:
  explicit KeyReader(std::string_view text) : text_(text), rest_(text) {}

  std::string_view rest() const { return rest_; }
  void go_on_at(std::string_view rest) { rest_ = rest; }

  std::string_view word() {
    const std::string_view token = rest_.substr(0, rest_.find('_'));
    rest_.remove_prefix(token.size());
    return token;
  }
  bool take(std::string_view separator) {
    if (!rest_.starts_with(separator)) return false;
    rest_.remove_prefix(separator.size());
    return true;
  }

  // `words`: how many of those that '_' separates the complaint shows. `known`: what could have been meant.
  [[noreturn]] void refuse(std::string_view expected, std::ptrdiff_t words = 1,
                           const std::vector<std::string>& known = {}) {
    std::string_view at = rest_;
    while (at.starts_with('_')) at.remove_prefix(1);
    if (at.empty()) {
      throw SpecError(fmt::format("bad kernel key \"{}\": it ends where {} belongs",
                                  detail::shown(text_), expected));
    }
    std::size_t end = at.find('_');
    for (; words > 1 && end != std::string_view::npos; --words) end = at.find('_', end + 1);
    const std::string_view token = at.substr(0, end);
    throw SpecError(fmt::format("bad kernel key \"{}\": \"{}\" at position {} is not {}{}",
                                detail::shown(text_), detail::shown(token), position(at), expected,
                                suggestion(token, known)));
  }
  [[noreturn]] void refuse(const Field& missing) {
    const std::string expected = expected_token(missing);
    const std::size_t at = text_.size() - rest_.size();
    if (!missing.joined || at == 0)
      refuse(expected, 1 + std::ranges::count(missing.tag, '_'), tokens_of(missing));
    const std::string_view token = text_.substr(text_.rfind('_', at - 1) + 1);
    throw SpecError(fmt::format("bad kernel key \"{}\": in \"{}\" at position {}, {} belongs at {}",
                                detail::shown(text_),
                                detail::shown(token.substr(0, token.find('_'))), position(token),
                                expected, position(rest_)));
  }
  [[noreturn]] void refuse_more() {
    throw SpecError(fmt::format("bad kernel key \"{}\": \"{}\" at position {} follows the target",
                                detail::shown(text_), detail::shown(rest_), position(rest_)));
  }

  // Fields and the "__" or the end that follows them.
  void fields(const Fields& fields, void* object) {
    const Field* missing = read_key_text(fields, rest_, object);
    if (missing != nullptr) refuse(*missing);
    if (take("__") || rest_.empty()) return;
    // Silent fields that could stand here: behind the last one that has to.
    std::vector<std::string> more, tokens;
    for (const Field& field : fields) {
      if (!field.silent) {
        more.clear();
        tokens.clear();
        continue;
      }
      more.push_back(expected_token(field));
      std::ranges::move(tokens_of(field), std::back_inserter(tokens));
    }
    refuse(more.empty() ? "\"__\"" : fmt::format("\"__\", {}", fmt::join(more, ", ")), 1, tokens);
  }

 private:
  std::size_t position(std::string_view rest) const { return text_.size() - rest.size() + 1; }

  std::string_view text_, rest_;
};

const Family& read_family(KeyReader& reader, const Families& families) {
  const std::string_view whole = reader.rest();
  const std::string_view owner = reader.word();
  std::vector<std::string_view> owners, words;
  for (const Family* family : families.all()) {
    if (std::ranges::find(owners, family->owner) == owners.end()) owners.push_back(family->owner);
    if (family->owner == owner) words.push_back(family->word);
  }
  if (words.empty()) {
    reader.go_on_at(whole);
    reader.refuse(fmt::format("the word {}", fmt::join(owners, " or ")), 1,
                  {owners.begin(), owners.end()});
  }
  const std::string expected = fmt::format("a family of kernels: {}", fmt::join(words, ", "));
  if (!reader.take("_") || reader.rest().empty()) reader.refuse(expected);
  const std::string_view before = reader.rest();
  const Family* family = families.find_word(owner, reader.word());
  if (family == nullptr) {
    reader.go_on_at(before);
    reader.refuse(expected, 1, {words.begin(), words.end()});
  }
  if (!reader.rest().starts_with("__")) reader.take("_");  // "__": all its fields are silent
  return *family;
}

Target read_target(KeyReader& reader) {
  const std::string_view before = reader.rest();
  const std::string_view token = reader.word();
  std::vector<std::string> names;
  for (const TargetInfo& info : supported_targets()) {
    if (token == target_token(info.target)) {
      if (!reader.rest().empty()) reader.refuse_more();
      return info.target;
    }
    names.push_back(target_token(info.target));
  }
  reader.go_on_at(before);
  const TargetInfo* meant = detail::target_meant(before);  // "sm_89"
  reader.refuse(fmt::format(
      "a target at the end: {}{}", fmt::join(names, ", "),
      meant == nullptr ? "" : fmt::format("; did you mean {}?", target_token(meant->target))));
}

}  // namespace

// ---- families -----------------------------------------------------------------------------------

bool is_given(const Given& given, std::string_view name) {
  return std::ranges::find(given, name) != given.end();
}

Families& Families::add(const Family& family) {
  detail::check_family(family);
  for (const Family* known : list_) {
    if (known->title == family.title ||
        (known->owner == family.owner && known->word == family.word)) {
      throw InternalError(fmt::format(
          "two families are called {}_{} (\"{}\") and {}_{} (\"{}\"): no two may have "
          "the same title, nor the same word of one owner",
          known->owner, known->word, known->title, family.owner, family.word, family.title));
    }
  }
  list_.push_back(&family);
  return *this;
}

const Family* Families::find_title(std::string_view title) const {
  const auto found = std::ranges::find(list_, title, &Family::title);
  return found == list_.end() ? nullptr : *found;
}

const Family* Families::find_word(std::string_view owner, std::string_view word) const {
  for (const Family* family : list_) {
    if (family->owner == owner && family->word == word) return family;
  }
  return nullptr;
}

const Family& Families::of_title(std::string_view title) const {
  if (const Family* family = find_title(title)) return *family;
  std::vector<std::string> titles;
  for (const Family* family : list_) titles.emplace_back(family->title);
  throw SpecError(fmt::format("unknown family \"{}\"; there are {}{}", detail::shown(title),
                              fmt::join(titles, ", "), suggestion(title, titles)));
}

// ---- kernels ------------------------------------------------------------------------------------

Kernel::Kernel(const Family& family, std::shared_ptr<const void> spec,
               std::shared_ptr<const void> schedule, Target target) {
  std::string key = fmt::format("{}_{}", family.owner, family.word);
  const std::string what = key_text(family.what, spec.get());
  const std::string how = key_text(family.how, schedule.get());
  if (!what.empty()) key += "_" + what;
  if (!how.empty()) key += "__" + how;
  key += "__" + target_token(target);
  body_ = std::make_shared<const Body>(
      Body{&family, std::move(spec), std::move(schedule), target, std::move(key)});
}

std::string Kernel::what() const { return key().substr(0, key().find("__")); }
std::string Kernel::how() const { return key_text(family().how, schedule()); }

void Kernel::require(const Family& family) const {
  if (body_->family == &family) return;
  throw InternalError(
      fmt::format("{} is a kernel of {}, not of {}", key(), body_->family->title, family.title));
}

Sentences Kernel::violations() const {
  Sentences sentences;
  if (find_target(target()) == nullptr) {
    std::vector<std::string> names;
    for (const TargetInfo& info : supported_targets()) names.push_back(info.name);
    sentences.push_back(fmt::format("target {} is not supported; use one of {}",
                                    to_string(target()), fmt::join(names, ", ")));
  }
  std::ranges::move(refused_values(family().what, spec()), std::back_inserter(sentences));
  std::ranges::move(refused_values(family().how, schedule()), std::back_inserter(sentences));
  if (!sentences.empty()) return sentences;  // the rules read legal values
  return family().broken_rules(*this);
}

void Kernel::validate() const {
  const Sentences sentences = violations();
  if (sentences.empty()) return;
  throw SpecError(
      fmt::format("{} cannot be generated:\n  {}", key(), fmt::join(sentences, "\n  ")));
}

Resources Kernel::resources() const { return family().resources(*this); }
int Kernel::ptx_version() const {
  return std::max(target_info(target()).ptx_version, resources().ptx_version);
}
ParamLayout Kernel::params() const { return family().params(*this); }
std::vector<Kernel> Kernel::inputs() const { return family().inputs(*this); }
std::vector<Section> Kernel::describe() const { return family().describe(*this); }

Kernel Kernel::on(Target target) const {
  return Kernel(family(), body_->spec, body_->schedule, target);
}

Kernel Kernel::with_schedule(std::string_view how) const {
  if (family().how.empty() && !how.empty()) {
    throw SpecError(
        fmt::format("schedule \"{}\" is refused: kernels of {} have one schedule, which "
                    "has no name",
                    detail::shown(how), family().title));
  }
  const std::shared_ptr<void> schedule = family().new_schedule();
  std::string_view rest = how;
  const Field* missing = read_key_text(family().how, rest, schedule.get());
  if (missing == nullptr && rest.empty()) return Kernel(family(), body_->spec, schedule, target());
  throw SpecError(fmt::format(
      "schedule \"{}\" is refused: {} belongs at position {}; the usual schedule of this kernel is "
      "{}",
      detail::shown(how), missing == nullptr ? "the end" : expected_token(*missing),
      how.size() - rest.size() + 1, with_usual_schedule().how()));
}

Kernel Kernel::with_usual_schedule() const {
  return Kernel(family(), body_->spec, family().usual(spec(), target_info(target())), target());
}

std::vector<Kernel> Kernel::schedules() const {
  std::vector<Kernel> result;
  const Fields& fields = family().how;
  const std::shared_ptr<void> schedule = family().new_schedule();
  const auto walk = [&](const auto& self, std::size_t depth) -> void {
    if (depth == fields.size()) {
      Kernel kernel(family(), body_->spec, family().new_schedule(schedule.get()), target());
      if (kernel.violations().empty()) result.push_back(std::move(kernel));
      return;
    }
    for (const int value : fields[depth].values.all()) {
      fields[depth].set(schedule.get(), value);
      self(self, depth + 1);
    }
  };
  walk(walk, 0);
  return result;
}

Kernel parse_key(std::string_view text, const Families& families) {
  KeyReader reader(text);
  const Family& family = read_family(reader, families);
  const std::shared_ptr<void> spec = family.new_spec();
  const std::shared_ptr<void> schedule = family.new_schedule();
  reader.fields(family.what, spec.get());
  // A schedule of silent fields may be absent, and its "__" with it.
  const std::string_view how = reader.rest();
  std::string_view rest = how;
  if (read_key_text(family.how, rest, schedule.get()) != nullptr || rest.size() < how.size())
    reader.fields(family.how, schedule.get());
  return Kernel(family, spec, schedule, read_target(reader));
}

Kernel kernel_of_options(const Family& family, std::string_view options, Target target) {
  const std::shared_ptr<void> spec = family.new_spec();
  Given given;
  std::string_view how;
  const std::vector<std::string> known = detail::option_names(family);
  for (const auto& [name, word] : detail::options_in(options, family.what, known)) {
    given.push_back(name);
    if (!family.how.empty() && name == kScheduleOption) {
      how = word;
    } else if (find_field(family.what, name) == nullptr) {
      throw SpecError(detail::unknown_option(name, known));
    } else {
      set_field(family.what, spec.get(), name, word);
    }
  }
  const TargetInfo& info = target_info(target);
  family.complete(spec.get(), given, info);
  const Kernel kernel(family, spec, family.usual(spec.get(), info), target);
  return is_given(given, kScheduleOption) ? kernel.with_schedule(how) : kernel;
}

std::string options_of(const Kernel& kernel) {
  std::string text = options_text(kernel.family().what, kernel.spec());
  const std::string how = kernel.how();
  if (!kernel.family().how.empty())
    text += fmt::format("{}{}={}", text.empty() ? "" : " ", kScheduleOption, how);
  return text;
}

std::string to_json(const Kernel& kernel) {
  const Family& family = kernel.family();
  return fmt::format(R"({{"key": "{}", "family": "{}", "target": "{}", "what": {}, "how": {}}})",
                     kernel.key(), family.title, to_string(kernel.target()),
                     json_text(family.what, kernel.spec()),
                     json_text(family.how, kernel.schedule()));
}

}  // namespace sagegen
