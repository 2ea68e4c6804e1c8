// Lines of fields, for people and programs alike, without a library: tabs part fields, "\\" escapes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sagegen/runtime/tuning.h"

namespace sagegen::runtime {

std::string escaped(std::string_view text);  // without tabs, ends of lines and control characters
std::optional<std::string> unescaped(std::string_view text);

// Takes the text before `end` off, and `end` with it.
inline std::string_view take_to(std::string_view& text, char end) {
  const std::string_view taken = text.substr(0, text.find(end));
  text.remove_prefix(std::min(taken.size() + 1, text.size()));
  return taken;
}

std::string number_text(double value);  // the shortest that reads back the same
std::optional<double> number_of(std::string_view text);
template <typename Integer>
std::optional<Integer> integer_of(std::string_view text, int base = 10);
extern template std::optional<int> integer_of(std::string_view, int);
extern template std::optional<std::uint64_t> integer_of(std::string_view, int);

}  // namespace sagegen::runtime
