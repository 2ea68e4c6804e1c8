#include "tools/sagegen/options.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <limits>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace sagegen::cli {
CLI::Validator one_of(std::vector<std::string> words) {
  const std::string listed = fmt::format("{{{}}}", fmt::join(words, ","));
  return CLI::Validator(
      [words = std::move(words), listed](std::string& text) {
        if (std::ranges::find(words, text) != words.end()) return std::string();
        return fmt::format("{} not in {}{}", text, listed, suggestion(text, words));
      },
      listed);
}

void refuse_beside(CLI::Option* option, const CLI::Option* other, const std::string& why) {
  option->check([other, why](const std::string&) {
    if (other->count() == 0) return std::string();
    return fmt::format("refused beside {}: {}", other->get_name(), why);
  });
}

void refuse_without(CLI::Option* option, const CLI::Option* other) {
  option->check([other](const std::string&) {
    if (other->count() > 0) return std::string();
    return fmt::format("says nothing without {}; give both or neither", other->get_name());
  });
}

void refuse_empty(CLI::Option* option) {
  option->check([](const std::string& name) {
    return name.empty() ? std::string("the name is empty; give one, or leave the option out")
                        : std::string();
  });
}

void require_whole(CLI::Option* option, std::uint64_t least, std::uint64_t most) {
  option->check([least, most](const std::string& text) {
    std::uint64_t value = 0;
    const char* const end = text.data() + text.size();
    const std::from_chars_result parsed = std::from_chars(text.data(), end, value);
    if (parsed == std::from_chars_result{end, std::errc()} && value >= least && value <= most)
      return std::string();
    return fmt::format("{} is refused; it is a whole number from {} to {}",
                       text.empty() ? "an empty value" : text, least, most);
  });
}

void require_seed(CLI::Option* option) {
  require_whole(option, 0, std::numeric_limits<std::uint64_t>::max());
}

void require_number(CLI::Option* option, double most) {
  option->check([most](const std::string& text) {
    double value = 0;
    const char* const end = text.data() + text.size();
    const std::from_chars_result parsed = std::from_chars(text.data(), end, value);
    if (parsed == std::from_chars_result{end, std::errc()} && value >= 0 && value <= most)
      return std::string();
    const bool bounded = most < std::numeric_limits<double>::max();
    return fmt::format("{} is refused; it is a number from 0{}",
                       text.empty() ? "an empty value" : text,
                       bounded ? fmt::format(" to {}", most) : "");
  });
}

}  // namespace sagegen::cli
