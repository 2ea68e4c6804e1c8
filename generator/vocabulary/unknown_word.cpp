#include "generator/vocabulary/unknown_word.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "generator/vocabulary/detail.h"
#include "generator/vocabulary/suggestion.h"

namespace sagegen::detail {

std::string unknown_option(std::string_view name, const std::vector<std::string>& known) {
  return fmt::format("unknown option \"{}\"; valid are {}{}", shown(name), fmt::join(known, ", "),
                     suggestion(name, known));
}

std::string unknown_value(std::string_view name, std::string_view word,
                          const std::vector<std::string>& known) {
  return fmt::format("{} = \"{}\" is refused: it must be one of {}{}", name, shown(word),
                     fmt::join(known, ", "), suggestion(word, known));
}

std::vector<std::string> option_names(const Family& family) {
  std::vector<std::string> names;
  for (const Field& field : family.what) names.emplace_back(field.name);
  if (!family.how.empty()) names.emplace_back(kScheduleOption);
  return names;
}

}  // namespace sagegen::detail
