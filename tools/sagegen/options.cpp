#include "tools/sagegen/options.h"

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

void refuse_negative(CLI::Option* option) {
  option->check([](const std::string& text) {
    return text.starts_with('-') ? text + " is refused; it is a number from 0" : std::string();
  });
}

}  // namespace sagegen::cli
