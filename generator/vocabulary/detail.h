// What the files of the vocabulary share with each other and with nobody else.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "sagegen/family.h"

namespace sagegen::detail {

// Numbers in keys and texts: no sign, no leading 0, at most this many digits.
constexpr std::size_t kMaxDigits = 6;

// Takes the token of a field off `text`; leaves both alone if it is not there. `whole`: it ends at '_'.
bool take_token(const Field& field, bool whole, std::string_view& text, int& value);
// The token of a value: "d128", "f16", "causal".
std::string token_of(const Field& field, int value);

// Throws InternalError for tables that would give two kernels one key, that no key or text could be read with,
// or whose defaults are no legal values.
void check_family(const Family& family);

// The target of "sm_89", "SM89", "8.9" or "89"; null if it is none.
const TargetInfo* target_meant(std::string_view text);

// What a text of options names: "name=word", or the name of a flag alone, which means name=true. Views into the text.
// known: the names that are possible. Throws SpecError for what is neither, and for a name that stands twice.
struct Option {
  std::string_view name, word;
};
std::vector<Option> options_in(std::string_view text, const Fields& fields,
                               const std::vector<std::string>& known);

// Untrusted text in a message: short and printable.
std::string shown(std::string_view text, std::size_t most = 120);

// Throws SpecError, with a place in the text, for a set description that is too large, too deep or
// written in letters that the TOML library must not see. Linear in time.
constexpr std::size_t kMaxSetBytes = 256 * 1024;
void check_set_limits(std::string_view text, const std::string& file);

}  // namespace sagegen::detail
