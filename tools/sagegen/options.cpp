#include "tools/sagegen/options.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <limits>

#include <fmt/format.h>

namespace sagegen::cli {
namespace {

// Letters to insert, to remove, to change or to swap with their neighbour (optimal string alignment).
std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        d[i][j] = i + j;
        continue;
      }
      d[i][j] =
          std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace

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

std::string suggestion(const std::string& word, const std::vector<std::string>& known) {
  constexpr std::size_t kLongest = 64;  // no word here is longer, and distances cost its square
  if (word.size() > kLongest) return {};
  std::size_t least = std::max<std::size_t>(2, word.size() / 3) + 1;
  std::string nearest;
  for (const std::string& candidate : known) {
    const std::size_t distance = edit_distance(word, candidate);
    if (distance >= least || distance >= candidate.size()) continue;
    least = distance;
    nearest = candidate;
  }
  return nearest.empty() ? std::string() : fmt::format("; did you mean {}?", nearest);
}

}  // namespace sagegen::cli
