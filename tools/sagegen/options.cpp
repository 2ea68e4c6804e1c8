#include "tools/sagegen/options.h"

#include <charconv>
#include <cstdint>
#include <limits>

#include <fmt/format.h>

namespace sagegen::cli {

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

void require_seed(CLI::Option* option) {
  option->check([](const std::string& text) {
    std::uint64_t seed = 0;
    const char* const end = text.data() + text.size();
    if (std::from_chars(text.data(), end, seed) == std::from_chars_result{end, std::errc()}) {
      return std::string();
    }
    return fmt::format("{} is refused; it is a whole number from 0 to {}", text,
                       std::numeric_limits<std::uint64_t>::max());
  });
}

}  // namespace sagegen::cli
