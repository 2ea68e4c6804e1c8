// What is said of an option or a value that does not exist.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "sagegen/family.h"

namespace sagegen::detail {

// The sentence that refuses a name that is none of these.
std::string unknown_option(std::string_view name, const std::vector<std::string>& known);

// The sentence that refuses a value of an option whose values are words.
std::string unknown_value(std::string_view name, std::string_view word,
                          const std::vector<std::string>& known);

// Beside the fields of a family: which schedule.
inline constexpr std::string_view kScheduleOption = "schedule";
// The names that stand in an option text (kernel_of_options).
std::vector<std::string> option_names(const Family& family);

}  // namespace sagegen::detail
